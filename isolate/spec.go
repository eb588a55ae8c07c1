// Package isolate decides what a program may see and do: a Spec in, a Plan out.
//
// A Spec is data. Its zero value is the hardened profile:
//
//   - seven namespaces of its own (user, mount, pid, ipc, uts, net, cgroup);
//   - a file system in which exactly the allowed programs exist, with the
//     libraries and the little data that they need, bound file by file and
//     read-only; what can be written cannot be executed;
//   - no capability, no_new_privs, a system call filter, bounded resources, a
//     new session and a new keyring;
//   - where the kernel has Landlock with Linux 5.19's features, what may be
//     executed and written a second time, by its rules.
//
// Compile turns a Spec into a Plan: a flat list of system calls with prepared
// arguments. Everything that can be wrong with a Spec is found there, before
// any process exists; nothing in this package starts one. A Plan prints as
// strace would, which is what `proscenium plan` shows and what the golden files
// in testdata hold.
//
// # Limits of what a Spec can promise
//
// An allowed interpreter is any program in its language, and a program can make
// anonymous memory executable (unless NoJIT). Network Host shares the host's
// whole network. ViewSystem shows all of /usr: there, the list of allowed
// programs is advice. So it is with a Root, of which all can be executed.
//
// A Spec can also be read from a container's configuration: FromOCI.
package isolate

// A Spec says what one program may see and do. The zero value is Hardened.
type Spec struct {
	// View chooses what of the host's programs is visible.
	View View
	// Root, where set, is a directory of the host, absolute, that the program
	// sees as its file system instead of a View: read-only, and all of it can be
	// executed, so that Allow has no meaning there. Its /dev, /proc, /sys and
	// /tmp are the profile's whatever lies in the directory, Mounts may lie
	// anywhere else in it. A file in it that has another name in a writable mount
	// (by a hard link, or by another mount of the host) is not found out.
	Root string
	// Allow has the absolute paths of further programs that the program may
	// start. The program itself is always allowed.
	Allow []string
	// SHA256 pins programs: path → digest, in hexadecimal. What is pinned must be
	// allowed, and is read where it was opened: device and inode are those that
	// are executed. Another digest is a *PinError. Libraries are not pinned, and
	// a file that is written in place while a start is under way is not noticed.
	SHA256 map[string]string
	// Needs are absolute paths, or patterns as path.Match takes them, of further
	// files and directories that the programs need, where the view does not find
	// it out: read-only. Shared objects in them can be loaded, with the libraries
	// that those are linked with; nothing in them can be executed. A pattern that
	// matches nothing is an error.
	Needs []string
	// Mounts are shown besides the view, in the order of their depth.
	Mounts []Mount
	// Network is what of the network is reachable; nothing unless said.
	Network Network
	// Hostname is what the program sees; "proscenium" where empty.
	Hostname string
	// UID and GID are the program's ids inside; 1000 where 0. Nothing runs as
	// root, not even inside.
	UID, GID int
	// HostUID and HostGID are the ids outside, for a privileged host; 65534
	// where 0. An ordinary user's programs keep the user's own ids, and others
	// are an error (EPERM).
	HostUID, HostGID int
	// NoJIT refuses executable anonymous memory (PR_SET_MDWE, Linux 6.3, without
	// which it is an error): it breaks node, java and grep -P.
	NoJIT bool
	// Seccomp chooses the system call filter.
	Seccomp Seccomp
	// Rlimits of the program; zero fields take the value in DefaultRlimits.
	Rlimits Rlimits
	// TmpSize bounds /tmp and /dev/shm, each, in bytes; 64 MiB where 0. What is
	// in them counts as the program's memory.
	TmpSize int64
}

// Hardened is the default profile: the zero Spec.
func Hardened() Spec { return Spec{} }

// System is the profile for shells and tool chains: all of /usr, read-only.
func System() Spec { return Spec{View: ViewSystem} }

// A View is what of the host's programs is visible.
type View int

const (
	// ViewPrograms shows the allowed programs and what they need, by file.
	ViewPrograms View = iota
	// ViewSystem shows /usr and the links into it, read-only.
	ViewSystem
)

// A Network is what of the network is reachable.
type Network int

const (
	// NetworkNone is an empty network namespace, loopback down.
	NetworkNone Network = iota
	// NetworkHost is the host's network.
	NetworkHost
)

// Seccomp chooses the system call filter.
type Seccomp int

const (
	// SeccompHardened is moby's default profile less what a program in a cell
	// has no business with; seccomp.go has the list.
	SeccompHardened Seccomp = iota
	// SeccompNone installs no filter. It takes an explicit word, and Enforced
	// shows that there is none.
	SeccompNone
)

// Rlimits are resource limits that no control group has, see getrlimit(2).
type Rlimits struct {
	OpenFiles uint64 // RLIMIT_NOFILE
	Processes uint64 // RLIMIT_NPROC, a second line behind pids.max
	FileSize  uint64 // RLIMIT_FSIZE, bytes
}

// DefaultRlimits stand where a Spec says nothing. Core dumps and locked memory
// have no setting: the first are off, the second is 64 KiB.
var DefaultRlimits = Rlimits{OpenFiles: 1024, Processes: 4096, FileSize: 4 << 30}

const (
	defaultHostname = "proscenium"
	defaultID       = 1000
	defaultHostID   = 65534
	defaultTmpSize  = 64 << 20
	maxTmpSize      = 1 << 40
)

// A Program is what a Plan ends in: the execve.
type Program struct {
	Path string   // absolute, on the host
	Args []string // with argv[0]
	Env  []string // the whole environment, K=V
	Dir  string   // working directory inside; "/" where empty
}

// A Mount is something of the host, or new, that the program sees: made by RO,
// RW and Tmpfs, by nobody else.
type Mount interface {
	target() string
	sealed()
}

type bindMount struct {
	path     string // inside
	source   string // on the host; "" is path
	writable bool
	flat     bool // without what is mounted below it
}

type tmpfsMount struct {
	path string
	size int64
	mode uint32 // 01777 where 0
}

func (m bindMount) target() string  { return m.path }
func (m tmpfsMount) target() string { return m.path }
func (bindMount) sealed()           {}
func (tmpfsMount) sealed()          {}

// RO shows a file or directory of the host at the same path: read-only, and
// nothing in it can be executed. A symbolic link in the path is followed if only
// root can have made it; any other is an error, for it would lead where a
// program likes.
func RO(path string) Mount { return bindMount{path: path} }

// RW is RO with writing. A privileged host's programs act there as the owner of
// path does, and what they write is the owner's, where its file system takes
// idmapped mounts (IDMap says which); else, and where path belongs to root, they
// write as HostUID. A path that a program could not write is an error of the
// start. An ordinary user's programs write as the user.
func RW(path string) Mount { return bindMount{path: path, writable: true} }

// Tmpfs is an empty directory in memory, of at most size bytes, in which
// nothing can be executed.
func Tmpfs(path string, size int64) Mount { return tmpfsMount{path: path, size: size} }

// Enforced lists what a compiled plan holds the program to, in words that an
// operator reads: the audit log and reports carry them.
type Enforced []string

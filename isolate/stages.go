package isolate

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// The two stages of a start: into the namespaces; then, as PID 1 in them, the
// set-up, the program, and its supervision.

// allNamespaces are the program's own.
func allNamespaces(network Network) string {
	ns := "CLONE_NEWUSER|CLONE_NEWNS|CLONE_NEWPID|CLONE_NEWIPC|CLONE_NEWUTS|CLONE_NEWCGROUP"
	if network == NetworkNone {
		ns += "|CLONE_NEWNET"
	}
	return ns
}

// namespaces are those that stage one's clone makes.
func (c *compiler) namespaces() string {
	ns := allNamespaces(c.spec.Network)
	if c.freshNetwork() {
		ns = strings.TrimSuffix(ns, "|CLONE_NEWNET")
	}
	if c.given.Groups > 0 { // see join
		ns = strings.Replace(ns, "|CLONE_NEWCGROUP", "", 1)
	}
	return ns
}

// stageOne runs under the outer identity, and its end is nobody's business but the
// launcher's. Its child is init: no exec stands between, which would cost a fifth of
// a millisecond and the capabilities that the child has over its namespaces. The
// memory is a copy that belongs to the namespace of the launcher, so that, once
// undumpable, nobody can trace init who has not the right to trace there: whoever
// shares the outer identity has not.
func (c *compiler) stageOne(namespaces string) {
	s := &c.plan.StageOne
	s.failed = RecordStageOneFailed
	first := func(call *Call) *Call {
		s.Init = append(s.Init, call)
		return call
	}
	// By descriptor: a template has not our /proc.
	proc := first(sys("openat", flags("AT_FDCWD"), str("/proc"), flags("O_PATH|O_DIRECTORY|O_CLOEXEC"), num(0)))
	outer := [2]int{c.uid, c.gid}
	if c.given.Template {
		c.enterTemplate(first)
		outer = [2]int{c.spec.UID, c.spec.GID} // as the template calls them
	}

	s.becomeInit(namespaces)
	child := func(call *Call) *Call {
		s.Child = append(s.Child, call)
		return call
	}
	// It is needed to write the maps of ids.
	child(sys("prctl", flags("PR_SET_DUMPABLE"), num(1)))
	tell := func(file, text string) {
		fd := child(sys("openat", resultOf(proc), str(file), flags("O_WRONLY|O_CLOEXEC"), num(0)))
		child(sys("write", resultOf(fd), str(text), num(int64(len(text)))))
	}
	if !c.given.Template { // from which it is inherited: user_namespaces(7)
		tell("self/setgroups", "deny")
	}
	tell("self/uid_map", fmt.Sprintf("%d %d 1", c.spec.UID, outer[0]))
	tell("self/gid_map", fmt.Sprintf("%d %d 1", c.spec.GID, outer[1]))
	// Undumpable as soon as the maps are written, which it must not be: else a
	// program with the same ids could read its memory and forge its reports.
	child(sys("prctl", flags("PR_SET_DUMPABLE"), num(0)))
	// The outer /proc, the template's namespaces, and the pidfd.
	child(sys("close_range", num(4), num(0xffffffff), num(0)))
}

// pidfdDescriptor is where init's own pidfd lies while it is sent: beyond what
// stage one has open.
const pidfdDescriptor = 20

// becomeInit clones the first process of the namespaces (that of processes among
// them), which is told the host by its pidfd once the launcher's death is its own:
// from then on the host only has to see that the launcher lives. It then goes on
// with Child and reads another plan; its parent ends.
func (s *Sequence) becomeInit(namespaces string) {
	s.Clone = sys("clone", flags("CLONE_PARENT|"+namespaces), null, null)
	control := &block{bytes: controlMessage(1)}
	binary.NativeEndian.PutUint32(control.bytes[unix.CmsgLen(0):], pidfdDescriptor)
	pidfd := sys("pidfd_open", num(1), num(0))
	s.Child = []*Call{
		sys("prctl", flags("PR_SET_PDEATHSIG"), flags("SIGKILL")),
		pidfd,
		sys("dup3", resultOf(pidfd), num(pidfdDescriptor), flags("O_CLOEXEC")),
		sendRecord(RecordCloned, control, "pidfd"),
	}
	s.Parent = []*Call{sys("exit_group", num(0))}
}

// sendRecord sends a record to the host with the descriptors in control.
func sendRecord(kind uint64, control *block, what string) *Call {
	iov := &block{words: []Arg{recordArg(kind), num(RecordSize)}}
	message := &block{words: []Arg{null, num(0), at(iov, 0, ""), num(1), at(control, 0, ""), num(int64(len(control.bytes))), num(0)}}
	return sys("sendmsg", num(3), at(message, 0, "{"+recordArg(kind).text+", SCM_RIGHTS=["+what+"]}"), flags("MSG_NOSIGNAL"))
}

func recordArg(kind uint64) Arg {
	text := map[uint64]string{RecordCloned: "cloned", RecordStarted: "started", RecordTemplate: "template"}[kind]
	return at(&block{bytes: Record{Kind: kind}.Encode()}, 0, text)
}

// receiveMessage receives n descriptors, which control then has.
func receiveMessage(n int, what string) (call *Call, control *block) {
	control = &block{bytes: make([]byte, unix.CmsgSpace(4*n))}
	iov := &block{words: []Arg{at(&block{bytes: make([]byte, 8)}, 0, ""), num(8)}}
	message := &block{words: []Arg{null, num(0), at(iov, 0, ""), num(1), at(control, 0, ""), num(int64(len(control.bytes))), num(0)}}
	return sys("recvmsg", num(3), at(message, 0, fmt.Sprintf("{SCM_RIGHTS=[%d %s]}", n, what)), flags("MSG_CMSG_CLOEXEC")), control
}

// controlMessage is room for n descriptors, with the header of SCM_RIGHTS.
func controlMessage(n int) []byte {
	b := make([]byte, unix.CmsgSpace(4*n))
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(4*n)))
	binary.NativeEndian.PutUint32(b[8:], unix.SOL_SOCKET)
	binary.NativeEndian.PutUint32(b[12:], unix.SCM_RIGHTS)
	return b
}

func capabilityHeader() Arg {
	b := binary.NativeEndian.AppendUint32(nil, unix.LINUX_CAPABILITY_VERSION_3)
	return at(&block{bytes: binary.NativeEndian.AppendUint32(b, 0)}, 0, "{_LINUX_CAPABILITY_VERSION_3, 0}")
}

// setUp makes the cell from inside, as PID 1.
func (c *compiler) setUp() error {
	c.plan.SetUp.failed = RecordSetUpFailed
	c.identify()
	c.add(sys("sethostname", str(c.spec.Hostname), num(int64(len(c.spec.Hostname)))))
	c.join()
	if c.given.Template {
		c.ownMounts()
		c.innerMounts()
	} else {
		c.root()
	}
	c.limits()
	c.privileges()
	// An ordinary user's set-up holds directories of the host's mounts until here, from
	// which .. leads out. By /proc/self/fd the working directory could be one of them.
	c.add(sys("close_range", num(firstClosed), num(0xffffffff), num(0)))
	c.landlock()
	return c.filter()
}

// firstClosed is the first descriptor that the set-up closes before the program is known:
// 0 to 2 are the program's, 3 is the pair.
const firstClosed = 4

// filter is the last of the set-up: the kernel compiles it while init would only wait,
// and all that init does from then on is allowed by it.
func (c *compiler) filter() error {
	if c.spec.Seccomp != SeccompHardened {
		return nil
	}
	filter, err := hardenedFilter(c.spec.Network)
	if err == nil {
		c.add(sys("seccomp", flags("SECCOMP_SET_MODE_FILTER"), num(0), filter))
	}
	return err
}

func (c *compiler) identify() {
	c.add(sys("prctl", flags("PR_SET_NAME"), str("init")))
	c.add(sys("umask", octal(0)))
}

// join puts init into its v1 control groups. A process that moves itself and
// no other, by "0" in the tasks file, does not wait for the kernel's lock over
// all forks (cgroup_attach_lock, half a millisecond). The right to do it is that
// of the host, which opened the files.
func (c *compiler) join() {
	if c.given.Groups == 0 {
		return
	}
	receive, control := receiveMessage(c.given.Groups, "groups")
	c.add(receive)
	for i := range c.given.Groups {
		group := received(control, unix.CmsgLen(0)+4*i, fmt.Sprintf("tasks of group %d", i))
		c.add(sys("write", group, str("0"), num(1)))
		c.add(sys("close", group))
	}
	// Behind that: the root of the namespace is where its maker is. Before, names of
	// the host's groups would show in /proc/self/cgroup.
	c.add(sys("unshare", flags("CLONE_NEWCGROUP")))
}

const lockedMemory = 64 << 10 // bytes

// limits that are no control group's.
func (c *compiler) limits() {
	// 1 and not 0: of a host whose core_pattern is a pipe, only 1 keeps the
	// handler from being run (core(5)). The filter keeps it from being changed.
	c.add(setLimit("RLIMIT_CORE", 1))
	c.add(setLimit("RLIMIT_MEMLOCK", lockedMemory))
	c.add(setLimit("RLIMIT_NPROC", c.spec.Rlimits.Processes))
	c.add(setLimit("RLIMIT_FSIZE", c.spec.Rlimits.FileSize))
}

func setLimit(name string, value uint64) *Call {
	b := binary.NativeEndian.AppendUint64(nil, value)
	b = binary.NativeEndian.AppendUint64(b, value)
	return sys("prlimit64", num(0), flags(name), at(&block{bytes: b}, 0, fmt.Sprintf("{%d, %d}", value, value)), null)
}

// securebits: every way in which an exec or a change of id gives capabilities
// is switched off, and locked. capabilities(7).
const securebits = 0xef

func (c *compiler) privileges() {
	// A session keyring of its own; a kernel without keys has none to share.
	c.add(sys("keyctl", flags("KEYCTL_JOIN_SESSION"), null).tolerate(unix.ENOSYS))
	for n := range c.host.LastCap + 1 {
		c.add(sys("prctl", flags("PR_CAPBSET_DROP"), num(int64(n)), num(0), num(0), num(0)))
	}
	c.add(sys("prctl", flags("PR_SET_SECUREBITS"), num(securebits), num(0), num(0), num(0)))
	c.add(sys("prctl", flags("PR_CAP_AMBIENT"), flags("PR_CAP_AMBIENT_CLEAR_ALL"), num(0), num(0), num(0)))
	c.add(sys("capset", capabilityHeader(), at(&block{bytes: make([]byte, 24)}, 0, "{effective=0, permitted=0, inheritable=0}")))
	c.add(sys("prctl", flags("PR_SET_NO_NEW_PRIVS"), num(1), num(0), num(0), num(0)))
	if c.spec.NoJIT {
		c.add(sys("prctl", flags("PR_SET_MDWE"), flags("PR_MDWE_REFUSE_EXEC_GAIN"), num(0), num(0), num(0)))
	}
}

func execve(p Program) *Call {
	return sys("execve", str(p.Path), stringArray(p.Args, false), stringArray(p.Env, true))
}

// start is what only the program gets, its execve, and what init does next.
func (c *compiler) start() {
	s := &c.plan.Program
	s.failed = RecordProgramFailed
	// The same stack as its parent's: neither uses it.
	started := &block{bytes: controlMessage(1)}
	s.Clone = sys("clone", flags("CLONE_VM|CLONE_VFORK|CLONE_PIDFD|SIGCHLD"), null, at(started, unix.CmsgLen(0), "&pidfd"))
	child := func(call *Call) *Call {
		s.Child = append(s.Child, call)
		return call
	}
	child(sys("umask", octal(0o022)))
	child(sys("setsid"))
	child(sys("rt_sigprocmask", flags("SIG_SETMASK"), at(&block{bytes: make([]byte, 8)}, 0, "[]"), null, num(8)))
	c.plan.chdir = len(s.Child)
	s.Child = append(s.Child, nil) // the working directory: see with
	if c.host.Landlock >= leastLandlock {
		child(sys("landlock_restrict_self", num(landlockRuleset), num(0)))
	}
	child(sys("close_range", num(3), num(0xffffffff), flags("CLOSE_RANGE_CLOEXEC")))
	// The program's, not init's: descriptors in flight are counted for all of a
	// user's programs together, and one of them could use up what init needs to
	// send its own.
	child(setLimit("RLIMIT_NOFILE", c.spec.Rlimits.OpenFiles))
	s.Child = append(s.Child, nil) // the execve: see with
	page := int64(os.Getpagesize())
	s.Parent = []*Call{
		sys("close_range", num(0), num(2), num(0)),
		sendRecord(RecordStarted, started, "pidfd"),
		sys("close_range", num(4), num(0xffffffff), num(0)),
		// Arguments, environment and plan, all but the page of the header, which is
		// all that there is still use for.
		sys("madvise", num(BufferAddress+page), num(BuffersSize-page), flags("MADV_DONTNEED")),
	}
}

package tests

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

// Out of the cell by way of the kernel: images, namespaces, system calls,
// control groups, /proc, identity.

func init() {
	attacks["image"] = attackImage
	attacks["up"] = attackUp
	attacks["groups"] = attackGroups
	attacks["proc"] = attackProc
	attacks["namespaces"] = attackNamespaces
	attacks["calls"] = attackCalls
	attacks["identity"] = attackIdentity
}

// T-01, CVE-2019-5736: what runs outside cannot be written by way of /proc/PID/exe.
func TestT01ImagesCannotBeOverwritten(t *testing.T) {
	images := []string{testenv.Self(t), fmt.Sprintf("/proc/%d/exe", testenv.Launcher(t).Pid())}
	if os.Geteuid() != 0 {
		images = images[:1] // the launcher is not dumpable: nobody's to read
	}
	before := hashes(t, images)
	scene{Attack: "image"}.fails(t)
	if after := hashes(t, images); after != before {
		t.Error("an image has changed")
	}
	// The other half of that attack: a script that makes what starts it run again.
	dir := testDir(t)
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/proc/self/exe\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := testenv.Launcher(t).Command(testenv.Context(t), script)
	cmd.Isolation.Allow = []string{testenv.Self(t)}
	if out, err := cmd.CombinedOutput(); err == nil || cmd.Process != nil || !strings.Contains(err.Error(), "/proc") {
		t.Errorf("a script of /proc/self/exe: %v: %s", err, out)
	}
}

func hashes(t *testing.T, names []string) string {
	t.Helper()
	var all strings.Builder
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "%x\n", sha256.Sum256(b))
	}
	return all.String()
}

func attackImage(h *hostile, _ []string) {
	exes := []string{"/proc/1/exe", "/proc/self/exe", "/proc/thread-self/exe"}
	found, _ := filepath.Glob("/proc/[0-9]*/exe")
	for range 10 { // as quickly as may be, from the first moment on
		for _, exe := range append(exes, found...) {
			for _, flags := range []int{unix.O_WRONLY, unix.O_RDWR, unix.O_WRONLY | unix.O_TRUNC, unix.O_WRONLY | unix.O_APPEND} {
				h.refused(open(exe, flags), "%s was opened for writing (%#x)", exe, flags)
				fd, err := unix.Open(exe, unix.O_PATH|unix.O_CLOEXEC, 0)
				if err != nil {
					continue
				}
				h.refused(open(fmt.Sprintf("/proc/self/fd/%d", fd), flags), "%s was opened for writing by way of a descriptor", exe)
				unix.Close(fd)
			}
		}
	}
	h.refused(os.Truncate("/proc/self/exe", 0), "the program's own file was cut")
	h.refused(os.Chmod("/proc/self/exe", 0o777), "the program's own file changed its mode")
}

func open(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// T-04, CVE-2024-21626: the working directory lies inside, and above the root is
// the root. (T-03 is TestWorkingDirectoryStaysInside.)
func TestT04NothingIsAboveTheRoot(t *testing.T) {
	dir := testDir(t)
	os.Chmod(dir, 0o777)
	scene{Attack: "up", Dir: dir, RW: []string{dir}}.fails(t)
	scene{Attack: "up", NoFilter: true}.fails(t)
}

func attackUp(h *hostile, _ []string) {
	b := make([]byte, 4096)
	n, err := unix.Getcwd(b)
	h.holds(err == nil && n > 1 && b[0] == '/', "the working directory is %q, %v", b[:max(n, 1)-1], err)
	var root, up unix.Stat_t
	unix.Stat("/", &root)
	h.holds(unix.Stat(strings.Repeat("../", 100), &up) == nil && up.Ino == root.Ino && up.Dev == root.Dev, "100 times .. is not the root")
	for _, name := range []string{"/oldroot", "/.oldroot", "/.old_root", "/newroot", "/host"} {
		h.answers(unix.Lstat(name, &up), unix.ENOENT, "%s is there", name)
	}
	h.refused(unix.Chroot("/tmp"), "chroot")
	h.refused(unix.PivotRoot("/tmp", "/tmp"), "pivot_root")
	h.refused(unix.Unmount("/", unix.MNT_DETACH), "umount /")
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		h.holds(f[4] != "/" || !strings.Contains(line, " ext4 "), "a file system of the host is the root: %s", line)
		h.refused(unix.Unmount(f[4], unix.MNT_DETACH), "umount %s", f[4])
	}
}

// T-06, CVE-2025-52881, CVE-2019-19921: what is written to /proc during a start
// is written to the host's own, before any mount; nothing is written by a path
// that leads through what a program may have made.
func TestT06AStartWritesToProcBeforeAnyMount(t *testing.T) {
	host, err := isolate.ThisHost()
	if err != nil {
		t.Fatal(err)
	}
	dir := testDir(t)
	spec := isolate.Spec{Mounts: []isolate.Mount{isolate.RW(dir), isolate.RO("/usr/share/zoneinfo")}}
	plan, err := isolate.Compile(spec, isolate.Program{Path: "/usr/bin/true", Args: []string{"true"}}, host)
	if err != nil {
		t.Fatal(err)
	}
	opened := regexp.MustCompile(`^openat2?\((AT_FDCWD|<.*?>), "([^"]*)", (.*)`)
	var written []string
	for _, c := range plan.StageOne.Calls() {
		if strings.Contains(c.Name, "mount") {
			t.Errorf("stage one mounts: %s", c)
		}
		if m := opened.FindStringSubmatch(c.String()); m != nil && !strings.Contains(m[3], "O_PATH") {
			written = append(written, m[1]+m[2])
		}
	}
	const proc = `<openat "/proc">self/`
	if want := []string{proc + "setgroups", proc + "uid_map", proc + "gid_map"}; !slices.Equal(written, want) {
		t.Errorf("stage one writes %q", written)
	}
	for _, c := range append(plan.SetUp.Calls(), plan.Program.Calls()...) {
		m := opened.FindStringSubmatch(c.String())
		if m == nil || strings.Contains(m[3], "O_PATH") {
			continue // opened for nothing but its place
		}
		if m[1] != "AT_FDCWD" || strings.HasPrefix(m[2], "/") || strings.HasPrefix(m[2], "proc/") || strings.HasPrefix(m[2], dir[1:]) || !strings.Contains(m[3], "O_EXCL") {
			t.Errorf("init writes %s", c)
		}
	}
	// A file system of the program's own in the place of /proc is refused.
	for _, m := range []isolate.Mount{isolate.Tmpfs("/proc", 1<<20), isolate.RW("/proc"), isolate.RO("/proc/self"), isolate.RO(ownRoot + "/etc")} {
		spec := isolate.Spec{Mounts: []isolate.Mount{m}}
		if _, err := isolate.Compile(spec, isolate.Program{Path: "/usr/bin/true", Args: []string{"true"}}, host); err == nil {
			t.Errorf("%v was taken", m)
		}
	}
}

// T-11, CVE-2022-0492, and T-12, CVE-2023-25809: a program makes no control
// group file system, and reaches none.
func TestT11AndT12ControlGroupsAreOutOfReach(t *testing.T) {
	dirs := append(testenv.GroupDirs(os.Getpid()), "/sys/fs/cgroup", "/sys/fs/cgroup/unified")
	scene{Attack: "groups", Args: dirs}.fails(t)
	scene{Attack: "groups", Args: dirs, NoFilter: true}.fails(t)
}

func attackGroups(h *hostile, dirs []string) {
	for _, dir := range dirs {
		for _, file := range []string{"cgroup.procs", "tasks", "memory.max", "cpu.max", "memory.limit_in_bytes", "release_agent", "cgroup.subtree_control"} {
			h.answers(open(filepath.Join(dir, file), unix.O_WRONLY), unix.ENOENT, "%s/%s", dir, file)
		}
	}
	os.Mkdir("/tmp/group", 0o755)
	for _, kind := range []string{"cgroup", "cgroup2", "sysfs", "proc", "tmpfs", "debugfs", "securityfs"} {
		h.refused(unix.Mount("none", "/tmp/group", kind, 0, ""), "a file system of type %s was mounted", kind)
		_, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
		h.refused(err, "fsopen of %s", kind)
	}
	if b, err := os.ReadFile("/proc/self/cgroup"); err == nil {
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "0::"); ok {
				h.holds(rest == "/\n", "the program sees its place among the host's groups: %s", rest)
			}
		}
	}
}

// T-14: nothing in /proc can be written, what tells of the host is not there,
// and there is no /sys.
func TestT14ProcAndSys(t *testing.T) {
	scene{Attack: "proc"}.fails(t)
	scene{Attack: "proc", NoFilter: true}.fails(t)
}

func attackProc(h *hostile, _ []string) {
	for _, name := range []string{
		"/sys", "/proc/sys", "/proc/sysrq-trigger", "/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/timer_list", "/proc/sched_debug",
		"/proc/kallsyms", "/proc/modules", "/proc/interrupts", "/proc/pressure", "/proc/acpi", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/scsi",
		"/proc/asound", "/proc/kmsg", "/proc/config.gz", "/proc/version", "/proc/mounts/../sys", "/proc/1", "/sys/firmware", "/sys/kernel/debug",
	} {
		_, err := os.Lstat(name)
		h.answers(err, unix.ENOENT, "%s", name)
	}
	filepath.WalkDir("/proc", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if d.Type().IsRegular() {
			h.refused(open(name, unix.O_WRONLY), "%s was opened for writing", name)
		}
		if top := strings.SplitN(name, "/", 4); len(top) > 2 {
			h.holds(regexp.MustCompile(`^(\d+|self|thread-self)$`).MatchString(top[2]), "%s is there", name)
		}
		return nil
	})
	h.refused(os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0), "its rank among the out-of-memory killer's victims was set")
	h.refused(os.WriteFile("/proc/self/loginuid", []byte("0"), 0), "its login id was set")
	h.refused(os.WriteFile("/proc/self/coredump_filter", []byte("0xff"), 0), "what its core would hold was set")
}

var newNamespace = map[string]int{
	"user": unix.CLONE_NEWUSER, "mnt": unix.CLONE_NEWNS, "pid": unix.CLONE_NEWPID, "net": unix.CLONE_NEWNET, "ipc": unix.CLONE_NEWIPC,
	"uts": unix.CLONE_NEWUTS, "cgroup": unix.CLONE_NEWCGROUP, "time": unix.CLONE_NEWTIME,
}

// T-15, CVE-2022-0185: no new namespaces, by whichever call, and none of others.
func TestT15NoNewNamespaces(t *testing.T) {
	scene{Attack: "namespaces"}.fails(t)
}

func attackNamespaces(h *hostile, _ []string) {
	for name, flag := range newNamespace {
		h.answers(unix.Unshare(flag), unix.EPERM, "unshare(%s)", name)
		h.answers(unix.Unshare(flag|unix.CLONE_NEWUSER), unix.EPERM, "unshare(user, %s)", name)
		if name != "time" { // clone takes that bit for part of the exit signal
			h.answers(forkWith(uintptr(flag)), unix.EPERM, "clone(%s)", name)
			h.answers(forkWith(uintptr(flag|unix.CLONE_NEWUSER)), unix.EPERM, "clone(user, %s)", name)
		}
		fd, err := unix.Open("/proc/self/ns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			h.answers(unix.Setns(fd, flag), unix.EPERM, "setns(%s)", name)
			unix.Close(fd)
		}
		_, err = os.Readlink("/proc/1/ns/" + name)
		h.refused(err, "init's namespace %s can be named", name)
	}
	var args [11]uint64 // struct clone_args
	args[0] = unix.CLONE_NEWUSER
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, addressOf(&args), 88, 0)
	h.answers(errno, unix.ENOSYS, "clone3")
}

// forkWith clones; the child, if there is one, ends at once.
func forkWith(flags uintptr) error {
	r, _, errno := unix.RawSyscall6(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if r == 0 {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	return nil
}

// T-16: what opened other sandboxes is refused, whatever its arguments.
func TestT16RefusedCalls(t *testing.T) {
	scene{Attack: "calls"}.fails(t)
}

func attackCalls(h *hostile, _ []string) {
	for number, name := range map[uintptr]string{
		unix.SYS_IO_URING_SETUP: "io_uring_setup", unix.SYS_IO_URING_ENTER: "io_uring_enter", unix.SYS_IO_URING_REGISTER: "io_uring_register",
		unix.SYS_KEYCTL: "keyctl", unix.SYS_ADD_KEY: "add_key", unix.SYS_REQUEST_KEY: "request_key",
		unix.SYS_BPF: "bpf", unix.SYS_PERF_EVENT_OPEN: "perf_event_open", unix.SYS_USERFAULTFD: "userfaultfd",
		unix.SYS_PTRACE: "ptrace", unix.SYS_PROCESS_VM_READV: "process_vm_readv", unix.SYS_PROCESS_VM_WRITEV: "process_vm_writev", unix.SYS_KCMP: "kcmp",
		unix.SYS_KEXEC_LOAD: "kexec_load", unix.SYS_KEXEC_FILE_LOAD: "kexec_file_load",
		unix.SYS_INIT_MODULE: "init_module", unix.SYS_FINIT_MODULE: "finit_module", unix.SYS_DELETE_MODULE: "delete_module",
		unix.SYS_MOUNT: "mount", unix.SYS_UMOUNT2: "umount2", unix.SYS_MOVE_MOUNT: "move_mount", unix.SYS_OPEN_TREE: "open_tree", unix.SYS_FSOPEN: "fsopen",
		unix.SYS_FSMOUNT: "fsmount", unix.SYS_FSCONFIG: "fsconfig", unix.SYS_FSPICK: "fspick", unix.SYS_MOUNT_SETATTR: "mount_setattr", unix.SYS_PIVOT_ROOT: "pivot_root",
		unix.SYS_CHROOT: "chroot", unix.SYS_SETNS: "setns", unix.SYS_OPEN_BY_HANDLE_AT: "open_by_handle_at", unix.SYS_NAME_TO_HANDLE_AT: "name_to_handle_at",
		unix.SYS_PIDFD_GETFD: "pidfd_getfd", unix.SYS_FANOTIFY_INIT: "fanotify_init", unix.SYS_FANOTIFY_MARK: "fanotify_mark",
		unix.SYS_SWAPON: "swapon", unix.SYS_SWAPOFF: "swapoff", unix.SYS_REBOOT: "reboot", unix.SYS_ACCT: "acct", unix.SYS_QUOTACTL: "quotactl", unix.SYS_SYSLOG: "syslog",
		unix.SYS_SETTIMEOFDAY: "settimeofday", unix.SYS_CLOCK_SETTIME: "clock_settime", unix.SYS_ADJTIMEX: "adjtimex", unix.SYS_SETHOSTNAME: "sethostname", unix.SYS_SETDOMAINNAME: "setdomainname",
		unix.SYS_MEMFD_CREATE: "memfd_create", unix.SYS_MEMFD_SECRET: "memfd_secret", unix.SYS_EXECVEAT: "execveat", unix.SYS_CLONE3: "clone3",
		unix.SYS_VMSPLICE: "vmsplice", unix.SYS_REMAP_FILE_PAGES: "remap_file_pages", unix.SYS_IO_SETUP: "io_setup", unix.SYS_IO_SUBMIT: "io_submit",
		unix.SYS_VHANGUP: "vhangup", unix.SYS_MOVE_PAGES: "move_pages", unix.SYS_MIGRATE_PAGES: "migrate_pages",
	} {
		for _, arg := range []uintptr{0, 1, ^uintptr(0)} {
			_, _, errno := unix.RawSyscall6(number, arg, 0, 0, 0, 0, 0)
			h.holds(errno == unix.EPERM || errno == unix.ENOSYS, "%s(%d) answers %v", name, int(arg), errno)
		}
	}
	for family, name := range map[int]string{
		unix.AF_PACKET: "packet", unix.AF_VSOCK: "vsock", unix.AF_ALG: "alg", unix.AF_XDP: "xdp", unix.AF_CAN: "can", unix.AF_BLUETOOTH: "bluetooth",
		unix.AF_TIPC: "tipc", unix.AF_RDS: "rds", unix.AF_KEY: "key", unix.AF_SMC: "smc", unix.AF_KCM: "kcm", unix.AF_X25: "x25", unix.AF_NFC: "nfc",
	} {
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET} {
			_, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
			h.answers(err, unix.EPERM, "a socket of family %s, type %d", name, kind)
		}
	}
	for protocol := range 23 { // of netlink there is nothing without a network
		_, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
		h.answers(err, unix.EPERM, "netlink protocol %d", protocol)
	}
	_, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	h.refused(err, "a raw socket")
}

// T-18, CVE-2022-27650: no capability in any set, none to be had by an exec, a
// change of id or a set-id file.
func TestT18NoPrivilegeIsGained(t *testing.T) {
	setID := filepath.Join(testDir(t), "set-id")
	if err := copyFile(setID, testenv.Self(t), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(setID, 0o755|os.ModeSetuid|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	scene{Attack: "identity", Program: setID}.fails(t)
	scene{Attack: "identity", Program: setID, NoFilter: true}.fails(t)
}

func attackIdentity(h *hostile, _ []string) {
	look := func(when string) {
		r, e, s := unix.Getresuid()
		h.holds(r == 1000 && e == 1000 && s == 1000, "%s: uids %d %d %d", when, r, e, s)
		r, e, s = unix.Getresgid()
		h.holds(r == 1000 && e == 1000 && s == 1000, "%s: gids %d %d %d", when, r, e, s)
		b, err := os.ReadFile("/proc/thread-self/status")
		h.holds(err == nil, "%s: its status cannot be read: %v", when, err)
		for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
			h.holds(strings.Contains(string(b), set+":\t0000000000000000\n"), "%s: %s is not empty", when, set)
		}
		h.holds(strings.Contains(string(b), "NoNewPrivs:\t1\n"), "%s: no_new_privs is off", when)
	}
	look("at first")
	for _, id := range []int{0, 1, 65534, 54321} {
		h.refused(unix.Setresuid(id, id, id), "setresuid(%d)", id)
		h.refused(unix.Setresgid(id, id, id), "setresgid(%d)", id)
	}
	h.refused(unix.Setgroups([]int{0}), "setgroups")
	h.refused(unix.Prctl(unix.PR_SET_SECUREBITS, 0, 0, 0, 0), "securebits were unlocked")
	h.refused(unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0), "keepcaps")
	h.refused(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), "no_new_privs was switched off")
	for n := uintptr(0); n <= unix.CAP_LAST_CAP; n++ {
		h.refused(unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, n, 0, 0), "capability %d became ambient", n)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: ^uint32(0), Permitted: ^uint32(0), Inheritable: ^uint32(0)}}
	h.refused(unix.Capset(&header, &data[0]), "capset")
	look("at last")
}

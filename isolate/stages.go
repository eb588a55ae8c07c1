package isolate

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// The two stages of a start: into the namespaces; then, as PID 1 in them, the
// set-up, the program, and its supervision.

// namespaces is the clone's flags for this spec.
func (c *compiler) namespaces() string {
	ns := "CLONE_NEWUSER|CLONE_NEWNS|CLONE_NEWPID|CLONE_NEWIPC|CLONE_NEWUTS|CLONE_NEWCGROUP"
	if c.spec.Network == NetworkNone {
		ns += "|CLONE_NEWNET"
	}
	return ns
}

// stageOne runs under the outer identity. Its child writes its own id maps,
// which needs no privilege because it maps its own id, keeps its capabilities
// over the exec by way of the ambient set (inside it is not root), and becomes
// init. Stage one sends init's pidfd to the host and ends.
func (c *compiler) stageOne() {
	s := &c.plan.StageOne
	s.Clone = flags("CLONE_PARENT|CLONE_VM|CLONE_VFORK|CLONE_PIDFD|" + c.namespaces())
	child := func(call *Call) *Call {
		s.Child = append(s.Child, call)
		return call
	}
	child(sys("prctl", flags("PR_SET_PDEATHSIG"), flags("SIGKILL")))
	for _, m := range []struct {
		file, text string
	}{
		{"/proc/self/setgroups", "deny"},
		{"/proc/self/uid_map", fmt.Sprintf("%d %d 1\n", c.spec.UID, c.plan.uid)},
		{"/proc/self/gid_map", fmt.Sprintf("%d %d 1\n", c.spec.GID, c.plan.gid)},
	} {
		fd := child(sys("openat", flags("AT_FDCWD"), str(m.file), flags("O_WRONLY|O_CLOEXEC"), num(0)))
		child(sys("write", resultOf(fd), str(m.text), num(int64(len(m.text)))))
	}
	inheritable := capabilityBlock(c.host.LastCap)
	child(sys("capset", capabilityHeader(), at(inheritable, 0, "{effective=all, permitted=all, inheritable=all}")))
	for n := range c.host.LastCap + 1 {
		if keptByInit(n) {
			child(sys("prctl", flags("PR_CAP_AMBIENT"), flags("PR_CAP_AMBIENT_RAISE"), num(int64(n)), num(0), num(0)))
		}
	}
	child(sys("execve", str("/proc/self/exe"), stringArray([]string{"init"}, false), null))
	s.Parent = []*Call{
		c.sendPidfd(s, RecordCloned),
		sys("exit_group", num(0)),
	}
}

// sendPidfd sends a record to the host with the pidfd that the clone stored.
func (c *compiler) sendPidfd(s *Sequence, kind uint64) *Call {
	control := &block{bytes: controlMessage(1)}
	s.pidfd = at(control, unix.CmsgLen(0), "&pidfd")
	record := &block{bytes: Record{Kind: kind}.Encode()}
	iov := &block{words: []Arg{at(record, 0, ""), num(RecordSize)}}
	message := &block{words: []Arg{null, num(0), at(iov, 0, ""), num(1), at(control, 0, ""), num(int64(len(control.bytes))), num(0)}}
	text := map[uint64]string{RecordCloned: "cloned", RecordStarted: "started"}[kind]
	return sys("sendmsg", num(3), at(message, 0, "{"+text+", SCM_RIGHTS=[pidfd]}"), flags("MSG_NOSIGNAL"))
}

// controlMessage is room for n descriptors, with the header of SCM_RIGHTS.
func controlMessage(n int) []byte {
	b := make([]byte, unix.CmsgSpace(4*n))
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(4*n)))
	binary.NativeEndian.PutUint32(b[8:], unix.SOL_SOCKET)
	binary.NativeEndian.PutUint32(b[12:], unix.SCM_RIGHTS)
	return b
}

// keptByInit are the capabilities, in its own namespaces, that init works with.
func keptByInit(n int) bool {
	switch n {
	case unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP, unix.CAP_NET_ADMIN, unix.CAP_SYS_RESOURCE:
		return true
	}
	return false
}

func capabilityHeader() Arg {
	b := binary.NativeEndian.AppendUint32(nil, unix.LINUX_CAPABILITY_VERSION_3)
	return at(&block{bytes: binary.NativeEndian.AppendUint32(b, 0)}, 0, "{_LINUX_CAPABILITY_VERSION_3, 0}")
}

// capabilityBlock has every capability up to last in all three sets; none for -1.
func capabilityBlock(last int) *block {
	var all uint64
	if last >= 0 {
		all = 1<<(last+1) - 1
	}
	var b []byte
	for _, half := range []uint32{uint32(all), uint32(all >> 32)} {
		for range 3 {
			b = binary.NativeEndian.AppendUint32(b, half)
		}
	}
	return &block{bytes: b}
}

// stageTwo sets up the cell from inside, as PID 1.
func (c *compiler) stageTwo() error {
	// First of all: while init is dumpable, a program with the same ids could
	// read its memory and forge its reports.
	c.add(sys("prctl", flags("PR_SET_DUMPABLE"), num(0)))
	c.add(sys("prctl", flags("PR_SET_PDEATHSIG"), flags("SIGKILL"))) // cleared by the exec's change of capabilities
	c.add(sys("prctl", flags("PR_SET_NAME"), str("init")))
	c.add(sys("sethostname", str(c.spec.Hostname), num(int64(len(c.spec.Hostname)))))
	c.add(sys("umask", octal(0)))
	c.root()
	c.limits()
	c.privileges()
	if err := c.start(); err != nil {
		return err
	}
	c.plan.StageTwo.Init = c.init
	c.enforced()
	return nil
}

// limits that are no control group's.
func (c *compiler) limits() {
	// 1 and not 0: of a host whose core_pattern is a pipe, only 1 keeps the
	// handler from being run (core(5)). The filter keeps it from being changed.
	c.add(setLimit("RLIMIT_CORE", 1))
	c.add(setLimit("RLIMIT_MEMLOCK", 64<<10))
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
	c.add(sys("capset", capabilityHeader(), at(capabilityBlock(-1), 0, "{effective=0, permitted=0, inheritable=0}")))
	c.add(sys("prctl", flags("PR_SET_NO_NEW_PRIVS"), num(1), num(0), num(0), num(0)))
	if c.spec.NoJIT {
		c.add(sys("prctl", flags("PR_SET_MDWE"), flags("PR_MDWE_REFUSE_EXEC_GAIN"), num(0), num(0), num(0)))
	}
}

// start is what only the program gets, its execve, and what init does next.
func (c *compiler) start() error {
	s := &c.plan.StageTwo
	s.Clone = flags("CLONE_VM|CLONE_VFORK|CLONE_PIDFD")
	s.Clone.number |= uint64(unix.SIGCHLD)
	s.Clone.text += "|SIGCHLD"
	child := func(call *Call) *Call {
		s.Child = append(s.Child, call)
		return call
	}
	child(sys("umask", octal(0o022)))
	child(sys("setsid"))
	child(sys("rt_sigprocmask", flags("SIG_SETMASK"), at(&block{bytes: make([]byte, 8)}, 0, "[]"), null, num(8)))
	dir := c.program.Dir
	if dir == "" {
		dir = "/"
	}
	// Inside the new root, and not by way of a descriptor that init holds
	// (CVE-2024-21626).
	cwd := child(sys("openat2", flags("AT_FDCWD"), str(dir), openHow("O_PATH|O_DIRECTORY|O_CLOEXEC", unix.RESOLVE_NO_MAGICLINKS|unix.RESOLVE_IN_ROOT, "RESOLVE_NO_MAGICLINKS|RESOLVE_IN_ROOT"), num(openHowSize)))
	child(sys("fchdir", resultOf(cwd)))
	child(sys("close_range", num(3), num(0xffffffff), flags("CLOSE_RANGE_CLOEXEC")))
	// The program's, not init's: descriptors in flight are counted for all of a
	// user's programs together, and one of them could use up what init needs to
	// send its own.
	child(setLimit("RLIMIT_NOFILE", c.spec.Rlimits.OpenFiles))
	if c.spec.Seccomp == SeccompHardened {
		filter, err := hardenedFilter()
		if err != nil {
			return err
		}
		child(sys("seccomp", flags("SECCOMP_SET_MODE_FILTER"), num(0), filter))
	}
	child(sys("execve", str(c.program.Path), stringArray(c.program.Args, false), stringArray(c.program.Env, true)))
	s.Parent = []*Call{
		sys("close_range", num(0), num(2), num(0)),
		c.sendPidfd(s, RecordStarted),
		sys("close_range", num(4), num(0xffffffff), num(0)),
	}
	return nil
}

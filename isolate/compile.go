package isolate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A Plan is everything that a start does, prepared.
type Plan struct {
	// Trees are the detached mounts that a privileged host makes and sends
	// behind the plan, in this order. An ordinary user's plan has none.
	Trees []Tree
	// StageOne clones into the namespaces; StageTwo sets the cell up, starts
	// the program and waits for it.
	StageOne, StageTwo Sequence
	// Enforced is what holds once the program runs.
	Enforced Enforced

	privileged bool
	uid, gid   int // outside
}

// A Tree is a file or directory of the host that the plan mounts.
type Tree struct {
	Path string      // without symbolic links
	Info fs.FileInfo // of what was examined: what is opened must be the same file
}

// Credential is who stage one runs as. ok is false for an ordinary user, who
// stays who he is.
func (p *Plan) Credential() (uid, gid uint32, ok bool) {
	return uint32(p.uid), uint32(p.gid), p.privileged
}

// String prints the plan as strace would, a call a line. Values of environment
// variables are left out.
func (p *Plan) String() string {
	var b strings.Builder
	for i, t := range p.Trees {
		fmt.Fprintf(&b, "host: open_tree(%q, OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_RECURSIVE) = tree %d\n", t.Path, i)
	}
	if p.privileged {
		fmt.Fprintf(&b, "launcher: setgroups(0), setgid(%d), setuid(%d)\n", p.gid, p.uid)
	}
	b.WriteString("launcher: vfork into the control group, prctl(PR_SET_PDEATHSIG, SIGKILL), execve(init)\n")
	for line := range strings.Lines(p.StageOne.String()) {
		b.WriteString("stage one: " + line)
	}
	for line := range strings.Lines(p.StageTwo.String()) {
		b.WriteString("init: " + line)
	}
	return b.String()
}

// MaxTrees bounds the descriptors that travel with a plan. The kernel takes 253
// a message (SCM_MAX_FD); init receives them in messages of treesPerMessage.
const (
	MaxTrees        = 1000
	TreesPerMessage = 250
)

// Compile turns what a program may do into the system calls that bring it
// about. It reads the host's files (to find libraries and resolve links) and
// changes nothing. All faults of the spec and the program are reported together.
func Compile(spec Spec, program Program, host Host) (*Plan, error) {
	if err := errors.Join(spec.check(), program.check()); err != nil {
		return nil, err
	}
	c := compiler{spec: spec.withDefaults(), program: program, host: host, view: newView(host.Files, host.closures)}
	if err := c.fillView(); err != nil {
		return nil, err
	}
	c.plan = &Plan{privileged: host.Privileged, uid: host.UID, gid: host.GID}
	if host.Privileged {
		c.plan.uid, c.plan.gid = c.spec.HostUID, c.spec.HostGID
	}
	if err := c.view.writeXorExecute(c.plan.uid); err != nil {
		return nil, err
	}
	c.stageOne()
	if err := c.stageTwo(); err != nil {
		return nil, err
	}
	return c.plan, nil
}

func (s Spec) withDefaults() Spec {
	or := func(p *int, value int) {
		if *p == 0 {
			*p = value
		}
	}
	or(&s.UID, defaultID)
	or(&s.GID, defaultID)
	or(&s.HostUID, defaultHostID)
	or(&s.HostGID, defaultHostID)
	if s.Hostname == "" {
		s.Hostname = defaultHostname
	}
	if s.TmpSize == 0 {
		s.TmpSize = defaultTmpSize
	}
	for _, l := range []struct{ p, value *uint64 }{
		{&s.Rlimits.OpenFiles, &DefaultRlimits.OpenFiles},
		{&s.Rlimits.Processes, &DefaultRlimits.Processes},
		{&s.Rlimits.FileSize, &DefaultRlimits.FileSize},
	} {
		if *l.p == 0 {
			*l.p = *l.value
		}
	}
	return s
}

const maxID = 1<<32 - 2

func (s Spec) check() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	for name, id := range map[string]int{"UID": s.UID, "GID": s.GID, "HostUID": s.HostUID, "HostGID": s.HostGID} {
		if id < 0 || id > maxID {
			fault("%s %d is not between 1 and %d", name, id, maxID)
		}
	}
	if strings.ContainsRune(s.Hostname, 0) || len(s.Hostname) > 64 {
		fault("hostname %q: at most 64 bytes, no NUL", s.Hostname)
	}
	if s.TmpSize < 0 || s.TmpSize > maxTmpSize {
		fault("size of /tmp: %d is not between 0 and %d", s.TmpSize, int64(maxTmpSize))
	}
	for _, p := range s.Allow {
		faults = append(faults, checkPath("allowed program", p))
	}
	for _, m := range s.Mounts {
		if m == nil {
			fault("a mount is nil")
			continue
		}
		faults = append(faults, checkPath("mount", m.target()), checkTarget(m.target()))
		if t, ok := m.(tmpfsMount); ok && (t.size <= 0 || t.size > maxTmpSize) {
			fault("size of %s: %d is not between 1 and %d", t.path, t.size, int64(maxTmpSize))
		}
	}
	return errors.Join(faults...)
}

func (p Program) check() error {
	var faults []error
	faults = append(faults, checkPath("program", p.Path))
	if p.Dir != "" {
		faults = append(faults, checkPath("working directory", p.Dir))
	}
	if len(p.Args) == 0 {
		faults = append(faults, errors.New("no argv[0]"))
	}
	for i, a := range p.Args {
		if strings.ContainsRune(a, 0) {
			faults = append(faults, fmt.Errorf("argument %d contains a NUL byte", i))
		}
	}
	for i, e := range p.Env {
		name, _, ok := strings.Cut(e, "=")
		if !ok || name == "" || strings.ContainsRune(e, 0) {
			faults = append(faults, fmt.Errorf("environment entry %d (%q) is not NAME=value without NUL", i, name))
		}
	}
	return errors.Join(faults...)
}

func checkPath(what, p string) error {
	switch {
	case strings.ContainsRune(p, 0):
		return fmt.Errorf("%s %q contains a NUL byte", what, p)
	case !path.IsAbs(p):
		return fmt.Errorf("%s %q is not an absolute path", what, p)
	case len(p) >= unix.PathMax:
		return fmt.Errorf("%s: path of %d bytes: %w", what, len(p), unix.ENAMETOOLONG)
	}
	return nil
}

// checkTarget refuses mounts over what the profile itself is made of.
func checkTarget(p string) error {
	p = path.Clean(p)
	if p == "/" {
		return errors.New("mount /: the root of the host cannot be shown; name what is needed of it")
	}
	for _, own := range []string{"/proc", "/dev", "/sys"} {
		if p == own || strings.HasPrefix(p, own+"/") {
			return fmt.Errorf("mount %s: %s inside belongs to the profile", p, own)
		}
	}
	return nil
}

type compiler struct {
	spec    Spec
	program Program
	host    Host
	view    *view
	plan    *Plan
	init    []*Call

	receive []*Call // the recvmsg calls that bring the trees
	trees   *block  // control buffer of the current one
}

func (c *compiler) add(call *Call) *Call {
	c.init = append(c.init, call)
	return call
}

// fillView decides what exists for the program.
func (c *compiler) fillView() error {
	v := c.view
	if err := v.data(c.spec.UID, c.spec.GID, c.spec.Network); err != nil {
		return err
	}
	v.mergedLinks()
	if c.spec.View == ViewSystem {
		if err := v.system(); err != nil {
			return err
		}
	}
	for _, p := range append(slices.Clone(c.spec.Allow), c.program.Path) {
		if err := v.program(p); err != nil {
			return err
		}
	}
	if err := v.runnable(c.program.Path); err != nil {
		return err
	}
	for _, m := range c.spec.Mounts {
		if m, ok := m.(bindMount); ok {
			if _, err := v.show(m.path, bind{writable: m.writable}); err != nil {
				return fmt.Errorf("mount %s: %w", m.path, err)
			}
		}
	}
	for _, dev := range []string{"null", "zero", "full", "random", "urandom"} {
		if _, err := v.show("/dev/"+dev, bind{device: true}); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		v.links[name] = text
	}
	v.dirs["/proc"] = true
	return nil
}

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

// root builds the file system on a new tmpfs and makes it the root.
func (c *compiler) root() {
	v := c.view
	binds := v.ordered()
	c.add(sys("mount", null, str("/"), null, flags("MS_SLAVE|MS_REC"), null))
	c.receiveTrees(binds)

	fs := c.add(sys("fsopen", str("tmpfs"), flags("FSOPEN_CLOEXEC")))
	for _, option := range [][2]string{{"mode", "0755"}, {"size", "1m"}, {"nr_inodes", "4096"}} {
		c.add(sys("fsconfig", resultOf(fs), flags("FSCONFIG_SET_STRING"), str(option[0]), str(option[1]), num(0)))
	}
	c.add(sys("fsconfig", resultOf(fs), flags("FSCONFIG_CMD_CREATE"), null, null, num(0)))
	root := c.add(sys("fsmount", resultOf(fs), flags("FSMOUNT_CLOEXEC"), flags("MOUNT_ATTR_NOSUID|MOUNT_ATTR_NODEV|MOUNT_ATTR_NOEXEC")))
	// Any place will do: it is over the old root, which goes away.
	c.add(sys("move_mount", resultOf(root), str(""), flags("AT_FDCWD"), str("/"), flags("MOVE_MOUNT_F_EMPTY_PATH")))
	c.add(sys("fchdir", resultOf(root)))

	// In two steps: what lies in /tmp needs /tmp to be there.
	tmpfs := c.tmpfs()
	inTmpfs := func(name string) bool {
		return slices.ContainsFunc(tmpfs, func(t tmpfsMount) bool { return strings.HasPrefix(name, t.path+"/") })
	}
	s := c.skeleton(binds)
	c.make(s, func(name string) bool { return !inTmpfs(name) })
	// proc before the old root goes: the kernel wants to see one that is whole.
	c.add(sys("mount", str("proc"), str("proc"), str("proc"), flags("MS_RDONLY|MS_NOSUID|MS_NODEV|MS_NOEXEC"), str("subset=pid,hidepid=invisible")))
	for _, t := range tmpfs {
		options := fmt.Sprintf("mode=1777,size=%d,nr_inodes=65536", t.size)
		c.add(sys("mount", str("tmpfs"), str(t.path[1:]), str("tmpfs"), flags("MS_NOSUID|MS_NODEV|MS_NOEXEC"), str(options)))
	}
	c.make(s, inTmpfs)
	for i, b := range binds {
		c.bind(i, b)
	}
	c.add(sys("mount_setattr", resultOf(root), str(""), flags("AT_EMPTY_PATH"), attributes("MOUNT_ATTR_RDONLY"), num(attributesSize)))
	c.add(sys("fchdir", resultOf(root)))
	c.add(sys("pivot_root", str("."), str(".")))
	c.add(sys("umount2", str("."), flags("MNT_DETACH")))
	c.add(sys("chdir", str("/")))
}

const attributesSize = 32

// attributes also takes the mount out of its peer group: a tree of a shared
// mount (systemd makes all of them shared) would send what is mounted on it in
// the cell back to the host.
func attributes(names string) Arg {
	b := make([]byte, attributesSize)
	binary.NativeEndian.PutUint64(b, flags(names).number)
	binary.NativeEndian.PutUint64(b[16:], flags("MS_PRIVATE").number)
	return at(&block{bytes: b}, 0, "{attr_set="+names+", propagation=MS_PRIVATE}")
}

// receiveTrees takes the descriptors of the detached mounts that the host sends.
func (c *compiler) receiveTrees(binds []bind) {
	if !c.host.Privileged {
		return
	}
	for _, b := range binds {
		c.plan.Trees = append(c.plan.Trees, Tree{b.path, b.info})
	}
	for left := len(binds); left > 0; left -= TreesPerMessage {
		n := min(left, TreesPerMessage)
		control := &block{bytes: make([]byte, unix.CmsgSpace(4*n))}
		iov := &block{words: []Arg{at(&block{bytes: make([]byte, 8)}, 0, ""), num(8)}}
		message := &block{words: []Arg{null, num(0), at(iov, 0, ""), num(1), at(control, 0, ""), num(int64(len(control.bytes))), num(0)}}
		c.receive = append(c.receive, c.add(sys("recvmsg", num(3), at(message, 0, fmt.Sprintf("{SCM_RIGHTS=[%d trees]}", n)), flags("MSG_CMSG_CLOEXEC"))))
		c.receive[len(c.receive)-1].control = control
	}
}

// bind moves one tree to its place, with its rights.
func (c *compiler) bind(i int, b bind) {
	var tree Arg
	if c.host.Privileged {
		control := c.receive[i/TreesPerMessage].control
		tree = received(control, unix.CmsgLen(0)+4*(i%TreesPerMessage), fmt.Sprintf("tree %d", i))
	} else {
		// An ordinary user's own paths are open to init as well: the same
		// file, found again without following any link.
		file := c.add(sys("openat2", flags("AT_FDCWD"), str(b.path), openHow("O_PATH|O_CLOEXEC", unix.RESOLVE_NO_SYMLINKS, "RESOLVE_NO_SYMLINKS"), num(openHowSize)))
		tree = resultOf(c.add(sys("open_tree", resultOf(file), str(""), flags("OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH|AT_RECURSIVE"))))
		tree.text = fmt.Sprintf("<open_tree %q>", b.path)
	}
	c.add(sys("mount_setattr", tree, str(""), flags("AT_EMPTY_PATH|AT_RECURSIVE"), attributes(b.rights()), num(attributesSize)))
	target := path.Clean(b.path)[1:]
	if _, inside := c.view.below(b.path); inside {
		// The mount point lies in a directory of the host, where links may be.
		point := c.add(sys("openat2", flags("AT_FDCWD"), str(target), openHow("O_PATH|O_CLOEXEC", unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_BENEATH, "RESOLVE_NO_SYMLINKS|RESOLVE_BENEATH"), num(openHowSize)))
		c.add(sys("move_mount", tree, str(""), resultOf(point), str(""), flags("MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH")))
		return
	}
	c.add(sys("move_mount", tree, str(""), flags("AT_FDCWD"), str(target), flags("MOVE_MOUNT_F_EMPTY_PATH")))
}

func (b bind) rights() string {
	rights := "MOUNT_ATTR_NOSUID"
	if !b.writable {
		rights += "|MOUNT_ATTR_RDONLY"
	}
	if !b.device {
		rights += "|MOUNT_ATTR_NODEV"
	}
	if !b.exec {
		rights += "|MOUNT_ATTR_NOEXEC"
	}
	return rights
}

const openHowSize = 24

func openHow(names string, resolve uint64, resolveText string) Arg {
	b := make([]byte, openHowSize)
	binary.NativeEndian.PutUint64(b, flags(names).number)
	binary.NativeEndian.PutUint64(b[16:], resolve)
	return at(&block{bytes: b}, 0, "{flags="+names+", resolve="+resolveText+"}")
}

// tmpfs are the directories in memory: the profile's and the spec's.
func (c *compiler) tmpfs() []tmpfsMount {
	list := []tmpfsMount{{"/dev/shm", c.spec.TmpSize}, {"/tmp", c.spec.TmpSize}}
	for _, m := range c.spec.Mounts {
		if m, ok := m.(tmpfsMount); ok {
			m.path = path.Clean(m.path)
			list = slices.DeleteFunc(list, func(t tmpfsMount) bool { return t.path == m.path })
			list = append(list, m)
		}
	}
	list = slices.DeleteFunc(list, func(t tmpfsMount) bool { _, shown := c.view.binds[t.path]; return shown })
	slices.SortFunc(list, func(a, b tmpfsMount) int { return strings.Compare(a.path, b.path) })
	return list
}

// A skeleton is what the new root has besides mounts, each list sorted, so that
// a directory stands before what is in it.
type skeleton struct {
	dirs, links, texts []string
	points             []string // empty files to mount on
}

// skeleton collects what must be made: nothing below a bound directory, which
// has its own content.
func (c *compiler) skeleton(binds []bind) skeleton {
	v := c.view
	dirs := map[string]bool{}
	var s skeleton
	ours := func(name string) bool {
		if _, inside := v.below(name); inside {
			return false
		}
		for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
			dirs[dir] = true
		}
		return true
	}
	directory := func(name string) {
		if ours(name) {
			dirs[name] = true
		}
	}
	for _, b := range binds {
		if b.info.IsDir() {
			directory(b.path)
		} else if ours(b.path) {
			s.points = append(s.points, b.path)
		}
	}
	for dir := range v.dirs {
		directory(dir)
	}
	for _, t := range c.tmpfs() {
		directory(t.path)
	}
	for name := range v.links {
		if ours(name) {
			s.links = append(s.links, name)
		}
	}
	for name := range v.texts {
		if _, shown := v.binds[name]; !shown && ours(name) {
			s.texts = append(s.texts, name)
		}
	}
	s.dirs = slices.Sorted(maps.Keys(dirs))
	slices.Sort(s.links)
	slices.Sort(s.texts)
	return s
}

// make makes the part of the skeleton that which selects.
func (c *compiler) make(s skeleton, which func(name string) bool) {
	v := c.view
	selected := func(list []string) iter.Seq[string] {
		return func(yield func(string) bool) {
			for _, name := range list {
				if which(name) && !yield(name) {
					return
				}
			}
		}
	}
	for dir := range selected(s.dirs) {
		c.add(sys("mkdirat", flags("AT_FDCWD"), str(dir[1:]), octal(0o755)))
	}
	for name := range selected(s.links) {
		c.add(sys("symlinkat", str(v.links[name]), flags("AT_FDCWD"), str(name[1:])))
	}
	for name := range selected(s.texts) {
		fd := c.add(sys("openat", flags("AT_FDCWD"), str(name[1:]), flags("O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC"), octal(0o444)))
		c.add(sys("write", resultOf(fd), str(v.texts[name]), num(int64(len(v.texts[name])))))
		c.add(sys("close", resultOf(fd)))
	}
	for name := range selected(s.points) {
		c.add(sys("mknodat", flags("AT_FDCWD"), str(name[1:]), flags("S_IFREG"), num(0)))
	}
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

// programs counts what may be started.
func (c *compiler) programs() int {
	distinct := map[string]bool{}
	for _, p := range append(slices.Clone(c.spec.Allow), c.program.Path) {
		if real, err := c.view.resolve(p); err == nil {
			distinct[real] = true
		}
	}
	return len(distinct)
}

func (c *compiler) enforced() {
	add := func(format string, args ...any) {
		c.plan.Enforced = append(c.plan.Enforced, fmt.Sprintf(format, args...))
	}
	add("namespaces: %s", strings.ReplaceAll(c.namespaces(), "CLONE_NEW", ""))
	if c.spec.Network == NetworkHost {
		add("network: the host's, by request")
	}
	if c.spec.View == ViewSystem {
		add("view: all of /usr, read-only; the list of allowed programs is advice")
	} else {
		add("view: %d allowed program(s) with what they need, read-only; what can be written cannot be executed", c.programs())
	}
	add("identity: uid %d inside, %d outside; no capabilities; no_new_privs", c.spec.UID, c.plan.uid)
	if c.spec.Seccomp == SeccompHardened {
		add("system calls: hardened filter")
	} else {
		add("system calls: NO filter, by request")
	}
}

package isolate

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
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
	// StageOne clones into the namespaces. There init carries out SetUp, which is
	// all that can be done before it is known that the start goes on; then Program,
	// which starts the program and waits for it.
	StageOne, SetUp, Program Sequence
	// Network is where stage one finds itself: in a network namespace that a forker has
	// made, off the path of the start, or in the launcher's, where its clone makes one if
	// the program has its own.
	Network ForkerNetwork
	// NothingOutlives: what was the program's own, a FreshNetwork and v1 groups, may be the
	// next one's once it is dead, if it is as good as new. The filter lets the program do
	// little there, and it is shown no place in which others could have a socket: it can
	// send nobody a descriptor, which would hold the namespace, or have the groups charged
	// for what another does.
	NothingOutlives bool
	// InTemplate is a start that finds its root made.
	InTemplate bool
	// Enforced is what holds once the program runs.
	Enforced Enforced

	shown      []Tree // what the plan mounts, also of an ordinary user's: see Key
	privileged bool
	uid, gid   int // outside
	chdir      int // the Child call that enters the working directory
}

// A Tree is a file or directory of the host that the plan mounts.
type Tree struct {
	Path     string      // without symbolic links
	Info     fs.FileInfo // of what was examined: what is opened must be the same file
	Flat     bool        // without what is mounted below it
	Writable bool
	Map      IDMap
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
		how := "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC"
		if !t.Flat {
			how += "|AT_RECURSIVE"
		}
		fmt.Fprintf(&b, "host: open_tree(%q, %s) = tree %d\n", t.Path, how, i)
		if t.Map != (IDMap{}) {
			fmt.Fprintf(&b, "host: mount_setattr(<tree %d>, \"\", AT_EMPTY_PATH, {attr_set=MOUNT_ATTR_IDMAP, userns_fd=<%v>}, 32)\n", i, t.Map)
		}
	}
	if p.privileged {
		fmt.Fprintf(&b, "host: request to a forker, with uid %d and gid %d\n", p.uid, p.gid)
	}
	for line := range strings.Lines(ForkerSetUp().String() + Forker(p.privileged, p.Network).String()) {
		b.WriteString("forker: " + line)
	}
	for line := range strings.Lines(p.StageOne.String()) {
		b.WriteString("stage one: " + line)
	}
	for line := range strings.Lines(p.SetUp.String() + p.Program.String()) {
		b.WriteString("init: " + line)
	}
	return b.String()
}

// TreesPerMessage is how many of them travel in one message: the kernel takes
// 253 descriptors (SCM_MAX_FD).
const TreesPerMessage = 250

// Compile turns what a program may do into the system calls that bring it
// about, all of them: Prepare and Plan in one. It reads the host's files (to
// find libraries and resolve links) and changes nothing. All faults of the spec
// and the program are reported together.
func Compile(spec Spec, program Program, host Host) (*Plan, error) {
	spec = spec.Allowing(program.Path)
	if err := errors.Join(spec.check(), program.check()); err != nil {
		return nil, err
	}
	p, err := Prepare(spec, host)
	if err != nil {
		return nil, err
	}
	return p.Plan(program, Given{})
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

// CheckIdentity refuses ids outside that the host cannot give: one that is not
// root has its own only (EPERM).
func (s Spec) CheckIdentity(host Host) error {
	if host.Privileged || (s.HostUID == 0 || s.HostUID == host.UID) && (s.HostGID == 0 || s.HostGID == host.GID) {
		return nil
	}
	return fmt.Errorf("programs cannot run as %d:%d: this host is not root and has one id, %d:%d, which they keep; run the host as root to give them another: %w",
		s.HostUID, s.HostGID, host.UID, host.GID, unix.EPERM)
}

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
	if s.Root != "" {
		faults = append(faults, checkPath("root", s.Root))
		if s.View != ViewPrograms || len(s.Allow) > 0 {
			fault("root %s: all of it is shown and can be executed; a view and allowed programs mean nothing there", s.Root)
		}
	}
	for _, p := range s.Allow {
		faults = append(faults, checkPath("allowed program", p))
	}
	for _, p := range s.Needs {
		faults = append(faults, checkPath("need", p))
	}
	for p, digest := range s.SHA256 {
		if b, err := hex.DecodeString(digest); err != nil || len(b) != sha256.Size {
			fault("SHA-256 of %s: %q is not %d hexadecimal digits", p, digest, 2*sha256.Size)
		}
		faults = append(faults, checkPath("pinned program", p))
	}
	for _, choice := range []struct {
		name     string
		is, last int
	}{{"network", int(s.Network), int(NetworkHost)}, {"view", int(s.View), int(ViewSystem)}, {"filter", int(s.Seccomp), int(SeccompNone)}} {
		if choice.is < 0 || choice.is > choice.last {
			fault("there is no %s %d", choice.name, choice.is)
		}
	}
	writable := map[string]bool{}
	for _, m := range s.Mounts {
		if b, ok := m.(bindMount); ok {
			if before, twice := writable[path.Clean(b.path)]; twice && before != b.writable {
				fault("mount %s: both read-only and writable", b.path)
			}
			writable[path.Clean(b.path)] = b.writable
		}
		if m == nil {
			fault("a mount is nil")
			continue
		}
		faults = append(faults, checkPath("mount", m.target()))
		t, ok := m.(tmpfsMount)
		if !ok || path.Clean(t.path) != "/dev/shm" { // another size for the profile's own
			faults = append(faults, checkTarget(m.target()))
		}
		if ok && (t.size <= 0 || t.size > maxTmpSize) {
			fault("size of %s: %d is not between 1 and %d", t.path, t.size, int64(maxTmpSize))
		}
	}
	return errors.Join(faults...)
}

func (p Program) check() error {
	size := 0 // before anything is made of them
	for _, s := range p.Args {
		size += len(s)
	}
	for _, s := range p.Env {
		size += len(s)
	}
	if n := size + 8*(len(p.Args)+len(p.Env)); n > BufferSize {
		return fmt.Errorf("arguments and environment take %d bytes; at most %d fit: %w", n, BufferSize, unix.E2BIG)
	}
	var faults []error
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

// A compiler makes the plans of a profile.
type compiler struct {
	*Profile
	given Given
	plan  *Plan

	trees      []*block // where the trees arrive
	asTemplate bool     // the root for a template, without what no two programs share
}

func (c *compiler) compile() error {
	c.stageOne(c.namespaces())
	if err := c.setUp(); err != nil {
		return err
	}
	c.start()
	if c.freshNetwork() {
		c.plan.Network = FreshNetwork
	}
	c.plan.InTemplate = c.given.Template
	c.plan.NothingOutlives = c.freshNetwork() && c.spec.Seccomp == SeccompHardened && !c.view.mayHaveSockets()
	c.enforced()
	return nil
}

// freshNetwork: a privileged host's forkers make network namespaces, the
// dearest of all, ahead. They are then owned by the host's user namespace, in
// which the program is nobody.
func (p *Profile) freshNetwork() bool {
	return p.host.Privileged && p.spec.Network == NetworkNone
}

// with is the plan for one program. What does not depend on it is shared.
func (p *Plan) with(program Program) *Plan {
	with := *p
	s := &with.Program
	s.Child = slices.Clone(s.Child)
	dir := program.Dir
	if dir == "" {
		dir = "/"
	}
	// A link of /proc to a descriptor leads out of the root where that is a directory
	// (CVE-2024-21626). None is: of 0 to 2 the launcher takes none, 3 is a socket, and the
	// set-up has closed the others before it made Landlock's. Init, of whose descriptors
	// these are copies, is undumpable and hidden.
	s.Child[p.chdir] = sys("chdir", str(dir))
	s.Child[len(s.Child)-1] = execve(program)
	return &with
}

func (c *compiler) add(call *Call) *Call {
	c.plan.SetUp.Init = append(c.plan.SetUp.Init, call)
	return call
}

// fillView decides what exists for the program.
func (p *Profile) fillView() error {
	fill := p.fillPrograms
	if p.spec.Root != "" {
		fill = p.fillRoot
	}
	if err := fill(); err != nil {
		return err
	}
	host := newView(p.host.Files)
	for _, dev := range []string{"null", "zero", "full", "random", "urandom"} {
		b, err := host.show("/dev/"+dev, bind{device: true})
		if err != nil {
			return err
		}
		p.view.binds[b.path] = b
	}
	for name, text := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		p.view.links[name] = text
	}
	p.view.dirs["/proc"] = true
	return nil
}

// fillPrograms shows the allowed programs and what they need.
func (p *Profile) fillPrograms() error {
	v := p.view
	if err := v.data(p.spec.UID, p.spec.GID, p.spec.Network); err != nil {
		return err
	}
	v.mergedLinks()
	if p.spec.View == ViewSystem {
		if err := v.system(); err != nil {
			return err
		}
	}
	for _, name := range p.spec.Allow {
		if err := v.program(name); err != nil {
			return err
		}
	}
	for _, pattern := range p.spec.Needs {
		if err := v.needed(pattern); err != nil {
			return fmt.Errorf("need %s: %w", pattern, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.spec.SHA256)) {
		if err := v.pinned(name, p.spec.SHA256[name]); err != nil {
			return err
		}
	}
	for _, m := range p.spec.Mounts {
		if m, ok := m.(bindMount); ok {
			if _, err := v.show(m.path, bind{writable: m.writable, asNamed: true}); err != nil {
				return fmt.Errorf("mount %s: %w", m.path, err)
			}
		}
	}
	return nil
}

// programs counts what may be started.
func (c *compiler) programs() int {
	distinct := map[string]bool{}
	for _, p := range c.spec.Allow {
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
	add("namespaces: %s", strings.ReplaceAll(allNamespaces(c.spec.Network), "CLONE_NEW", ""))
	if c.spec.Network == NetworkHost {
		add("network: the host's, by request")
	}
	switch {
	case c.spec.Root != "":
		add("view: the root file system %s, read-only; all of it can be executed, what can be written cannot", c.view.base)
	case c.spec.View == ViewSystem:
		add("view: all of /usr, read-only; the list of allowed programs is advice")
	default:
		add("view: %d allowed program(s) with what they need, read-only; what can be written cannot be executed", c.programs())
	}
	if n := len(c.spec.SHA256); n > 0 {
		add("programs: %d of them pinned by SHA-256", n)
	}
	add("identity: uid %d inside, %d outside; no capabilities; no_new_privs", c.spec.UID, c.uid)
	if v := c.host.Landlock; v >= leastLandlock {
		add("Landlock, version %d: what may be executed and written, a second time", v)
	} else {
		add("Landlock: NONE, the kernel has none in use, or a filter refuses it; the view holds alone")
	}
	if n := c.host.ForeignGroups; n > 0 {
		add("supplementary groups: %d of the user's KEPT, which an ordinary user cannot drop; start this process without (setpriv --clear-groups)", n)
	}
	if c.host.CoreSocket {
		add("cores: a SOCKET of the host's receives them (kernel.core_pattern), whatever the limit")
	}
	if c.spec.Seccomp == SeccompHardened {
		add("system calls: hardened filter")
	} else {
		add("system calls: NO filter, by request")
	}
	if c.spec.NoJIT {
		add("executable anonymous memory: refused")
	}
}

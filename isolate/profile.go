package isolate

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Profile is a Spec that has been looked into: what its programs will see is
// found, and every fault but those of arguments is reported. Finding it takes a
// millisecond; a Profile that is Fresh gives plan after plan for some
// microseconds each. It is safe for concurrent use.
type Profile struct {
	spec     Spec
	host     Host
	view     *view
	uid, gid int // outside
	seen     *recorder

	mu       sync.Mutex
	plans    map[Given]*Plan // without a program
	runnable map[string]bool // programs that have been looked at
}

// Given is what a start finds prepared.
type Given struct {
	// Groups is how many v1 control groups init joins: their tasks files come
	// behind the plan, before the trees.
	Groups int
	// Template is a start within the profile's template: its user and mount
	// namespaces come behind the plan of stage one.
	Template bool
}

// Prepare looks into the host's files for what the programs of spec.Allow need. It
// changes nothing. All faults of the spec are reported together.
func Prepare(spec Spec, host Host) (*Profile, error) {
	if err := errors.Join(spec.check(), spec.CheckIdentity(host)); err != nil {
		return nil, err
	}
	seen := newRecorder(host.Files)
	host.Files = seen
	p := &Profile{
		spec: spec.withDefaults(), host: host, view: newView(seen), seen: seen,
		uid: host.UID, gid: host.GID, plans: map[Given]*Plan{}, runnable: map[string]bool{},
	}
	if host.Privileged {
		p.uid, p.gid = p.spec.HostUID, p.spec.HostGID
	}
	if err := p.fillView(); err != nil {
		return nil, err
	}
	if err := p.view.writeXorExecute(p.uid, p.host.Privileged); err != nil {
		return nil, err
	}
	return p, nil
}

// Allowing is the spec with the program among those that may be started.
func (s Spec) Allowing(program string) Spec {
	if s.Root == "" && !slices.Contains(s.Allow, program) {
		s.Allow = append(slices.Clone(s.Allow), program)
	}
	return s
}

// Fresh says whether everything that Prepare looked at is as it was: the same
// files, with the same content where that was read. It takes about a microsecond
// for each.
func (p *Profile) Fresh() bool { return p.seen.fresh() }

// Plan is the plan by which the program, one of the spec's, starts with these
// arguments.
func (p *Profile) Plan(program Program, given Given) (*Plan, error) {
	if err := program.check(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.runnable[program.Path] {
		check := p.view.runnable
		if p.spec.Root != "" {
			check = p.rootProgram
		}
		if err := check(program.Path); err != nil {
			return nil, err
		}
		p.runnable[program.Path] = true
	}
	base := p.plans[given]
	if base == nil {
		c := compiler{Profile: p, given: given, plan: &Plan{privileged: p.host.Privileged, uid: p.uid, gid: p.gid}}
		if err := c.compile(); err != nil {
			return nil, err
		}
		base = c.plan
		for _, s := range []*Sequence{&base.StageOne, &base.SetUp} { // every start's
			b, err := s.Encode()
			if err != nil {
				return nil, err
			}
			s.encoded = b
		}
		p.plans[given] = base
	}
	return base.with(program), nil
}

// A recorder notes what a compilation looked at, so that it can be told later
// whether another would find the same.
type recorder struct {
	fileSystem
	host bool // the files are this host's

	mu    sync.Mutex
	known map[look]bool
	looks []noted // the same, in their order
}

type noted struct {
	look
	path []byte // absolute, with a NUL behind it; nil if it is not this host's
	then stamp
}

func newRecorder(files fileSystem) *recorder {
	_, host := files.(hostFiles)
	return &recorder{fileSystem: files, host: host, known: map[look]bool{}}
}

// A look is one way in which a file was looked at.
type look struct {
	name    string
	follow  bool // symbolic links
	content bool
}

// A stamp tells one version of a file from another. It is zero for a file that
// is not there.
type stamp struct {
	dev, ino     uint64
	mode         uint32
	uid, gid     uint32
	links        uint64 // of a regular file
	size         int64  // and the times, where the content was looked at
	mtime, ctime syscall.Timespec
}

func (l look) stamp(s *syscall.Stat_t) stamp {
	t := stamp{dev: uint64(s.Dev), ino: s.Ino, mode: s.Mode, uid: s.Uid, gid: s.Gid}
	if s.Mode&syscall.S_IFMT == syscall.S_IFREG {
		t.links = uint64(s.Nlink)
	}
	if l.content {
		t.size, t.mtime, t.ctime = s.Size, s.Mtim, s.Ctim
	}
	return t
}

// now is the stamp of the file as it is; s is room for it. The host is asked without
// packages os and syscall, which allocate for each name: with them it takes twice as long.
func (r *recorder) now(n *noted, s *syscall.Stat_t) stamp {
	if n.path != nil {
		if statNow(n.path, n.follow, s) != 0 {
			return stamp{}
		}
		return n.stamp(s)
	}
	stat := r.fileSystem.Lstat
	if n.follow {
		stat = r.fileSystem.Stat
	}
	info, err := stat(n.name)
	if err != nil {
		return stamp{}
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}
	}
	return n.stamp(s)
}

// statNow is fstatat(2) of a path that ends with a NUL.
func statNow(path []byte, follow bool, s *syscall.Stat_t) syscall.Errno {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if follow {
		flags = 0
	}
	current := unix.AT_FDCWD // which an absolute path does not ask for
	for {
		_, _, errno := unix.Syscall6(sysFstatat, uintptr(current), uintptr(unsafe.Pointer(unsafe.SliceData(path))), uintptr(unsafe.Pointer(s)), uintptr(flags), 0, 0)
		if errno != unix.EINTR {
			return errno
		}
	}
}

// note takes the stamp before the file is looked at: one that changes meanwhile
// is stale at once.
func (r *recorder) note(l look) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known[l] {
		return
	}
	r.known[l] = true
	n := noted{look: l}
	if r.host && fs.ValidPath(l.name) && !strings.ContainsRune(l.name, 0) {
		n.path = append([]byte("/"+l.name), 0)
	}
	n.then = r.now(&n, new(syscall.Stat_t))
	r.looks = append(r.looks, n)
}

func (r *recorder) Lstat(name string) (fs.FileInfo, error) {
	r.note(look{name: name})
	return r.fileSystem.Lstat(name)
}

func (r *recorder) ReadLink(name string) (string, error) {
	r.note(look{name: name, content: true})
	return r.fileSystem.ReadLink(name)
}

func (r *recorder) Stat(name string) (fs.FileInfo, error) {
	r.note(look{name: name, follow: true})
	return r.fileSystem.Stat(name)
}

// Open is of files that are read and of directories that are listed.
func (r *recorder) Open(name string) (fs.File, error) {
	r.note(look{name: name, follow: true, content: true})
	return r.fileSystem.Open(name)
}

func (r *recorder) fresh() bool {
	r.mu.Lock()
	looks := r.looks // entries are never changed
	r.mu.Unlock()
	s := new(syscall.Stat_t)
	for i := range looks {
		if n := &looks[i]; r.now(n, s) != n.then {
			return false
		}
	}
	return true
}

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Leaf is one program's group, with its limits in force.
type Leaf struct {
	name   string
	limits Limits
	group  *Group
	path   string   // of the first of
	dirs   []string // every directory of the leaf that was made, v2 first
	joins  int      // v1 groups

	mu       sync.Mutex // guards the descriptors against use after Close
	closed   bool
	unified  *os.File // the v2 directory
	legacy   []file   // the v1 directories, as they stand in Group.places
	stats    statFiles
	oom      *oomWatch // v1 only
	enforced []string
	made     bool  // the v1 groups are, or
	notMade  error // why not
	ready    bool  // limits are in force, or
	notReady error // why not
	again    bool  // the v1 groups may be another's: see asNew
	handed   int   // how often Tasks was called
}

// New makes a leaf and sets its limits. Each limit is read back: one that the
// kernel did not take is an error, and nothing is left.
func (g *Group) New(name string, limits Limits) (*Leaf, error) {
	l, err := g.Begin(name, limits)
	if err != nil {
		return nil, err
	}
	if err := l.Ready(); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Begin is New that makes the v2 group only, in which a program is born: Tasks makes
// v1 groups, and Ready writes limits, while a launcher works. The program must not
// run before Ready has returned nil.
func (g *Group) Begin(name string, limits Limits) (_ *Leaf, err error) {
	if name == "" || strings.ContainsAny(name, "/\x00\n") || strings.HasPrefix(name, sparePrefix) || strings.HasPrefix(name, "cgroup.") || name == supervisor || len(name) > 200 {
		return nil, fmt.Errorf("cgroup: %q is no name for a leaf", name)
	}
	if err := limits.Check(); err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	l := &Leaf{name: name, limits: limits.WithDefaults(), group: g, joins: len(g.places)}
	l.path = filepath.Join(g.places[0], name)
	if g.unified != nil {
		l.joins--
		if err := l.make(l.path); err != nil {
			return nil, fmt.Errorf("cgroup: leaf %s: %w", name, err)
		}
		dir, err := openFile(l.path, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			rmdir(l.path)
			return nil, fmt.Errorf("cgroup: leaf %s: %w", name, err)
		}
		l.unified = os.NewFile(uintptr(dir.fd), l.path)
	}
	return l, nil
}

func (l *Leaf) make(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	l.dirs = append(l.dirs, dir)
	step("leaf made")
	return nil
}

// makeLegacy makes the v1 groups, once, or has those of a program that has ended.
func (l *Leaf) makeLegacy() error {
	if l.closed {
		return os.ErrClosed
	}
	if !l.made {
		l.made = true
		if l.group.spares.take(l) {
			return nil
		}
		for _, place := range l.legacyPlaces() {
			path := filepath.Join(place, l.name)
			if l.notMade = l.make(path); l.notMade != nil {
				break
			}
			var dir file
			if dir, l.notMade = openFile(path, unix.O_PATH|unix.O_DIRECTORY); l.notMade != nil {
				break
			}
			l.legacy = append(l.legacy, dir)
		}
	}
	return l.notMade
}

// legacyPlaces are where the v1 groups are.
func (l *Leaf) legacyPlaces() []string { return l.group.places[len(l.group.places)-l.joins:] }

// of is the group of a v1 controller.
func (l *Leaf) of(controller string) file {
	return l.legacy[slices.Index(l.legacyPlaces(), l.group.controllers[controller])]
}

// Ready puts every limit in force, or says why one is not.
func (l *Leaf) Ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.makeLegacy()
	if err == nil && !l.ready {
		l.ready = true
		l.notReady = l.limit(l.group)
	}
	if err == nil {
		err = l.notReady
	}
	if err != nil {
		return fmt.Errorf("cgroup: leaf %s: %w", l.name, err)
	}
	return nil
}

// limit sets the limits and reads them back.
func (l *Leaf) limit(g *Group) (err error) {
	if len(l.limits.IO) > 0 {
		if err := g.ioError(l.path); err != nil {
			return err
		}
	}
	if len(g.legacy) == 0 {
		settings, err := l.limits.writeUnified(g.unified.mount, filepath.Join(g.unified.group, l.name), l.v2())
		if err != nil {
			return err
		}
		step("limits written")
		for _, s := range settings {
			if err := s.verify(); err != nil {
				return err
			}
		}
		step("limits set")
		l.describe(g)
		l.stats = unifiedFiles(l.v2())
		if l.limits.Pids == MinPids {
			l.awaitRoom()
		}
		return nil
	}
	settings, err := l.limits.legacySettings(l.of, g.optional)
	if err != nil {
		return err
	}
	for _, s := range settings {
		if err := s.set(); err != nil {
			if s.name == quota && errors.Is(err, unix.EINVAL) { // v1 takes no CPU limit above an ancestor's
				err = fmt.Errorf("%w%s", err, g.above("cpu", l.limits.CPU))
			}
			return err
		}
		step("limit set")
	}
	step("limits set")
	l.describe(g)
	l.stats = l.legacyFiles()
	// The new quota has let go of whom the last one held up, uncounted from here on.
	b := buffers.Get().(*[4096]byte)
	defer buffers.Put(b)
	text, err := l.stats.cpu.read(cpuStat, b)
	if err != nil {
		return err
	}
	l.stats.before = throttlingOf(text)
	kill := func() { l.Kill() }
	if l.limits.KillOne {
		kill = nil
	}
	l.oom, err = g.oom.watch(l.of("memory"), kill)
	return err
}

// awaitRoom waits until at most one process is in the leaf, init. Stage one, which was born
// here as well and has cloned it, counts until it is dead, and there would be no room for
// the program. After a second it is the start that fails.
func (l *Leaf) awaitRoom() {
	b := buffers.Get().(*[4096]byte)
	defer buffers.Put(b)
	deadline := time.Now().Add(time.Second)
	for wait := 100 * time.Microsecond; time.Now().Before(deadline); wait *= 2 {
		text, err := l.v2().read("pids.current", b)
		if err != nil {
			return
		}
		if n, err := number(text); err != nil || n < MinPids {
			return
		}
		time.Sleep(wait)
	}
}

// describe says what holds, in words for reports and the audit log: the leaf's
// limits, and those of groups above it that are tighter.
func (l *Leaf) describe(g *Group) {
	add := func(format string, args ...any) { l.enforced = append(l.enforced, fmt.Sprintf(format, args...)) }
	tree := "the whole tree dies"
	if l.limits.KillOne {
		tree = "one process dies"
	}
	add("memory: %d bytes, no swap, %s when it runs out%s", l.limits.Memory, tree, g.above("memory", float64(l.limits.Memory)))
	if len(g.legacy) > 0 {
		if slices.Contains(g.optional, socketBuffers) {
			add("tcp and udp buffers: kept small from %d bytes on, beside the memory", l.limits.Memory)
		} else {
			add("tcp and udp buffers: NOT limited, this kernel has no %s", socketBuffers)
		}
	}
	add("cpu: %g cores over %v%s", l.limits.CPU, l.limits.CPUPeriod, g.above("cpu", l.limits.CPU))
	add("pids: %d%s", l.limits.Pids, g.above("pids", float64(l.limits.Pids)))
	for _, io := range l.limits.IO {
		add("io: %s", io)
	}
	add("control groups: %s", g.Layout())
}

// Enforced lists the limits that the kernel has confirmed, and where a group
// above, as far as this process can see, holds less when the leaf is made.
func (l *Leaf) Enforced() []string { return slices.Clone(l.enforced) }

// Limits are those in force, defaults filled in.
func (l *Leaf) Limits() Limits { return l.limits }

// File is the directory of the v2 group, in which a program can be born, or nil
// where there is no v2. It stays the leaf's.
func (l *Leaf) File() *os.File { return l.unified }

func (l *Leaf) v2() file { return file{fd: int(l.unified.Fd()), name: l.path} }

// Tasks makes the v1 groups, if that is yet to be done, and opens their tasks files
// for writing, which are the caller's to close.
func (l *Leaf) Tasks() (tasks []*os.File, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handed++
	err = l.makeLegacy()
	for i := 0; err == nil && i < len(l.legacy); i++ {
		var f file
		if f, err = l.legacy[i].open("tasks", unix.O_WRONLY); err == nil {
			tasks = append(tasks, os.NewFile(uintptr(f.fd), f.path()))
		}
	}
	if err != nil {
		for _, f := range tasks {
			f.Close()
		}
		return nil, fmt.Errorf("cgroup: leaf %s: %w", l.name, err)
	}
	return tasks, nil
}

// TasksCount is how many of them there will be.
func (l *Leaf) TasksCount() int { return l.joins }

// Path is the leaf's directory: the v2 one where there is one.
func (l *Leaf) Path() string { return l.path }

// Kill kills every process in the leaf at once: by cgroup.kill (Linux 5.14), or
// where v2 is not mounted each member, init among them, whose death is everybody's.
func (l *Leaf) Kill() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return os.ErrClosed
	}
	if l.unified == nil {
		return killMembers(l.path)
	}
	err := l.v2().write("cgroup.kill", "1")
	if errors.Is(err, unix.ENOENT) {
		return killMembers(l.path)
	}
	return err
}

// killMembers kills who is in the group. A pidfd whose pid is a member's after it
// was opened is a member's: nobody else is hit, whatever pids are used again.
func killMembers(dir string) error {
	members := func() ([]string, error) {
		b, err := readFile(filepath.Join(dir, "cgroup.procs"))
		return strings.Fields(string(b)), err
	}
	pids, err := members()
	if err != nil {
		return err
	}
	opened := map[string]int{}
	for _, text := range pids {
		pid, err := strconv.Atoi(text)
		if err != nil || pid <= 0 {
			continue // of another pid namespace
		}
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			defer unix.Close(fd)
			opened[text] = fd
		}
	}
	still, err := members()
	for _, text := range still {
		if fd, ok := opened[text]; ok {
			if e := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); e != unix.ESRCH {
				err = errors.Join(err, os.NewSyscallError("pidfd_send_signal", e))
			}
		}
	}
	return err
}

// Close removes the leaf, or keeps its v1 groups for the next. Its processes must have
// ended or been killed; Close waits until the last is gone, for up to 10 s.
func (l *Leaf) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	if l.asNew() {
		l.group.spares.keep(l)
	}
	l.closed = true
	l.oom.close()
	l.stats.close()
	for _, dir := range l.legacy {
		dir.close()
	}
	if l.unified != nil {
		l.unified.Close()
	}
	l.mu.Unlock()
	var errs []error
	for _, dir := range slices.Backward(l.dirs) {
		errs = append(errs, rmdir(dir))
		step("leaf removed")
	}
	return errors.Join(errs...)
}

// removeTimeout is how long dying processes may take to leave a group.
const removeTimeout = 10 * time.Second

// rmdir removes a group. Processes that are dying still count, and v1 does not
// tell when they are gone: it is tried again, less and less often.
func rmdir(dir string) error {
	deadline := time.Now().Add(removeTimeout)
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != unix.EBUSY || time.Now().After(deadline) {
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		if !awaitEmpty(dir, wait) {
			time.Sleep(wait)
		}
	}
}

// awaitEmpty waits for the end of the group's last process, up to the timeout
// (in whole milliseconds, at least one). False where that cannot be waited for.
func awaitEmpty(dir string, timeout time.Duration) bool {
	events, err := openFile(filepath.Join(dir, "cgroup.events"), unix.O_RDONLY)
	if err != nil {
		return false
	}
	defer events.close()
	b := buffers.Get().(*[4096]byte)
	defer buffers.Put(b)
	deadline := time.Now().Add(max(timeout, time.Millisecond))
	for waited := false; ; waited = true {
		text, err := events.content(b)
		if err != nil || field(text, "populated") == 0 {
			return waited
		}
		left := time.Until(deadline)
		if left <= 0 {
			return true
		}
		// What is told may be old: the kernel tells of changes after up to 10 ms.
		unix.Poll([]unix.PollFd{{Fd: int32(events.fd), Events: unix.POLLPRI}}, int(left.Milliseconds())+1)
	}
}

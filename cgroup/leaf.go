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
	name     string
	limits   Limits
	path     string   // of the first of
	dirs     []string // every directory of the leaf that was made, v2 first
	unified  *os.File // the v2 directory
	joins    int      // v1 groups
	tasks    []*os.File
	stats    statFiles
	oom      *oomWatch // v1 only
	enforced []string

	made     chan struct{} // closed when the v1 groups are there, or
	ready    chan struct{} // closed when limits are in force, or
	notReady error         // why not

	mu     sync.Mutex // guards the descriptors against use after Close
	closed bool
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

// Begin is New that waits for the v2 group only, in which a program is born: v1
// groups are made and limits written while a launcher works. The program must not
// run before Ready has returned nil.
func (g *Group) Begin(name string, limits Limits) (_ *Leaf, err error) {
	if name == "" || strings.ContainsAny(name, "/\x00\n") || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "cgroup.") || name == supervisor || len(name) > 200 {
		return nil, fmt.Errorf("cgroup: %q is no name for a leaf", name)
	}
	if err := limits.Check(); err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	l := &Leaf{name: name, limits: limits.WithDefaults(), made: make(chan struct{}), ready: make(chan struct{})}
	dirs := g.places
	l.path = filepath.Join(dirs[0], name)
	if g.unified != nil {
		if err := l.make(dirs[0]); err != nil {
			return nil, fmt.Errorf("cgroup: leaf %s: %w", name, err)
		}
		if l.unified, err = openFile(l.path, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
			rmdir(l.path)
			return nil, fmt.Errorf("cgroup: leaf %s: %w", name, err)
		}
		dirs = dirs[1:]
	}
	l.joins = len(dirs)
	go l.finish(g, dirs)
	return l, nil
}

func (l *Leaf) make(parent string) error {
	dir := filepath.Join(parent, l.name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	l.dirs = append(l.dirs, dir)
	step("leaf made")
	return nil
}

// finish makes the v1 groups below parents and puts the limits in force.
func (l *Leaf) finish(g *Group, parents []string) {
	defer close(l.ready)
	err := func() error {
		defer close(l.made)
		for _, parent := range parents {
			if err := l.make(parent); err != nil {
				return err
			}
			tasks, err := openFile(filepath.Join(parent, l.name, "tasks"), unix.O_WRONLY)
			if err != nil {
				return err
			}
			l.tasks = append(l.tasks, tasks)
		}
		return nil
	}()
	if err == nil {
		err = l.limit(g)
	}
	if err != nil {
		l.notReady = fmt.Errorf("cgroup: leaf %s: %w", l.name, err)
	}
}

// Ready waits until every limit is in force, or says why one is not.
func (l *Leaf) Ready() error {
	<-l.ready
	return l.notReady
}

// limit sets the limits and reads them back.
func (l *Leaf) limit(g *Group) (err error) {
	if len(l.limits.IO) > 0 {
		if err := g.ioError(l.path); err != nil {
			return err
		}
	}
	var settings []setting
	if len(g.legacy) == 0 {
		settings, err = l.limits.writeUnified(g.unified.mount, filepath.Join(g.unified.group, l.name))
	} else {
		settings, err = l.limits.writeLegacy(g.legacy, l.name)
		if errors.Is(err, unix.EINVAL) { // v1 takes no CPU limit above an ancestor's
			err = fmt.Errorf("%w%s", err, g.above("cpu", l.limits.CPU))
		}
	}
	if err != nil {
		return err
	}
	step("limits written")
	for _, s := range settings {
		if err := s.verify(); err != nil {
			return err
		}
	}
	step("limits read back")
	l.describe(g, settings)
	if len(g.legacy) == 0 {
		return l.stats.openUnified(l.unified.Name())
	}
	return l.listen(g)
}

// listen opens what a v1 leaf is measured by, and hears of its end by memory.
func (l *Leaf) listen(g *Group) (err error) {
	dir := func(c string) string { return filepath.Join(g.legacy[c].dir(), l.name) }
	accounts := l.path
	if l.unified == nil {
		accounts = dir("cpuacct")
	}
	if err := l.stats.openLegacy(dir("memory"), dir("cpu"), accounts, dir("pids"), l.unified != nil); err != nil {
		return err
	}
	kill := func() { l.Kill() }
	if l.limits.KillOne {
		kill = nil
	}
	l.oom, err = watchOOM(dir("memory"), kill)
	return err
}

// describe says what holds, in words for reports and the audit log: the leaf's
// limits, and those of groups above it that are tighter.
func (l *Leaf) describe(g *Group, settings []setting) {
	add := func(format string, args ...any) { l.enforced = append(l.enforced, fmt.Sprintf(format, args...)) }
	tree := "the whole tree dies"
	if l.limits.KillOne {
		tree = "one process dies"
	}
	add("memory: %d bytes, no swap, %s when it runs out%s", l.limits.Memory, tree, g.above("memory", float64(l.limits.Memory)))
	if len(g.legacy) > 0 {
		limited := slices.ContainsFunc(settings, func(s setting) bool { return s.file == socketBuffers })
		if limited {
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

// Tasks waits for the v1 groups and gives their tasks files, open for writing. They
// stay the leaf's.
func (l *Leaf) Tasks() ([]*os.File, error) {
	<-l.made
	if len(l.tasks) < l.joins {
		<-l.ready
		return nil, l.notReady
	}
	return l.tasks, nil
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
	fd, err := unix.Openat(int(l.unified.Fd()), "cgroup.kill", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return killMembers(l.path)
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: l.unified.Name() + "/cgroup.kill", Err: err}
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte("1"))
	return os.NewSyscallError("write cgroup.kill", err)
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

// Close removes the leaf. Its processes must have ended or been killed; Close
// waits until the last is gone, for up to 10 s.
func (l *Leaf) Close() error {
	<-l.ready
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.oom.close()
	l.stats.close()
	for _, f := range l.tasks {
		f.Close()
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
	fd, err := unix.Open(filepath.Join(dir, "cgroup.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var b [256]byte
	n, err := unix.Read(fd, b[:])
	if err != nil || !strings.Contains(string(b[:n]), "populated 1") {
		return false
	}
	unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}, max(1, int(timeout.Milliseconds())))
	return true
}

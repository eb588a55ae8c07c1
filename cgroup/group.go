// Package cgroup gives each program a leaf of its own in which memory, CPU time
// and the number of processes are limited hard, measured, and killed as one.
//
//	g, err := cgroup.Open()                            // where we may make groups, or why nowhere
//	leaf, err := g.New("sort-1", cgroup.Limits{Memory: 64 << 20, CPU: 0.5})
//	cmd.Cgroup = leaf.File()                           // born there; and of a host with v1 controllers:
//	cmd.CgroupTasks, cmd.CgroupCount = leaf.Tasks, leaf.TasksCount()
//	…
//	leaf.Stat(); leaf.Kill(); leaf.Close()
//
// Two layouts of hosts are served with the same promise:
//
//   - unified: cgroup v2 has the controllers. Programs are born in their leaf.
//   - hybrid: the controllers are on v1. Programs are born in a v2 leaf, if v2
//     is mounted at all, and init is in the v1 leaves before it does anything.
//
// Groups are made below the one this process is in, never above. In a unified
// layout a group with processes can have no limited children (the
// no-internal-process rule), so Open moves this process, and who else sits in
// the group itself, into a leaf beside those of the programs; the group must be
// ours alone, as a service's with Delegate=yes is. Close moves them back.
//
//	our group
//	└── proscenium-<boot>-<pid namespace>-<time namespace>-<pid>-<start>
//	    │                                   one per host process
//	    ├── supervisor                      this process (unified only)
//	    └── <name>                          one per program
//
// The name says whose it is: Open removes what a dead owner left, and nothing
// else; nor what has a name of other namespaces, where a pid is another process
// and a start is counted from another moment. Groups of v2 are never used again: one
// that was once killed kills what is born in it later (Linux 6.18). Those of v1 are, where
// nothing tells them from new ones: see spares.
//
// This package alone imports containerd/cgroups, for writing the limit files of v2.
// Statistics are read from descriptors that stay open: see Stat. Killing goes
// by cgroup.kill, which needs no waiting for members, wherever v2 is mounted.
package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A hierarchy is where groups are made in one mounted hierarchy.
type hierarchy struct {
	mount string // mount point
	group string // this host process's group, below mount
}

func (h hierarchy) dir() string { return filepath.Join(h.mount, h.group) }

// A Group is this process's place for leaves. It is safe for concurrent use.
type Group struct {
	unified *hierarchy           // nil where cgroup2 is not mounted
	legacy  map[string]hierarchy // by controller; empty in a unified layout

	places      []string          // this process's own directories: see findPlaces
	controllers map[string]string // v1: which of them is whose
	ceilings    []ceiling         // of the groups above
	optional    []string          // v1: see optionalLegacy
	oom         *oomEvents        // v1
	spares      spares            // v1

	mu     sync.Mutex
	closed bool
}

// Layout is "unified", "hybrid" (v1 controllers, v2 for birth and kill) or
// "legacy" (v1 only).
func (g *Group) Layout() string {
	switch {
	case len(g.legacy) == 0:
		return "unified"
	case g.unified != nil:
		return "hybrid"
	}
	return "legacy"
}

// required is what a leaf needs; io is used where it is.
var required = []string{"cpu", "memory", "pids"}

// requiredLegacy is the same on v1, where accounting is a controller of its own, and
// needed where v2 is not mounted: a group of v2 has it without any controller.
var requiredLegacy = []string{"cpu", "cpuacct", "memory", "pids"}

// A LayoutError says why limits cannot be enforced on this host, and the remedy.
type LayoutError struct {
	Missing []string // controllers
	Where   string   // the group that we looked at
	Remedy  string
	Err     error
}

func (e *LayoutError) Error() string {
	text := "limits cannot be enforced in " + e.Where
	if len(e.Missing) > 0 {
		text += ": missing controllers: " + strings.Join(e.Missing, ", ")
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text + "; " + e.Remedy
}

func (e *LayoutError) Unwrap() error { return e.Err }

const (
	remedyDelegate = "run as a service with Delegate=yes, or as `systemd-run --user --scope -p Delegate=yes PROGRAM`; see hack/proscenium.service"
	remedyMount    = "mount cgroup2 on /sys/fs/cgroup, or the v1 controllers cpu, cpuacct, memory and pids"
)

// Open finds where this process may make groups, makes its own place there and
// sweeps what dead owners left. Where the layout is at fault the error is a *LayoutError.
func Open() (*Group, error) {
	id, err := instanceName(os.Getpid())
	if err != nil {
		return nil, err
	}
	l, err := detect()
	if err != nil {
		return nil, err
	}
	g := &Group{legacy: map[string]hierarchy{}}
	if l.unified != nil {
		h := *l.unified
		if len(l.legacy) == 0 {
			defer lock(h.dir())()
		}
		sweep(h.dir())
		h.group = filepath.Join(h.group, id)
		g.unified = &h
	}
	for name, h := range l.legacy {
		sweep(h.dir())
		h.group = filepath.Join(h.group, id)
		g.legacy[name] = h
	}
	g.findPlaces()
	if len(l.legacy) == 0 {
		err = g.openUnified(*l.unified)
	} else {
		err = g.openLegacy()
	}
	if err != nil {
		return nil, err
	}
	if err := g.openCeilings(); err != nil {
		g.Close()
		return nil, &LayoutError{Where: g.places[0], Remedy: remedyMount, Err: err}
	}
	return g, nil
}

// Joins is how many v1 groups a program of this host joins, beside the v2 group in
// which it is born: 0 in a unified layout. It makes nothing.
func Joins() (int, error) {
	l, err := detect()
	if err != nil {
		return 0, err
	}
	g := &Group{legacy: l.legacy}
	g.findPlaces()
	return len(g.places), nil
}

// openLegacy makes the place for leaves in every hierarchy.
func (g *Group) openLegacy() error {
	for _, dir := range g.places {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			g.Close()
			return &LayoutError{Where: filepath.Dir(dir), Remedy: remedyDelegate, Err: err}
		}
		step("place made")
	}
	// The first group in which socket buffers are counted makes the kernel patch its
	// own code, for milliseconds, and the end of the last one makes it patch it back.
	// This one stays; -1 is no limit.
	memory := g.legacy["memory"].dir()
	write(memory, socketBuffers, "-1")
	var err error
	if g.optional, err = optionalLegacy(memory); err == nil {
		g.oom, err = openOOMEvents(memory)
	}
	if err != nil {
		g.Close()
		return &LayoutError{Where: memory, Remedy: remedyMount, Err: err}
	}
	return nil
}

// findPlaces finds this process's own directories, each once, v2 first. Controllers
// that are mounted together, as systemd does with cpu and cpuacct, have one.
func (g *Group) findPlaces() {
	g.controllers = map[string]string{}
	for c, h := range g.legacy {
		g.controllers[c] = h.dir()
	}
	g.places = slices.Compact(slices.Sorted(maps.Values(g.controllers)))
	if g.unified != nil {
		g.places = slices.Insert(g.places, 0, g.unified.dir())
	}
}

const supervisor = "supervisor"

// openUnified makes the place for leaves below base and enables the controllers
// down to it.
func (g *Group) openUnified(base hierarchy) error {
	refuse := func(err error) error {
		return &LayoutError{Where: base.dir(), Remedy: remedyDelegate, Err: err}
	}
	own := g.unified.dir()
	if err := os.Mkdir(own, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return refuse(err)
	}
	step("place made")
	leaf := filepath.Join(own, supervisor)
	undo := func(err error) error {
		moveMembers(leaf, base.dir())
		removeInstance(own)
		return refuse(err)
	}
	// The root of the hierarchy may have processes and limited children.
	_, err := os.Stat(filepath.Join(base.dir(), "cgroup.type"))
	if isRoot := errors.Is(err, fs.ErrNotExist); !isRoot {
		if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return undo(err)
		}
		step("supervisor made")
		if err := write(leaf, "cgroup.procs", "0"); err != nil {
			return undo(err)
		}
		step("supervisor entered")
	}
	for _, dir := range []string{base.dir(), own} {
		if err := enable(dir, leaf); err != nil {
			return undo(err)
		}
		step("controllers enabled")
	}
	return nil
}

// enable lets children of dir be limited. Who else is in the group (the shell
// that started us) comes along into the supervisor leaf, as with any delegated
// group: its processes may sit in leaves only.
func enable(dir, supervisor string) error {
	enabled, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	have := strings.Fields(string(enabled))
	for _, c := range required {
		if slices.Contains(have, c) {
			continue
		}
		err := write(dir, "cgroup.subtree_control", "+"+c)
		for tries := 0; errors.Is(err, unix.EBUSY) && tries < 10; tries++ { // they may fork meanwhile
			if err := moveMembers(dir, supervisor); err != nil {
				return err
			}
			err = write(dir, "cgroup.subtree_control", "+"+c)
		}
		if err != nil {
			return err
		}
	}
	// Where the host gives io, it can be limited too.
	if !slices.Contains(have, "io") {
		write(dir, "cgroup.subtree_control", "+io")
	}
	return nil
}

// moveMembers moves every process that sits in from itself into to.
func moveMembers(from, to string) error {
	members, err := os.ReadFile(filepath.Join(from, "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, pid := range strings.Fields(string(members)) {
		if pid == "0" {
			return fmt.Errorf("a process of another pid namespace is in %s, which must be ours alone", from)
		}
		if err := write(to, "cgroup.procs", pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("process %s is in the group, which must be ours alone, and cannot be moved: %w", pid, err)
		}
	}
	return nil
}

// Close removes this process's place, and what is left of leaves that are just
// being closed. Nothing may live in them any more.
func (g *Group) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	g.spares.close()
	for _, c := range g.ceilings {
		c.close()
	}
	g.oom.close()
	if len(g.legacy) == 0 {
		defer lock(filepath.Dir(g.unified.dir()))()
		g.leaveSupervisor()
	}
	var errs []error
	step("supervisor left")
	for _, dir := range g.places {
		errs = append(errs, removeInstance(dir))
		step("place removed")
	}
	return errors.Join(errs...)
}

// leaveSupervisor moves this process, and who came along, out of the supervisor
// leaf. The last instance moves them back where they came from, which the
// controllers forbid while they are enabled there: they are switched off. Before
// that it takes along who sits in what dead instances left. Another one hands them
// to an instance that lives, and so leaves nothing either.
func (g *Group) leaveSupervisor() {
	own := g.unified.dir()
	parent := filepath.Dir(own)
	sweep(parent)
	living, dead := instances(parent, own)
	places := append(dead, own)
	to := parent
	if len(living) > 0 {
		to = filepath.Join(living[0], supervisor)
	} else {
		for _, c := range append([]string{"io"}, required...) {
			for _, dir := range append(places, parent) {
				write(dir, "cgroup.subtree_control", "-"+c)
			}
		}
	}
	for _, dir := range places {
		vacate(filepath.Join(dir, supervisor), to)
	}
	for _, dir := range dead {
		removeInstance(dir)
	}
}

// instances are those in parent beside own.
func instances(parent, own string) (living, dead []string) {
	all, _ := filepath.Glob(filepath.Join(parent, namePrefix+"*"))
	for _, dir := range all {
		switch {
		case dir == own:
		case abandoned(filepath.Base(dir)):
			dead = append(dead, dir)
		default:
			living = append(living, dir)
		}
	}
	return living, dead
}

// vacateTimeout is how long a process may take to end.
const vacateTimeout = time.Second

// vacate moves every process in from into to. One that is just ending cannot be
// moved any more, and is waited for.
func vacate(from, to string) {
	for deadline := time.Now().Add(vacateTimeout); moveMembers(from, to) == nil && time.Now().Before(deadline); {
		if members, err := readFile(filepath.Join(from, "cgroup.procs")); err != nil || len(members) == 0 {
			return
		}
		awaitEmpty(from, time.Millisecond)
	}
}

// lockTimeout is for an instance that was stopped in between. What is locked is
// quick, and what could go wrong without it is a leftover.
const lockTimeout = 5 * time.Second

// lock lets one process at a time come into dir or leave it, so that there is always
// a last one. It returns what unlocks.
func lock(dir string) (unlock func()) {
	f, err := openFile(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return func() {} // what follows will say why
	}
	deadline := time.Now().Add(lockTimeout)
	for unix.Flock(f.fd, unix.LOCK_EX|unix.LOCK_NB) != nil && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	return f.close
}

// removeInstance removes an instance's group with its empty leaves. A supervisor
// leaf that somebody is in stays, and is no error.
func removeInstance(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() && e.Name() != supervisor {
			errs = append(errs, rmdir(filepath.Join(dir, e.Name())))
		}
	}
	leaf := filepath.Join(dir, supervisor)
	if members, err := os.ReadFile(filepath.Join(leaf, "cgroup.procs")); err == nil && len(members) > 0 {
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, rmdir(leaf), rmdir(dir))...)
}

const namePrefix = "proscenium-"

// instanceName is unique over reboots, namespaces and reuse of pids.
func instanceName(pid int) (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	start, err := startTime(pid)
	if err != nil {
		return "", err
	}
	pids, err := namespace("pid")
	if err != nil {
		return "", err
	}
	clocks, err := namespace("time")
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // Linux 5.6
		return "", err
	}
	return fmt.Sprintf("%s%s-%d-%d-%d-%d", namePrefix, boot[:8], pids, clocks, pid, start), nil
}

// namespace is the number of the one that this process is in.
func namespace(kind string) (uint64, error) {
	name := "/proc/self/ns/" + kind
	var s unix.Stat_t
	if err := unix.Stat(name, &s); err != nil {
		return 0, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return s.Ino, nil
}

// startTime is the process's start in clock ticks since boot, as this process's
// time namespace has it: proc_pid_stat(5).
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// Sweep removes what dead owners left, as Open does.
func Sweep() error {
	l, err := detect()
	if err != nil {
		return err
	}
	if l.unified != nil {
		sweep(l.unified.dir())
	}
	for _, h := range l.legacy {
		sweep(h.dir())
	}
	return nil
}

// sweep removes the groups in dir whose owners are dead.
func sweep(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // Open will say why
	}
	deadline := time.Now().Add(dyingTimeout)
	for _, e := range entries {
		if e.IsDir() && abandoned(e.Name()) {
			killAndRemove(filepath.Join(dir, e.Name()), deadline)
		}
	}
}

// abandoned says whether the name is one of ours and its owner is gone. What
// cannot be read is not: better a leftover than somebody's living program.
func abandoned(name string) bool {
	rest, ok := strings.CutPrefix(name, namePrefix)
	parts := strings.Split(rest, "-")
	if !ok || len(parts) != 5 {
		return false
	}
	own, err := instanceName(os.Getpid())
	if err != nil {
		return false
	}
	mine := strings.Split(strings.TrimPrefix(own, namePrefix), "-")
	pid, err := strconv.Atoi(parts[3])
	if err != nil || pid <= 0 {
		return false
	}
	if parts[0] != mine[0] {
		return true // of an earlier boot
	}
	if parts[1] != mine[1] || parts[2] != mine[2] {
		return false // its pids or its times mean nothing here
	}
	return dead(pid, parts[4])
}

// dead says whether the process with that start is gone. That /proc does not show
// it proves nothing: with hidepid it shows nobody else's.
func dead(pid int, start string) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		unix.Close(fd)
	}
	if err == unix.ESRCH {
		return true
	}
	found, err := startTime(pid)
	return err == nil && strconv.FormatUint(found, 10) != start
}

// killAndRemove ends what a dead owner's programs still are. Not who is in its
// supervisor leaf: that is no program of ours, and may be this very process.
func killAndRemove(dir string, deadline time.Time) {
	leaves, _ := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
	for _, procs := range leaves {
		if leaf := filepath.Dir(procs); filepath.Base(leaf) != supervisor {
			// In v1, and before Linux 5.14, the owner's death has killed them.
			write(leaf, "cgroup.kill", "1")
		}
	}
	// The owner's launcher is there too, and all that has no leaf. They die with
	// the owner, perhaps not quite yet.
	leaf := filepath.Join(dir, supervisor)
	members, _ := readFile(filepath.Join(leaf, "cgroup.procs"))
	if patience := time.Until(deadline); patience > 0 && !slices.Contains(strings.Fields(string(members)), strconv.Itoa(os.Getpid())) {
		awaitEmpty(leaf, patience)
	}
	removeInstance(dir)
}

// dyingTimeout is short, for all of them together: they may as well be others, who
// came along. Tests lengthen it.
var dyingTimeout = 100 * time.Millisecond

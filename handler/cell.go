package handler

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/launcher"
)

// A Reason is why a program ended.
type Reason string

const (
	Exited           Reason = "exited"              // by itself, with an exit code
	Signalled        Reason = "signalled"           // by a signal that was not ours
	OutOfMemory      Reason = "out-of-memory"       // its memory limit was reached
	OutOfMemoryAbove Reason = "out-of-memory-above" // memory ran out in a group above its own, or on the whole host
	TimedOut         Reason = "timed-out"           // its wall-clock limit was reached
	CPUTimeUsed      Reason = "cpu-time"            // its CPU-time budget was used up
	OutputLimit      Reason = "output-limit"        // it wrote more than it may
	Killed           Reason = "killed"              // by os-kill, or because its actor or the host ended
	FailedToStart    Reason = "failed-to-start"     // in reports only: such a program has no exit
)

// Budgets are limits that we keep and the kernel does not. Zero is no limit.
type Budgets struct {
	// Wall is the time from the start to the end. At its end the program gets
	// SIGTERM and, Grace later, everything of it is killed.
	Wall time.Duration
	// CPU is the processor time of all its processes together, kept the same way. The
	// leaf counts it: without one it is an error.
	CPU time.Duration
	// Output is the bytes of stdout and stderr together; what comes beyond kills
	// the program. Kept by a Handler.
	Output int64
	// Grace is between SIGTERM and the kill; DefaultGrace where 0.
	Grace time.Duration
}

// NoLimits is in Enforced where limits were left out by explicit word.
const NoLimits = "limits: NONE, by request"

// errNoAccount refuses a budget that would be accepted and never kept.
var errNoAccount = errors.New("a budget of CPU time needs a control group, which counts it: give one, or leave Budgets.CPU out")

// DefaultGrace is what a program has to end by itself.
const DefaultGrace = 2 * time.Second

// A Result is how a program ended and what it used.
type Result struct {
	ExitCode   int            // the program's, or 128 + Signal
	Signal     syscall.Signal // 0: none
	Reason     Reason
	Wall       time.Duration
	CPU        time.Duration
	MemoryPeak uint64 // bytes
	Stat       cgroup.Stat
}

// A Cell is a program that runs in its own leaf under budgets: what exec runs
// and what a handler's processes are.
type Cell struct {
	Leaf     *cgroup.Leaf // nil: by explicit request there are no limits
	Enforced []string     // what holds, in words

	cmd     *launcher.Cmd // until the start: its plan is not kept
	process *launcher.Process
	killOne bool
	started time.Time
	grace   time.Duration
	done    chan struct{}
	result  Result

	mu     sync.Mutex
	intent Reason // why we are ending it, first cause wins
	timers []*time.Timer
}

var cellNumber atomic.Uint64

// StartCell starts cmd in a new leaf of group. With a nil group nothing is
// limited, and Enforced says so. After an error nothing is left.
func StartCell(cmd *launcher.Cmd, group *cgroup.Group, limits cgroup.Limits, budgets Budgets) (*Cell, error) {
	c, err := newCell(cmd, group, limits)
	if err != nil {
		return nil, err
	}
	if err := c.Start(budgets); err != nil {
		return nil, err
	}
	return c, nil
}

// PrepareCell is a warm cell: all of StartCell but the program, see Cmd.Prepare.
// It must be started or released.
func PrepareCell(cmd *launcher.Cmd, group *cgroup.Group, limits cgroup.Limits) (*Cell, error) {
	c, err := newCell(cmd, group, limits)
	if err != nil {
		return nil, err
	}
	if err := cmd.Prepare(); err != nil {
		c.Release()
		return nil, err
	}
	return c, nil
}

// Start starts the program of a warm cell, whose Cmd was given its Path, Args, Env
// and Dir. After an error nothing is left.
func (c *Cell) Start(budgets Budgets) error {
	if budgets.CPU > 0 && c.Leaf == nil {
		c.Release()
		return errNoAccount
	}
	c.grace = budgets.Grace
	if c.grace == 0 {
		c.grace = DefaultGrace
	}
	c.started = time.Now()
	if err := c.cmd.Start(); err != nil {
		if c.Leaf != nil {
			c.Leaf.Close()
		}
		return err
	}
	c.Enforced = slices.Clone(c.cmd.Plan.Enforced)
	c.process, c.cmd = c.cmd.Process, nil
	if c.Leaf != nil {
		c.Enforced = append(c.Enforced, c.Leaf.Enforced()...)
	} else {
		c.Enforced = append(c.Enforced, NoLimits)
	}
	if budgets.Wall > 0 {
		c.Enforced = append(c.Enforced, fmt.Sprintf("wall clock: %v", budgets.Wall))
		c.after(budgets.Wall, func() { c.End(TimedOut) })
	}
	if budgets.CPU > 0 {
		c.Enforced = append(c.Enforced, fmt.Sprintf("cpu time: %v", budgets.CPU))
		c.watchCPU(budgets.CPU)
	}
	c.process.Then(c.wait)
	return nil
}

// Release ends a warm cell that will not be started.
func (c *Cell) Release() {
	c.cmd.Release()
	if c.Leaf != nil {
		c.Leaf.Close()
	}
}

func newCell(cmd *launcher.Cmd, group *cgroup.Group, limits cgroup.Limits) (*Cell, error) {
	c := &Cell{cmd: cmd, killOne: limits.KillOne, done: make(chan struct{})}
	if group != nil {
		leaf, err := group.Begin(leafName(cmd.Path), limits)
		if err != nil {
			cmd.Release()
			return nil, err
		}
		c.Leaf = leaf
		cmd.Cgroup = leaf.File()
		cmd.CgroupTasks, cmd.CgroupCount = leaf.Tasks, leaf.TasksCount()
		cmd.CgroupReady, cmd.CgroupEnded = leaf.Ready, leaf.Expect
	}
	return c, nil
}

// leafName is for people who look at the groups.
func leafName(program string) string {
	clean := func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}
	name := strings.Map(clean, path.Base(program))
	return fmt.Sprintf("%d-%s", cellNumber.Add(1), name[:min(len(name), 40)])
}

// after runs f later, unless the program has ended.
func (c *Cell) after(d time.Duration, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.done:
	default:
		c.timers = append(c.timers, time.AfterFunc(d, f))
	}
}

// watchCPU looks when the budget can be used up at the earliest.
func (c *Cell) watchCPU(budget time.Duration) {
	u, err := c.Leaf.Usage()
	if err != nil {
		return // it has ended
	}
	left := budget - u.CPU
	if left <= 0 {
		c.End(CPUTimeUsed)
		return
	}
	earliest := time.Duration(float64(left) / c.Leaf.Limits().CPU)
	c.after(max(earliest, 5*time.Millisecond), func() { c.watchCPU(budget) })
}

// End asks the program to end, and kills everything of it after the grace.
func (c *Cell) End(why Reason) {
	if !errors.Is(c.send(syscall.SIGTERM, why), os.ErrProcessDone) {
		c.after(c.grace, func() { c.Kill(why) })
	}
}

// Kill kills everything of the program. After the end it is os.ErrProcessDone.
func (c *Cell) Kill(why Reason) error {
	// The program first, so that init can report; its death takes the
	// namespace along. The group as well, which is quicker with many processes.
	err := c.send(syscall.SIGKILL, why)
	if !errors.Is(err, os.ErrProcessDone) && c.Leaf != nil {
		c.Leaf.Kill()
	}
	return err
}

// send sends a signal to the program, which is then why it ends. If it has ended
// before, of something else, init has its exit status, reports, and ends as well.
func (c *Cell) send(sig syscall.Signal, why Reason) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.process.Signal(sig)
	if !errors.Is(err, os.ErrProcessDone) && c.intent == "" {
		c.intent = why
	}
	return err
}

// Signal sends a signal to the program itself. After the end it is
// os.ErrProcessDone.
func (c *Cell) Signal(sig syscall.Signal) error { return c.process.Signal(sig) }

// Pid is the program's id in the host's namespace, for people.
func (c *Cell) Pid() (int, error) { return c.process.Pid() }

// Gone is closed when nothing of the program is left and Wait would not wait.
func (c *Cell) Gone() <-chan struct{} { return c.done }

// Wait waits until nothing of the program is left. Its leaf is removed a moment
// later, which no exit waits for: Leaf.Close and Group.Close do.
func (c *Cell) Wait() Result {
	<-c.done
	return c.result
}

func (c *Cell) wait() {
	state := c.process.Wait()
	r := Result{ExitCode: state.ExitCode(), Signal: state.Signal(), Wall: time.Since(c.started)}
	if r.Signal != 0 {
		r.ExitCode = 128 + int(r.Signal)
	}
	if c.Leaf != nil {
		// After the wait, before the removal: the only moment at which the
		// figures are final.
		r.Stat, _ = c.Leaf.Stat()
		r.CPU, r.MemoryPeak = r.Stat.CPU, r.Stat.MemoryPeak
	}
	c.mu.Lock()
	r.Reason = c.reason(r)
	c.result = r
	for _, t := range c.timers {
		t.Stop()
	}
	if c.Leaf != nil {
		// What follows the end does not wait for it; nor does who waits for the end, for
		// he is begun with last and so comes first.
		go c.Leaf.Close()
	}
	close(c.done)
	c.mu.Unlock()
}

// reason decides between causes that may have raced. Where the whole tree dies
// of its own memory limit, nothing else can have ended it (with v1 controllers
// the program may have ended by itself in the moment between the kernel's kill of
// a child and ours of the rest); otherwise what we intended counts if a signal
// ended the program, or if it ended by itself when asked to. Memory that ran out
// above is the reason if the kernel has killed here and we did not mean to.
func (c *Cell) reason(r Result) Reason {
	killed := r.Stat.OOMKills > 0 && r.Signal == syscall.SIGKILL && c.intent == ""
	switch {
	case r.Stat.OOMKills > 0 && r.Stat.OOMs > 0 && !c.killOne, killed && r.Stat.OOMs > 0:
		return OutOfMemory
	case killed:
		return OutOfMemoryAbove
	case c.intent != "" && (r.Signal != 0 || c.intent == TimedOut || c.intent == CPUTimeUsed):
		return c.intent
	case r.Signal != 0:
		return Signalled
	}
	return Exited
}

package launcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/proscenium-dev/proscenium/isolate"
	"golang.org/x/sys/unix"
)

// A Process is a program that runs, or ran.
type Process struct {
	pair    *conn
	plan    *isolate.Plan
	program string
	owners  []string // whose its writes are, in words
	forkers *forkers // one of which forks it

	launcher *Launcher

	mu    sync.Mutex // guards the descriptors against use after close
	init  int        // pidfd of init
	pidfd int        // pidfd of the program itself
	ended bool
	then  []func()

	network int // namespace that is to be used again; -1: none

	hasEnded        func(nothingOutlives bool) // nil: nobody is to be told
	nothingOutlives bool

	made [2]*os.File // namespaces, user and mount, if this makes a template

	state     ProcessState
	exited    chan struct{} // closed when the program itself has ended
	dead      chan struct{} // closed when nothing of the program is left
	cancelled atomic.Bool
	unlimit   func() bool // ends what limit has begun; false if time was up
}

// A ProcessState is how a program ended.
type ProcessState struct {
	status   syscall.WaitStatus
	reported bool
}

// ExitCode is the program's exit code, or -1 if a signal ended it.
func (s *ProcessState) ExitCode() int { return s.status.ExitStatus() }

// Signal is what ended the program, or 0.
func (s *ProcessState) Signal() syscall.Signal {
	if s.status.Signaled() {
		return s.status.Signal()
	}
	return 0
}

// Reported is false when init was killed together with the program (by its
// control group, by the death of the launcher): the signal is then SIGKILL.
func (s *ProcessState) Reported() bool { return s.reported }

// Success is exit code 0.
func (s *ProcessState) Success() bool { return s.status.Exited() && s.status.ExitStatus() == 0 }

// String is "exit status 3" or "signal: killed", as in package os.
func (s *ProcessState) String() string {
	if s.status.Signaled() {
		return "signal: " + s.status.Signal().String()
	}
	return "exit status " + strconv.Itoa(s.status.ExitStatus())
}

// lost is an init that ended without a report.
var lost = ProcessState{status: syscall.WaitStatus(syscall.SIGKILL)}

// limit bounds a start, by its context and the launcher's life: the deadline of
// the pair passes.
func (p *Process) limit(ctx, launcher context.Context) {
	deadline := time.Now().Add(startTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	p.pair.setDeadline(deadline)
	expire := func() { p.pair.setDeadline(time.Unix(1, 0)) }
	one, other := context.AfterFunc(ctx, expire), context.AfterFunc(launcher, expire)
	p.unlimit = func() bool {
		a, b := one(), other()
		return a && b
	}
}

// receive takes the next record, with the descriptors that came along.
func (p *Process) receive() (isolate.Record, []int, error) {
	var b [isolate.RecordSize]byte
	n, fds, err := p.pair.recv(b[:], 2)
	if err != nil {
		return isolate.Record{}, nil, err
	}
	r, err := isolate.DecodeRecord(b[:n])
	if err != nil {
		closeAll(fds)
		return r, nil, err
	}
	return r, fds, nil
}

// await takes the next record, which must be of that kind with so many
// descriptors. io.EOF: init is gone.
func (p *Process) await(kind uint64, descriptors int) ([]int, error) {
	r, fds, err := p.receive()
	if err != nil {
		return nil, err
	}
	if r.Kind == kind && len(fds) == descriptors {
		return fds, nil
	}
	closeAll(fds)
	return nil, p.failed(r)
}

// failed is what a record means that is not the one waited for.
func (p *Process) failed(r isolate.Record) error {
	errno := syscall.Errno(r.Errno)
	switch r.Kind {
	case isolate.RecordForkFailed:
		return p.failure("forker", p.forkers.plan.CallAt(r.Value), errno)
	case isolate.RecordStageOneFailed:
		return p.failure("stage one", p.plan.StageOne.CallAt(r.Value), errno)
	case isolate.RecordSetUpFailed:
		return p.failure("init", p.plan.SetUp.CallAt(r.Value), errno)
	case isolate.RecordProgramFailed:
		return p.failure("init", p.plan.Program.CallAt(r.Value), errno)
	}
	return p.failure("init", "report", fmt.Errorf("unexpected record %d", r.Kind))
}

func (p *Process) failure(step, call string, err error) error {
	return &SetupError{p.program, step, call, isolate.Explain(call, err)}
}

// launched waits for init, which dies with the launcher from then on, and sees that
// the launcher has not died before.
func (p *Process) launched() error {
	for p.init < 0 {
		r, fds, err := p.receive()
		if err == io.EOF {
			return p.failure("launcher", "start of init", errGone)
		}
		if err != nil {
			return err
		}
		if err := p.advance(r, fds); err != nil {
			return err
		}
	}
	if !p.launcher.lives() {
		return p.failure("launcher", "start of init", errors.New("the launcher has died"))
	}
	step("launched")
	return nil
}

// advance takes a record of a start that is under way.
func (p *Process) advance(r isolate.Record, fds []int) error {
	switch {
	case r.Kind == isolate.RecordCloned && len(fds) == 1 && p.init < 0:
		p.init = fds[0]
		step("cloned")
		return nil
	case r.Kind == isolate.RecordTemplate && len(fds) == len(p.made) && p.made[0] == nil:
		p.made = [2]*os.File{os.NewFile(uintptr(fds[0]), "user namespace"), os.NewFile(uintptr(fds[1]), "mount namespace")}
		return nil
	}
	closeAll(fds)
	return p.failed(r)
}

// maxMessage keeps a message below the smallest usual socket buffer.
const maxMessage = 64 << 10

// sendSetUp sends the first of init's plans, and what it receives: the tasks
// files of v1 groups, then the trees.
func (p *Process) sendSetUp(c *Cmd) error {
	plan, err := p.plan.SetUp.Encode()
	if err != nil {
		return err
	}
	trees, err := p.openTrees()
	defer closeAll(trees)
	if err != nil {
		return p.failure("host", "detached mounts", err)
	}
	step("detached mounts made")
	if err := p.sendPlan(plan); err != nil {
		return err
	}
	if err := p.sendGroups(c); err != nil {
		return err
	}
	for batch := range slices.Chunk(trees, isolate.TreesPerMessage) {
		if err := p.pair.send([]byte{0}, batch...); err != nil {
			return p.gone("receiving mounts", err)
		}
	}
	return nil
}

func (p *Process) sendGroups(c *Cmd) error {
	if c.CgroupCount == 0 {
		return nil
	}
	groups, err := c.CgroupTasks()
	if err != nil {
		return err
	}
	var fds []int
	for _, f := range groups {
		defer f.Close()
		fds = append(fds, int(f.Fd()))
	}
	if len(groups) != c.CgroupCount {
		return fmt.Errorf("launcher: %d v1 groups instead of CgroupCount, %d", len(groups), c.CgroupCount)
	}
	if err := p.pair.send([]byte{0}, fds...); err != nil {
		return p.gone("receiving its groups", err)
	}
	return nil
}

func (p *Process) sendPlan(plan []byte) error {
	for len(plan) > 0 {
		n := min(len(plan), maxMessage)
		if err := p.pair.send(plan[:n]); err != nil {
			return p.gone("reading its plan", err)
		}
		plan = plan[n:]
	}
	return nil
}

// errGone is what end of file says. Init dies with the thread of the launcher whose
// child it is, which can be before the rest of a launcher that is killed.
var errGone = errors.New("init was killed, or its forker, or the launcher has died: is its control group, or the launcher's, one that was killed once, or its memory limit too small?")

// gone prefers a report to the broken pipe that follows from it.
func (p *Process) gone(what string, err error) error {
	for {
		r, fds, e := p.receive()
		if e == io.EOF {
			return p.failure("init", what, errGone)
		}
		if e != nil {
			return p.failure("init", what, err)
		}
		if e := p.advance(r, fds); e != nil {
			return e
		}
	}
}

// openTrees makes a detached mount of each file, which must still be the file
// that was examined when the plan was made.
func (p *Process) openTrees() (fds []int, err error) {
	uid, gid, _ := p.plan.Credential()
	for _, t := range p.plan.Trees {
		fd, err := openTree(t)
		if err != nil {
			return fds, &os.PathError{Op: "mount", Path: t.Path, Err: err}
		}
		fds = append(fds, fd)
		if t.Writable {
			owner, err := p.launcher.own(fd, t, uid, gid)
			if err != nil {
				return fds, &os.PathError{Op: "writable mount of", Path: t.Path, Err: err}
			}
			p.owners = append(p.owners, owner)
		}
	}
	return fds, nil
}

func openTree(t isolate.Tree) (int, error) {
	file, err := unix.Openat2(unix.AT_FDCWD, t.Path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, os.NewSyscallError("openat2", err)
	}
	defer unix.Close(file)
	var now unix.Stat_t
	if err := unix.Fstat(file, &now); err != nil {
		return -1, err
	}
	if then, ok := t.Info.Sys().(*syscall.Stat_t); !ok || then.Dev != now.Dev || then.Ino != now.Ino {
		return -1, errors.New("it was replaced while the program was being started")
	}
	how := uint(unix.AT_EMPTY_PATH | unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if !t.Flat {
		how |= unix.AT_RECURSIVE
	}
	tree, err := unix.OpenTree(file, "", how)
	return tree, os.NewSyscallError("open_tree", err)
}

// abandonTimeout bounds the wait for a stage one that was stopped from outside, say.
const abandonTimeout = 5 * time.Second

// begun waits until the program's execve has succeeded, or all of the group was
// killed.
func (p *Process) begun() error {
	fds, err := p.await(isolate.RecordStarted, 1)
	if err == io.EOF {
		// Killed with all of its group, by its memory limit most likely, before
		// it could say that the program runs. That is an end, which Wait tells,
		// and not a system call that failed.
		return nil
	}
	if err == nil {
		p.pidfd = fds[0]
	}
	return err
}

// abandon ends a start that failed: init reads end of file, or is killed. If it has
// not been heard of yet it still may be, until nobody holds the other end.
func (p *Process) abandon() {
	p.unlimit()
	p.pair.shutdown()
	p.pair.setDeadline(time.Now().Add(abandonTimeout))
	for p.init < 0 {
		r, fds, err := p.receive()
		if err != nil {
			break
		}
		p.advance(r, fds)
	}
	p.pair.Close()
	if p.init >= 0 {
		unix.PidfdSendSignal(p.init, unix.SIGKILL, nil, 0)
		waitPidfd(p.init)
		unix.Close(p.init)
	}
	if p.pidfd >= 0 {
		unix.Close(p.pidfd)
	}
	if p.network >= 0 {
		unix.Close(p.network)
	}
	for _, f := range p.made {
		f.Close() // nil, unless nobody took it
	}
}

// watch follows the program to its end.
func (p *Process) watch(ctx context.Context) {
	p.follow(ctx)
	p.mu.Lock()
	p.ended = true
	then := p.then
	p.mu.Unlock()
	close(p.dead)
	for _, f := range then {
		f()
	}
}

// follow learns of the program's end, and of the end of everything in its
// namespaces, which is when init's pidfd becomes readable.
func (p *Process) follow(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		p.cancelled.Store(true)
		p.Kill()
	})
	defer stop()
	p.state = lost
	if r, fds, err := p.receive(); err == nil {
		closeAll(fds)
		if r.Kind == isolate.RecordExited {
			p.state = ProcessState{syscall.WaitStatus(r.Value), true}
		}
	}
	close(p.exited)
	if p.hasEnded != nil {
		p.hasEnded(p.nothingOutlives)
	}
	waitPidfd(p.init)
	p.launcher.networks.giveBack(p.network)
	p.pair.Close()
	p.mu.Lock()
	unix.Close(p.init)
	if p.pidfd >= 0 {
		unix.Close(p.pidfd)
	}
	p.init, p.pidfd = -1, -1
	p.mu.Unlock()
}

// Then calls f once Wait would return at once, without a goroutine that waits until
// then: what was given first is called first, one after the other; what is given
// after the end, at once, in a goroutine of its own.
func (p *Process) Then(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		go f()
		return
	}
	p.then = append(p.then, f)
}

// waitPidfd waits for the end of the process. The poller does, or a thread where it
// does not take pidfds, or there is no descriptor for it.
func waitPidfd(pidfd int) {
	over := false
	if fd, err := unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
		unix.SetNonblock(fd, true)
		f := os.NewFile(uintptr(fd), "pidfd")
		defer f.Close()
		if raw, err := f.SyscallConn(); err == nil {
			raw.Read(func(fd uintptr) bool {
				over = ended(int(fd), 0)
				return over
			})
		}
	}
	for !over {
		if over = ended(pidfd, -1); !over {
			time.Sleep(time.Millisecond) // the kernel is out of memory
		}
	}
}

// ended polls a pidfd for up to timeout milliseconds; -1 is for ever. True is certain.
func ended(pidfd, timeout int) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, timeout)
		if err != unix.EINTR {
			return n > 0
		}
	}
}

// Wait waits until the program has ended and nothing of what it started is
// left. It can be called from several goroutines.
func (p *Process) Wait() *ProcessState {
	<-p.dead
	return &p.state
}

// Exited is closed when the program itself has ended, a little before what it
// started and its namespaces are gone.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Signal sends a signal to the program itself, by its pidfd: it never reaches
// anything else. After the end it is os.ErrProcessDone.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd < 0 {
		return os.ErrProcessDone
	}
	err := unix.PidfdSendSignal(p.pidfd, unix.Signal(sig), nil, 0)
	if err == unix.ESRCH {
		return os.ErrProcessDone
	}
	return os.NewSyscallError("pidfd_send_signal", err)
}

// Kill kills the program; the kernel then kills everything that it started.
// Wait says when they are gone.
func (p *Process) Kill() error { return p.Signal(syscall.SIGKILL) }

// Pid is the program's process id in the host's namespace, while it runs. It is
// for people to read: use Signal to signal.
func (p *Process) Pid() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd < 0 {
		return 0, os.ErrProcessDone
	}
	return pidOf(p.pidfd)
}

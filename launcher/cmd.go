package launcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/proscenium-dev/proscenium/isolate"
	"golang.org/x/sys/unix"
)

// A Cmd is one program to be run: os/exec's Cmd with what a cell needs
// besides, and without what it cannot have (an inherited environment, extra files). It
// is used once.
type Cmd struct {
	// Path is the program, absolute.
	Path string
	// Args is the argument list, Args[0] included.
	Args []string
	// Env is the whole environment, NAME=value. Nothing is inherited: nil is
	// an empty environment.
	Env []string
	// Dir is the working directory inside; "/" where empty.
	Dir string
	// Stdin, Stdout and Stderr are /dev/null where nil. The program gets the
	// file itself, there is no copying in between. A directory is refused (EISDIR).
	Stdin, Stdout, Stderr *os.File
	// Isolation is what the program may see and do; the zero value is
	// isolate.Hardened.
	Isolation isolate.Spec
	// Cgroup is the open directory of a cgroup v2 group in which the program is
	// born, by which its limits hold from the first instruction on. Nil: that of
	// the launcher's forkers.
	Cgroup *os.File
	// CgroupTasks, where set, opens the tasks files of v1 groups, CgroupCount of them,
	// which Start closes. Init joins each before it does anything for the program. It is called
	// while the launcher works: the groups can be made meanwhile.
	CgroupTasks func() ([]*os.File, error)
	CgroupCount int
	// CgroupReady, where set, is called while launcher and init work, and must return
	// nil before init is told of the program: limits can be written meanwhile.
	CgroupReady func() error
	// CgroupEnded, where set, is called once the program itself has ended, while what it
	// has left and its namespaces are taken down. Wait waits for it: it must not wait for
	// Wait. If nothing outlives the program that was its own (it could give nobody a
	// descriptor), another can have its groups.
	CgroupEnded func(nothingOutlives bool)
	// Process is there once Start has succeeded.
	Process *Process
	// Plan is there once Start has compiled it.
	Plan *isolate.Plan

	launcher  *Launcher
	ctx       context.Context
	started   bool
	socket    bool        // one of the three is
	warm      *cell       // prepared
	outputs   []*os.File  // the program's ends of pipes that it writes
	afterExec []io.Closer // our copies of the program's ends of pipes
	onFailure []io.Closer // our own ends
}

// A SetupError is a start that failed, with the call that did, as strace would
// print it. errors.Is knows the errno.
type SetupError struct {
	Program string
	Step    string // who made the call: "host", "launcher", "forker", "stage one", "init"
	Call    string
	Err     error
}

func (e *SetupError) Error() string {
	return fmt.Sprintf("starting %s: %s: %s: %v", e.Program, e.Step, e.Call, e.Err)
}

func (e *SetupError) Unwrap() error { return e.Err }

// An ExitError is a program that ended otherwise than with exit code 0.
type ExitError struct {
	*ProcessState
	// Stderr is what the program wrote there, if Output collected it.
	Stderr []byte
}

func (e *ExitError) Error() string { return e.ProcessState.String() }

// Run starts the program and waits for its end.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// startTimeout bounds a start: a host so slow is broken.
const startTimeout = 30 * time.Second

// Prepare does of Start what does not depend on the program: a warm cell, which
// waits for it. Until Start, Path may still become another program of
// Isolation.Allow, and Args, Env and Dir may change; nothing else. A Cmd that was
// prepared must be started or released.
func (c *Cmd) Prepare() error {
	if c.started || c.warm != nil {
		return errors.New("launcher: a Cmd is prepared once, before its start")
	}
	w, err := c.newCell()
	if err != nil {
		return err
	}
	w.unlimit()
	c.warm = w
	return w.pair.setDeadline(time.Time{})
}

// Warm says whether the cell that was prepared still waits. Its init may have been
// killed, by its control group say, which is then not one to begin in again.
func (c *Cmd) Warm() bool { return c.warm != nil && !ended(c.warm.init, 0) }

// Release ends a cell that was prepared and will not be started.
func (c *Cmd) Release() {
	if c.warm != nil {
		c.warm.abandon()
		c.warm = nil
	}
	c.started = true
	c.closeFiles(true)
}

func (c *Cmd) closeFiles(failed bool) {
	for _, f := range c.afterExec {
		f.Close()
	}
	if failed {
		for _, f := range c.onFailure {
			f.Close()
		}
	}
}

// Start starts the program. When it returns without an error the program's
// execve has succeeded (or its group was killed at that moment, by its memory
// limit say, which Wait tells); otherwise nothing of it is left.
func (c *Cmd) Start() (err error) {
	defer func() { c.closeFiles(err != nil) }()
	if c.started {
		return errors.New("launcher: a Cmd is started once")
	}
	c.started = true
	if err := c.ctx.Err(); err != nil {
		return err
	}
	c.Process, err = c.launch()
	if err != nil {
		return err
	}
	go c.Process.watch(c.ctx)
	return nil
}

// checkStdio refuses a directory: from it a program could open whatever of the host is
// below and above it, view or not, or have it as its working directory. It notes sockets,
// for nothingOutlives.
func (c *Cmd) checkStdio() error {
	for i, f := range []*os.File{c.Stdin, c.Stdout, c.Stderr} {
		if f == nil {
			continue
		}
		var s unix.Stat_t
		err := unix.Fstat(int(f.Fd()), &s)
		kind := s.Mode & unix.S_IFMT
		c.socket = c.socket || kind == unix.S_IFSOCK
		if err == nil && kind == unix.S_IFDIR {
			err = fmt.Errorf("a directory, from which the program could open files of the host; show it as a mount instead: %w", unix.EISDIR)
		}
		if err != nil {
			return &SetupError{c.Path, "host", fmt.Sprintf("descriptor %d (%s)", i, f.Name()), err}
		}
	}
	return nil
}

// Wait waits until the program has ended and everything that it started is
// gone. The error is an *ExitError, or the context's if that ended the program.
func (c *Cmd) Wait() error {
	if c.Process == nil {
		return errors.New("launcher: not started")
	}
	state := c.Process.Wait()
	if state.Success() {
		return nil
	}
	if err := c.ctx.Err(); err != nil && c.Process.cancelled.Load() {
		return err
	}
	return &ExitError{ProcessState: state}
}

// pipe makes a pipe. The program's end blocks, as programs expect; ours is
// watched by the runtime's poller.
func (c *Cmd) pipe(programReads bool) (ours, theirs *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	our, their := fds[0], fds[1]
	if programReads {
		our, their = their, our
	}
	if err := unix.SetNonblock(our, true); err != nil {
		closeAll(fds[:])
		return nil, nil, os.NewSyscallError("fcntl(O_NONBLOCK)", err)
	}
	ours, theirs = os.NewFile(uintptr(our), "|"), os.NewFile(uintptr(their), "|")
	if !programReads {
		c.outputs = append(c.outputs, theirs)
	}
	c.afterExec = append(c.afterExec, theirs)
	c.onFailure = append(c.onFailure, ours)
	return ours, theirs, nil
}

// StdinPipe is the end of a pipe that the program reads as its stdin. Close it
// to let the program see the end.
func (c *Cmd) StdinPipe() (*os.File, error) { return c.attach(&c.Stdin, "Stdin", true) }

// StdoutPipe is the end of a pipe that the program writes as its stdout. Unlike
// os/exec's it stays open after Wait: read to the end and close it.
func (c *Cmd) StdoutPipe() (*os.File, error) { return c.attach(&c.Stdout, "Stdout", false) }

// StderrPipe is StdoutPipe for stderr.
func (c *Cmd) StderrPipe() (*os.File, error) { return c.attach(&c.Stderr, "Stderr", false) }

func (c *Cmd) attach(field **os.File, name string, programReads bool) (*os.File, error) {
	if *field != nil {
		return nil, fmt.Errorf("launcher: %s is set already", name)
	}
	if c.started {
		return nil, errors.New("launcher: pipes are asked for before Start")
	}
	ours, theirs, err := c.pipe(programReads)
	if err != nil {
		return nil, err
	}
	*field = theirs
	return ours, nil
}

// Output runs the program and returns its stdout. With Stderr nil, the end of
// its stderr is in the *ExitError.
func (c *Cmd) Output() ([]byte, error) {
	var errs []byte
	var wg sync.WaitGroup
	if c.Stderr == nil {
		pipe, err := c.StderrPipe()
		if err != nil {
			return nil, err
		}
		wg.Go(func() {
			errs = readTail(pipe)
			pipe.Close()
		})
	}
	pipe, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.collect(pipe)
	wg.Wait()
	var exit *ExitError
	if errors.As(err, &exit) {
		exit.Stderr = errs
	}
	return out, err
}

// CombinedOutput runs the program and returns its stdout and stderr, in the
// order in which it wrote them.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stderr != nil {
		return nil, errors.New("launcher: Stderr is set already")
	}
	pipe, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.Stderr = c.Stdout
	return c.collect(pipe)
}

func (c *Cmd) collect(pipe *os.File) ([]byte, error) {
	if err := c.Start(); err != nil {
		return nil, err
	}
	defer pipe.Close()
	var out bytes.Buffer
	_, readErr := out.ReadFrom(pipe)
	err := c.Wait()
	if err == nil {
		err = readErr
	}
	return out.Bytes(), err
}

// readTail reads to the end and keeps the last 32 KiB.
func readTail(r io.Reader) []byte {
	const keep = 32 << 10
	var tail []byte
	b := make([]byte, keep)
	for {
		n, err := r.Read(b)
		tail = append(tail, b[:n]...)
		tail = tail[max(0, len(tail)-keep):]
		if err != nil {
			return tail
		}
	}
}

// launch carries the plan through the life of a start.
func (c *Cmd) launch() (p *Process, err error) {
	cell, err := c.warmCell()
	if err != nil {
		return nil, err
	}
	if cell == nil {
		if cell, err = c.newCell(); err != nil {
			return nil, err
		}
	}
	p = cell.Process
	defer func() {
		if err != nil {
			p.abandon()
			p, err = nil, c.because(err)
		}
	}()
	if err := p.sendPlan(cell.program); err != nil {
		return p, err
	}
	step("plan sent")
	if err := p.begun(); err != nil {
		return p, err
	}
	step("begun")
	c.Plan.Enforced = slices.Concat(c.Plan.Enforced, p.owners)
	if !p.unlimit() {
		return p, c.ctx.Err() // cancelled just now: the deadline may be set
	}
	p.plan = nil // it explained what failed, and is larger than all else that is kept
	return p, p.pair.setDeadline(time.Time{})
}

// A cell is an init that waits for its program.
type cell struct {
	*Process
	profile *isolate.Profile
	given   isolate.Given
	program []byte // the plan's last part
}

// newCell finds the plan and starts an init by it. Whether the profile still tells
// the truth is looked at while the launcher works; if it does not, nothing has run
// yet, and a new one is made.
func (c *Cmd) newCell() (*cell, error) {
	if err := c.checkStdio(); err != nil {
		return nil, err
	}
	profile, template, known, err := c.launcher.profile(c.Isolation, c.Path, !mustBeFresh)
	if err != nil {
		return nil, err
	}
	w, err := c.cellOf(profile, template, known)
	for again := 0; again < forkersOf[fresh] && failedAhead(err); again++ {
		w, err = c.cellOf(profile, template, known)
	}
	if stale := known && (errors.Is(err, errStale) || err != nil && !profile.Fresh()); !stale {
		return w, err
	}
	if profile, template, _, err = c.launcher.profile(c.Isolation, c.Path, mustBeFresh); err != nil {
		return nil, err
	}
	return c.cellOf(profile, template, false)
}

// failedAhead is whether a forker failed before the request, perhaps long before. It
// has tried again since, and each has one such failure to tell at most.
func failedAhead(err error) bool {
	var e *SetupError
	return errors.As(err, &e) && e.Step == "forker" && isolate.IsAhead(e.Call)
}

var errStale = errors.New("the host's files were changed while the program was being started")

func (c *Cmd) cellOf(profile *profile, template *template, known bool) (*cell, error) {
	namespaces, release := template.hold()
	defer release()
	given := isolate.Given{Groups: c.CgroupCount, Template: namespaces != nil}
	if err := c.compile(profile, given); err != nil {
		return nil, err
	}
	var program []byte
	p, err := c.begin(namespaces, func() (err error) {
		if program, err = c.Plan.Program.Encode(); err == nil && known && !profile.Fresh() {
			err = errStale
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if given.Template {
		p.owners = template.owners
	}
	return &cell{p, profile.Profile, given, program}, nil
}

// compile makes the plan.
func (c *Cmd) compile(p *profile, given isolate.Given) (err error) {
	c.Plan, err = p.Plan(isolate.Program{Path: c.Path, Args: c.Args, Env: c.Env, Dir: c.Dir}, given)
	return err
}

// warmCell is the cell that was prepared, for the program as it now stands; none
// if the host's files have changed since, or init is gone.
func (c *Cmd) warmCell() (*cell, error) {
	w := c.warm
	c.warm = nil
	if w == nil {
		return nil, nil
	}
	profile, _, _, err := c.launcher.profile(c.Isolation, c.Path, mustBeFresh)
	if err != nil {
		w.abandon()
		return nil, err
	}
	if profile.Profile != w.profile || ended(w.init, 0) {
		w.abandon()
		return nil, nil
	}
	if err = c.compile(profile, w.given); err == nil {
		w.program, err = c.Plan.Program.Encode()
	}
	if err != nil {
		w.abandon()
		return nil, err
	}
	w.plan = c.Plan
	w.limit(c.ctx, c.launcher.life)
	return w, nil
}

// begin starts init, which sets the cell up and then waits for the program. It
// returns once init dies with the launcher; what there is to do meanwhile is done
// before. After an error nothing is left.
func (c *Cmd) begin(namespaces []int, meanwhile func() error) (p *Process, err error) {
	stageOne, err := c.Plan.StageOne.Encode()
	if err != nil {
		return nil, err
	}
	pair, far, err := socketPair()
	if err != nil {
		return nil, err
	}
	p = &Process{forkers: c.launcher.forkers[c.Plan.Network], pair: pair, plan: c.Plan, program: c.Path, launcher: c.launcher, hasEnded: c.CgroupEnded, nothingOutlives: c.nothingOutlives(), exited: make(chan struct{}), dead: make(chan struct{}), init: -1, pidfd: -1, network: -1}
	keeps := p.nothingOutlives && c.launcher.networks != nil
	if keeps {
		if p.network = c.launcher.networks.take(); p.network >= 0 {
			p.forkers = c.launcher.forkers[again]
		}
	}
	farFile := os.NewFile(uintptr(far), "init's end")
	defer farFile.Close()
	p.limit(c.ctx, c.launcher.life)
	defer func() {
		if err != nil {
			farFile.Close() // or nobody would hear that all others have
			p.abandon()
			p, err = nil, c.because(err)
		}
	}()
	step("pair made")
	if err := pair.send(stageOne); err != nil {
		return p, err
	}
	if len(namespaces) > 0 {
		if err := pair.send([]byte{0}, namespaces...); err != nil {
			return p, err
		}
	}
	step("stage one's plan sent")
	if err := c.requestInit(p, farFile); err != nil {
		return p, err
	}
	farFile.Close()
	step("request sent")
	if err := p.sendSetUp(c); err != nil {
		return p, err
	}
	step("set-up sent")
	// Init puts itself into v1 groups. The limits of a v2 group are stage one's as well, for
	// which a forker waits: so little of a processor, or of memory, that it is felt there
	// would be felt by other starts. They are behind it, while init is busy with the set-up.
	early := c.CgroupCount > 0
	if early {
		if err := c.ready(); err != nil {
			return p, err
		}
	}
	if err := meanwhile(); err != nil {
		return p, err
	}
	if err := p.launched(); err != nil {
		return p, err
	}
	if keeps && p.network < 0 {
		p.network = networkOfProcess(p.init) // which waits for its program
	}
	if early {
		return p, nil
	}
	return p, c.ready()
}

// nothingOutlives says whether nothing can be open in another's hands that was the
// program's own: its network namespace may be one that was used, and be used again.
func (c *Cmd) nothingOutlives() bool { return c.Plan.NothingOutlives && !c.socket }

func (c *Cmd) ready() error {
	if c.CgroupReady != nil {
		if err := c.CgroupReady(); err != nil {
			return err
		}
	}
	step("groups ready")
	return nil
}

// because prefers the context's error: it is why a deadline passed.
func (c *Cmd) because(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		if c.launcher.life.Err() != nil {
			return &SetupError{c.Path, "launcher", "start of init", errors.New("the launcher has died")}
		}
		return &SetupError{c.Path, "host", "waiting for init", fmt.Errorf("no answer within %v", startTimeout)}
	}
	return err
}

func (c *Cmd) requestInit(p *Process, far *os.File) error {
	// Not by package os, which would offer it to the runtime's poller.
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: os.DevNull, Err: err}
	}
	defer unix.Close(null)
	fds := []int{null, null, null, int(far.Fd()), null, null} // what there is not is not looked at
	for i, f := range []*os.File{0: c.Stdin, 1: c.Stdout, 2: c.Stderr, 4: c.Cgroup} {
		if f != nil {
			fds[i] = int(f.Fd())
		}
	}
	if p.network >= 0 {
		fds[5] = p.network
	}
	uid, gid, privileged := c.Plan.Credential()
	if privileged { // else the program could not open /dev/stdout, which is the pipe again
		for _, f := range c.outputs {
			if err := unix.Fchown(int(f.Fd()), int(uid), int(gid)); err != nil {
				return &SetupError{c.Path, "host", "fchown of a pipe", err}
			}
		}
	}
	request, err := c.Plan.ForkRequest(c.Cgroup != nil, mayShare(c.launcher.dumpable))
	if err == nil {
		err = c.launcher.request(p.forkers, request, fds)
	}
	if err != nil {
		return &SetupError{c.Path, "host", "request to the launcher", err}
	}
	return nil
}

// pidOf is the process id behind a pidfd, in our namespace: proc_pid_fdinfo(5).
func pidOf(pidfd int) (int, error) {
	b, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(pidfd))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if v, ok := bytes.CutPrefix(line, []byte("Pid:")); ok {
			pid, err := strconv.Atoi(string(bytes.TrimSpace(v)))
			if err == nil && pid <= 0 {
				err = unix.ESRCH
			}
			return pid, err
		}
	}
	return 0, unix.ESRCH
}

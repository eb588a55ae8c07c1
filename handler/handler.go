// Package handler gives an actor, or a Go program, processes: it starts allowed
// programs in cells, delivers their output as ordered, bounded, framed events,
// feeds their stdin, answers for their state and records every operation.
//
// It knows nothing of WebAssembly; package handler/actor binds it to guests.
//
//	h, err := handler.New(cfg, l, g, recorder)
//	id, err := h.Spawn(ctx, handler.ProcessConfig{Program: "/usr/bin/sort"}, sink)
//	h.WriteStdin(id, []byte("b\na\n"))
//	h.CloseStdin(id)
//	err = h.Wait(ctx) // until every exit has been delivered
//
// # What it promises
//
// Nothing is lost, nothing is reordered: per stream, events are the bytes in
// order; there is exactly one exit, and it is last. There is no order between
// stdout and stderr. Memory is bounded by Config.MaxOutputBuffer per process
// (and one read): a full buffer stops the reading and the program blocks on its
// pipe. Calls of a Sink are strictly serial, one at a time, for all processes
// of a Handler; inside one, every method of the Handler but Wait and Close may
// be called, runs at once and only queues events. Ids are never reused.
//
// # Why no JSON library
//
// Mode json is a state machine of this package and not a library's decoder: see
// jsonFramer.
package handler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
)

// A Handler is the processes of one actor. Its methods are safe for concurrent
// use.
type Handler struct {
	policy   *policy
	launcher *launcher.Launcher
	group    *cgroup.Group
	recorder *Coalescer // nil: none
	stats    counters
	pool     pool
	batch    Batch // of whoever delivers

	mu         sync.Mutex
	wake       sync.Cond // for deliver: ready or closed has changed
	idle       sync.Cond // for Wait: active or err has changed
	processes  map[uint64]*process
	last       uint64 // id
	living     int    // reserved or alive
	active     int    // living, or with events to deliver
	past       []past // processes whose exit was delivered, oldest first
	ready      []item
	delivering bool  // a sink is being called, by deliver or by a reader
	quick      bool  // the last turn was
	draining   bool  // nothing new is started
	closed     bool  // nothing more is delivered
	err        error // why it failed
	delivered  chan struct{}
}

// past is a process that can still be asked about.
type past struct {
	id    uint64
	until time.Time
}

// Exited processes can be asked about for a while.
const (
	rememberFor = 10 * time.Minute
	rememberMax = 1000
)

type counters struct{ stdout, stderr, events atomic.Uint64 }

// Counters is what a Handler has done so far.
type Counters struct {
	StdoutBytes, StderrBytes uint64 // read for sinks: line ends, and what is no JSON, included
	Events                   uint64 // delivered
	Running                  int    // processes, now
}

// Errors of operations.
var (
	ErrClosed    = errors.New("the handler is closed")
	ErrNoProcess = errors.New("no such process")
	ErrExited    = errors.New("the process has exited")
	ErrRunning   = errors.New("the process has not ended yet")
)

func errRunning(id uint64) error { return fmt.Errorf("process %d: %w", id, ErrRunning) }

// New makes a Handler. A nil group needs Config.Unlimited: limits are left out
// by explicit word only. A nil recorder records nothing; another one is told through
// a Coalescer, and may be one. A nil logger is silent.
func New(c Config, l *launcher.Launcher, g *cgroup.Group, recorder Recorder) (*Handler, error) {
	if g == nil && !c.Unlimited {
		return nil, errors.New(`handler: no control group: limits cannot be enforced (limits = "none" in the manifest does without)`)
	}
	if c.Unlimited {
		g = nil
		if c.Budgets.CPU > 0 {
			return nil, fmt.Errorf("handler: %w", errNoAccount)
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if err := c.checkIdentity(); err != nil {
		return nil, fmt.Errorf("handler: %w", err)
	}
	p, missing, err := newPolicy(c)
	if err != nil {
		return nil, fmt.Errorf("handler: %w", err)
	}
	for _, name := range missing {
		c.Logger.Warn("the manifest allows what this host does not have", "path", name)
	}
	h := &Handler{policy: p, launcher: l, group: g, processes: map[uint64]*process{}, last: c.After, delivered: make(chan struct{})}
	if shared, ok := recorder.(*Coalescer); ok {
		h.recorder = shared
	} else if recorder != nil {
		h.recorder = NewCoalescer(recorder)
	}
	h.wake.L, h.idle.L = &h.mu, &h.mu
	go h.deliver()
	h.fill()
	return h, nil
}

func (h *Handler) record(e Event) {
	if h.recorder == nil {
		return
	}
	e.Time, e.Actor = time.Now(), h.policy.config.Actor
	h.recorder.Record(e.Bounded())
}

// Spawn starts a program and returns its id once it runs. The error is a
// *Denial if policy refused it. ctx bounds the start, not the program's life.
func (h *Handler) Spawn(ctx context.Context, r ProcessConfig, sink Sink) (uint64, error) {
	e := Event{Program: r.Program, Args: r.Args, Dir: r.Cwd}
	for _, v := range r.Env {
		e.Env = append(e.Env, v.Name)
	}
	id, cell, err := h.spawn(ctx, r, sink, &e)
	if err != nil {
		e.Kind, e.Error = SpawnFailed, err.Error()
		var d *Denial
		if errors.As(err, &d) {
			e.Kind, e.Rule = SpawnDenied, d.Rule
		}
		h.record(e)
		return 0, err
	}
	e.Kind, e.Process, e.Enforced = Spawned, id, cell.Enforced
	h.record(e)
	h.begin(id)
	return id, nil
}

func (h *Handler) spawn(ctx context.Context, r ProcessConfig, sink Sink, e *Event) (uint64, *Cell, error) {
	m, err := h.policy.check(r)
	if err != nil {
		return 0, nil, err
	}
	id, err := h.reserve()
	if err != nil {
		return 0, nil, err
	}
	e.Process = id
	p := &process{h: h, id: id, request: r, sink: sink, open: 3}
	p.space.L = &p.mu
	if err := ctx.Err(); err != nil {
		h.unreserve()
		return 0, nil, err
	}
	s, err := h.take(m)
	if err != nil {
		h.unreserve()
		return 0, nil, err
	}
	defer h.fill()
	// The caller's context ends the start; once the program runs, only we do.
	stop := context.AfterFunc(ctx, s.cancel)
	defer stop()
	s.cmd.Args = append([]string{m.path}, r.Args...)
	s.cmd.Env, s.cmd.Dir = m.env, r.Cwd
	p.attach(s, m)
	p.start = time.Now()
	p.meter.at = p.start
	if p.cell, err = s.start(h, m); err != nil {
		s.cancel()
		hostIDs.release(s.hostID)
		h.unreserve()
		var pin *isolate.PinError
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case errors.As(err, &pin):
			err = deny("sha256", "%v", pin)
		}
		return 0, nil, err
	}
	if most := m.budgets.Output; most > 0 {
		p.cell.Enforced = append(p.cell.Enforced, fmt.Sprintf("output: %d bytes", most))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.processes[id] = p
	return id, p.cell, nil
}

// begin lets the events of a process flow, behind the record of its start.
func (h *Handler) begin(id uint64) {
	h.mu.Lock()
	p, closed, draining := h.processes[id], h.closed, h.draining
	h.mu.Unlock()
	for _, s := range p.streams {
		go s.read()
	}
	p.cell.process.Then(p.end)
	if closed || draining { // in the meantime
		p.cell.Kill(Killed)
	}
	if closed {
		p.abandon()
	}
}

func (h *Handler) reserve() (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.draining {
		return 0, ErrClosed
	}
	if limit := h.policy.config.MaxProcesses; h.living >= limit {
		return 0, deny("max_processes", "%d processes are alive", limit)
	}
	h.living++
	h.active++
	h.last++
	return h.last, nil
}

func (h *Handler) unreserve() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.living--
	h.active--
	h.idle.Broadcast()
}

// ended notes that nothing of the process is left. Its exit is delivered behind
// its output.
func (h *Handler) ended(p *process, r Result) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.living--
	p.gone, p.result = true, r
	if h.closed {
		h.idle.Broadcast()
		return
	}
	h.closeLocked(p)
}

// forget follows the delivery of an exit: the process can be asked about for a
// while.
func (h *Handler) forget(p *process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.active--
	h.idle.Broadcast()
	now := time.Now()
	p.forgotten = true
	h.past = append(h.past, past{p.id, now.Add(rememberFor)})
	for len(h.past) > rememberMax || len(h.past) > 0 && now.After(h.past[0].until) {
		delete(h.processes, h.past[0].id)
		h.past = h.past[1:]
	}
}

// find is the process, alive or remembered.
func (h *Handler) find(id uint64) (*process, error) {
	p, ok := h.processes[id]
	if !ok {
		return nil, fmt.Errorf("process %d: %w", id, ErrNoProcess)
	}
	return p, nil
}

// alive is the process if it can still be acted upon; a refusal is recorded.
func (h *Handler) alive(id uint64, operation string) (*process, error) {
	h.mu.Lock()
	p, err := h.find(id)
	if err == nil && p.gone {
		err = fmt.Errorf("process %d: %w", id, ErrExited)
	}
	h.mu.Unlock()
	if err != nil {
		h.record(Event{Kind: Denied, Process: id, Rule: operation, Error: err.Error()})
	}
	return p, err
}

// WriteStdin queues what fits of data and returns how many bytes that were; 0
// means that the queue is full. It never waits for the program.
func (h *Handler) WriteStdin(id uint64, data []byte) (int, error) {
	p, err := h.alive(id, "os-write-stdin")
	if err != nil {
		return 0, err
	}
	n, err := 0, ErrNoStdin
	if p.stdin != nil {
		n, err = p.stdin.write(data)
	}
	if err != nil {
		err = fmt.Errorf("process %d: %w", id, err)
		h.record(Event{Kind: Denied, Process: id, Program: p.request.Program, Rule: "os-write-stdin", Error: err.Error()})
		return 0, err
	}
	h.record(Event{Kind: StdinWritten, Process: id, Program: p.request.Program, Bytes: int64(n)})
	return n, nil
}

// CloseStdin lets the program read the end of its stdin, behind what is queued.
func (h *Handler) CloseStdin(id uint64) error {
	p, err := h.alive(id, "os-close-stdin")
	if err != nil {
		return err
	}
	err = ErrNoStdin
	if p.stdin != nil {
		err = p.stdin.close()
	}
	return h.done(Event{Kind: StdinClosed, Process: id, Program: p.request.Program}, "os-close-stdin", err)
}

// done records an operation, or its refusal.
func (h *Handler) done(e Event, operation string, err error) error {
	if err != nil {
		err = fmt.Errorf("process %d: %w", e.Process, err)
		e.Kind, e.Rule, e.Error = Denied, operation, err.Error()
	}
	h.record(e)
	return err
}

// Status answers for a process, also for a while after its exit.
func (h *Handler) Status(id uint64) (Status, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, err := h.find(id)
	if err != nil {
		return Status{}, err
	}
	return p.status(), nil
}

// Signal sends a signal to the program itself. SIGKILL is Kill.
func (h *Handler) Signal(id uint64, sig uint32) error {
	if sig < 1 || sig > 64 || sig == 32 || sig == 33 { // those two are the C library's
		err := fmt.Errorf("process %d: there is no signal %d to send", id, sig)
		h.record(Event{Kind: Denied, Process: id, Rule: "os-signal", Error: err.Error()})
		return err
	}
	if syscall.Signal(sig) == syscall.SIGKILL {
		return h.Kill(id)
	}
	p, err := h.alive(id, "os-signal")
	if err != nil {
		return err
	}
	err = p.cell.Signal(syscall.Signal(sig))
	if err != nil {
		err = ErrExited
	}
	return h.done(Event{Kind: SignalSent, Process: id, Program: p.request.Program, Signal: int(sig)}, "os-signal", err)
}

// Kill kills everything of the process. Its exit event says when it is gone.
func (h *Handler) Kill(id uint64) error {
	p, err := h.alive(id, "os-kill")
	if err != nil {
		return err
	}
	err = h.kill(p)
	return h.done(Event{Kind: KillAsked, Process: id, Program: p.request.Program}, "os-kill", err)
}

func (h *Handler) kill(p *process) error {
	h.mu.Lock()
	p.exiting = true
	h.mu.Unlock()
	if p.cell.Kill(Killed) != nil {
		return ErrExited
	}
	return nil
}

// Drain ends a handler in good order: nothing new is started, every process is
// killed, and their exits are delivered; Wait says when.
func (h *Handler) Drain() {
	h.mu.Lock()
	h.draining = true
	h.mu.Unlock()
	h.killAll()
}

func (h *Handler) killAll() {
	for _, p := range h.list() {
		if h.kill(p) == nil {
			h.record(Event{Kind: KillAsked, Process: p.id, Program: p.request.Program, Rule: "end of the actor"})
		}
	}
}

// Last is the last id that was given.
func (h *Handler) Last() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// list has the processes that are not gone.
func (h *Handler) list() []*process {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []*process
	for _, p := range h.processes {
		if !p.gone {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b *process) int { return cmp.Compare(a.id, b.id) })
	return list
}

// Counters reads what the Handler has done so far.
func (h *Handler) Counters() Counters {
	c := Counters{StdoutBytes: h.stats.stdout.Load(), StderrBytes: h.stats.stderr.Load(), Events: h.stats.events.Load()}
	h.mu.Lock()
	defer h.mu.Unlock()
	c.Running = h.living
	return c
}

// Wait waits until nothing is alive or queued, and returns nil; or until the
// handler fails or is closed, and returns why.
func (h *Handler) Wait(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.idle.Broadcast()
	})()
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.active > 0 && !h.closed && ctx.Err() == nil {
		h.idle.Wait()
	}
	switch {
	case h.err != nil:
		return h.err
	case h.closed:
		return ErrClosed
	}
	return ctx.Err()
}

// fail ends a handler whose sink has failed: nothing more is delivered.
func (h *Handler) fail(err error) {
	h.mu.Lock()
	if h.err == nil {
		h.err = err
	}
	h.mu.Unlock()
	h.shut()
}

// shut kills everything and ends delivery; it waits for neither.
func (h *Handler) shut() {
	h.mu.Lock()
	closed := h.closed
	h.closed = true
	h.ready = nil
	h.wake.Broadcast()
	h.idle.Broadcast()
	h.mu.Unlock()
	if closed {
		return
	}
	h.drainPool()
	h.killAll()
	h.mu.Lock()
	var all []*process
	for _, p := range h.processes {
		if !p.forgotten {
			all = append(all, p)
		}
	}
	h.mu.Unlock()
	for _, p := range all {
		p.abandon()
	}
}

// Close kills what is alive and waits until nothing of it is left. Exits that
// were not delivered yet never are: to have them, Drain and Wait first. It
// must not be called by a Sink.
func (h *Handler) Close() error {
	h.shut()
	<-h.delivered
	h.mu.Lock()
	for h.living > 0 {
		h.idle.Wait()
	}
	h.mu.Unlock()
	if h.recorder != nil {
		h.recorder.Close()
	}
	return nil
}

// Discard is a Sink that wants nothing.
var Discard Sink = discard{}

type discard struct{}

func (discard) HandleStdout(uint64, []byte) error { return nil }
func (discard) HandleStderr(uint64, []byte) error { return nil }
func (discard) HandleExit(uint64, Result) error   { return nil }

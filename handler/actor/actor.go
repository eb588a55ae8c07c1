// Package actor runs one WebAssembly actor on wazero and gives it processes.
//
// An actor is a core module that imports theater:simple/process and
// theater:simple/runtime and exports theater:simple/actor and
// theater:simple/process-handlers, with the canonical ABI's lowered signatures,
// in either of the two naming schemes that tools emit (abi.go), or a component of
// the same interfaces (component.go, package wit/component). Plain Go guests
// bring wasi_snapshot_preview1, of which they get clocks, random numbers, short
// sleeps, and stdout and stderr into the log (preview1.go), and nothing that reaches the host; components get as much
// of WASI 0.2 (package wit/wasi).
//
// One actor is one instance, called by one goroutine at a time. Its state lives
// here, as bytes: it goes into each call and comes out of it, and is kept only
// if the call succeeded.
//
// # What a guest may do wrong
//
// A trap, a violation of the ABI and a missed deadline fail the actor: its
// processes are killed, one event says why, and the instance is never called
// again. An err from a handler is the actor's own business: it is logged and
// recorded, and the state stays as it was.
package actor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/wit/canon"
	"github.com/proscenium-dev/proscenium/wit/component"
	"github.com/proscenium-dev/proscenium/wit/linear"
	"github.com/proscenium-dev/proscenium/wit/wasm"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// Config is what an actor needs.
type Config struct {
	Manifest *handler.Manifest
	Launcher *launcher.Launcher
	Group    *cgroup.Group    // nil needs limits = "none"
	Recorder handler.Recorder // nil: nothing is recorded
	Logger   *slog.Logger     // nil: silent

	// Cache is the directory in which compiled modules are kept, by their
	// content: JavaScript takes ten seconds to compile and a third of one to load
	// from there. Default: proscenium/wazero in the user's cache
	// directory (os.UserCacheDir: $XDG_CACHE_HOME or $HOME/.cache). It is created
	// with mode 0700; since it holds code that is run, one that belongs to
	// somebody else or is writable for others is an error. The default directory
	// is left out, with a warning, where it is not usable. NoCache: nothing is
	// kept. Nothing is ever removed from it.
	Cache string

	resume *Actor // that failed
}

// Bounds of what a guest may make the host hold.
const (
	maxModule  = 64 << 20 // bytes of the module
	maxState   = 64 << 20 // bytes of state
	maxError   = 4 << 10  // bytes of an err that goes into the guest
	copyBudget = 4 << 20  // bytes copied out of the guest in one call of an import
	wasmPage   = 64 << 10
)

// An Actor is a guest that runs. It is the sink of its processes' events.
type Actor struct {
	manifest *handler.Manifest
	logger   *slog.Logger
	recorder *handler.Coalescer
	handler  *handler.Handler // nil: the manifest has no process handler
	runtime  wazero.Runtime
	memories *linear.Memories        // of the guest; closed behind the runtime
	cache    wazero.CompilationCache // nil: none
	cacheDir string
	chain    *chain
	began    time.Time // what the guest's monotonic clock counts from

	mu       sync.Mutex // one call at a time
	guest    guest
	alive    bool // the guest is loaded and not closed
	state    []byte
	hasState bool
	failed   error

	// Guarded by mu as well: buffers that calls use again.
	stack   [8]uint64
	realloc [4]uint64
	spare   []byte // of state
	ends    []byte
	logRate logRate

	mayLeave bool // an import may be called: not in realloc and post-return
}

// Start loads the actor and calls its init. Processes that it starts there run
// when Start returns; their events follow.
func Start(ctx context.Context, c Config) (*Actor, error) {
	a, err := start(ctx, c)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// start returns the actor, closed, with an error as well.
func start(ctx context.Context, c Config) (a *Actor, err error) {
	m := c.Manifest
	a = &Actor{manifest: m, logger: c.Logger, chain: &chain{}, began: time.Now(), state: bytes.Clone(m.State), hasState: m.State != nil}
	var after uint64
	if c.resume != nil {
		a.state, a.hasState = c.resume.State()
		a.chain = c.resume.chain
		if c.resume.handler != nil {
			after = c.resume.handler.Last()
		}
	}
	recorders := handler.Recorders{a.chain}
	if c.Recorder != nil {
		recorders = append(recorders, c.Recorder)
	}
	a.recorder = handler.NewCoalescer(recorders)
	if a.logger == nil {
		a.logger = slog.New(slog.DiscardHandler)
	}
	a.logger = a.logger.With("actor", m.Name)
	defer func() {
		if err != nil {
			err = fmt.Errorf("actor %s: %w", m.Name, err)
			a.Close()
		}
	}()
	code, err := readModule(m.ComponentPath)
	if err != nil {
		return a, err
	}
	if m.Process != nil {
		config := *m.Process
		config.Actor, config.Logger, config.After = m.Name, a.logger, after
		if a.handler, err = handler.New(config, c.Launcher, c.Group, a.recorder); err != nil {
			return a, err
		}
	}
	if err := a.openCache(c.Cache); err != nil {
		return a, err
	}
	if err := a.begin(ctx, code); err != nil {
		return a, err
	}
	return a, nil
}

// begin loads the actor and calls its init, before any event can reach it.
func (a *Actor) begin(ctx context.Context, code []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.load(ctx, code); err != nil {
		err = tell(err)
		a.record(handler.Event{Kind: handler.ActorFailed, Error: err.Error()})
		return err
	}
	a.record(handler.Event{Kind: handler.ActorStarted, Program: a.manifest.ComponentPath})
	return a.init(ctx)
}

func (a *Actor) record(e handler.Event) {
	e.Time, e.Actor = time.Now(), a.manifest.Name
	a.recorder.Record(e.Bounded())
}

func readModule(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	code, err := io.ReadAll(io.LimitReader(f, maxModule+1))
	if err != nil {
		return nil, err
	}
	if len(code) > maxModule {
		return nil, fmt.Errorf("%s: more than %d bytes", path, maxModule)
	}
	if !wasm.IsModule(code) && !component.Is(code) {
		return nil, fmt.Errorf("%s is not a WebAssembly module or component", path)
	}
	return code, nil
}

// features are those of WebAssembly 2.0 and what guests that tools make need
// beyond: QuickJS has tail calls and, linked by wit-component, extended
// constants.
const features = api.CoreFeaturesV2 | experimental.CoreFeaturesExtendedConst | experimental.CoreFeaturesTailCall

// load makes the runtime and, in it, the guest. Compiled modules that cannot be read
// or kept, by a broken file or a full disk, do not stop the actor: then it compiles
// without them.
func (a *Actor) load(ctx context.Context, code []byte) error {
	err := a.loadGuest(ctx, code)
	var broken *compileError
	if !errors.As(err, &broken) || a.cache == nil || ctx.Err() != nil {
		return err
	}
	a.runtime.Close(ctx)
	a.cache.Close(ctx)
	a.cache = nil
	again := a.loadGuest(ctx, code)
	if !errors.As(again, new(*compileError)) {
		a.logger.Warn("the directory of compiled modules is not used: what is in it for this actor is broken or cannot be written; remove it, or make room", "directory", a.cacheDir, "error", tell(err))
	}
	return again
}

func (a *Actor) loadGuest(ctx context.Context, code []byte) (err error) {
	config := wazero.NewRuntimeConfig().
		WithMemoryLimitPages(uint32(a.manifest.Memory / wasmPage)).
		WithCloseOnContextDone(a.manifest.Deadline > 0).
		WithDebugInfoEnabled(false). // the reader of DWARF panics at what a guest can make up
		WithCoreFeatures(features)
	if a.cache != nil {
		config = config.WithCompilationCache(a.cache)
	}
	a.runtime = wazero.NewRuntimeWithConfig(ctx, config)
	a.memories = linear.New(uint64(a.manifest.Memory))
	a.mayLeave = true
	if component.Is(code) {
		a.guest, err = a.loadComponent(ctx, code)
	} else {
		a.guest, err = a.loadCore(ctx, code)
	}
	a.alive = err == nil
	return err
}

// withDeadline bounds one call into the guest.
func (a *Actor) withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if d := a.manifest.Deadline; d > 0 {
		return context.WithTimeout(ctx, d)
	}
	return ctx, func() {}
}

// ErrDeadline is a call that did not return in time.
var ErrDeadline = errors.New("the actor missed its deadline")

// explain shortens errors to what an operator needs.
func (a *Actor) explain(err error) error {
	var trap *canon.Trap
	switch {
	case errors.As(err, &trap):
		return tell(trap)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w of %v", ErrDeadline, a.manifest.Deadline)
	}
	return tell(err)
}

// fail notes that the actor is done for, records it once and returns err.
func (a *Actor) fail(call string, err error) error {
	err = &Failure{call, a.explain(err)}
	if a.failed == nil {
		a.failed = err
		a.logger.Error("the actor failed; its processes are killed", "error", err)
		a.record(handler.Event{Kind: handler.ActorFailed, Error: err.Error()})
	}
	return err
}

// State is the last committed state; ok is false if there is none.
func (a *Actor) State() (state []byte, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return bytes.Clone(a.state), a.hasState
}

// Failed is why the actor has failed; nil if it has not.
func (a *Actor) Failed() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failed
}

// Handler is the actor's processes, nil without a process handler.
func (a *Actor) Handler() *handler.Handler { return a.handler }

// Wait waits until nothing of the actor is alive or queued. The error says why
// it failed.
func (a *Actor) Wait(ctx context.Context) error {
	if a.handler == nil {
		return nil
	}
	err := a.handler.Wait(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed != nil {
		return a.failed
	}
	return err
}

// Close ends the actor and everything that it started.
func (a *Actor) Close() error {
	if a.handler != nil {
		a.handler.Close()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	defer a.recorder.Close()
	if a.cache != nil {
		defer a.cache.Close(context.Background())
		a.cache = nil
	}
	if a.runtime == nil {
		return nil
	}
	if a.alive {
		a.record(handler.Event{Kind: handler.ActorEnded})
	}
	err := a.runtime.Close(context.Background())
	a.memories.Close()
	a.runtime, a.alive = nil, false
	return err
}

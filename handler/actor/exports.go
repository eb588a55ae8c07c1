package actor

import (
	"context"
	"fmt"
	"syscall"

	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/wit/canon"
	"github.com/tetratelabs/wazero/api"
)

// A guest is an instance of the actor's code, as the loader of its format made
// it.
type guest struct{ handlers map[exportName]export }

// An export is a function of the guest's. An api.Function must not be nested with
// itself: each has one place from which it is called.
type export struct {
	name       string
	call, post api.Function
	memory     *canon.Lowerer // where parameters and results lie
}

// reallocating calls a guest's realloc; imports are forbidden while it runs.
func (a *Actor) reallocating(f api.Function) canon.Realloc {
	return func(ctx context.Context, align, size uint32) (uint32, error) {
		a.mayLeave = false
		defer func() { a.mayLeave = true }()
		result, err := f.Call(ctx, 0, 0, uint64(align), uint64(size))
		if err != nil {
			return 0, err
		}
		return uint32(result[0]), nil
	}
}

// lowerState passes the state: none, or some of the bytes.
func (a *Actor) lowerState(ctx context.Context, g *canon.Lowerer, stack []uint64) error {
	stack[0], stack[1], stack[2] = 0, 0, 0
	if !a.hasState {
		return nil
	}
	ptr, n, err := g.Bytes(ctx, a.state)
	stack[0], stack[1], stack[2] = 1, uint64(ptr), uint64(n)
	return err
}

// arguments puts the parameters behind the state on the stack and returns how
// many values that makes.
type arguments func(ctx context.Context, g *canon.Lowerer, stack []uint64) (int, error)

// init calls the actor's init with its name. a.mu is held.
func (a *Actor) init(ctx context.Context) error {
	return a.invokeLocked(ctx, exportInit, func(ctx context.Context, g *canon.Lowerer, stack []uint64) (int, error) {
		ptr, n, err := g.Bytes(ctx, []byte(a.manifest.Name))
		stack[3], stack[4] = uint64(ptr), uint64(n)
		return 5, err
	})
}

// HandleStdout implements handler.Sink.
func (a *Actor) HandleStdout(id uint64, data []byte) error { return a.output(exportStdout, id, data) }

// HandleStderr implements handler.Sink.
func (a *Actor) HandleStderr(id uint64, data []byte) error { return a.output(exportStderr, id, data) }

func (a *Actor) output(e exportName, id uint64, data []byte) error {
	return a.invoke(context.Background(), e, func(ctx context.Context, g *canon.Lowerer, stack []uint64) (int, error) {
		ptr, n, err := g.Bytes(ctx, data)
		stack[3], stack[4], stack[5] = id, uint64(ptr), uint64(n)
		return 6, err
	})
}

// HandleExit implements handler.Sink.
func (a *Actor) HandleExit(id uint64, r handler.Result) error {
	if r.Signal == syscall.SIGKILL && r.Reason == handler.OutOfMemory {
		a.logger.Warn("out of memory", "process", id, "peak_bytes", r.MemoryPeak)
	}
	return a.invoke(context.Background(), exportExit, func(_ context.Context, _ *canon.Lowerer, stack []uint64) (int, error) {
		stack[3], stack[4] = id, uint64(uint32(int32(r.ExitCode)))
		return 5, nil
	})
}

// invoke calls a handler: state and arguments in, state out. The error means
// that the actor has failed.
func (a *Actor) invoke(ctx context.Context, e exportName, put arguments) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.invokeLocked(ctx, e, put)
}

func (a *Actor) invokeLocked(ctx context.Context, e exportName, put arguments) error {
	if a.failed != nil {
		return a.failed
	}
	x, ok := a.guest.handlers[e]
	if !ok {
		return nil // an actor that cannot spawn need not listen
	}
	ctx, cancel := a.withDeadline(ctx)
	defer cancel()
	refused, err := a.exchange(ctx, x, put)
	if err != nil {
		return a.fail(x.name, err)
	}
	if refused != nil {
		a.logger.Error("the actor returned an error", "call", x.name, "error", refused)
		a.record(handler.Event{Kind: handler.ActorRefused, Rule: x.name, Error: refused.Error()})
		if e == exportInit {
			return a.fail(x.name, refused)
		}
	}
	return nil
}

// exchange is one call by the canonical ABI. refused is the guest's own err.
func (a *Actor) exchange(ctx context.Context, x export, put arguments) (refused, err error) {
	var stack [6]uint64
	if err := a.lowerState(ctx, x.memory, stack[:]); err != nil {
		return nil, err
	}
	n, err := put(ctx, x.memory, stack[:])
	if err != nil {
		return nil, err
	}
	if err := x.call.CallWithStack(ctx, stack[:n]); err != nil {
		return nil, err
	}
	area := uint32(stack[0])
	state, some, refused, err := liftResult(x.memory.Memory, area)
	if err != nil {
		return nil, err
	}
	if x.post != nil {
		a.mayLeave = false
		stack[0] = uint64(area)
		err := x.post.CallWithStack(ctx, stack[:1])
		a.mayLeave = true
		if err != nil {
			return nil, err
		}
	}
	if refused == nil {
		a.state, a.hasState = state, some
	}
	return refused, nil
}

// liftResult reads a result<tuple<option<list<u8>>>, string>, 16 bytes.
func liftResult(m canon.Memory, area uint32) (state []byte, some bool, refused, err error) {
	if err := m.Area(area, 16, 4); err != nil {
		return nil, false, nil, err
	}
	kind, err := m.CaseAt("result", area, 2)
	if err != nil {
		return nil, false, nil, err
	}
	l := canon.Lifter{Memory: m, Budget: maxState}
	word := func(offset uint32) uint32 {
		v, _ := m.ReadUint32Le(area + offset)
		return v
	}
	if kind == 1 {
		text, err := l.String(word(4), word(8))
		return nil, false, fmt.Errorf("the actor says: %s", clip(text, maxError)), err
	}
	option, err := m.CaseAt("state", area+4, 2)
	if err != nil || option == 0 {
		return nil, false, nil, err
	}
	state, err = l.Bytes(word(8), word(12))
	if err == canon.ErrBudget {
		err = fmt.Errorf("a state of %d bytes is more than %d", word(12), maxState)
	}
	return state, true, nil, err
}

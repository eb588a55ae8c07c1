package actor

import (
	"context"
	"fmt"
	"syscall"

	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/wit/canon"
	"github.com/tetratelabs/wazero/api"
)

// exports are the guest's functions. An api.Function must not be nested with
// itself: each has one place from which it is called.
type exports struct {
	memory     canon.Memory
	realloc    api.Function
	initialize api.Function
	handlers   map[exportName]export
}

type export struct {
	name       string
	call, post api.Function
}

func (x *exports) find(m api.Module, names scheme) {
	x.memory = canon.Memory{Memory: m.ExportedMemory(names.memory)}
	x.realloc = m.ExportedFunction(names.realloc)
	x.initialize = m.ExportedFunction(names.initialize)
	x.handlers = map[exportName]export{}
	for _, e := range order {
		if f := m.ExportedFunction(names.export(e)); f != nil {
			x.handlers[e] = export{e.function, f, m.ExportedFunction(names.post(e))}
		}
	}
}

// lowerer lowers into the guest; imports are forbidden while its realloc runs.
func (a *Actor) lowerer() *canon.Lowerer {
	return &canon.Lowerer{Memory: a.exports.memory, Realloc: func(ctx context.Context, align, size uint32) (uint32, error) {
		a.mayLeave = false
		defer func() { a.mayLeave = true }()
		result, err := a.exports.realloc.Call(ctx, 0, 0, uint64(align), uint64(size))
		if err != nil {
			return 0, err
		}
		return uint32(result[0]), nil
	}}
}

// lowerState passes the state: none, or some of the bytes.
func (a *Actor) lowerState(ctx context.Context, stack []uint64) error {
	stack[0], stack[1], stack[2] = 0, 0, 0
	if !a.hasState {
		return nil
	}
	ptr, n, err := a.lowerer().Bytes(ctx, a.state)
	stack[0], stack[1], stack[2] = 1, uint64(ptr), uint64(n)
	return err
}

// init calls the actor's init with its name.
func (a *Actor) init(ctx context.Context) error {
	return a.invoke(ctx, exportInit, func(ctx context.Context, stack []uint64) (int, error) {
		ptr, n, err := a.lowerer().Bytes(ctx, []byte(a.manifest.Name))
		stack[3], stack[4] = uint64(ptr), uint64(n)
		return 5, err
	})
}

// HandleStdout implements handler.Sink.
func (a *Actor) HandleStdout(id uint64, data []byte) error { return a.output(exportStdout, id, data) }

// HandleStderr implements handler.Sink.
func (a *Actor) HandleStderr(id uint64, data []byte) error { return a.output(exportStderr, id, data) }

func (a *Actor) output(e exportName, id uint64, data []byte) error {
	return a.invoke(context.Background(), e, func(ctx context.Context, stack []uint64) (int, error) {
		ptr, n, err := a.lowerer().Bytes(ctx, data)
		stack[3], stack[4], stack[5] = id, uint64(ptr), uint64(n)
		return 6, err
	})
}

// HandleExit implements handler.Sink.
func (a *Actor) HandleExit(id uint64, r handler.Result) error {
	if r.Signal == syscall.SIGKILL && r.Reason == handler.OutOfMemory {
		a.logger.Warn("out of memory", "process", id, "peak_bytes", r.MemoryPeak)
	}
	return a.invoke(context.Background(), exportExit, func(_ context.Context, stack []uint64) (int, error) {
		stack[3], stack[4] = id, uint64(uint32(int32(r.ExitCode)))
		return 5, nil
	})
}

// invoke calls a handler: state and arguments in, state out. The error means
// that the actor has failed.
func (a *Actor) invoke(ctx context.Context, e exportName, arguments func(context.Context, []uint64) (int, error)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed != nil {
		return a.failed
	}
	x, ok := a.exports.handlers[e]
	if !ok {
		return nil // an actor that cannot spawn need not listen
	}
	ctx, cancel := a.withDeadline(ctx)
	defer cancel()
	refused, err := a.exchange(ctx, x, arguments)
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
func (a *Actor) exchange(ctx context.Context, x export, arguments func(context.Context, []uint64) (int, error)) (refused, err error) {
	var stack [6]uint64
	if err := a.lowerState(ctx, stack[:]); err != nil {
		return nil, err
	}
	n, err := arguments(ctx, stack[:])
	if err != nil {
		return nil, err
	}
	if err := x.call.CallWithStack(ctx, stack[:n]); err != nil {
		return nil, err
	}
	area := uint32(stack[0])
	state, some, refused, err := a.liftResult(area)
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
func (a *Actor) liftResult(area uint32) (state []byte, some bool, refused, err error) {
	m := a.exports.memory
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

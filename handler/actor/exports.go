package actor

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
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
		a.realloc = [4]uint64{0, 0, uint64(align), uint64(size)}
		if err := f.CallWithStack(ctx, a.realloc[:]); err != nil {
			return 0, err
		}
		return uint32(a.realloc[0]), nil
	}
}

// An event is what one call of a handler is about, besides the state.
type event struct {
	export exportName
	id     uint64
	data   []byte   // of init: the name
	ends   []uint32 // of a batch
	code   int32    // of an exit
}

// init calls the actor's init with its name. a.mu is held.
func (a *Actor) init(ctx context.Context) error {
	return a.invokeLocked(ctx, event{export: exportInit, data: []byte(a.manifest.Name)})
}

// HandleStdout implements handler.Sink.
func (a *Actor) HandleStdout(id uint64, data []byte) error {
	return a.invoke(event{export: exportStdout, id: id, data: data})
}

// HandleStderr implements handler.Sink.
func (a *Actor) HandleStderr(id uint64, data []byte) error {
	return a.invoke(event{export: exportStderr, id: id, data: data})
}

// Batches implements handler.BatchSink: a guest that exports the batch handlers
// takes batches.
func (a *Actor) Batches() (stdout, stderr bool) {
	_, stdout = a.guest.handlers[exportStdoutBatch]
	_, stderr = a.guest.handlers[exportStderrBatch]
	return stdout, stderr
}

// HandleStdoutBatch implements handler.BatchSink.
func (a *Actor) HandleStdoutBatch(id uint64, b handler.Batch) error {
	return a.invoke(event{export: exportStdoutBatch, id: id, data: b.Data, ends: b.Ends})
}

// HandleStderrBatch implements handler.BatchSink.
func (a *Actor) HandleStderrBatch(id uint64, b handler.Batch) error {
	return a.invoke(event{export: exportStderrBatch, id: id, data: b.Data, ends: b.Ends})
}

// HandleExit implements handler.Sink.
func (a *Actor) HandleExit(id uint64, r handler.Result) error {
	if r.Signal == syscall.SIGKILL && r.Reason == handler.OutOfMemory {
		a.logger.Warn("out of memory", "process", id, "peak_bytes", r.MemoryPeak)
	}
	return a.invoke(event{export: exportExit, id: id, code: int32(r.ExitCode)})
}

// invoke calls a handler: state and event in, state out. The error means that the
// actor has failed.
func (a *Actor) invoke(e event) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.invokeLocked(context.Background(), e)
}

func (a *Actor) invokeLocked(ctx context.Context, e event) error {
	if a.failed != nil {
		return a.failed
	}
	x, ok := a.guest.handlers[e.export]
	if !ok {
		return nil // an actor that cannot spawn need not listen
	}
	ctx, cancel := a.withDeadline(ctx)
	defer cancel()
	refused, err := a.exchange(ctx, x, e)
	if err != nil {
		return a.fail(x.name, err)
	}
	if refused != nil {
		a.say(slog.LevelError, "the actor returned an error", "call", x.name, "error", refused)
		a.record(handler.Event{Kind: handler.ActorRefused, Rule: x.name, Error: refused.Error()})
		if e.export == exportInit {
			return a.fail(x.name, refused)
		}
	}
	return nil
}

// lower puts the parameters on the stack and returns how many values that makes.
func (a *Actor) lower(ctx context.Context, g *canon.Lowerer, e event) (n int, err error) {
	s := a.stack[:0]
	list := func(b []byte, size uint32) { // of elements that are as aligned as they are large
		var ptr uint32
		if err == nil {
			ptr, err = g.Aligned(ctx, b, size)
		}
		s = append(s, uint64(ptr), uint64(uint32(len(b))/size))
	}
	if a.hasState {
		s = append(s, 1)
		list(a.state, 1)
	} else {
		s = append(s, 0, 0, 0)
	}
	switch e.export {
	case exportInit:
		list(e.data, 1)
	case exportExit:
		s = append(s, e.id, uint64(uint32(e.code)))
	default:
		s = append(s, e.id)
		list(e.data, 1)
	}
	if e.ends != nil {
		a.ends = a.ends[:0]
		for _, end := range e.ends {
			a.ends = binary.LittleEndian.AppendUint32(a.ends, end)
		}
		list(a.ends, 4)
	}
	return len(s), err
}

// exchange is one call by the canonical ABI. refused is the guest's own err.
func (a *Actor) exchange(ctx context.Context, x export, e event) (refused, err error) {
	n, err := a.lower(ctx, x.memory, e)
	if err != nil {
		return nil, err
	}
	if err := x.call.CallWithStack(ctx, a.stack[:n]); err != nil {
		return nil, err
	}
	area := uint32(a.stack[0])
	state, some, refused, err := liftResult(x.memory.Memory, area, a.spare[:0])
	if err != nil {
		return nil, err
	}
	if x.post != nil {
		a.mayLeave = false
		a.stack[0] = uint64(area)
		err := x.post.CallWithStack(ctx, a.stack[:1])
		a.mayLeave = true
		if err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil { // it came back, but late
		return nil, err
	}
	if refused == nil {
		a.state, a.spare, a.hasState = state, a.state, some
	}
	return refused, nil
}

// liftResult reads a result<tuple<option<list<u8>>>, string>, 16 bytes. The state
// goes into the memory of spare.
func liftResult(m canon.Memory, area uint32, spare []byte) (state []byte, some bool, refused, err error) {
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
		return nil, false, fmt.Errorf("the actor says: %s", printable(clip(text, maxError), "")), err
	}
	option, err := m.CaseAt("state", area+4, 2)
	if err != nil || option == 0 {
		return nil, false, nil, err
	}
	view, err := m.View(word(8), word(12))
	if err == nil && len(view) > maxState {
		view, err = nil, fmt.Errorf("a state of %d bytes is more than %d", word(12), maxState)
	}
	return append(spare, view...), true, nil, err
}

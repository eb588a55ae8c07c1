package wasi

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/proscenium-dev/proscenium/wit/canon"
	"github.com/proscenium-dev/proscenium/wit/component"
)

// A kind is that of a resource.
type kind string

const (
	kindError      kind = "error"
	kindPollable   kind = "pollable"
	kindInput      kind = "input-stream"
	kindOutput     kind = "output-stream"
	kindTerminal   kind = "terminal"
	kindDescriptor kind = "descriptor"
)

// A handle is a resource that the guest owns.
type handle struct {
	kind kind
	to   io.Writer // of an output-stream
	when uint64    // of a pollable, on the monotonic clock
}

// maxHandles bounds what a guest owns at a time.
const maxHandles = 1024

// handles are by their numbers. There is one table for all components of a
// file: what one of them owns, another may use.
type handles struct {
	all  map[uint32]handle
	last uint32
}

func (t *handles) add(h handle) uint64 {
	if len(t.all) >= maxHandles {
		panic(&canon.Trap{Reason: fmt.Sprintf("it has more than %d handles of WASI", maxHandles)})
	}
	if t.all == nil {
		t.all = map[uint32]handle{}
	}
	for {
		if t.last = (t.last + 1) & math.MaxInt32; t.last == 0 {
			continue
		}
		if _, used := t.all[t.last]; !used {
			t.all[t.last] = h
			return uint64(t.last)
		}
	}
}

func (t *handles) get(value uint64, k kind) handle {
	h, ok := t.all[uint32(value)]
	if !ok || h.kind != k {
		panic(&canon.Trap{Reason: fmt.Sprintf("%d is no handle of a %s", uint32(value), k)})
	}
	return h
}

func (w *World) drop(k kind) component.HostFunction {
	return func(_ context.Context, _ *canon.Lowerer, s []uint64) {
		w.handles.get(s[0], k)
		delete(w.handles.all, uint32(s[0]))
	}
}

// now is the monotonic clock: nanoseconds since the world began, and one.
func (w *World) now() uint64 { return uint64(time.Since(w.start)) + 1 }

// later is a moment, or the last one.
func later(now, duration uint64) uint64 {
	if t := now + duration; t >= now {
		return t
	}
	return math.MaxUint64
}

func (w *World) alarm(when uint64) uint64 {
	return w.handles.add(handle{kind: kindPollable, when: when})
}

// subscribe is a pollable of a stream, which is always ready.
func (w *World) subscribe(k kind) component.HostFunction {
	return func(_ context.Context, _ *canon.Lowerer, s []uint64) {
		w.handles.get(s[0], k)
		s[0] = w.alarm(0)
	}
}

func (w *World) ready(_ context.Context, _ *canon.Lowerer, s []uint64) {
	when := w.handles.get(s[0], kindPollable).when
	s[0] = 0
	if when <= w.now() {
		s[0] = 1
	}
}

func (w *World) block(ctx context.Context, _ *canon.Lowerer, s []uint64) {
	w.sleep(ctx, w.handles.get(s[0], kindPollable).when)
}

// sleep ends with the guest's time.
func (w *World) sleep(ctx context.Context, until uint64) {
	now := w.now()
	if until <= now {
		return
	}
	t := time.NewTimer(time.Duration(min(until-now, math.MaxInt64)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		panic(ctx.Err())
	}
}

// poll waits for one of a list at least and returns those that are ready.
func (w *World) poll(ctx context.Context, g *canon.Lowerer, s []uint64) {
	r := area(g, s[2], 8, 4)
	n := uint32(s[1])
	if n == 0 || n > maxHandles || uint32(s[0])%4 != 0 {
		panic(&canon.Trap{Reason: fmt.Sprintf("poll of %d pollables at %#x", n, uint32(s[0]))})
	}
	list, err := g.Memory.View(uint32(s[0]), 4*n)
	must(err)
	when, first := make([]uint64, n), uint64(math.MaxUint64)
	for i := range when {
		when[i] = w.handles.get(uint64(binary.LittleEndian.Uint32(list[4*i:])), kindPollable).when
		first = min(first, when[i])
	}
	w.sleep(ctx, first)
	var ready []byte
	for i, now := 0, max(w.now(), first); i < len(when); i++ {
		if when[i] <= now {
			ready = binary.LittleEndian.AppendUint32(ready, uint32(i))
		}
	}
	ptr, err := g.Alloc(ctx, uint32(len(ready)), 4)
	must(err)
	must(g.Memory.Store(ptr, ready))
	r.U32(0, ptr)
	r.U32(4, uint32(len(ready)/4))
	store(g, s[2], r)
}

// closed is the case of stream-error; the other one never happens.
const closed = 1

// read is at the end of stdin.
func (w *World) read(_ context.Context, g *canon.Lowerer, s []uint64) {
	w.handles.get(s[0], kindInput)
	r := area(g, s[2], 12, 4)
	r.U8(0, 1)
	r.U8(4, closed)
	store(g, s[2], r)
}

// maxWrite is how much may be written at once.
const maxWrite = 64 << 10

func (w *World) checkWrite(_ context.Context, g *canon.Lowerer, s []uint64) {
	w.handles.get(s[0], kindOutput)
	r := area(g, s[1], 16, 8)
	r.U64(8, maxWrite)
	store(g, s[1], r)
}

func (w *World) write(_ context.Context, g *canon.Lowerer, s []uint64) {
	h := w.handles.get(s[0], kindOutput)
	r := area(g, s[3], 12, 4)
	data, err := g.Memory.View(uint32(s[1]), uint32(s[2]))
	must(err)
	if len(data) > maxWrite {
		panic(&canon.Trap{Reason: fmt.Sprintf("it writes %d bytes at once, more than %d", len(data), maxWrite)})
	}
	if h.to != nil {
		h.to.Write(data) // into the log: it does not fail
	}
	store(g, s[3], r)
}

func (w *World) flush(_ context.Context, g *canon.Lowerer, s []uint64) {
	w.handles.get(s[0], kindOutput)
	store(g, s[1], area(g, s[1], 12, 4))
}

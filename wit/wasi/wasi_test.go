package wasi

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/wit/canon"
	"github.com/proscenium-dev/proscenium/wit/component"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/sys"
)

// guest is a page of memory whose realloc gives the second half.
func guest(t *testing.T) *canon.Lowerer {
	t.Helper()
	r := wazero.NewRuntime(t.Context())
	t.Cleanup(func() { r.Close(context.Background()) })
	m, err := r.Instantiate(t.Context(), []byte("\x00asm\x01\x00\x00\x00\x05\x03\x01\x00\x01\x07\x05\x01\x01m\x02\x00"))
	if err != nil {
		t.Fatal(err)
	}
	return &canon.Lowerer{Memory: canon.Memory{Memory: m.ExportedMemory("m")}, Realloc: func(_ context.Context, _, _ uint32) (uint32, error) {
		return 1 << 15, nil
	}}
}

// call calls a function and returns its result, or how it ended the guest.
func call(ctx context.Context, g *canon.Lowerer, f component.HostFunction, args ...uint64) (result uint64, err error) {
	defer func() {
		if e := recover(); e != nil {
			err = e.(error)
		}
	}()
	stack := append(args, 0)
	f(ctx, g, stack)
	return stack[0], nil
}

func world(t *testing.T) *World {
	t.Helper()
	w := &World{}
	if err := w.Add(&component.Host{}); err != nil { // the text has all of it
		t.Fatal(err)
	}
	return w
}

// TestHandles: only what the guest owns, as what it is.
func TestHandles(t *testing.T) {
	w, g := world(t), guest(t)
	stream, alarm := w.handles.add(handle{kind: kindOutput}), w.alarm(0)
	for what, c := range map[string]struct {
		f    component.HostFunction
		args []uint64
	}{
		"none":                  {w.ready, []uint64{0}},
		"unknown":               {w.ready, []uint64{alarm + 1}},
		"a stream as an alarm":  {w.ready, []uint64{stream}},
		"an alarm as a stream":  {w.checkWrite, []uint64{alarm, 16}},
		"output as input":       {w.read, []uint64{stream, 1, 16}},
		"dropped as another":    {w.drop(kindPollable), []uint64{stream}},
		"subscribed as another": {w.subscribe(kindInput), []uint64{stream}},
		"polled":                {w.poll, []uint64{1024, 1, 16}}, // memory is 0
	} {
		var trap *canon.Trap
		if _, err := call(t.Context(), g, c.f, c.args...); !errors.As(err, &trap) || !strings.Contains(err.Error(), "is no handle of a") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := call(t.Context(), g, w.drop(kindPollable), alarm); err != nil {
		t.Error(err)
	}
	if _, err := call(t.Context(), g, w.ready, alarm); err == nil {
		t.Error("what was dropped is there")
	}
	w.handles.last = math.MaxInt32 - 1 // numbers come round, past 0 and what is used
	for n := 1; ; n++ {
		id, err := call(t.Context(), g, func(_ context.Context, _ *canon.Lowerer, s []uint64) { s[0] = w.alarm(0) })
		if err != nil {
			if n != maxHandles {
				t.Errorf("the %dth is refused: %v", n, err)
			}
			break
		}
		if id == 0 || id == stream || n > maxHandles {
			t.Fatalf("handle %d is %d", n, id)
		}
	}
}

// TestClock: alarms ring in their time, and no longer than the guest's.
func TestClock(t *testing.T) {
	w, g := world(t), guest(t)
	past, soon, never := w.alarm(0), w.alarm(later(w.now(), uint64(time.Millisecond))), w.alarm(later(w.now(), math.MaxUint64))
	for i, id := range []uint64{never, soon, past} {
		g.Memory.WriteUint32Le(uint32(64+4*i), uint32(id))
	}
	if _, err := call(t.Context(), g, w.block, soon); err != nil {
		t.Error(err)
	}
	if r, err := call(t.Context(), g, w.ready, never); r != 0 || err != nil {
		t.Error(r, err)
	}
	if _, err := call(t.Context(), g, w.poll, 64, 3, 16); err != nil {
		t.Fatal(err)
	}
	area, _ := g.Memory.Read(16, 8)
	list, _ := g.Memory.Read(1<<15, 8)
	if !bytes.Equal(area, []byte{0, 0x80, 0, 0, 2, 0, 0, 0}) || !bytes.Equal(list, []byte{1, 0, 0, 0, 2, 0, 0, 0}) {
		t.Errorf("%v %v", area, list)
	}
	for what, args := range map[string][]uint64{"none": {64, 0, 16}, "misaligned": {65, 1, 16}, "many": {64, 1025, 16}, "far": {1<<16 - 4, 2, 16}, "area": {64, 1, 18}} {
		var trap *canon.Trap
		if _, err := call(t.Context(), g, w.poll, args...); !errors.As(err, &trap) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := call(ctx, g, w.block, never); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// TestStreams: what is written arrives, stdin is at its end.
func TestStreams(t *testing.T) {
	var out bytes.Buffer
	w, g := world(t), guest(t)
	to, in := w.handles.add(handle{kind: kindOutput, to: &out}), w.handles.add(handle{kind: kindInput})
	g.Memory.WriteString(100, "hello")
	if _, err := call(t.Context(), g, w.write, to, 100, 5, 16); err != nil || out.String() != "hello" {
		t.Errorf("%q, %v", &out, err)
	}
	for what, args := range map[string][]uint64{"far": {to, 1<<16 - 1, 2, 16}, "long": {to, 0, 1<<16 + 1, 16}, "area": {to, 100, 5, 1 << 16}} {
		if _, err := call(t.Context(), g, w.write, args...); err == nil || out.Len() != 5 {
			t.Errorf("%s: %v, %d bytes", what, err, out.Len())
		}
	}
	if _, err := call(t.Context(), g, w.read, in, 10, 16); err != nil {
		t.Fatal(err)
	}
	if r, _ := g.Memory.Read(16, 5); !bytes.Equal(r, []byte{1, 0, 0, 0, closed}) {
		t.Errorf("%v", r)
	}
	if _, err := call(t.Context(), g, w.checkWrite, to, 16); err != nil {
		t.Fatal(err)
	}
	if n, _ := g.Memory.ReadUint64Le(24); n != maxWrite {
		t.Error(n)
	}
}

// TestRandomAndExit: random bytes are bounded, an exit is the end.
func TestRandomAndExit(t *testing.T) {
	g := guest(t)
	if _, err := call(t.Context(), g, randomBytes, 32, 16); err != nil {
		t.Error(err)
	}
	area, _ := g.Memory.Read(16, 8)
	random, _ := g.Memory.Read(1<<15, 32)
	if binary.LittleEndian.Uint32(area[4:]) != 32 || bytes.Equal(random, make([]byte, 32)) {
		t.Errorf("%v %v", area, random)
	}
	var trap *canon.Trap
	if _, err := call(t.Context(), g, randomBytes, maxRandom+1, 16); !errors.As(err, &trap) {
		t.Error(err)
	}
	var exit *sys.ExitError
	if _, err := call(t.Context(), g, leave, 1); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Error(err)
	}
}

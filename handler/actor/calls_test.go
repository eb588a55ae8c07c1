package actor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/proscenium-dev/proscenium/handler"
	"github.com/tetratelabs/wazero/api"
)

// late is a handler that returns well just when its time is up.
type late struct {
	api.Function
	up func()
}

func (l late) CallWithStack(_ context.Context, stack []uint64) error {
	l.up()
	stack[0] = 0
	return nil
}

// TestLateCallsChangeNothing: a call that comes back too late, which the engine has
// not noticed, has failed, and the state is the one before it.
func TestLateCallsChangeNothing(t *testing.T) {
	s := newStage(t, cGuest(t, "chatter.c"), "/bin/sh")
	a, err := s.start(t)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := a.State()
	x := a.guest.handlers[exportExit]
	ctx, cancel := context.WithCancel(t.Context())
	x.call, x.post = late{x.call, cancel}, nil
	a.mu.Lock()
	_, err = a.exchange(ctx, x, event{export: exportExit})
	a.mu.Unlock()
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if after, ok := a.State(); !ok || string(after) != string(before) {
		t.Errorf("the state became %x", after)
	}
}

// TestEventsAllocateNothing: in steady state, without a deadline (whose watch is a
// goroutine of wazero's for each call), an event or a batch of them costs the host
// no memory.
func TestEventsAllocateNothing(t *testing.T) {
	// A flag makes it a core module, also where others run as components.
	for name, flags := range map[string][]string{"one by one": {"-DTHEATER_PLAIN"}, "in batches": {"-DTHEATER_BATCH"}} {
		source := "chatter.c"
		if name == "in batches" {
			source = "counter.c"
		}
		t.Run(name, func(t *testing.T) {
			s := newStage(t, cGuest(t, source, flags...), "/bin/sh")
			s.manifest.Deadline = 0
			s.manifest.State = []byte("11exit 0")
			a, err := s.start(t)
			if err != nil {
				t.Fatal(err)
			}
			event := []byte(strings.Repeat("x", 64))
			batch := handler.Batch{Data: []byte(strings.Repeat(string(event), 10))}
			for i := range 10 {
				batch.Ends = append(batch.Ends, uint32(64*(i+1)))
			}
			call := func() error { return a.HandleStdout(1, event) }
			if name == "in batches" {
				call = func() error { return a.HandleStdoutBatch(1, batch) }
			}
			if n := testing.AllocsPerRun(1000, func() { err = call() }); n != 0 || err != nil {
				t.Errorf("%v allocations an event, %v", n, err)
			}
		})
	}
}

// TestLogRate: what an actor logs too fast is counted and not logged, and its calls
// succeed.
func TestLogRate(t *testing.T) {
	s := newStage(t, cGuest(t, "chatter.c"), "/bin/sh")
	a, err := s.start(t)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.HandleStdout(1, []byte("l")); err != nil {
		t.Fatal(err)
	}
	// The calls take far less than a second, or two on a machine that stands still.
	if n := strings.Count(s.logged(), "msg=again"); n < maxLogRate || n > 3*maxLogRate {
		t.Errorf("%d of 5000 messages were logged", n)
	}
	a.mu.Lock()
	a.logRate.since = a.logRate.since.AddDate(0, 0, -1)
	a.mu.Unlock()
	if err := a.HandleStdout(1, []byte("l")); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(s.logged(), "the actor logs too much") {
		t.Error("nothing says how many were lost")
	}
	if state, _ := a.State(); binary.LittleEndian.Uint32(state) != 2 {
		t.Errorf("state %x", state)
	}
}

// TestWASIWhileAllocating: cabi_realloc may read the clock, since runtimes do, and
// call no more.
func TestWASIWhileAllocating(t *testing.T) {
	for _, c := range []struct{ name, params, arguments, want string }{
		{"random_get", "ii", "\x41\x00\x41\x00", "random_get was called from cabi_realloc"},
		{"fd_read", "iiii", "\x41\x00\x41\x00\x41\x00\x41\x00", "fd_read was called from cabi_realloc"},
		{"clock_time_get", "iIi", "\x41\x00\x42\x00\x41\x00", "init: wasm error: unreachable"},
	} {
		code := change(func(m *module) {
			m.imports = []field{{module: wasip1, name: c.name, params: c.params, results: "i"}}
			for i := range m.exports {
				if m.exports[i].name == "cabi_realloc" {
					m.exports[i].code = []byte("\x00" + c.arguments + "\x10\x00\x1a\x41\x10\x0b")
				}
			}
		})
		if _, err := newStage(t, code).start(t); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestLogBytes: long messages are few.
func TestLogBytes(t *testing.T) {
	s := newStage(t, cGuest(t, "chatter.c"), "/bin/sh")
	a, err := s.start(t)
	if err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	for range maxLogRate {
		a.say(slog.LevelInfo, "long", "error", strings.Repeat("x", 8<<10))
	}
	a.mu.Unlock()
	if n := len(s.logged()); n < maxLogBytes/2 || n > 3*maxLogBytes { // or two seconds, or three
		t.Errorf("%d bytes were logged", n)
	}
}

// TestErrsAreBounded: errs of handlers are logged and recorded as other words of a
// guest are, and every one is counted.
func TestErrsAreBounded(t *testing.T) {
	s := newStage(t, change(func(m *module) {
		m.imports = nil
		for i := range m.exports {
			switch m.exports[i].name {
			case "cabi_realloc":
				m.exports[i].code = []byte("\x00\x41\x80\x08\x0b") // always 1024
			case initName:
				m.exports[i].code = []byte("\x00\x41\x20\x0b") // ok, nothing
			case stdoutName:
				m.exports[i].code = []byte("\x00\x41\x10\x41\x01\x3a\x00\x00\x41\x10\x0b") // an empty err
			}
		}
	}))
	a, err := s.start(t)
	if err != nil {
		t.Fatal(err)
	}
	const calls = 5000
	for range calls {
		if err := a.HandleStdout(1, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	a.Close()
	// Far less than a second, or two on a machine that stands still.
	if n := strings.Count(s.logged(), "the actor returned an error"); n < maxLogRate || n > 3*maxLogRate {
		t.Errorf("%d of %d errs were logged", n, calls)
	}
	recorded := s.recorder.all(handler.ActorRefused)
	total := uint64(0)
	for _, e := range recorded {
		total += max(e.Count, 1)
	}
	if len(recorded) > calls/2 || total != calls {
		t.Errorf("%d records of %d errs", len(recorded), total)
	}
}

// TestMemoryIsGivenBack: what a guest has reserved is gone with it, and it grows in
// its place.
func TestMemoryIsGivenBack(t *testing.T) {
	addresses := func() (n uint64) {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		_, line, _ := strings.Cut(string(status), "VmSize:")
		fmt.Sscan(line, &n)
		return n << 10
	}
	before := addresses()
	for range 16 {
		s := newStage(t, good().encode(), "/usr/bin/true")
		s.manifest.Memory = 4 << 30
		if _, err := s.start(t); err == nil || !strings.Contains(err.Error(), "unreachable") {
			t.Fatal(err)
		}
	}
	if now := addresses(); now > before+32<<30 {
		t.Errorf("%d bytes of addresses became %d", before, now)
	}
	s := newStage(t, cGuest(t, "chatter.c"), "/bin/sh")
	s.manifest.Memory = 4 << 30
	a, err := s.start(t)
	if err != nil {
		t.Fatal(err)
	}
	if now := addresses(); now < before+4<<30 {
		t.Errorf("nothing is reserved: %d bytes of addresses became %d", before, now)
	}
	a.mu.Lock()
	memory := a.guest.handlers[exportExit].memory.Memory
	was, _ := memory.Read(0, 1)
	_, grown := memory.Grow(1000)
	is, _ := memory.Read(0, 1)
	a.mu.Unlock()
	if !grown || &was[0] != &is[0] {
		t.Error("it grows by copying")
	}
}

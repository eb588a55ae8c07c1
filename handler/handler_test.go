package handler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// recording is a Recorder for tests.
type recording struct {
	mu     sync.Mutex
	events []Event
}

func (r *recording) Record(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recording) kinds(id uint64) (kinds []Kind) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Process == id {
			kinds = append(kinds, e.Kind)
		}
	}
	return kinds
}

// collector is a Sink that keeps everything, and checks that the exit is last.
type collector struct {
	t      testing.TB
	mu     sync.Mutex
	stdout map[uint64][]string
	stderr map[uint64][]string
	exits  map[uint64]Result
	onExit func(id uint64)
}

func collect(t testing.TB) *collector {
	return &collector{t: t, stdout: map[uint64][]string{}, stderr: map[uint64][]string{}, exits: map[uint64]Result{}}
}

func (c *collector) output(m map[uint64][]string, id uint64, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.exits[id]; ok {
		c.t.Errorf("process %d: output after its exit", id)
	}
	m[id] = append(m[id], string(data))
	return nil
}

func (c *collector) HandleStdout(id uint64, data []byte) error { return c.output(c.stdout, id, data) }
func (c *collector) HandleStderr(id uint64, data []byte) error { return c.output(c.stderr, id, data) }
func (c *collector) HandleExit(id uint64, r Result) error {
	c.mu.Lock()
	if _, ok := c.exits[id]; ok {
		c.t.Errorf("process %d: a second exit", id)
	}
	c.exits[id] = r
	c.mu.Unlock()
	if c.onExit != nil {
		c.onExit(id)
	}
	return nil
}

// awaitOutput waits until the process has said something.
func (c *collector) awaitOutput(id uint64) {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		c.mu.Lock()
		n := len(c.stdout[id])
		c.mu.Unlock()
		if n > 0 {
			return
		}
	}
	c.t.Fatalf("process %d says nothing", id)
}

func newHandler(t testing.TB, c Config, r Recorder) *Handler {
	t.Helper()
	h, err := New(c, testenv.Launcher(t), testenv.Group(t), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func allow(programs ...string) Config {
	c := DefaultConfig()
	c.AllowedPrograms = programs
	return c
}

func wait(t testing.TB, h *Handler) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := h.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestLinesAndExit(t *testing.T) {
	r, sink := &recording{}, collect(t)
	h := newHandler(t, allow("/usr/bin/seq"), r)
	id, err := h.Spawn(context.Background(), ProcessConfig{Program: "/usr/bin/seq", Args: []string{"100000"}, StdoutMode: LineByLine}, sink)
	if err != nil {
		t.Fatal(err)
	}
	wait(t, h)
	lines := sink.stdout[id]
	if len(lines) != 100000 || lines[0] != "1" || lines[99999] != "100000" {
		t.Errorf("%d lines", len(lines))
	}
	if e := sink.exits[id]; e.Reason != Exited || e.ExitCode != 0 || e.MemoryPeak == 0 {
		t.Errorf("exit %+v", e)
	}
	if k := fmt.Sprint(r.kinds(id)); k != "[spawned ended]" {
		t.Errorf("recorded %s", k)
	}
}

func TestStdinRoundTrip(t *testing.T) {
	sink := collect(t)
	h := newHandler(t, allow("/usr/bin/cat"), nil)
	id, err := h.Spawn(context.Background(), ProcessConfig{Program: "/usr/bin/cat"}, sink)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB, more than any queue
	for rest := want; len(rest) > 0; {
		n, err := h.WriteStdin(id, rest)
		if err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := h.CloseStdin(id); err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteStdin(id, []byte("x")); err == nil {
		t.Error("a write after the close was taken")
	}
	wait(t, h)
	if got := strings.Join(sink.stdout[id], ""); got != string(want) {
		t.Errorf("cat gave %d bytes of %d", len(got), len(want))
	}
	if err := h.Kill(id); !errors.Is(err, ErrExited) {
		t.Errorf("kill after the exit: %v", err)
	}
	if s, err := h.Status(id); err != nil || s.Running || s.State != Gone {
		t.Errorf("status after the exit: %+v, %v", s, err)
	}
}

func TestKillGivesOneExit(t *testing.T) {
	sink := collect(t)
	h := newHandler(t, allow("/usr/bin/sleep"), nil)
	id, err := h.Spawn(context.Background(), ProcessConfig{Program: "/usr/bin/sleep", Args: []string{"1000"}}, sink)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := h.Status(id); err != nil || !s.Running || s.Memory == 0 {
		t.Errorf("status: %+v, %v", s, err)
	}
	if err := h.Kill(id); err != nil {
		t.Fatal(err)
	}
	wait(t, h)
	if e := sink.exits[id]; e.Reason != Killed || e.ExitCode != 137 {
		t.Errorf("exit %+v", e)
	}
}

// TestNoDescriptors: whichever descriptor of a start is one too many, it is an error,
// and nothing is left of it.
func TestNoDescriptors(t *testing.T) {
	testenv.NoLeaks(t)
	c := DefaultConfig()
	c.AllowedPrograms = []string{"/usr/bin/true"}
	h, err := New(c, testenv.Launcher(t), testenv.Group(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	spawn := func() error {
		_, err := h.Spawn(testenv.Context(t), ProcessConfig{Program: "/usr/bin/true"}, Discard)
		return errors.Join(err, h.Wait(testenv.Context(t)))
	}
	// What is opened once; and what a program had is given back a moment after its end.
	t.Run("first", func(t *testing.T) {
		testenv.NoLeaks(t)
		if err := spawn(); err != nil {
			t.Fatal(err)
		}
	})
	var own unix.Rlimit
	few := unix.Rlimit{Cur: 256}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &own); err != nil {
		t.Fatal(err)
	}
	few.Max = own.Max
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &few, nil); err != nil {
		t.Fatal(err)
	}
	defer unix.Prlimit(0, unix.RLIMIT_NOFILE, &own, nil)
	var taken []int
	defer func() {
		for _, fd := range taken {
			unix.Close(fd)
		}
	}()
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		taken = append(taken, fd)
	}
	refused := 0
	for err := spawn(); err != nil; err = spawn() {
		if refused++; !errors.Is(err, unix.EMFILE) || len(taken) == 0 {
			t.Fatalf("with %d to spare: %v", refused-1, err)
		}
		unix.Close(taken[len(taken)-1])
		taken = taken[:len(taken)-1]
	}
	if refused < 10 {
		t.Errorf("a start was refused for want of descriptors only %d times", refused)
	}
}

package handler

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/tests/testenv"
)

// aStream is one more stream of a program that says nothing itself, and where it is
// written.
func aStream(t *testing.T, mode Mode, sink Sink) (s *stream, write func(text string), end func()) {
	t.Helper()
	h := newHandler(t, allow("/usr/bin/cat"), nil)
	id, err := h.Spawn(context.Background(), ProcessConfig{Program: "/usr/bin/cat", StdoutMode: mode}, sink)
	if err != nil {
		t.Fatal(err)
	}
	read, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	p := h.processes[id]
	p.open++
	h.mu.Unlock()
	s = newStream(p, "stdout", read, mode, readSize)
	go s.read()
	write = func(text string) {
		if _, err := w.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	return s, write, func() {
		w.Close()
		if err := h.CloseStdin(id); err != nil {
			t.Fatal(err)
		}
		wait(t, h)
	}
}

type lineSink struct {
	lines chan struct{}
	sleeper
}

func (s *lineSink) HandleStdout(uint64, []byte) error {
	s.lines <- struct{}{}
	return nil
}

// raced is whether this is a build with the race detector.
func raced() bool {
	info, _ := debug.ReadBuildInfo()
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// TestALineCostsNoMemory: who says a line now and then does not fill the heap.
func TestALineCostsNoMemory(t *testing.T) {
	testenv.NoLeaks(t)
	sink := &lineSink{lines: make(chan struct{})}
	_, write, end := aStream(t, LineByLine, sink)
	if n := testing.AllocsPerRun(1000, func() {
		write("a line\n")
		<-sink.lines
	}); n > 0 && !raced() { // which lets pools lose some
		t.Errorf("%v allocations", n)
	}
	end()
}

// A gate lets calls through once it is open, and keeps what they brought.
type gate struct {
	sleeper
	entered chan struct{} // told of a call, if somebody listens
	open    chan struct{}
	mu      sync.Mutex
	got     bytes.Buffer
}

func newGate() *gate { return &gate{entered: make(chan struct{}, 1), open: make(chan struct{})} }

func (g *gate) HandleStdout(_ uint64, data []byte) error {
	select {
	case g.entered <- struct{}{}:
	default:
	}
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	g.got.Write(data)
	return nil
}

// until waits for what no event tells. Whoever waits in vain is to clean up.
func until(t *testing.T, what string, f func() bool) bool {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Errorf("in vain: %s", what)
			return false
		}
	}
	return true
}

// TestBytesThatWait: what a program writes byte by byte while its sink sleeps takes
// hardly more memory than is counted for it, and is none the worse for it.
func TestBytesThatWait(t *testing.T) {
	testenv.NoLeaks(t)
	g := newGate()
	stream, write, end := aStream(t, Raw, g)
	p := stream.process
	p.h.mu.Lock()
	p.h.quick = false // or the reader would sleep in the sink itself
	p.h.mu.Unlock()
	write("a")
	<-g.entered
	want := "a"
	for i := range 1000 {
		text := string(rune('b' + i%20))
		want += text
		write(text)
		if !until(t, "the reading of a byte", func() bool {
			n := 0
			p.h.mu.Lock()
			defer p.h.mu.Unlock()
			for _, c := range stream.chunks {
				n += len(c.data)
			}
			return n == len(want)-1 // the first is with the sink
		}) {
			break
		}
	}
	p.h.mu.Lock()
	chunks, taken := len(stream.chunks), 0
	for _, c := range stream.chunks {
		taken += cap(c.data)
	}
	p.h.mu.Unlock()
	if chunks > 2 || taken > 2*len(want)+bulk {
		t.Errorf("%d chunks of %d bytes for %d bytes", chunks, taken, len(want))
	}
	close(g.open)
	end()
	if got := g.got.String(); got != want {
		t.Errorf("%d bytes of %d, or others", len(got), len(want))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.used != 0 || stream.unread != 0 {
		t.Errorf("%d and %d bytes are still counted", p.used, stream.unread)
	}
}

// TestReadSizes: whatever the lengths of writes, all of it arrives as it was written,
// through small buffers and large ones; each by itself, and many behind each other.
func TestReadSizes(t *testing.T) {
	testenv.NoLeaks(t)
	for _, alone := range []bool{true, false} {
		g := newGate()
		close(g.open)
		_, write, end := aStream(t, Raw, g)
		var want bytes.Buffer
		for i, n := range []int{1, bulk - 1, bulk, 1, bulk, bulk, bulk + 1, 2 * bulk, keptFrom - 1, keptFrom, 1, keptFrom + 1, readSize - 1, readSize, readSize + 1, 1, 3 * readSize, 7} {
			text := strings.Repeat(string(rune('a'+i)), n)
			want.WriteString(text)
			write(text)
			if alone && !until(t, fmt.Sprintf("a write of %d bytes", n), func() bool {
				g.mu.Lock()
				defer g.mu.Unlock()
				return g.got.Len() == want.Len()
			}) {
				break
			}
		}
		end()
		if !bytes.Equal(g.got.Bytes(), want.Bytes()) {
			t.Errorf("%d bytes of %d, or others", g.got.Len(), want.Len())
		}
	}
}

package handler

import (
	"bytes"
	"context"
	"os"
	"runtime"
	"testing"

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

// TestALineCostsNoMemory: who says a line now and then does not fill the heap.
func TestALineCostsNoMemory(t *testing.T) {
	testenv.NoLeaks(t)
	sink := &lineSink{lines: make(chan struct{})}
	_, write, end := aStream(t, LineByLine, sink)
	if n := testing.AllocsPerRun(1000, func() {
		write("a line\n")
		<-sink.lines
	}); n > 1 { // the race detector lets pools lose some
		t.Errorf("%v allocations", n)
	}
	end()
}

// TestBytesThatWait: what a program writes byte by byte takes hardly more memory than
// is counted for it.
func TestBytesThatWait(t *testing.T) {
	testenv.NoLeaks(t)
	s := &sleeper{awake: make(chan struct{})}
	stream, write, end := aStream(t, Raw, s)
	p := stream.process
	// Somebody else is under delivery, or the reader would sleep in the sink itself.
	if _, err := p.h.WriteStdin(p.id, []byte("y")); err != nil {
		t.Fatal(err)
	}
	for delivering := false; !delivering; runtime.Gosched() {
		p.h.mu.Lock()
		delivering = p.h.delivering
		p.h.mu.Unlock()
	}
	const total = 1000
	for i := range total {
		write("x")
		for waiting := 0; waiting < i+1; runtime.Gosched() { // until it has been read
			waiting = 0
			p.h.mu.Lock()
			for _, c := range stream.chunks {
				waiting += len(c.data)
			}
			p.h.mu.Unlock()
		}
	}
	p.h.mu.Lock()
	chunks, taken := len(stream.chunks), 0
	for _, c := range stream.chunks {
		taken += cap(c.data)
	}
	p.h.mu.Unlock()
	if chunks > 2 || taken > 2*total+bulk {
		t.Errorf("%d chunks of %d bytes for %d bytes", chunks, taken, total)
	}
	close(s.awake)
	end()
	if n := s.bytes.Load(); n != total+1 {
		t.Errorf("%d bytes of %d", n, total+1)
	}
}

// TestReadSizes: whatever the lengths of writes, all of it arrives as it was written,
// through small buffers and large ones, at once or after waiting.
func TestReadSizes(t *testing.T) {
	testenv.NoLeaks(t)
	var got bytes.Buffer
	sink := &bufferSink{Buffer: &got}
	_, write, end := aStream(t, Raw, sink)
	var want bytes.Buffer
	for i, n := range []int{1, bulk - 1, bulk, bulk + 1, 2 * bulk, keptFrom - 1, keptFrom, keptFrom + 1, readSize - 1, readSize, readSize + 1, 1, 3 * readSize, 7} {
		text := string(bytes.Repeat([]byte{byte('a' + i)}, n))
		want.WriteString(text)
		write(text)
	}
	end()
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes of %d, or others", got.Len(), want.Len())
	}
}

// A bufferSink is told of everything by one goroutine at a time.
type bufferSink struct {
	*bytes.Buffer
	sleeper
}

func (s *bufferSink) HandleStdout(_ uint64, data []byte) error {
	s.Write(data)
	return nil
}

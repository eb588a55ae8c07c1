package handler

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// stdinQueue is how many bytes wait for a program that does not read.
const stdinQueue = 1 << 20

// stdin feeds a program. Writing to it never blocks: what fits is queued, and a
// goroutine that lives while there is something to write passes it on.
type stdin struct {
	process *process
	file    *os.File

	mu      sync.Mutex
	queue   []byte
	writing bool  // the goroutine runs
	closing bool  // no more will be queued; close behind the queue
	err     error // why nothing can be written any more
}

var (
	// ErrStdinClosed is a write after os-close-stdin.
	ErrStdinClosed = errors.New("stdin is closed")
	// ErrNoReader is a write to a program that has closed its stdin, or ended.
	ErrNoReader = errors.New("the program does not read its stdin any more")
	// ErrNoStdin is a write where the manifest says stdin = "null".
	ErrNoStdin = errors.New(`the program has no stdin (stdin = "null")`)
)

func newStdin(p *process, f *os.File) *stdin { return &stdin{process: p, file: f} }

// write queues what fits and says how much that was.
func (s *stdin) write(data []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	if s.closing {
		return 0, ErrStdinClosed
	}
	n := min(len(data), stdinQueue-len(s.queue))
	if n > 0 {
		s.queue = append(s.queue, data[:n]...)
		s.pump()
	}
	return n, nil
}

// close lets the program read the end, behind what is queued.
func (s *stdin) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return ErrStdinClosed
	}
	s.closing = true
	if s.err == nil {
		s.pump()
	}
	return nil
}

// abort gives up what is queued: the program is gone.
func (s *stdin) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = ErrNoReader
	}
	s.queue = nil
	s.file.Close() // interrupts a write
}

// pump starts the goroutine; s.mu is held.
func (s *stdin) pump() {
	if s.writing {
		return
	}
	s.writing = true
	go s.drain()
}

func (s *stdin) drain() {
	const most = 64 << 10
	buffer := make([]byte, 0, most)
	for {
		s.mu.Lock()
		if len(s.queue) == 0 || s.err != nil {
			s.writing = false
			if s.closing && s.err == nil {
				s.err = ErrStdinClosed
				s.file.Close()
			}
			s.mu.Unlock()
			return
		}
		buffer = append(buffer[:0], s.queue[:min(len(s.queue), most)]...)
		if s.queue = s.queue[len(buffer):]; len(s.queue) == 0 {
			s.queue = nil
		}
		s.mu.Unlock()
		if _, err := s.file.Write(buffer); err != nil {
			s.broken(err)
		}
	}
}

func (s *stdin) broken(err error) {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = ErrNoReader
		s.file.Close()
	}
	s.queue = nil
	s.mu.Unlock()
	if first {
		if errors.Is(err, unix.EPIPE) {
			err = ErrNoReader
		}
		s.process.h.record(Event{Kind: StdinFailed, Process: s.process.id, Program: s.process.request.Program, Error: err.Error()})
	}
}

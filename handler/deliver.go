package handler

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A stream is stdout or stderr of a process. Its reader reads; whoever delivers cuts
// what was read into events, so that a line costs neither a copy nor a goroutine's
// wake-up. That is the reader itself while sinks are quick and nothing else is to be
// delivered, and the handler's goroutine otherwise.
//
//	pipe ──reader──► chunks ──delivery: framer──► sink
//
// What waits, in chunks and in the framer, counts against the process's
// max_output_buffer; when that is reached the reader stops and the program
// blocks on its pipe.
type stream struct {
	process *process
	name    string
	file    *os.File
	framer  framer
	handle  func(id uint64, data []byte) error
	// handleBatch instead, where the sink takes batches.
	handleBatch func(id uint64, b Batch) error
	bytes       *atomic.Uint64 // of the handler's statistics
	emit        emit
	total       atomic.Uint64 // bytes delivered of this stream
	events      uint64        // of this turn: counted once a turn, not once a line
	foreign     atomic.Bool   // the program is gone: an empty pipe is the end

	chunks []chunk // guarded by the handler's mu
	queued bool    // likewise: it stands in the ready list
	unread int     // guarded by the process's mu: bytes counted for chunks
}

// A chunk is what one read gave, or several small ones. end: there is no more.
type chunk struct {
	data    []byte
	counted int     // of max_output_buffer
	buffer  *buffer // that data is in; nil: it is by itself
	end     bool
}

// readSize is the most that one read takes; with pipes of 1 MiB larger buffers
// gain nothing. leastRead is what a stream with nothing queued may always read,
// so that one full of an unfinished line goes on.
const (
	readSize  = 256 << 10
	leastRead = 4 << 10
)

// A buffer is what is read into. What fills less than an eighth of a large one is
// copied if it has to wait.
type buffer struct {
	data []byte
	pool *sync.Pool
}

const keptFrom = readSize / 8

// Small ones are for whoever says a line now and then: of a thousand of those, hundreds
// may read at once.
var smallBuffers, largeBuffers = newBuffers(bulk), newBuffers(readSize)

func newBuffers(size int) *sync.Pool {
	pool := &sync.Pool{}
	pool.New = func() any { return &buffer{make([]byte, size), pool} }
	return pool
}

func (b *buffer) free() {
	if b != nil {
		b.pool.Put(b)
	}
}

func newStream(p *process, name string, f *os.File, mode Mode, size int) *stream {
	s := &stream{process: p, name: name, file: f, handle: p.sink.HandleStdout, bytes: &p.h.stats.stdout}
	if name == "stderr" {
		s.handle, s.bytes = p.sink.HandleStderr, &p.h.stats.stderr
	}
	s.framer = newFramer(mode, size, func(n int) {
		p.h.record(Event{Kind: NotJSON, Process: p.id, Program: p.request.Program, Stream: name, Bytes: int64(n)})
	})
	s.handleBatch = batches(p.sink, name)
	s.emit = func(event []byte) error {
		s.events++
		if s.handleBatch != nil {
			return s.add(event)
		}
		return s.handle(p.id, event)
	}
	return s
}

// A reader takes from a stream's pipe.
type reader struct {
	stream  *stream
	raw     syscall.RawConn
	take    func(fd uintptr) bool // takeFrom, made once
	allowed int
	bulky   bool  // what came last was bulk bytes or more
	got     chunk // of the last read, and
	err     error // EAGAIN: it would have had to wait
}

// read runs until the end of the stream.
func (s *stream) read() {
	defer s.file.Close()
	p := s.process
	grown := false
	r := &reader{stream: s}
	r.take = r.takeFrom
	var err error
	r.raw, err = s.file.SyscallConn()
	for err == nil {
		if r.allowed = p.reserve(s, readSize); r.allowed == 0 {
			break
		}
		err = r.next()
		p.recount(s, r.allowed, r.got.counted)
		if !grown && len(r.got.data) >= growAt {
			growPipe(r.raw)
			grown = true
		}
		if err == nil {
			p.limit(&r.got)
			p.h.enqueue(s, r.got)
		}
		r.got = chunk{} // a silent reader holds no buffer
	}
	if err != nil && !errors.Is(err, io.EOF) && !p.abandoned() {
		p.h.record(Event{Kind: ReadFailed, Process: p.id, Program: p.request.Program, Stream: s.name, Error: err.Error()})
	}
	p.h.enqueue(s, chunk{end: true})
}

// next waits for output and takes at most what is allowed. A buffer is borrowed only
// once there may be something to read, so that a thousand silent programs cost nothing.
func (r *reader) next() error {
	err := r.raw.Read(r.take)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// The program is gone; once more for what it left in the pipe.
		err = r.raw.Control(func(fd uintptr) { r.takeFrom(fd) })
	}
	if err != nil {
		return err // r.err is that of the attempt before it waited
	}
	return r.err
}

func (r *reader) takeFrom(fd uintptr) (done bool) {
	b, n := (*buffer)(nil), 0
	if !r.bulky || r.allowed <= bulk {
		b = smallBuffers.Get().(*buffer)
		n, r.err = fill(int(fd), b.data[:min(r.allowed, bulk)])
	}
	if b == nil || n == bulk && r.allowed > bulk {
		small := b
		b = largeBuffers.Get().(*buffer)
		if small != nil {
			copy(b.data, small.data)
			small.free()
		}
		var m int
		if m, r.err = fill(int(fd), b.data[n:r.allowed]); n > 0 {
			r.err = nil // the next read tells what it was
		}
		n += m
	}
	if n == 0 {
		b.free()
		if r.err == unix.EAGAIN && r.stream.foreign.Load() {
			r.err = io.EOF
		}
		return r.err != unix.EAGAIN
	}
	r.bulky = n >= bulk
	r.got = chunk{data: b.data[:n], counted: n, buffer: b}
	switch {
	case n < keptFrom:
	case r.allowed == readSize:
		r.got.counted = readSize
	default: // the whole buffer would be more than is allowed
		r.got.keep()
	}
	return true
}

// A reader that got bulk bytes looks for more before it passes on what it has, up to
// patience times. A program that writes without pause fills the buffer in the meantime,
// which is then one chunk and not thirty; less is passed on at once. The pipe's lock
// gives the program its turn; the scheduler of the runtime, asked to run somebody else
// meanwhile, would take the reader to another processor, most likely the program's.
const (
	bulk     = 4 << 10
	patience = 16
)

// fill reads until b is full or nothing more comes. The error is that of a read
// that gave nothing: io.EOF, EAGAIN or what went wrong.
func fill(fd int, b []byte) (n int, err error) {
	for looks := 0; n < len(b); {
		m, err := unix.Read(fd, b[n:])
		switch {
		case err == unix.EINTR:
		case m > 0:
			n += m
			looks = 0
			if n < bulk {
				return n, nil
			}
		case n == 0 && err == nil:
			return 0, io.EOF
		case n == 0:
			return 0, err
		case err != unix.EAGAIN || looks == patience:
			return n, nil // the next read tells what it was
		default:
			looks++
		}
	}
	return n, nil
}

// drain tells the reader that nobody who may write is left: what an empty pipe
// then waits for is a stranger's.
func (s *stream) drain() {
	s.foreign.Store(true)
	s.file.SetReadDeadline(time.Unix(1, 0)) // wakes a reader that waits
}

// An item is what delivery does next: a turn of a stream, or an exit.
type item struct {
	stream *stream
	exit   *process
}

// quick is how long the delivery of a chunk may take for a reader to do the next one
// itself. While sinks take longer, readers go on reading, up to the bound; a sink that
// is slow for the first time holds up its own stream's reading for that one call, and
// the program has the room of its pipe.
const quick = time.Millisecond

// enqueue hands a chunk to delivery. If nobody delivers and nothing waits, the
// reader does it at once: no goroutine has to wake up, and what was read is still in
// this processor's cache.
func (h *Handler) enqueue(s *stream, c chunk) {
	h.mu.Lock()
	if h.busy(s) && len(c.data) >= joined {
		h.mu.Unlock() // nobody waits for a copy; and nobody else appends to this stream
		c.keep()
		h.mu.Lock()
	}
	if h.busy(s) {
		s.wait(c)
		if !s.queued {
			s.queued = true
			h.push(item{stream: s})
		}
		h.mu.Unlock()
		return
	}
	s.queued, h.delivering = true, true
	s.chunks = append(s.chunks, c)
	h.mu.Unlock()
	if err := h.turn(s); err != nil {
		h.fail(err)
	}
	h.mu.Lock()
	h.delivering = false
	if len(h.ready) > 0 || h.closed {
		h.wake.Signal()
	}
	h.mu.Unlock()
}

// busy is whether what a stream has read has to wait; h.mu is held.
func (h *Handler) busy(s *stream) bool {
	return s.queued || !h.quick || h.delivering || len(h.ready) > 0 || h.closed
}

// Less than joined bytes that wait are joined, up to bulk: of a program that writes byte by
// byte, each would take more than is counted for it.
const joined = 512

// wait lets a chunk wait for its turn; h.mu is held.
func (s *stream) wait(c chunk) {
	if n := len(s.chunks) - 1; n > 0 && len(c.data) < joined && c.buffer != nil { // the first may be delivered just now
		if last := &s.chunks[n]; last.buffer == nil && len(last.data)+len(c.data) <= bulk {
			last.data = append(last.data, c.data...)
			last.counted += c.counted
			c.buffer.free()
			return
		}
	}
	c.keep()
	s.chunks = append(s.chunks, c)
}

// keep takes a chunk out of a buffer that is not counted whole.
func (c *chunk) keep() {
	if b := c.buffer; b != nil && c.counted < readSize {
		c.data, c.buffer = bytes.Clone(c.data), nil
		b.free()
	}
}

// push appends to the ready list; h.mu is held.
func (h *Handler) push(i item) {
	h.ready = append(h.ready, i)
	h.wake.Signal()
}

// turn is how many bytes of one stream are delivered before others get theirs.
const turn = readSize

// deliver calls sinks for what could not be delivered at once, and for exits.
// Whatever has something to deliver takes turns; delivering keeps calls apart.
func (h *Handler) deliver() {
	defer close(h.delivered)
	for first := true; ; first = false {
		i, ok := h.next(!first)
		if !ok {
			return
		}
		var err error
		if i.exit != nil {
			err = i.exit.sink.HandleExit(i.exit.id, i.exit.result)
			h.stats.events.Add(1)
			h.forget(i.exit)
		} else {
			err = h.turn(i.stream)
		}
		if err != nil {
			h.fail(err)
		}
	}
}

// next waits for something to deliver while nobody else does; done: the caller has
// delivered. Not ok: nothing more will be.
func (h *Handler) next(done bool) (item, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if done {
		h.delivering = false
	}
	for h.delivering || len(h.ready) == 0 && !h.closed {
		h.wake.Wait()
	}
	if h.closed {
		return item{}, false
	}
	h.delivering = true
	i := h.ready[0]
	if h.ready = h.ready[1:]; len(h.ready) == 0 {
		h.ready = nil // let go of the array
	}
	return i, true
}

// turn delivers up to a turn's bytes of the stream's first chunk.
func (h *Handler) turn(s *stream) error {
	h.mu.Lock()
	c := &s.chunks[0] // readers only append
	data := c.data[:min(len(c.data), turn)]
	c.data = c.data[len(data):]
	last := len(c.data) == 0
	whole := *c
	h.mu.Unlock()

	p := s.process
	began := time.Now()
	held := s.framer.held()
	err := s.framer.write(data, s.emit)
	if err == nil && whole.end {
		err = s.framer.close(s.emit)
	}
	if err == nil {
		err = s.flush()
	}
	s.bytes.Add(uint64(len(data)))
	s.total.Add(uint64(len(data)))
	p.h.stats.events.Add(s.events)
	s.events = 0
	if last {
		p.recount(s, whole.counted, 0)
		whole.buffer.free()
	}
	p.hold(held, s.framer.held())

	h.mu.Lock()
	defer h.mu.Unlock()
	h.quick = time.Since(began) < quick
	if last {
		s.chunks[0] = chunk{}
		switch {
		case len(s.chunks) > 1:
			s.chunks = s.chunks[1:]
		case cap(s.chunks) > 1:
			s.chunks = nil // let go of the array
		default:
			s.chunks = s.chunks[:0] // for the next, most likely the only one as well
		}
	}
	if s.queued = len(s.chunks) > 0; s.queued {
		h.push(item{stream: s})
	}
	if whole.end {
		h.closeLocked(p)
	}
	return err
}

// closeLocked counts down what is open of a process; behind the last comes its
// exit.
func (h *Handler) closeLocked(p *process) {
	if p.open--; p.open == 0 {
		h.push(item{exit: p})
	}
}

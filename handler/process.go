package handler

import (
	"fmt"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Sink takes the events of processes. Calls are strictly serial for one
// Handler. Per stream, events are the bytes in order; the exit is exactly one
// and comes last. The bytes are valid until the call returns. An error fails
// the handler: its processes are killed and nothing more is delivered.
type Sink interface {
	HandleStdout(id uint64, data []byte) error
	HandleStderr(id uint64, data []byte) error
	HandleExit(id uint64, result Result) error
}

// A State is where in its life a process is; it only ever advances.
type State int

const (
	Starting State = iota
	Running
	Exiting // it was asked to end, or killed
	Gone    // nothing of it is left
)

// A Status answers os-status.
type Status struct {
	ID       uint64
	State    State
	Running  bool
	ExitCode int // once it is not running
	Reason   Reason
	Start    time.Time
	CPU      float32 // percent of one core since a Status call at least 20 ms ago, or the start
	Memory   uint64  // bytes in use
}

// A process is one program of an actor, from its permit to its exit event.
type process struct {
	h       *Handler
	id      uint64
	request ProcessConfig
	sink    Sink
	cell    *Cell
	stdin   *stdin
	streams [2]*stream
	start   time.Time
	hostID  int // of its own, from Config.IDRange; 0: none

	// Guarded by h.mu.
	open      int  // streams and the program itself that have not ended: 3, 2, 1, 0
	gone      bool // nothing of the program is left
	exiting   bool
	forgotten bool // its exit has been delivered
	result    Result
	meter     meter

	mu    sync.Mutex // guards what follows, and unread of its streams
	space sync.Cond  // used has become less, or reading is over
	used  int64      // bytes of output that wait, in queues and framers
	read  int64      // bytes of output so far
	over  bool       // nobody wants the output any more
}

// pipeSize is asked for the pipe of a stream of which one read gave growAt, half of
// what a pipe holds as it comes: the lever of throughput, and ten kilobytes of the
// kernel's that a quiet program does not need. An ordinary user's total is bounded
// (pipe-user-pages-soft), then smaller ones serve.
const (
	pipeSize = 1 << 20
	growAt   = 32 << 10
)

func growPipe(raw syscall.RawConn) {
	raw.Control(func(fd uintptr) {
		for size := pipeSize; size > 64<<10; size /= 2 {
			if _, err := unix.FcntlInt(fd, unix.F_SETPIPE_SZ, size); err == nil {
				return
			}
		}
	})
}

// attach takes our ends of the pipes.
func (p *process) attach(s *stage, m *permit) {
	p.streams[0] = newStream(p, "stdout", s.stdout, p.request.StdoutMode, m.stdoutSize)
	p.streams[1] = newStream(p, "stderr", s.stderr, p.request.StderrMode, m.stderrSize)
	if s.stdin != nil {
		p.stdin = newStdin(p, s.stdin)
	}
	p.hostID = s.hostID
}

// reserve waits until the stream may read and says how much, at most want; 0
// when nobody wants its output any more.
func (p *process) reserve(s *stream, want int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := p.h.policy.config.MaxOutputBuffer
	for !p.over && p.used >= limit && s.unread > 0 {
		p.space.Wait()
	}
	if p.over {
		return 0
	}
	n := int(max(min(int64(want), limit-p.used), min(leastRead, limit)))
	p.used += int64(n)
	s.unread += n
	return n
}

// recount changes what is counted for a stream's chunks.
func (p *process) recount(s *stream, before, now int) {
	p.mu.Lock()
	p.used += int64(now - before)
	s.unread += now - before
	p.mu.Unlock()
	p.space.Broadcast()
}

// limit takes what was read, and cuts it where the program's output budget ends;
// then the program is killed.
func (p *process) limit(c *chunk) {
	most := p.h.policy.config.Budgets.Output
	if most == 0 {
		return
	}
	p.mu.Lock()
	left := most - p.read
	p.read += int64(len(c.data))
	p.mu.Unlock()
	if int64(len(c.data)) > left {
		c.data = c.data[:max(left, 0)]
		p.cell.Kill(OutputLimit)
	}
}

// hold changes what is counted for a framer.
func (p *process) hold(before, now int) {
	if before == now {
		return
	}
	p.mu.Lock()
	p.used += int64(now - before)
	p.mu.Unlock()
	p.space.Broadcast()
}

// abandoned says whether the reading of output was ended: files are closed under
// its readers, which is no loss.
func (p *process) abandoned() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over
}

// abandon ends the reading of output.
func (p *process) abandon() {
	p.mu.Lock()
	p.over = true
	p.mu.Unlock()
	p.space.Broadcast()
	for _, s := range p.streams {
		s.file.Close() // wakes its reader
	}
	if p.stdin != nil {
		p.stdin.abort()
	}
}

// end is called when nothing of the program is left.
func (p *process) end() {
	hostIDs.release(p.hostID)
	result := p.cell.Wait()
	if p.stdin != nil {
		p.stdin.abort()
	}
	// Whoever still holds a pipe is not of this program; what is in it is.
	for _, s := range p.streams {
		s.drain()
	}
	code := result.ExitCode
	p.h.record(Event{Kind: Ended, Process: p.id, Program: p.request.Program, ExitCode: &code, Signal: int(result.Signal), Reason: result.Reason,
		Wall: result.Wall.Seconds(), CPU: result.CPU.Seconds(), MemoryPeak: result.MemoryPeak})
	p.h.ended(p, result)
}

// status must be called with h.mu held for the parts that it guards.
func (p *process) status() Status {
	s := Status{ID: p.id, State: Running, Running: true, Start: p.start}
	if p.gone {
		s.State, s.Running, s.ExitCode, s.Reason = Gone, false, p.result.ExitCode, p.result.Reason
		return s
	}
	if p.exiting {
		s.State = Exiting
	}
	if p.cell.Leaf == nil {
		return s
	}
	u, err := p.cell.Leaf.Usage()
	if err != nil {
		return s // it is just ending
	}
	s.CPU, s.Memory = p.meter.read(u.CPU, time.Now()), u.Memory
	return s
}

// A meter makes percent of one core out of two looks at CPU time.
type meter struct {
	at      time.Time
	cpu     time.Duration
	percent float32
}

// meterStep is the least between two looks. The kernel's count moves in steps of
// up to a tick (10 ms at HZ=100): over microseconds it is nothing or many cores.
const meterStep = 20 * time.Millisecond

// read is the share since the last look; for one that comes too soon, what the
// last one said.
func (m *meter) read(cpu time.Duration, now time.Time) float32 {
	if d := now.Sub(m.at); d >= meterStep {
		m.percent = float32(100 * float64(cpu-m.cpu) / float64(d))
		m.cpu, m.at = cpu, now
	}
	return m.percent
}

func (s State) String() string {
	switch s {
	case Starting:
		return "starting"
	case Running:
		return "running"
	case Exiting:
		return "exiting"
	case Gone:
		return "gone"
	}
	return fmt.Sprintf("state %d", int(s))
}

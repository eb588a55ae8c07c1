package cgroup

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// In v1 the kernel kills one process when a group's memory runs out; v2 has
// memory.oom.group. An oomWatch makes the promise the same: it is told of the
// event by an eventfd (cgroup-v1/memory.rst §9) and kills the tree, often before
// the kernel has killed and counted its one.
//
// When memory runs out in a group above, the kernel tells every group below it, of
// which at most one has the victim. So the watch counts what the group around the
// leaf is told as well: the difference is the leaf's own.
//
//	told here   told above   oom_kill here
//	n+1         n                            at its own limit: the tree dies at once
//	n           n            has risen       the victim of a group above: so does it
//	n           n            0               a neighbour of the victim: nothing happens
type oomWatch struct {
	events *oomEvents
	id     int32
	group  string
	here   notices
	kill   func()

	mu                      sync.Mutex // orders two looks, and guards what follows
	hereBefore, aboveBefore uint64     // told when the leaf was made
	seen                    uint64     // told here since, by the last look
	deciding                bool
	closed                  bool

	more chan struct{} // something was told meanwhile
	done chan struct{} // closed by close
}

// oomEvents are what all leaves of a host process share: they hear of all of them in
// one goroutine, and count what the group around them is told.
type oomEvents struct {
	epoll   *os.File
	raw     syscall.RawConn
	control file // of the group around
	above   notices

	mu      sync.Mutex
	watches map[int32]*oomWatch
	last    int32
}

// notices are an eventfd that counts how often the kernel says that memory has
// run out.
type notices struct {
	mu   sync.Mutex
	fd   int // -1: closed
	told uint64
}

const oomControl = "memory.oom_control"

// listen registers an eventfd with a group whose oomControl is open.
func (n *notices) listen(group, control file) error {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("eventfd2", err)
	}
	if err := group.write("cgroup.event_control", fmt.Sprintf("%d %d", fd, control.fd)); err != nil {
		unix.Close(fd)
		return err
	}
	n.fd = fd
	return nil
}

// count is how often memory has run out so far.
func (n *notices) count() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	var b [8]byte
	if n.fd >= 0 {
		if m, err := unix.Read(n.fd, b[:]); err == nil && m == len(b) {
			n.told += binary.NativeEndian.Uint64(b[:])
		}
	}
	return n.told
}

func (n *notices) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd >= 0 {
		unix.Close(n.fd)
		n.fd = -1
	}
}

// openOOMEvents is for leaves in the memory group at that path.
func openOOMEvents(path string) (*oomEvents, error) {
	group, err := openFile(path, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer group.close()
	e := &oomEvents{watches: map[int32]*oomWatch{}}
	if e.control, err = group.open(oomControl, unix.O_RDONLY); err != nil {
		return nil, err
	}
	if err := e.above.listen(group, e.control); err != nil {
		e.control.close()
		return nil, err
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		e.above.close()
		e.control.close()
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	unix.SetNonblock(fd, true) // or the runtime would not watch it
	e.epoll = os.NewFile(uintptr(fd), "epoll")
	if e.raw, err = e.epoll.SyscallConn(); err != nil {
		e.close()
		return nil, err
	}
	go e.listen()
	return e, nil
}

// listen wakes the watch of each leaf that something is told to, until close.
func (e *oomEvents) listen() {
	var events [16]unix.EpollEvent
	e.raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.EpollWait(int(fd), events[:], 0)
			if err != unix.EINTR && n <= 0 {
				return false
			}
			for _, event := range events[:max(0, n)] {
				e.mu.Lock()
				w := e.watches[event.Fd]
				e.mu.Unlock()
				if w != nil {
					w.wake()
				}
			}
		}
	})
}

func (e *oomEvents) close() {
	if e == nil {
		return
	}
	e.epoll.Close()
	e.above.close()
	e.control.close()
}

// watch calls kill when the group is out of memory, or a victim of one above it that
// is. Without a kill it only counts.
func (e *oomEvents) watch(group file, kill func()) (*oomWatch, error) {
	w := &oomWatch{events: e, group: group.path(), kill: kill, more: make(chan struct{}, 1), done: make(chan struct{})}
	control, err := group.open(oomControl, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer control.close()
	if err := w.here.listen(group, control); err != nil {
		return nil, err
	}
	if err := w.begin(); err != nil {
		w.here.close()
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last++
	w.id = e.last
	e.watches[w.id] = w
	// What was told since is an event at once.
	var epollErr error
	err = e.raw.Control(func(fd uintptr) {
		epollErr = unix.EpollCtl(int(fd), unix.EPOLL_CTL_ADD, w.here.fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: w.id})
	})
	if err == nil {
		err = os.NewSyscallError("epoll_ctl", epollErr)
	}
	if err != nil {
		delete(e.watches, w.id)
		w.here.close()
		return nil, err
	}
	return w, nil
}

// beginTimeout is how long memory may be running out above while a leaf is made.
const beginTimeout = time.Second

// begin starts both counts at a moment in which no notice is on its way, or else
// one would be of a group above and told here only. The kernel marks all groups
// (under_oom) before it tells the first of them, and until it has told the last.
func (w *oomWatch) begin() error {
	b := buffers.Get().(*[4096]byte)
	defer buffers.Put(b)
	for deadline := time.Now().Add(beginTimeout); ; time.Sleep(time.Millisecond) {
		here, above := w.here.count(), w.events.above.count()
		text, err := w.events.control.content(b)
		if err != nil {
			return err
		}
		quiet := field(text, "under_oom") == 0
		w.hereBefore, w.aboveBefore = w.here.count(), w.events.above.count()
		if quiet && w.hereBefore == here && w.aboveBefore == above {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("memory has run out around %s, and nothing there is killed for it: free some, or raise a limit above", filepath.Dir(w.group))
		}
	}
}

// own is how often memory has run out at the leaf's own limit.
func (w *oomWatch) own() uint64 {
	if w == nil {
		return 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// The kernel tells a group before those in it. Read the other way round,
	// nothing from above is taken for our own.
	here := w.here.count() - w.hereBefore
	above := w.events.above.count() - w.aboveBefore
	if here != w.seen { // who reads a notice takes it from the poller
		w.seen = here
		w.alarm()
	}
	return here - min(here, above)
}

// A victim is killed, and counted, after the notice. Usually that takes
// microseconds, but the kernel chooses one at a time on the whole host.
const (
	firstWait = time.Millisecond
	lastWait  = 5 * time.Second // none is longer
)

// wake is called after a notice.
func (w *oomWatch) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.alarm()
}

// alarm begins a decision, or lets one that is under way begin again.
func (w *oomWatch) alarm() {
	switch {
	case w.kill == nil || w.closed:
	case w.deciding:
		select {
		case w.more <- struct{}{}:
		default:
		}
	default:
		w.deciding = true
		go w.decide()
	}
}

// decide kills the tree if it must. It looks until a victim would have been counted,
// and once more.
func (w *oomWatch) decide() {
	for wait := firstWait; ; {
		if w.own() > 0 || killedIn(w.group) {
			w.kill()
			return // and does not decide again
		}
		if wait > lastWait && w.rest() {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-w.done:
			timer.Stop()
			return
		case <-w.more:
			timer.Stop()
			wait = firstWait
		case <-timer.C:
			wait *= 2
		}
	}
}

// rest ends a decision, unless something was told meanwhile.
func (w *oomWatch) rest() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deciding = len(w.more) > 0
	return !w.deciding
}

// killedIn says whether the kernel has killed in this very group. In v1 the count
// is not of groups below or above, but of kills for their sake as well.
func killedIn(group string) bool {
	control, err := readFile(filepath.Join(group, oomControl))
	return err == nil && field(control, "oom_kill") > 0
}

func (w *oomWatch) close() {
	if w == nil {
		return
	}
	w.events.mu.Lock()
	delete(w.events.watches, w.id)
	w.events.mu.Unlock()
	w.here.close()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.closed = true
		close(w.done)
	}
}

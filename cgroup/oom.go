package cgroup

import (
	"encoding/binary"
	"errors"
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
	dir   string
	here  *notices
	above *notices
	kill  func()

	mu sync.Mutex // orders two looks
}

// notices are an eventfd that counts how often the kernel says that memory has
// run out.
type notices struct {
	file *os.File
	raw  syscall.RawConn
	told uint64
}

// watchOOM calls kill when the group in dir is out of memory, or a victim of one
// above it that is. Without a kill it only counts.
func watchOOM(dir string, kill func()) (*oomWatch, error) {
	w := &oomWatch{dir: dir, kill: kill}
	here, err := openFile(filepath.Join(dir, oomControl), unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer here.Close()
	above, err := openFile(filepath.Join(filepath.Dir(dir), oomControl), unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer above.Close()
	if w.here, err = listen(here); err != nil {
		return nil, err
	}
	if w.above, err = listen(above); err == nil {
		err = w.begin(above)
	}
	if err != nil {
		w.close()
		return nil, err
	}
	if kill != nil {
		go w.watch()
	}
	return w, nil
}

const oomControl = "memory.oom_control"

func listen(control *os.File) (*notices, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd2", err)
	}
	n := &notices{file: os.NewFile(uintptr(fd), "eventfd")}
	if n.raw, err = n.file.SyscallConn(); err == nil {
		err = write(filepath.Dir(control.Name()), "cgroup.event_control", fmt.Sprintf("%d %d", fd, control.Fd()))
	}
	if err != nil {
		n.file.Close()
		return nil, err
	}
	return n, nil
}

// beginTimeout is how long memory may be running out above while a leaf is made.
const beginTimeout = time.Second

// begin starts both counts at a moment in which no notice is on its way, or else
// one would be of a group above and told here only. The kernel marks all groups
// (under_oom) before it tells the first of them, and until it has told the last.
func (w *oomWatch) begin(above *os.File) error {
	b := buffers.Get().(*[4096]byte)
	defer buffers.Put(b)
	for deadline := time.Now().Add(beginTimeout); ; time.Sleep(time.Millisecond) {
		text, err := readAt(above, b)
		if err != nil {
			return err
		}
		quiet := field(text, "under_oom") == 0
		if w.here.take()+w.above.take() == 0 && quiet {
			w.here.told, w.above.told = 0, 0
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("memory has run out around %s, and nothing there is killed for it: free some, or raise a limit above", filepath.Dir(above.Name()))
		}
	}
}

// take adds what was told since the last time.
func (n *notices) take() (news uint64) {
	n.raw.Control(func(fd uintptr) {
		var b [8]byte
		if m, err := unix.Read(int(fd), b[:]); err == nil && m == len(b) {
			news = binary.NativeEndian.Uint64(b[:])
		}
	})
	n.told += news
	return news
}

// look counts: what was told here, and how much of it was of the leaf's own limit.
func (w *oomWatch) look() (told, own uint64) {
	if w == nil {
		return 0, 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// The kernel tells a group before those in it. Read the other way round,
	// nothing from above is taken for our own.
	w.here.take()
	w.above.take()
	return w.here.told, w.here.told - min(w.here.told, w.above.told)
}

// A victim is killed, and counted, after the notice. Usually that takes
// microseconds, but the kernel chooses one at a time on the whole host.
const (
	firstWait = time.Millisecond
	lastWait  = 4 * time.Second
)

// watch kills the tree when it must, once.
func (w *oomWatch) watch() {
	var seen uint64
	var wait time.Duration // 0: until something is told
	for {
		var deadline time.Time
		if wait > 0 {
			deadline = time.Now().Add(wait)
		}
		w.here.file.SetReadDeadline(deadline)
		err := w.here.raw.Read(func(uintptr) bool {
			told, _ := w.look()
			return told != seen
		})
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return // closed
		}
		told, own := w.look()
		if own > 0 || killedIn(w.dir) {
			w.kill()
			return
		}
		switch {
		case told != seen:
			seen, wait = told, firstWait
		case wait < lastWait:
			wait *= 2
		default:
			wait = 0
		}
	}
}

// killedIn says whether the kernel has killed in this very group. In v1 the count
// is not of groups below or above, but of kills for their sake as well.
func killedIn(dir string) bool {
	control, err := readFile(filepath.Join(dir, oomControl))
	return err == nil && field(control, "oom_kill") > 0
}

func (w *oomWatch) close() {
	if w == nil {
		return
	}
	for _, n := range []*notices{w.here, w.above} {
		if n != nil {
			n.file.Close()
		}
	}
}

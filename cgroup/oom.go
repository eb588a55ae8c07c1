package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// In v1 the kernel kills one process when a group's memory runs out; v2 has
// memory.oom.group. An oomWatch makes the promise the same: it is told of the
// event by an eventfd (cgroup-v1/memory.rst §9) and kills the tree, often before
// the kernel has killed and counted its one.
type oomWatch struct {
	event *os.File
	fired atomic.Bool
}

// watchOOM calls kill when the group in dir, and not one above it, is out of
// memory.
func watchOOM(dir string, limit int64, kill func()) (*oomWatch, error) {
	control, err := openFile(filepath.Join(dir, "memory.oom_control"), unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd2", err)
	}
	w := &oomWatch{event: os.NewFile(uintptr(fd), "eventfd")}
	if err := write(dir, "cgroup.event_control", fmt.Sprintf("%d %d", fd, control.Fd())); err != nil {
		w.event.Close()
		return nil, err
	}
	go func() {
		var b [8]byte
		for {
			if _, err := w.event.Read(b[:]); err != nil {
				return // closed
			}
			if outOfMemory(dir, limit) {
				w.fired.Store(true)
				kill()
				return
			}
		}
	}()
	return w, nil
}

// outOfMemory tells our own limit from an ancestor's, of which descendants are
// told as well: the kernel has killed here, or the limit is (all but) reached.
func outOfMemory(dir string, limit int64) bool {
	control, err := readFile(filepath.Join(dir, "memory.oom_control"))
	if err != nil || field(control, "oom_kill") > 0 {
		return true
	}
	usage, err := readFile(filepath.Join(dir, "memory.usage_in_bytes"))
	if err != nil {
		return true
	}
	n, _ := number(usage)
	return int64(n) >= limit-limit/16
}

// hit says whether the limit was reached and the tree killed for it.
func (w *oomWatch) hit() bool { return w != nil && w.fired.Load() }

func (w *oomWatch) close() {
	if w != nil {
		w.event.Close()
	}
}

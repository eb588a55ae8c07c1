package cgroup

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// In v1 the kernel kills one process when a group's memory runs out; v2 has
// memory.oom.group. An oomWatch makes the promise the same: it is told of the
// event by an eventfd (cgroup-v1/memory.rst §9) and kills the tree.
type oomWatch struct{ event *os.File }

func watchOOM(dir string, kill func()) (*oomWatch, error) {
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return nil, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd2", err)
	}
	w := &oomWatch{os.NewFile(uintptr(fd), "eventfd")}
	if err := write(dir, "cgroup.event_control", fmt.Sprintf("%d %d", fd, control.Fd())); err != nil {
		w.event.Close()
		return nil, err
	}
	go func() {
		// Also woken when the group is removed; a kill is then too late to matter.
		var b [8]byte
		if _, err := w.event.Read(b[:]); err == nil {
			kill()
		}
	}()
	return w, nil
}

func (w *oomWatch) close() {
	if w != nil {
		w.event.Close()
	}
}

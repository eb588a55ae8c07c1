package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
	"golang.org/x/sys/unix"
)

// What should not matter to a start: how large the host process is, and how many
// mounts its machine has.

const perBlock = 12 // starts, of which the first does not count

// some takes a block's starts of a mode.
func (s *suite) some(table, name string, start func() (time.Duration, error)) error {
	for i := range perBlock {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		took, err := start()
		if err != nil {
			return err
		}
		if i > 0 {
			s.report.add(table, name, "ms", milliseconds(took))
		}
	}
	return nil
}

func (s *suite) hardened() (time.Duration, error) {
	x, err := s.alone(s.start(isolate.Hardened()))
	return x.gone, err
}

const (
	smallHost   = "small host"
	largeHeap   = "host with the heap"
	fewMounts   = "mounts as they are"
	manyMounts  = "with the extra mounts"
	bwrapFew    = "bubblewrap, mounts as they are"
	bwrapMany   = "bubblewrap, with the extra mounts"
	mountsAsked = "PROSCENIUM_BENCH_MOUNTS"
)

// heaps alternates between a host with a large heap in use and one without.
func (s *suite) heaps(table string) error {
	s.report.note(table, "the heap is %d MiB, every page of it written", s.heap>>20)
	for range s.blocks {
		debug.FreeOSMemory()
		if err := s.some(table, smallHost, s.hardened); err != nil {
			return err
		}
		heap := make([]byte, s.heap)
		for i := 0; i < len(heap); i += os.Getpagesize() {
			heap[i] = 1
		}
		if err := s.some(table, largeHeap, s.hardened); err != nil {
			return err
		}
		runtime.KeepAlive(heap)
	}
	debug.FreeOSMemory()
	return nil
}

// mountTable has a second process of this program do the work, in a mount
// namespace of its own: the machine's stays as it is.
func (s *suite) mountTable(table string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	asked, err := json.Marshal(mountsJob{s.programs, s.blocks, s.mounts})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(s.ctx, self)
	cmd.Env = append(os.Environ(), mountsAsked+"="+string(asked))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // which Go makes private
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	for lines := bufio.NewScanner(strings.NewReader(string(out))); lines.Scan(); {
		var ms float64
		name, value, _ := strings.Cut(lines.Text(), "\t")
		if _, err := fmt.Sscan(value, &ms); err != nil {
			return err
		}
		s.report.add(table, name, "ms", ms)
	}
	s.report.note(table, "%d bind mounts of a tmpfs directory, in a mount namespace of the host process's own", s.mounts)
	return nil
}

type mountsJob struct {
	Programs       string
	Blocks, Mounts int
}

// playRole is for the process that mountTable starts; in others it returns.
func playRole() {
	asked := os.Getenv(mountsAsked)
	if asked == "" {
		return
	}
	var job mountsJob
	err := json.Unmarshal([]byte(asked), &job)
	if err == nil {
		err = job.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "suite, in a mount namespace of its own:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (j mountsJob) run() (err error) {
	s := &suite{programs: j.Programs, ctx: context.Background()}
	if s.group, err = cgroup.Open(); err != nil {
		return err
	}
	defer s.group.Close()
	if s.launcher, err = launcher.Start(launcher.Config{}); err != nil {
		return err
	}
	defer s.launcher.Close()
	peers, done := s.peers("")
	defer done()
	dir, err := os.MkdirTemp(j.Programs, "mounts")
	if err != nil {
		return err
	}
	for range j.Blocks {
		if err := j.block(s, peers, fewMounts, bwrapFew); err != nil {
			return err
		}
		if err := addMounts(dir, j.Mounts); err != nil {
			return err
		}
		if err := j.block(s, peers, manyMounts, bwrapMany); err != nil {
			return err
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return os.NewSyscallError("umount2", err)
		}
	}
	for _, name := range s.report.order {
		for _, r := range s.report.tables[name].series {
			for _, v := range r.values {
				fmt.Printf("%s\t%g\n", r.name, v)
			}
		}
	}
	return nil
}

func (j mountsJob) block(s *suite, peers []mode, name, bwrapName string) error {
	if err := s.some("", name, s.hardened); err != nil {
		return err
	}
	for _, p := range peers {
		if p.name == bwrapSimple {
			return s.some("", bwrapName, p.start)
		}
	}
	return nil
}

func addMounts(dir string, n int) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	for i := range n {
		point := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(point, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(dir, point, "", unix.MS_BIND, ""); err != nil {
			return os.NewSyscallError("mount", err)
		}
	}
	return nil
}

// Package launcher starts programs in cells of their own, with the shape of
// os/exec:
//
//	func main() {
//		reexec.Init()
//		l, err := launcher.Start(launcher.Config{})
//		…
//		cmd := l.Command(ctx, "/usr/bin/sort", "-u")
//		cmd.Isolation = isolate.Hardened()
//		cmd.Cgroup = leaf.File()
//		out, err := cmd.Output()
//	}
//
// # The life of a start
//
//	host                        launcher                     the new namespaces
//	  │ find the profile, make the plan
//	  ├─ stage one's plan ─────────────────────────────────► (waits in the pair)
//	  ├─ request, descriptors ──► a forker of its: network
//	  │                           namespace, control group
//	  │                             └─ stage one: identity,
//	  ├─ set-up, v1 groups, trees ─────────────────────────► (waits in the pair)
//	  │                                template, clone ───►  init: dies with the launcher;
//	  │ ◄──────────────────────────────────────────────────  cloned, pidfd; id maps,
//	  │ the launcher lives                                   groups, mounts, rights, filter
//	  │ limits are in force
//	  ├─ the program ─────────────────────────────────────►  clone, execve
//	  │ ◄──────────────────────────────────────────────────  started, pidfd
//	  │ ◄──────────────────────────────────────────────────  exited, status
//
// Each program has a SEQPACKET pair of its own; the host holds one end, init
// the other. The program is sent only after init has set its parent-death signal
// and the launcher was seen alive behind that, so a launcher that dies at the worst
// moment leaves an init that has set up a cell, reads end of file, and ends.
//
// Who dies with whom: the host's death ends the launcher (end of file), the
// launcher's every init (parent-death signal), an init's every process in its
// namespaces (the kernel). Nothing of a program outlives it: when the program
// itself ends, what it left in the background is killed.
//
// The launcher is this binary, re-executed once from a sealed image, so that
// starting is as cheap in a host of many gigabytes as in a small one. See
// package reexec for what main must do. It is the parent of all and does not start
// anything itself: a few forkers do, which are processes of init's image: see
// isolate.Forker. One that is killed is replaced: a start that it had begun fails, and no
// program suffers. The network namespace of a program that is dead and has left nothing in
// it is the next program's: see networks.
package launcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/reexec"
	"golang.org/x/sys/unix"
)

// Config configures a Launcher. Nothing of it needs configuring: it is there so
// that Start can keep its signature.
type Config struct{}

// A Launcher starts programs. Its methods are safe for concurrent use.
type Launcher struct {
	forkers [kinds]*forkers
	process *os.Process
	pidfd   *os.File      // of process: os.Process has one, but says so only where clone makes it
	done    chan struct{} // closed when the launcher's process has ended
	err     error         // of its end, once done is closed
	close   sync.Once
	life    context.Context // ends with the launcher's process

	profiles profiles
	maps     idMaps
	networks *networks // nil: nobody's is used again
	dumpable *os.File  // open for each start: see mayShare; nil: it cannot be read
}

// forkers are those that share a socket of requests.
type forkers struct {
	requests *conn
	plan     *isolate.Sequence // what each of them carries out
}

var errClosed = errors.New("the launcher is closed")

// Start re-executes this binary as a launcher. Close it, or exit: either ends
// every program it has started.
func Start(Config) (*Launcher, error) {
	if err := isolate.Check(); err != nil {
		return nil, fmt.Errorf("launcher: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("launcher: %w", err)
	}
	defer null.Close()
	l := &Launcher{done: make(chan struct{})}
	files := []*os.File{null, null, os.Stderr}
	for kind := range kinds {
		requests, far, err := socketPair()
		if err != nil {
			l.hangUp()
			return nil, fmt.Errorf("launcher: %w", err)
		}
		farFile := os.NewFile(uintptr(far), "launcher's end")
		defer farFile.Close()
		files = append(files, farFile)
		l.forkers[kind] = &forkers{requests, isolate.Forker(os.Geteuid() == 0, kind)}
	}
	l.process, err = reexec.Start(serverName, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{"GOTRACEBACK=single"}, // nothing of the host's
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		l.hangUp()
		return nil, fmt.Errorf("launcher: %w", err)
	}
	pidfd, err := unix.PidfdOpen(l.process.Pid, 0)
	if err != nil {
		l.hangUp()
		l.process.Wait()
		return nil, fmt.Errorf("launcher: %w", os.NewSyscallError("pidfd_open", err))
	}
	l.pidfd = os.NewFile(uintptr(pidfd), "launcher's pidfd")
	if os.Geteuid() == 0 {
		l.networks = keepNetworks()
	}
	// Not by os.Open: that offers the file to the runtime's poller, which takes it, and
	// wakes for it.
	if fd, err := unix.Open(dumpableFile, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		l.dumpable = os.NewFile(uintptr(fd), dumpableFile)
	}
	var ended context.CancelFunc
	l.life, ended = context.WithCancel(context.Background())
	go func() {
		state, err := l.process.Wait()
		l.err = errors.Join(err, errors.New("the launcher ended: "+state.String()))
		close(l.done)
		ended()
	}()
	return l, nil
}

// Command is a command that l starts; path is absolute. Cancelling ctx kills
// the program, before its start as well.
func (l *Launcher) Command(ctx context.Context, path string, args ...string) *Cmd {
	return &Cmd{Path: path, Args: append([]string{path}, args...), launcher: l, ctx: ctx}
}

// Close ends the launcher and with it every program that it started, and waits
// until the launcher is gone.
func (l *Launcher) Close() error {
	l.close.Do(l.hangUp)
	<-l.done
	l.profiles.close()
	l.maps.forget()
	l.networks.close()
	l.dumpable.Close()
	l.pidfd.Close()
	return nil
}

// hangUp lets the forkers end, and with them the launcher.
func (l *Launcher) hangUp() {
	for _, f := range l.forkers {
		if f != nil {
			f.requests.Close()
		}
	}
}

// Pid is the launcher's process id, for tests and diagnosis.
func (l *Launcher) Pid() int { return l.process.Pid }

// lives says whether some thread of the launcher does. wait4 and the end of a
// process share a lock, so that it is exact: what was the child of a thread that is
// gone by now has had that thread's end, or is another's child.
func (l *Launcher) lives() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PIDFD, int(l.pidfd.Fd()), &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err == nil && info.Signo == 0
}

const dumpableFile = "/proc/sys/fs/suid_dumpable"

// mayShare is whether stage one's memory may be the forker's: not where a change of identity
// leaves a process dumpable (proc_sys_fs(5): suid_dumpable 1, for debugging), nor where that
// is not known. It is looked up for each start, for it may change.
func mayShare(dumpable io.ReaderAt) bool {
	var b [16]byte
	n, _ := dumpable.ReadAt(b[:], 0)
	return n > 0 && b[0] != '1'
}

// request has one of the forkers fork.
func (l *Launcher) request(f *forkers, b []byte, fds []int) error {
	err := f.requests.send(b, fds...)
	switch {
	case errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
		<-l.done // the far end is closed, which the launcher holds as well: it has ended
		return l.err
	case errors.Is(err, os.ErrClosed):
		return errClosed
	}
	return err
}

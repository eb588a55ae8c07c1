package launcher

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"syscall"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/reexec"
	"golang.org/x/sys/unix"
)

const serverName = "proscenium-launcher"

func init() {
	reexec.Register(serverName, serve)
	// Here and not in main: what a program links besides (Prometheus, wazero)
	// is then never initialised in the launcher, which stays small.
	reexec.Init()
}

// Kinds of forkers: their children are in the host's network namespace, or each in
// one of its own.
const (
	plain = iota
	fresh
	kinds
)

// firstRequests is the descriptor at which the launcher finds the far end of the
// socket that the host sends requests of the first kind to; the others follow.
const firstRequests = 3

// forkersOf is how many starts of a kind are forked at once. A network namespace takes
// its forker longer than the fork. testenv counts them.
var forkersOf = [kinds]int{plain: 2, fresh: 4}

// serve is the launcher: it starts forkers, is the parent of all that they fork, and
// ends when the host's end of their sockets is gone, or one of them is killed. Its end
// kills every init by its parent-death signal. It sees nothing of any program.
func serve() {
	if err := serveForkers(); err != nil {
		os.Stderr.WriteString("proscenium-launcher: " + err.Error() + "\n")
		os.Exit(1)
	}
}

func serveForkers() error {
	// The environment that it could leak it never had (see Start); its memory
	// is nobody's to read; a signal meant for a terminal's group is not for it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_SET_DUMPABLE)", err)
	}
	// Ignored signals stay ignored over an exec, handled ones become default
	// again: programs start with default dispositions.
	signal.Notify(make(chan os.Signal, 1))
	debug.SetGCPercent(50)
	if err := inheritNothing(); err != nil {
		return err
	}
	// This thread is the parent of all, by which parent-death signals go.
	runtime.LockOSThread()
	if err := inheritNoSchedule(); err != nil {
		return err
	}
	image, err := openImage()
	if err != nil {
		return err
	}
	var forkers []int // pidfds
	privileged := os.Geteuid() == 0
	for kind, number := range forkersOf {
		unix.CloseOnExec(firstRequests + kind)
		if kind == fresh && !privileged {
			continue // an ordinary user has no right to make one, but in a user namespace
		}
		for range number {
			pidfd, err := startForker(image, firstRequests+kind, isolate.Forker(privileged, kind == fresh))
			if err != nil {
				return fmt.Errorf("start of a forker: %w", err)
			}
			forkers = append(forkers, pidfd)
		}
	}
	// The kernel reaps for us, from now on and without waking us for each start. Not
	// before: what is ignored stays ignored over an exec, and inits wait for children.
	signal.Ignore(syscall.SIGCHLD)
	for pid := 1; pid > 0; { // those of starts that did not wait for all forkers
		pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
	}
	return await(forkers)
}

// startForker gives its pidfd.
func startForker(image string, requests int, plan *isolate.Sequence) (pidfd int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socketpair", err)
	}
	defer closeAll(pair[:])
	for _, s := range []*isolate.Sequence{isolate.ForkerSetUp(), plan} {
		b, err := s.Encode()
		if err != nil {
			return 0, err
		}
		if _, err := unix.SendmsgN(pair[0], b, nil, nil, unix.MSG_NOSIGNAL); err != nil {
			return 0, os.NewSyscallError("sendmsg", err)
		}
	}
	null := uintptr(0) // as Start has laid out
	pid, err := syscall.ForkExec(image, []string{"proscenium-init"}, &syscall.ProcAttr{
		Files: []uintptr{null, null, null, uintptr(pair[1]), uintptr(requests)},
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return 0, err
	}
	pidfd, err = unix.PidfdOpen(pid, 0)
	return pidfd, os.NewSyscallError("pidfd_open", err)
}

// await waits until the host is gone, or does without us, or one of the forkers has
// ended. It leaves none.
func await(forkers []int) error {
	var watched []unix.PollFd
	for kind := range kinds {
		watched = append(watched, unix.PollFd{Fd: int32(firstRequests + kind)}) // for POLLHUP
	}
	for _, f := range forkers {
		watched = append(watched, unix.PollFd{Fd: int32(f), Events: unix.POLLIN})
	}
	for {
		if _, err := unix.Poll(watched, -1); err == nil {
			break
		} else if err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
	}
	for _, f := range forkers {
		unix.PidfdSendSignal(f, unix.SIGKILL, nil, 0)
		ended(f, -1)
	}
	if slices.ContainsFunc(watched[:kinds], func(p unix.PollFd) bool { return p.Revents&unix.POLLHUP != 0 }) {
		return nil
	}
	return errors.New("a forker has ended")
}

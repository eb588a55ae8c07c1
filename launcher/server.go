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
	"time"

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

// Kinds of forkers: their children are in the host's network namespace, each in a new
// one, or in one that was used before.
const (
	plain = isolate.LauncherNetwork
	fresh = isolate.FreshNetwork
	again = isolate.GivenNetwork
	kinds = again + 1
)

// firstRequests is the descriptor at which the launcher finds the far end of the
// socket that the host sends requests of the first kind to; the others follow.
const firstRequests = 3

// forkersOf is how many starts of a kind are forked at once. A network namespace takes
// its forker longer than the fork. testenv counts them.
var forkersOf = [kinds]int{plain: 2, fresh: 4, again: 4}

// serve is the launcher: it starts forkers, is the parent of all that they fork, and
// ends when the host's end of their sockets is gone. Its end kills every init by its
// parent-death signal. It sees nothing of any program.
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
	// The kernel reaps for us, without waking us for each start. A forker makes that
	// the default again.
	signal.Ignore(syscall.SIGCHLD)
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
	privileged := os.Geteuid() == 0
	start := func(kind isolate.ForkerNetwork) (*forker, error) {
		f, err := startForker(image, firstRequests+int(kind), isolate.Forker(privileged, kind))
		if err == nil {
			f.kind = kind
		}
		return f, err
	}
	var forkers []*forker
	for kind := range kinds {
		unix.CloseOnExec(firstRequests + int(kind))
		if kind != plain && !privileged {
			continue // an ordinary user has no right to make or enter one, but in a user namespace
		}
		for range forkersOf[kind] {
			f, err := start(kind)
			if err != nil {
				return err
			}
			forkers = append(forkers, f)
		}
	}
	return await(forkers, start)
}

type forker struct {
	kind  isolate.ForkerNetwork
	pidfd int // -1: it is buried
	setUp int // where it says what has failed
}

// startForker gives one that has yet to read its plans. Of an error nothing is left.
func startForker(image string, requests int, plan *isolate.Sequence) (*forker, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start of a forker: %w", os.NewSyscallError("socketpair", err))
	}
	f := &forker{pidfd: -1, setUp: pair[0]}
	err = f.start(image, pair[1], requests, plan)
	if err == nil {
		return f, nil
	}
	if failed := f.bury(); failed != nil {
		return nil, failed
	}
	return nil, fmt.Errorf("start of a forker: %w", err)
}

func (f *forker) start(image string, plans, requests int, plan *isolate.Sequence) error {
	null := uintptr(0) // as Start has laid out
	pid, err := syscall.ForkExec(image, []string{"proscenium-init"}, &syscall.ProcAttr{
		Files: []uintptr{null, null, null, uintptr(plans), uintptr(requests)},
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	unix.Close(plans)
	if err != nil {
		return err
	}
	// Before it has a plan: until then it does not end by itself, and its id is its own.
	if f.pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	for _, s := range []*isolate.Sequence{isolate.ForkerSetUp(), plan} {
		b, err := s.Encode()
		if err != nil {
			return err
		}
		if _, err := unix.SendmsgN(f.setUp, b, nil, nil, unix.MSG_NOSIGNAL); err != nil {
			return os.NewSyscallError("sendmsg", err)
		}
	}
	return nil
}

var errSetUp = errors.New("set-up of a forker")

// bury lets go of a forker that has ended, or ends for want of a plan. The error is what
// its set-up failed of; one that served has nothing to say.
func (f *forker) bury() error {
	unix.Shutdown(f.setUp, unix.SHUT_WR)
	defer unix.Close(f.setUp)
	unix.Close(f.pidfd)
	f.pidfd = -1
	b := make([]byte, isolate.RecordSize)
	n, _, err := recvmsg(f.setUp, b, 0)
	if err != nil {
		return nil
	}
	r, err := isolate.DecodeRecord(b[:n])
	if err != nil {
		return fmt.Errorf("%w: %w", errSetUp, err)
	}
	call := isolate.ForkerSetUp().CallAt(r.Value)
	return fmt.Errorf("%w: %s: %w", errSetUp, call, isolate.Explain(call, syscall.Errno(r.Errno)))
}

// breath is how long the launcher waits before it replaces forkers that have ended, so
// that a machine on which none can live is not kept busy by it, and before it tries for
// the second time what failed, for want of memory or processes. From then on it waits
// twice as long each time, up to longBreath.
const (
	breath     = 10 * time.Millisecond
	longBreath = time.Second
)

// await waits until the host is gone, or does without us. Until then it replaces
// forkers that end: see isolate.Forker for what they may end by. No program is to suffer
// for it. The error is of a set-up that fails, and would each time.
func await(forkers []*forker, start func(kind isolate.ForkerNetwork) (*forker, error)) error {
	hungUp := func(p unix.PollFd) bool { return p.Revents&unix.POLLHUP != 0 }
	const never = -time.Millisecond // poll(2): -1
	again := never                  // until the next try, where one is missing
	for {
		var watched []unix.PollFd
		for kind := range kinds {
			watched = append(watched, unix.PollFd{Fd: int32(firstRequests + int(kind))}) // for POLLHUP
		}
		for _, f := range forkers {
			watched = append(watched, unix.PollFd{Fd: int32(f.pidfd), Events: unix.POLLIN}) // -1 is passed over
		}
		if _, err := unix.Poll(watched, int(again.Milliseconds())); err == unix.EINTR {
			continue
		} else if err != nil {
			return os.NewSyscallError("poll", err)
		}
		if slices.ContainsFunc(watched[:kinds], hungUp) {
			break
		}
		time.Sleep(breath)
		missing := false
		for i, f := range forkers {
			if watched[int(kinds)+i].Revents != 0 {
				if err := f.bury(); err != nil {
					return err
				}
			}
			if f.pidfd >= 0 {
				continue
			}
			another, err := start(f.kind)
			switch {
			case err == nil:
				forkers[i] = another
			case errors.Is(err, errSetUp):
				return err
			default:
				missing = true
			}
		}
		if missing {
			again = min(max(2*again, breath), longBreath)
		} else {
			again = never
		}
	}
	for _, f := range forkers {
		if f.pidfd >= 0 {
			unix.PidfdSendSignal(f.pidfd, unix.SIGKILL, nil, 0)
			ended(f.pidfd, -1)
		}
	}
	return nil
}

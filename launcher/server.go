package launcher

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/reexec"
	"golang.org/x/sys/unix"
)

const serverName = "proscenium-launcher"

func init() {
	reexec.Register(serverName, serve)
	// Here and not in main: what a program links besides (Prometheus, wazero)
	// is then never initialised in the launcher, which stays small and fast to
	// fork from.
	reexec.Init()
}

// Descriptors at which the launcher finds the far ends of the sockets that the host
// sends requests to: see Launcher.
const (
	plainDescriptor = 3 + iota
	freshDescriptor
)

// How many starts are forked at once. A network namespace takes its forker longer
// than the fork, most of it waiting for the kernel. testenv counts them.
const (
	plainForkers = 2
	freshForkers = 4
)

// serve is the launcher: it starts forkers, is the parent of all that they fork, and
// ends when one of them does, as they all do when the host's end of their socket is
// gone. Its end kills them and every init by their parent-death signals. It sees
// nothing of any program.
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
	forkers := map[int]bool{}
	privileged := os.Geteuid() == 0
	for _, f := range []struct {
		fresh            bool
		requests, number int
	}{{false, plainDescriptor, plainForkers}, {true, freshDescriptor, freshForkers}} {
		unix.CloseOnExec(f.requests)
		plan, err := isolate.Forker(privileged, f.fresh).Encode()
		if err != nil {
			return err
		}
		if f.fresh && !privileged {
			f.number = 0 // an ordinary user has no right to make one, but in a user namespace
		}
		for range f.number {
			pid, err := startForker(image, f.requests, plan)
			if err != nil {
				return fmt.Errorf("start of a forker: %w", err)
			}
			forkers[pid] = true
		}
		unix.Close(f.requests) // only forkers hold it: their end is that of the socket
	}
	return reap(forkers)
}

func startForker(image string, requests int, plan []byte) (pid int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socketpair", err)
	}
	defer closeAll(pair[:])
	if _, err := unix.SendmsgN(pair[0], plan, nil, nil, unix.MSG_NOSIGNAL); err != nil {
		return 0, os.NewSyscallError("sendmsg", err)
	}
	null := uintptr(0) // as Start has laid out
	return syscall.ForkExec(image, []string{"proscenium-forker"}, &syscall.ProcAttr{
		Files: []uintptr{null, null, null, uintptr(pair[1]), uintptr(requests)},
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
}

// reap waits for every child: stage ones and inits, whose ends the hosts see by
// themselves, until one of the forkers is among them. The others then end as well.
func reap(forkers map[int]bool) error {
	var status syscall.WaitStatus
	for {
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err != nil && err != syscall.EINTR {
			return os.NewSyscallError("wait4", err)
		}
		if forkers[pid] {
			delete(forkers, pid)
			break
		}
	}
	for pid := range forkers {
		unix.Kill(pid, unix.SIGKILL)
	}
	for pid := range forkers {
		syscall.Wait4(pid, nil, 0, nil)
	}
	if status != 0 {
		return fmt.Errorf("a forker ended: signal: %v", status.Signal())
	}
	return nil // the host is gone, or does without us
}

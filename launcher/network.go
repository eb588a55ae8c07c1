package launcher

import (
	"golang.org/x/sys/unix"
)

// network is the network namespace that a worker's thread is in. Making one takes
// longer than all other namespaces together, and the thread of a privileged
// launcher can do it ahead: it waits for a request in a namespace that is nobody's
// yet, and its child is born there. One that had a child is left for another.
type network struct {
	host  int  // the namespace of the host; 0: not opened, this thread never left it
	fresh bool // this thread is in one that nobody else was in
	stale bool // … that a program has been given
}

// enter takes the thread where the next child belongs: into a fresh namespace, or
// the host's.
func (n *network) enter(fresh bool) (err error) {
	switch {
	case fresh && !n.fresh:
		err = n.renew()
	case !fresh && n.host != 0:
		err = unix.Setns(n.host, unix.CLONE_NEWNET)
		n.fresh, n.stale = false, false
	}
	if fresh && err == nil {
		n.fresh, n.stale = false, true
	}
	return err
}

// prepare leaves a namespace that a program has. If that fails, the next enter
// tries again and says why.
func (n *network) prepare() {
	if n.stale {
		n.renew()
	}
}

func (n *network) renew() error {
	if n.host == 0 {
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		n.host = fd
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	n.fresh, n.stale = true, false
	return nil
}

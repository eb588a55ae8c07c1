package launcher

import (
	"bytes"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// networks keeps the network namespaces of programs that have ended, for programs to
// come: to make one and take it down again is a fifth to a quarter of what processors
// spend on a start.
//
// No two programs that live share one, and only one that nothing tells from a new one is
// used again. A program has no rights over its namespace, in which no interface is up, so
// that no packet goes anywhere. What it can leave behind is looked for once it is dead:
//
//   - a socket, which somebody else may have by now, for sockets can be sent: the kernel
//     counts those of each namespace, whoever holds them (/proc/net/sockstat);
//   - what was counted, which the next program could read: each counter must be zero;
//   - a flow label of IPv6, which outlives its socket by seconds.
//
// So a program that has tried the network had its namespace to itself, before and after.
// What holds a namespace and is no socket, an open file of its /proc/net say, is not to be
// seen. So one is kept only of a program that could give nobody a descriptor: the filter
// held it, it was shown nothing in which another could have a socket (see
// isolate.Plan.NothingOutlives), and its stdin, stdout and stderr were none. Of an older
// namespace the next program sees the age and the name: inode, times and cookie.
//
// It takes a kernel that gives a process's namespace by its pidfd (Linux 6.11), and the
// capability to look at init (CAP_SYS_PTRACE); where one is missing, each program gets a
// new namespace.
type networks struct {
	back chan int // to be looked at
	done sync.WaitGroup

	mu     sync.Mutex // also orders a send into back with its end
	clean  []int
	closed bool
}

// maxNetworks bounds how many wait, of some 200 KiB of the kernel's memory each.
const maxNetworks = 8

// keepNetworks begins to look at what is given back, in a thread of its own, which
// enters namespaces. It gives nil where it cannot.
func keepNetworks() *networks {
	n := &networks{back: make(chan int, maxNetworks)}
	begun := make(chan error)
	n.done.Go(func() { n.keep(begun) })
	if <-begun != nil {
		return nil
	}
	return n
}

func (n *networks) keep(begun chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// Where this thread is, the process is for everybody who looks at it in /proc. As
		// long as it is held, another goroutine has another.
		another := make(chan error)
		n.done.Go(func() { n.keep(another) })
		begun <- <-another
		runtime.UnlockOSThread()
		return
	}
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	begun <- err
	if err != nil {
		runtime.UnlockOSThread()
		return
	}
	if n.look(own) {
		runtime.UnlockOSThread() // else the thread ends with this function
	}
	unix.Close(own)
}

// look sorts what is given back. Between two of them its thread is where it was born,
// and it says whether that was so to the last.
func (n *networks) look(own int) (home bool) {
	b := make([]byte, 32<<10)
	home = true
	for fd := range n.back {
		good := unix.Setns(fd, unix.CLONE_NEWNET) == nil && asNew(threadsNetwork, b)
		home = unix.Setns(own, unix.CLONE_NEWNET) == nil
		n.mu.Lock()
		if good && !n.closed && len(n.clean) < maxNetworks {
			n.clean = append(n.clean, fd)
			fd = -1
		}
		n.mu.Unlock()
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	return home
}

// take gives a namespace in which nobody is, or -1.
func (n *networks) take() int {
	if n == nil {
		return -1
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || len(n.clean) == 0 {
		return -1
	}
	fd := n.clean[len(n.clean)-1]
	n.clean = n.clean[:len(n.clean)-1]
	return fd
}

// giveBack takes the namespace of a program of which nothing is left. -1 is none.
func (n *networks) giveBack(fd int) {
	if fd < 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		select {
		case n.back <- fd:
			return
		default: // so many end at once
		}
	}
	unix.Close(fd)
}

func (n *networks) close() {
	if n == nil {
		return
	}
	n.mu.Lock()
	if !n.closed {
		n.closed = true
		close(n.back)
		closeAll(n.clean) // no more come
	}
	n.mu.Unlock()
	n.done.Wait()
}

// networkOfProcess is the network namespace of the process behind the pidfd, or -1:
// PIDFD_GET_NET_NAMESPACE (linux/pidfd.h).
func networkOfProcess(pidfd int) int {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), pidfdGetNetNamespace, 0)
	if errno != 0 {
		return -1
	}
	return int(fd)
}

const pidfdGetNetNamespace = 0xff04

// threadsNetwork is where this thread's network namespace is to be read: proc_pid_net(5).
const threadsNetwork = "/proc/thread-self/net"

// signs are the files that tell a namespace from a new one, unless they are as they say.
// They are read here and not by prometheus/procfs, which passes over counters that it does
// not know, and would be in every launcher.
var signs = []*sign{
	{name: "sockstat", new: noSockets},
	{name: "snmp", new: tablesAreZero},
	{name: "netstat", new: tablesAreZero},
	{name: "snmp6", new: listIsZero},
	{name: "xfrm_stat", new: listIsZero},
	{name: "ip6_flowlabel", new: onlyHeading},
}

type sign struct {
	name  string
	new   func(text []byte) bool
	known atomic.Pointer[[]byte] // what it said the last time it was as new, most likely again
}

// asNew says whether nothing tells the network namespace that is shown at path from a new
// one. It reads into b.
func asNew(path string, b []byte) bool {
	dir, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(dir)
	for _, f := range signs {
		text, err := readAt(dir, f.name, b)
		if err == unix.ENOENT && f.name != "sockstat" {
			continue // the kernel has no such protocol
		}
		if err != nil {
			return false
		}
		if known := f.known.Load(); known != nil && bytes.Equal(text, *known) {
			continue
		}
		if !f.new(text) {
			return false
		}
		text = bytes.Clone(text)
		f.known.Store(&text)
	}
	return true
}

// readAt reads all of a small file, without package os, which would offer it to the
// runtime's poller.
func readAt(dir int, name string, b []byte) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	for n := 0; n < len(b); {
		m, err := unix.Read(fd, b[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || m == 0 {
			return b[:n], err
		}
		n += m
	}
	return nil, unix.EFBIG
}

// noSockets is of sockstat. Connections that nobody has any more (tw) are not among
// those used.
func noSockets(text []byte) bool {
	used, waiting := false, false
	for line := range bytes.Lines(text) {
		switch fields := bytes.Fields(line); {
		case len(fields) == 3 && string(fields[0]) == "sockets:":
			used = string(fields[1]) == "used" && string(fields[2]) == "0"
		case len(fields) > 6 && string(fields[0]) == "TCP:":
			waiting = string(fields[5]) == "tw" && string(fields[6]) == "0"
		}
	}
	return used && waiting
}

// onlyHeading is of ip6_flowlabel.
func onlyHeading(text []byte) bool { return bytes.Count(text, []byte("\n")) == 1 }

// constant is what is not counted: proc_pid_net(5), RFC 4293, RFC 4022.
func constant(name string) bool {
	switch name {
	case "Forwarding", "DefaultTTL", "RtoAlgorithm", "RtoMin", "RtoMax", "MaxConn":
		return true
	}
	return false
}

// tablesAreZero is of files in which a line of names stands before each line of values.
func tablesAreZero(text []byte) bool {
	for rest := text; len(rest) > 0; {
		var names, values []byte
		names, rest, _ = bytes.Cut(rest, []byte("\n"))
		values, rest, _ = bytes.Cut(rest, []byte("\n"))
		name, names := field(names)
		value, values := field(values)
		if len(names) == 0 || !bytes.Equal(name, value) {
			return false
		}
		for len(names) > 0 && len(values) > 0 {
			name, names = field(names)
			value, values = field(values)
			if string(value) != "0" && !constant(string(name)) {
				return false
			}
		}
		if len(names) > 0 || len(values) > 0 {
			return false
		}
	}
	return len(text) > 0
}

// listIsZero is of files in which each line has a name and a value.
func listIsZero(text []byte) bool {
	for rest := text; len(rest) > 0; {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		name, line := field(line)
		value, line := field(line)
		if len(name) == 0 || string(value) != "0" || len(line) > 0 {
			return false
		}
	}
	return len(text) > 0
}

// field is the first of those that white space parts, and what is behind it.
func field(line []byte) (first, rest []byte) {
	space := func(i int) bool { return line[i] == ' ' || line[i] == '\t' }
	start := 0
	for start < len(line) && space(start) {
		start++
	}
	end := start
	for end < len(line) && !space(end) {
		end++
	}
	first = line[start:end]
	for end < len(line) && space(end) {
		end++
	}
	return first, line[end:]
}

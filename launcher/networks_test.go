package launcher

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

const flowLabelManager = 32 // IPV6_FLOWLABEL_MGR: linux/in6.h

// inNewNetwork runs f in a thread that is in a network namespace of its own and ends
// with it.
func inNewNetwork(t *testing.T, f func() error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root makes network namespaces without a user namespace")
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// TestWhatTellsANetwork: what an ordinary user can leave in a network namespace in which
// nothing is up, and anybody there could read, keeps it from being used again.
func TestWhatTellsANetwork(t *testing.T) {
	var held []int
	defer func() { closeAll(held) }()
	socket := func(family, kind, protocol int, do func(fd int) error) func() error {
		return func() error {
			fd, err := unix.Socket(family, kind, protocol)
			if err == nil && do != nil {
				err = do(fd)
			}
			unix.Close(fd)
			return err
		}
	}
	hold := func(fd int) error {
		other, err := unix.Dup(fd)
		held = append(held, other)
		return err
	}
	here4, here6 := [4]byte{127, 0, 0, 1}, [16]byte{15: 1}
	const multipath = 262 // IPPROTO_MPTCP
	for what, c := range map[string]struct {
		trace bool // it leaves one for certain
		do    func() error
	}{
		"nothing":                 {false, func() error { return nil }},
		"a socket that is closed": {false, socket(unix.AF_INET, unix.SOCK_DGRAM, 0, nil)},
		"a UNIX socket that is closed": {false, socket(unix.AF_UNIX, unix.SOCK_STREAM, 0, func(fd int) error {
			return unix.Bind(fd, &unix.SockaddrUnix{Name: "@name"})
		})},
		"a UNIX socket that somebody holds": {true, socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0, hold)},
		"a listener that somebody holds": {true, socket(unix.AF_INET6, unix.SOCK_STREAM, 0, func(fd int) error {
			return errors.Join(unix.Listen(fd, 1), hold(fd))
		})},
		"a datagram": {true, socket(unix.AF_INET, unix.SOCK_DGRAM, 0, func(fd int) error {
			return unreachable(unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Port: 9, Addr: here4}))
		})},
		"a connection": {true, socket(unix.AF_INET, unix.SOCK_STREAM, 0, func(fd int) error {
			return unreachable(unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: here4}))
		})},
		"a datagram of IPv6": {false, socket(unix.AF_INET6, unix.SOCK_DGRAM, 0, func(fd int) error {
			return unreachable(unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet6{Port: 9, Addr: here6}))
		})},
		"a connection of IPv6": {false, socket(unix.AF_INET6, unix.SOCK_STREAM, 0, func(fd int) error {
			return unreachable(unix.Connect(fd, &unix.SockaddrInet6{Port: 9, Addr: here6}))
		})},
		"a connection over several paths": {false, func() error {
			err := socket(unix.AF_INET, unix.SOCK_STREAM, multipath, func(fd int) error {
				return unreachable(unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: here4}))
			})()
			if err == unix.EPROTONOSUPPORT || err == unix.ENOPROTOOPT {
				err = nil
			}
			return err
		}},
		"a flow label": {true, socket(unix.AF_INET6, unix.SOCK_DGRAM, 0, func(fd int) error {
			// struct in6_flowlabel_req: destination, label, IPV6_FL_A_GET,
			// IPV6_FL_S_EXCL, IPV6_FL_F_CREATE, 6 s each to expire and to linger.
			request := append(make([]byte, 15), 1, 0, 1, 2, 3, 0, 1, 1, 0, 6, 0, 6, 0, 0, 0, 0, 0)
			return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, flowLabelManager, string(request))
		})},
	} {
		inNewNetwork(t, func() error {
			b := make([]byte, 32<<10)
			if !asNew(threadsNetwork, b) {
				return fmt.Errorf("%s: a new namespace is not as new", what)
			}
			readable() // reading may be what changes something
			before := readable()
			if err := c.do(); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			trace := ""
			for name, text := range readable() {
				if text != before[name] {
					trace = name
				}
			}
			switch tells := !asNew(threadsNetwork, b); {
			case trace != "" && !tells:
				return fmt.Errorf("%s: is to be used again, though %s tells", what, trace)
			case c.trace && !tells:
				return fmt.Errorf("%s: is to be used again", what)
			case !c.trace && trace == "" && tells:
				return fmt.Errorf("%s: is not to be used again, though nothing tells", what)
			}
			return nil
		})
	}
}

func unreachable(err error) error {
	if err == unix.ENETUNREACH || err == unix.EADDRNOTAVAIL {
		return nil
	}
	return fmt.Errorf("the network was there: %v", err)
}

// readable is what can be read of this thread's network namespace, but for what the
// kernel counts for all of them together.
func readable() map[string]string {
	texts := map[string]string{}
	filepath.WalkDir(threadsNetwork, func(name string, _ fs.DirEntry, _ error) error {
		switch filepath.Base(name) {
		case "stat":
			return filepath.SkipDir
		case "sockstat", "protocols", "softnet_stat":
			return nil
		}
		if b, err := os.ReadFile(name); err == nil {
			texts[name] = string(b)
		}
		return nil
	})
	return texts
}

// TestEverySignCounts: each of the files that are looked at keeps a namespace from being used
// again by itself, also one that no program can change as things are.
func TestEverySignCounts(t *testing.T) {
	names := []string{"sockstat", "snmp", "netstat", "snmp6", "xfrm_stat", "ip6_flowlabel"}
	dir, b := t.TempDir(), make([]byte, 32<<10)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	inNewNetwork(t, func() error {
		for _, name := range names {
			text, err := os.ReadFile(filepath.Join(threadsNetwork, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			write(name, string(text))
		}
		return nil
	})
	if !asNew(dir, b) {
		t.Error("a new namespace is not as new")
	}
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		others := []string{"", string(text) + string(make([]byte, len(b))),
			strings.Replace(strings.Replace(string(text), " 0\n", " 1\n", 1), "\t0\n", "\t1\n", 1)} // the last of a line
		switch name {
		case "sockstat": // of which the rest is of all namespaces together
			others = append(others, strings.Replace(string(text), " tw 0 ", " tw 1 ", 1))
		case "ip6_flowlabel":
			others[2] += "a label\n"
		default:
			others = append(others, string(text)+"what is not known\n")
		}
		for _, other := range others {
			write(name, other)
			if asNew(dir, b) {
				t.Errorf("%s: %q is new", name, other[:min(len(other), 200)])
			}
		}
		write(name, string(text))
	}
	if !asNew(dir, b) {
		t.Error("what was new is not any more")
	}
}

// TestNobodyTakesWhatIsClosed: take and close do not meet, nor two closes.
func TestNobodyTakesWhatIsClosed(t *testing.T) {
	for range 200 {
		n := &networks{back: make(chan int)}
		for range 4 {
			fd, err := unix.Dup(0)
			if err != nil {
				t.Fatal(err)
			}
			n.clean = append(n.clean, fd)
		}
		given := slices.Clone(n.clean)
		var taken []int
		var wg sync.WaitGroup
		wg.Go(n.close)
		wg.Go(n.close)
		wg.Go(func() {
			for fd := n.take(); fd >= 0; fd = n.take() {
				taken = append(taken, fd)
			}
		})
		wg.Wait()
		for _, fd := range given {
			_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			if open := err == nil; open != slices.Contains(taken, fd) {
				t.Fatalf("descriptor %d of %v: open is %v, taken are %v", fd, given, open, taken)
			}
		}
		closeAll(taken)
	}
}

// TestNetworksAreBounded: what is given back beyond what is kept is closed, and all of it
// at the end.
func TestNetworksAreBounded(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes network namespaces without a user namespace")
	}
	before := networkDescriptors(t)
	n := keepNetworks()
	for range 2 * maxNetworks {
		inNewNetwork(t, func() error {
			fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err == nil {
				n.giveBack(fd)
			}
			return err
		})
		if kept := n.settle(t); kept > maxNetworks {
			t.Fatalf("%d are kept", kept)
		}
	}
	if kept := n.settle(t); kept != maxNetworks {
		t.Errorf("%d are kept of %d", kept, maxNetworks)
	}
	if fd := n.take(); fd < 0 {
		t.Error("none is to be had")
	} else {
		n.giveBack(fd)
	}
	n.close()
	n.giveBack(-1)
	if after := networkDescriptors(t); after != before {
		t.Errorf("%d descriptors of network namespaces, %d before", after, before)
	}
}

func networkDescriptors(t *testing.T) (n int) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && len(target) > 4 && target[:4] == "net:" {
			n++
		}
	}
	return n
}

// TestTheEndIsWaitedForWithoutDescriptors: what is done behind it, such as giving back a
// network namespace, must not be done before.
func TestTheEndIsWaitedForWithoutDescriptors(t *testing.T) {
	sleep := exec.Command("/usr/bin/sleep", "0.3")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleep.Wait()
	pidfd, err := unix.PidfdOpen(sleep.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Cur: 3, Max: limit.Max} // stdin, stdout and stderr
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	waitPidfd(pidfd)
	over := ended(pidfd, 0)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !over {
		t.Error("the process lives")
	}
}

// settle waits until all that was given back was looked at, and counts what is kept. It
// gives back what is no namespace, behind all else, whose end is then heard.
func (n *networks) settle(t testing.TB) int {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fd, err := unix.FcntlInt(w.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	n.giveBack(fd)
	r.Read(make([]byte, 1))
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.clean)
}

// SettleNetworks is settle for the launcher's.
func (l *Launcher) SettleNetworks(t testing.TB) int { return l.networks.settle(t) }

// FuzzCounters: what is not understood is not zero, and neither is what has another
// digit somewhere.
func FuzzCounters(f *testing.F) {
	for _, seed := range []string{"Ip: Forwarding InReceives\nIp: 2 0\n", "Ip: A\nIp: 0\nTcp: B\nTcp: 0\n", "Ip6InReceives \t0\nIp6OutNoRoutes\t0\n",
		"sockets: used 0\nTCP: inuse 0 orphan 0 tw 0 alloc 1 mem 167\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for name, zero := range map[string]func([]byte) bool{"tables": tablesAreZero, "list": listIsZero} {
			if !zero(text) {
				continue
			}
			if len(bytes.TrimSpace(text)) == 0 {
				t.Errorf("%s: nothing is zero", name)
			}
			if i := bytes.LastIndexByte(text, '0'); i < 0 {
				t.Errorf("%s: %q is zero", name, text)
			} else if other := bytes.Clone(text); i == len(bytes.TrimRight(text, "\n"))-1 && !bytes.ContainsAny(text, "FDRM") {
				if other[i] = '7'; zero(other) {
					t.Errorf("%s: %q is zero", name, other)
				}
			}
		}
		if noSockets(text) && !bytes.Contains(text, []byte("used")) {
			t.Errorf("no sockets: %q", text)
		}
	})
}

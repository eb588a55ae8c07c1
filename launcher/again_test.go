package launcher_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

func init() { testenv.Role("network", useNetwork) }

// useNetwork says in which network namespace it is, and does there what it is told.
func useNetwork() {
	name, err := os.Readlink("/proc/self/ns/net")
	if err == nil && len(os.Args) > 1 {
		switch os.Args[1] {
		case "send":
			if _, e := net.Dial("tcp", "127.0.0.1:9"); e == nil {
				err = fmt.Errorf("there is a network")
			}
		case "join": // and is refused
			err = errors.Join(join(), label())
		case "share":
			err = share(os.Args[2])
		case "wait":
			fmt.Println(name)
			io.Copy(io.Discard, os.Stdin)
			return
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(name)
}

func join() error {
	for family, try := range map[int]func(fd int) error{
		unix.AF_INET: func(fd int) error {
			return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: [4]byte{224, 1, 1, 1}, Ifindex: 1})
		},
		unix.AF_INET6: func(fd int) error {
			return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: [16]byte{0: 0xff, 1: 2, 15: 9}, Interface: 1})
		},
	} {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := try(fd); err != unix.ENODEV {
			return fmt.Errorf("joining a group: %v", err)
		}
	}
	return nil
}

func label() error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const flowLabelManager = 32 // IPV6_FLOWLABEL_MGR: linux/in6.h
	if err := unix.SetsockoptString(fd, unix.IPPROTO_IPV6, flowLabelManager, string(make([]byte, 32))); err != unix.ENODEV {
		return fmt.Errorf("a flow label: %v", err)
	}
	return nil
}

// share sends a socket to whoever listens there.
func share(path string) error {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	_, _, err = c.WriteMsgUnix([]byte("x"), unix.UnixRights(fd), nil)
	return err
}

func socketFiles() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "a socket"), os.NewFile(uintptr(fds[1]), "a socket"), nil
}

// TestNetworksAreUsedAgain: a network namespace goes to the next program if nothing was
// left in it, and never to two that live.
func TestNetworksAreUsedAgain(t *testing.T) {
	testenv.NoLeaks(t)
	testenv.Need(t, "root", os.Geteuid() == 0, "an ordinary user's network namespaces are made with the program's user namespace")
	l, err := launcher.Start(launcher.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(release), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	kept := 0 // of an older kernel
	if major > 6 || major == 6 && minor >= 11 {
		kept = 1
	}
	dir := t.TempDir()
	os.Chmod(dir, 0o777)
	os.Chmod(filepath.Dir(dir), 0o755)
	command := func(args ...string) *launcher.Cmd {
		cmd := l.Command(context.Background(), testenv.Self(t), args...)
		cmd.Env = []string{testenv.RoleEnv("network")}
		cmd.Isolation = isolate.Hardened()
		return cmd
	}
	run := func(cmd *launcher.Cmd, want int, what string) string {
		t.Helper()
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v: %s", what, err, out)
		}
		if n := l.SettleNetworks(t); n != want {
			t.Errorf("%s: %d network namespaces are kept, want %d", what, n, want)
		}
		return string(out)
	}
	first := run(command(), kept, "a first program")
	if second := run(command(), kept, "a second"); (second == first) != (kept == 1) {
		t.Errorf("programs in %q and %q", first, second)
	}

	waiting := command("wait")
	stdin, err := waiting.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := waiting.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	if err := waiting.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	n, err := stdout.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	if third := run(command(), kept, "another beside one that lives"); third == string(b[:n]) || !strings.HasPrefix(third, "net:[") {
		t.Errorf("two that live in %q and %q", b[:n], third)
	}
	stdin.Close()
	if err := waiting.Wait(); err != nil {
		t.Error(err)
	}
	if n := l.SettleNetworks(t); n != 2*kept {
		t.Errorf("%d network namespaces are kept of two programs", n)
	}

	run(command("join"), 2*kept, "one that would join a multicast group or have a flow label")
	run(command("send"), kept, "one that has tried the network")
	pooled := run(command(), kept, "one more")
	apart := func(cmd *launcher.Cmd, what string) {
		t.Helper()
		if name := run(cmd, kept, what); name == pooled {
			t.Errorf("%s: it was where others had been", what)
		}
	}
	without := command()
	without.Isolation.Seccomp = isolate.SeccompNone
	apart(without, "one without a filter")
	shown := command()
	shown.Isolation.Mounts = []isolate.Mount{isolate.RO(dir)} // there could be a socket
	apart(shown, "one that is shown a directory")
	ours, theirs, err := socketFiles()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	talking := command()
	talking.Stdin = theirs
	apart(talking, "one whose stdin is a socket")
	theirs.Close()

	path := filepath.Join(dir, "socket")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	os.Chmod(path, 0o777)
	received := make(chan []byte, 1)
	go func() {
		defer close(received)
		c, err := listener.AcceptUnix()
		if err != nil {
			return
		}
		defer c.Close()
		control := make([]byte, 64)
		_, n, _, _, _ := c.ReadMsgUnix(make([]byte, 1), control)
		received <- control[:n]
	}()
	sharing := command("share", path)
	sharing.Isolation.Mounts = []isolate.Mount{isolate.RW(dir)}
	apart(sharing, "one whose socket somebody else has")
	listener.Close()
	messages, err := unix.ParseSocketControlMessage(<-received)
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%d descriptors, %v", len(fds), err)
	}
	unix.Close(fds[0])
}

// TestTheHostStaysWhereItIs: the main thread, which /proc shows for the whole process, is
// not the one that enters the namespaces of dead programs, though the launcher was started
// by it.
func TestTheHostStaysWhereItIs(t *testing.T) {
	testenv.NoLeaks(t)
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	var elsewhere string
	var readings sync.WaitGroup
	readings.Go(func() {
		for {
			select {
			case <-over:
				return
			default:
			}
			if name, err := os.Readlink("/proc/self/ns/net"); err != nil || name != own {
				elsewhere = fmt.Sprint(name, err)
			}
		}
	})
	for range 100 {
		cmd := testenv.Launcher(t).Command(testenv.Context(t), "/usr/bin/true")
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
	}
	close(over)
	readings.Wait()
	if elsewhere != "" {
		t.Errorf("the host was in %s, not in %s", elsewhere, own)
	}
}

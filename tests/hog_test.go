package tests

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

func init() { testenv.Role("hog", hogRole) }

// hogRole takes of one resource what its arguments say (a name, an amount), says
// how much it got, and keeps it.
func hogRole() {
	amount, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	got, err := hogs[os.Args[1]](amount)
	fmt.Println("got", got, err)
	for { // not select {}, which without cgo the runtime takes for a deadlock, and ends
		time.Sleep(time.Hour)
	}
}

// hogs take up to so many bytes, files or descriptors and keep them until the
// program ends.
var hogs = map[string]func(int) (int, error){
	"anonymous": func(n int) (int, error) {
		b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		for i := 0; i < len(b); i += os.Getpagesize() {
			b[i] = 1
		}
		return len(b), err
	},
	"tmpfs":         func(n int) (int, error) { return fill("/tmp/x", n) },
	"shared memory": func(n int) (int, error) { return fill("/dev/shm/x", n) },
	"page cache":    func(n int) (int, error) { return fill(os.Args[3]+"/x", n) },
	"pipe buffers": func(n int) (int, error) {
		return stuff(n, func(fds *[2]int) error { return unix.Pipe2(fds[:], unix.O_NONBLOCK) })
	},
	"socket buffers": func(n int) (int, error) {
		return stuff(n, func(fds *[2]int) (err error) {
			*fds, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
			return err
		})
	},
	"tcp buffers": func(n int) (int, error) {
		l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return 0, err
		}
		if err := unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return 0, err
		}
		if err := unix.Listen(l, 1); err != nil {
			return 0, err
		}
		address, err := unix.Getsockname(l)
		if err != nil {
			return 0, err
		}
		return stuff(n, func(fds *[2]int) (err error) {
			if fds[0], err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err != nil {
				return err
			}
			if err := unix.Connect(fds[0], address); err != nil {
				return err
			}
			fds[1], _, err = unix.Accept4(l, unix.SOCK_NONBLOCK)
			return err
		})
	},
	"inodes": func(n int) (int, error) {
		for i := range n {
			fd, err := unix.Open(fmt.Sprintf("/tmp/%d", i), unix.O_CREAT|unix.O_WRONLY, 0o600)
			if err != nil {
				return i, err
			}
			unix.Close(fd)
		}
		return n, nil
	},
	"descriptors": func(n int) (int, error) {
		for i := range n {
			if _, err := unix.Open("/dev/null", unix.O_RDONLY, 0); err != nil {
				return i, err
			}
		}
		return n, nil
	},
	"threads": func(n int) (int, error) {
		runtime.GOMAXPROCS(n + 1)
		for range n {
			go func() {
				for i := 0; ; i++ { // never done
				}
			}()
		}
		return n, nil
	},
}

func fill(name string, n int) (int, error) {
	f, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	b := make([]byte, 64<<10)
	for done := 0; done < n; done += len(b) {
		if _, err := f.Write(b); err != nil {
			return done, err
		}
	}
	return n, nil
}

// stuff fills the buffers of pairs that nobody reads from.
func stuff(n int, pair func(*[2]int) error) (done int, err error) {
	b := make([]byte, 4<<10)
	for done < n {
		var fds [2]int
		if err := pair(&fds); err != nil {
			return done, err
		}
		for {
			m, err := unix.Write(fds[1], b)
			if err == unix.EAGAIN {
				break
			}
			if err != nil {
				return done, err
			}
			done += m
		}
	}
	return done, nil
}

// A hog is a cell in which hogRole runs.
type hog struct {
	*handler.Cell
	got  int    // of what it was to take
	said string // the error that stopped it; "" where it was killed before it could say
}

func startHog(t *testing.T, limits cgroup.Limits, what string, amount int) hog {
	t.Helper()
	dir := onDisk(t)
	cmd := testenv.Launcher(t).Command(testenv.Context(t), testenv.Self(t), what, fmt.Sprint(amount), dir)
	cmd.Env = []string{testenv.RoleEnv("hog")}
	cmd.Isolation = isolate.Hardened()
	cmd.Isolation.Mounts = []isolate.Mount{isolate.RW(dir)}
	cmd.Isolation.Rlimits.OpenFiles = 4096
	if what == "tcp buffers" { // an own network has no address, and so no peer
		cmd.Isolation.Network = isolate.NetworkHost
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c, err := handler.StartCell(cmd, testenv.Group(t), limits, handler.Budgets{Wall: 2 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Kill(handler.Killed)
		c.Wait()
		pipe.Close()
	})
	h := hog{Cell: c}
	line, _ := bufio.NewReader(pipe).ReadString('\n')
	if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "got "); ok {
		number, said, _ := strings.Cut(rest, " ")
		h.got, _ = strconv.Atoi(number)
		h.said = said
	}
	return h
}

// onDisk is a directory that programs can be shown.
func onDisk(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "proscenium-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// hostMemory is what the host's own group is charged for: where the leaves are
// not below it. With v1 controllers the host moves into a group of its own for
// that, since the one it is in has others' processes as well.
func hostMemory(t *testing.T) func() int {
	t.Helper()
	place := testenv.GroupDirs(os.Getpid())
	file := filepath.Join(place[0], "supervisor", "memory.current")
	if testenv.Group(t).Layout() != "unified" {
		base := ""
		for _, dir := range place {
			if _, err := os.Stat(filepath.Join(dir, "memory.limit_in_bytes")); err == nil {
				base = filepath.Dir(dir)
			}
		}
		group := filepath.Join(base, fmt.Sprintf("host-%d", os.Getpid()))
		if err := os.Mkdir(group, 0o755); err != nil {
			t.Fatal(err)
		}
		move := func(to string) {
			for _, pid := range []int{os.Getpid(), testenv.Launcher(t).Pid()} {
				if err := os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(itoa(pid)), 0); err != nil {
					t.Error(err)
				}
			}
		}
		move(group)
		t.Cleanup(func() {
			move(base)
			if err := os.Remove(group); err != nil {
				t.Error(err)
			}
		})
		file = filepath.Join(group, "memory.usage_in_bytes")
	}
	return func() int {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// TestMemoryIsTheProgramsOwn: whatever a program makes the kernel keep for it is
// charged to its leaf; the host's own group stays as it is.
func TestMemoryIsTheProgramsOwn(t *testing.T) {
	testenv.NoLeaks(t)
	const amount, slack = 24 << 20, 8 << 20
	host := hostMemory(t)
	for what, n := range map[string]int{
		"anonymous": amount, "tmpfs": amount, "shared memory": amount, "page cache": amount, "pipe buffers": amount, "socket buffers": amount,
		"inodes": 40000,
	} {
		t.Run(what, func(t *testing.T) {
			limits := cgroup.Limits{Memory: 128 << 20}
			startHog(t, limits, what, 1) // takes what is cached of its file, once
			little := startHog(t, limits, what, 1)
			before, err := little.Leaf.Usage()
			if err != nil {
				t.Fatal(err)
			}
			hostBefore := host()
			h := startHog(t, limits, what, n)
			after, err := h.Leaf.Usage()
			if err != nil || h.got < n || h.said != "<nil>" {
				t.Fatalf("got %d: %s; %v", h.got, h.said, err)
			}
			// Not all of it: what was not cached of the file yet is charged to the first one
			// that reads it, some megabytes with the little one.
			if grown := int(after.Memory) - int(before.Memory); grown < amount*3/4 || grown > 3*amount {
				t.Errorf("the leaf is charged for %d bytes more", grown)
			}
			if grown := host() - hostBefore; grown > slack {
				t.Errorf("the host's group is charged for %d bytes more", grown)
			}
		})
	}
}

// TestEverythingIsBounded: a program that wants more of what the kernel keeps
// than its limits allow is refused, or dies; its leaf never holds more.
func TestEverythingIsBounded(t *testing.T) {
	testenv.NoLeaks(t)
	const limit = 48 << 20
	host := hostMemory(t)
	startHog(t, cgroup.Limits{Memory: limit}, "anonymous", 1) // with the race detector the first takes 20 MiB of the host's
	for what, c := range map[string]struct {
		amount int
		killed bool
	}{
		"anonymous": {1 << 30, true}, "pipe buffers": {1 << 30, true}, "socket buffers": {1 << 30, true},
		// Of inodes a tmpfs has 65536, which is more than the limit holds.
		"inodes": {1 << 20, true},
		// Refused at RLIMIT_NOFILE.
		"descriptors": {1 << 20, false},
	} {
		t.Run(what, func(t *testing.T) {
			before := host()
			h := startHog(t, cgroup.Limits{Memory: limit}, what, c.amount)
			if !c.killed {
				if h.got > 4096 || h.said != unix.EMFILE.Error() {
					t.Errorf("got %d: %s", h.got, h.said)
				}
				h.Kill(handler.Killed)
			} else if h.said != "" {
				t.Errorf("got %d: %s", h.got, h.said)
				h.Kill(handler.Killed)
			}
			r := h.Wait()
			// What dies may be charged a few pages more (memcontrol.c, force).
			if c.killed && r.Reason != handler.OutOfMemory || r.MemoryPeak > limit+1<<20 {
				t.Errorf("%s, peak %d bytes", r.Reason, r.MemoryPeak)
			}
			if grown := host() - before; grown > 8<<20 {
				t.Errorf("the host's group is charged for %d bytes more", grown)
			}
		})
	}
}

// TestSocketBuffersAreBounded: on the host's network a program can have the kernel
// keep what nobody reads. In v2 that is memory like any other. With v1 controllers
// it is counted by itself, and at the limit buffers stay at the least that a socket
// has, so that descriptors run out; without it, one socket takes megabytes.
func TestSocketBuffersAreBounded(t *testing.T) {
	testenv.NoLeaks(t)
	const limit, amount = 48 << 20, 256 << 20 // with the race detector the program itself takes much
	h := startHog(t, cgroup.Limits{Memory: limit}, "tcp buffers", amount)
	if testenv.Group(t).Layout() == "unified" {
		if h.said == "<nil>" {
			t.Errorf("got %d", h.got)
		}
		return
	}
	if h.got > amount/2 || h.said != unix.EMFILE.Error() {
		t.Errorf("got %d: %s", h.got, h.said)
	}
	if said := strings.Join(h.Enforced, "\n"); !strings.Contains(said, fmt.Sprintf("tcp and udp buffers: kept small from %d bytes on", limit)) {
		t.Errorf("nothing says so:\n%s", said)
	}
}

package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

// Out of the cell to others with the same id outside: other cells, the host's
// processes; and from such processes to init.

func init() {
	attacks["neighbours"] = attackNeighbours
	attacks["sockets"] = attackSockets
	testenv.Role("outsider", func() {
		var h hostile
		attackFromOutside(&h, os.Args[1:])
		json.NewEncoder(os.Stdout).Encode(h)
	})
	testenv.Role("bystander", func() { os.Stdin.Read(make([]byte, 1)) })
}

// outerID is who programs are outside.
func outerID() uint32 {
	if uid := os.Geteuid(); uid != 0 {
		return uint32(uid)
	}
	return 65534
}

// parentOf is the parent of a process of the host.
func parentOf(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndex(string(b), ")")+1:]))
	parent, err := strconv.Atoi(f[1])
	if err != nil {
		t.Fatal(err)
	}
	return parent
}

// aSleeper is a program in a cell that waits to be killed.
func aSleeper(t *testing.T, mounts ...isolate.Mount) (pid int) {
	t.Helper()
	cmd := testenv.Launcher(t).Command(testenv.Context(t), "/usr/bin/sleep", "1000")
	cmd.Isolation.Mounts = mounts
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Process.Wait()
	})
	pid, err := cmd.Process.Pid()
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// T-09, CVE-2026-41163: nothing is set-id, and a process outside, also one with the
// very id that programs have there, neither traces nor reads nor writes init, the
// launcher or its forkers. (Programs themselves it may: run_as names an id that nobody
// else has.)
func TestT09InitAndLauncherAreClosed(t *testing.T) {
	testenv.NoLeaks(t)
	init, server := parentOf(t, aSleeper(t)), testenv.Launcher(t).Pid()
	closed := []string{itoa(server), itoa(init)}
	for _, forker := range testenv.Forkers(testenv.Launcher(t)) {
		closed = append(closed, itoa(forker))
	}
	out, err := outside(t, outerID(), "outsider", closed...).Output()
	judge(t, "an outsider with the programs' id", out, err)
	if os.Geteuid() == 0 {
		out, err := outside(t, user, "outsider", closed...).Output()
		judge(t, "an outsider", out, err)
	}
	for _, image := range []string{testenv.Self(t), fmt.Sprintf("/proc/%d/exe", server)} {
		if info, err := os.Stat(image); err == nil && info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
			t.Errorf("%s is set-id", image)
		}
	}
}

func attackFromOutside(h *hostile, pids []string) {
	for _, text := range pids {
		pid, _ := strconv.Atoi(text)
		proc := "/proc/" + text
		for _, file := range []string{"mem", "environ", "auxv", "maps", "syscall", "stack", "pagemap", "io", "exe", "root/etc/passwd", "cwd/etc/passwd", "fd/0", "fd/3"} {
			h.refused(open(proc+"/"+file, unix.O_RDONLY), "%s/%s was opened", proc, file)
		}
		h.refused(open(proc+"/mem", unix.O_RDWR), "%s/mem was opened for writing", proc)
		for _, link := range []string{"exe", "root", "cwd", "fd/3", "ns/user", "ns/mnt"} {
			_, err := os.Readlink(proc + "/" + link)
			h.refused(err, "%s/%s was read", proc, link)
		}
		_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0, 0, 0)
		h.answers(errnoError(errno), unix.EPERM, "ptrace(%d)", pid)
		b := make([]byte, 8)
		local := []unix.Iovec{{Base: &b[0], Len: 8}}
		_, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: isolate.BufferAddress, Len: 8}}, 0)
		h.answers(err, unix.EPERM, "process_vm_readv(%d)", pid)
		fd, err := unix.PidfdOpen(pid, 0)
		h.holds(err == nil, "no pidfd of %d: %v", pid, err)
		_, err = unix.PidfdGetfd(fd, 3, 0)
		h.answers(err, unix.EPERM, "pidfd_getfd(%d)", pid)
		unix.Close(fd)
	}
}

// T-22: sockets of the host, by name and abstract, cannot be reached, and a
// signal to everybody ends nobody else. T-23: a program sees, traces and signals
// no other with the same id outside, of another cell or of none; not its files,
// its memory nor its sockets either.
func TestT22AndT23NeighboursAreOutOfReach(t *testing.T) {
	testenv.NoLeaks(t)
	theirs := testDir(t)
	os.Chmod(theirs, 0o777)
	if err := os.WriteFile(theirs+"/file", []byte(secret), 0o666); err != nil {
		t.Fatal(err)
	}
	sleeper := aSleeper(t, isolate.RW(theirs))
	bystander := outside(t, outerID(), "bystander")
	hold, err := bystander.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	pids := []string{itoa(sleeper), itoa(parentOf(t, sleeper)), itoa(bystander.Process.Pid), itoa(os.Getpid()), itoa(testenv.Launcher(t).Pid())}
	for _, noFilter := range []bool{false, true} {
		scene{Attack: "neighbours", Args: append([]string{theirs}, pids...), NoFilter: noFilter}.fails(t)
	}

	abstract := fmt.Sprintf("\x00proscenium-test-%d", os.Getpid())
	named := filepath.Join(testDir(t), "socket")
	for _, name := range []string{abstract, named} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	os.Chmod(named, 0o777)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	for _, noFilter := range []bool{false, true} {
		scene{Attack: "sockets", Args: []string{"@" + abstract[1:], named, tcp.Addr().String()}, NoFilter: noFilter}.fails(t)
	}

	if err := syscall.Kill(sleeper, 0); err != nil {
		t.Errorf("the other cell's program: %v", err)
	}
	hold.Close()
	if err := bystander.Wait(); err != nil {
		t.Errorf("the bystander: %v", err)
	}
}

func attackNeighbours(h *hostile, args []string) {
	theirs, pids := args[0], args[1:]
	_, err := os.Lstat(theirs)
	h.answers(err, unix.ENOENT, "the other cell's directory")
	for _, dir := range []string{"/tmp", "/dev/shm"} { // what another cell made is not there
		left, err := os.ReadDir(dir)
		h.holds(err == nil, "%s: %v", dir, err)
		for _, e := range left { // the way to this program itself may lead through it
			h.holds(strings.HasPrefix(os.Args[0], filepath.Join(dir, e.Name())+"/"), "%s has %s", dir, e.Name())
		}
		os.WriteFile(dir+"/mine", []byte("x"), 0o666)
	}
	for _, text := range pids {
		pid, _ := strconv.Atoi(text)
		if pid <= 2 {
			continue // init and the program itself have these numbers inside
		}
		for _, sig := range []syscall.Signal{0, unix.SIGTERM, unix.SIGKILL, unix.SIGSTOP} {
			h.answers(unix.Kill(pid, sig), unix.ESRCH, "kill(%d, %d)", pid, int(sig))
			h.answers(unix.Kill(-pid, sig), unix.ESRCH, "kill(-%d, %d)", pid, int(sig))
		}
		_, err := os.Lstat("/proc/" + text)
		h.answers(err, unix.ENOENT, "/proc/%s", text)
		_, err = unix.PidfdOpen(pid, 0)
		h.refused(err, "pidfd_open(%d)", pid)
		_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0, 0, 0)
		h.refused(errnoError(errno), "ptrace(%d)", pid)
		h.refused(unix.Setpriority(unix.PRIO_PROCESS, pid, 19), "setpriority(%d)", pid)
		h.refused(unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &unix.Rlimit{}), "prlimit(%d)", pid)
	}
	// init is in the cell: it is neither seen nor harmed.
	_, err = os.Lstat("/proc/1")
	h.answers(err, unix.ENOENT, "/proc/1")
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, 1, 0, 0, 0, 0)
	h.refused(errnoError(errno), "ptrace(1)")
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGKILL, unix.SIGSTOP, unix.SIGSEGV} {
		unix.Kill(1, sig) // without effect: what the next line shows
	}
	unix.Kill(-1, unix.SIGKILL) // everybody but init and the caller
	h.Tried++
}

func errnoError(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

func attackSockets(h *hostile, args []string) {
	for _, name := range append(args[:2:2], "/run/dbus/system_bus_socket", "/var/run/docker.sock", "/run/systemd/notify", "/run/systemd/private", "/dev/log") {
		for _, kind := range []string{"unix", "unixgram", "unixpacket"} {
			_, err := net.Dial(kind, name)
			h.refused(err, "%s %s was reached", kind, name)
		}
	}
	_, err := net.Dial("tcp", args[2])
	h.refused(err, "the host's loopback was reached")
	for _, address := range []string{"8.8.8.8:53", "[2001:4860:4860::8888]:53", "169.254.169.254:80", "127.0.0.1:1"} {
		_, err := net.Dial("udp", address)
		h.refused(err, "%s was reached", address)
	}
}

// T-20: a signal by our API reaches the program, or nobody: not the stranger who
// has its number since.
func TestT20ReusedPids(t *testing.T) {
	_, err := os.Stat("/proc/sys/kernel/ns_last_pid")
	testenv.Need(t, "root", os.Geteuid() == 0 && err == nil, "only root chooses the next process id (ns_last_pid)")
	testenv.NoLeaks(t)
	reused := 0
	for range 10 {
		cmd := testenv.Launcher(t).Command(testenv.Context(t), "/usr/bin/sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid, err := cmd.Process.Pid()
		if err != nil {
			t.Fatal(err)
		}
		quit, done := make(chan bool), make(chan int)
		go func() { // signals without pause, from before its end until long after
			n := 0
			for ; ; n++ {
				select {
				case <-quit:
					done <- n
					return
				default:
					cmd.Process.Signal(unix.SIGKILL)
				}
			}
		}()
		other := withPid(t, pid)
		for range 1000 {
			if err := cmd.Process.Signal(unix.SIGKILL); other != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Fatalf("a signal after the end: %v", err)
			}
		}
		quit <- true
		if n := <-done; n == 0 {
			t.Error("nothing was signalled")
		}
		cmd.Process.Wait()
		if other != nil {
			reused++
			if err := other.end(); err != nil {
				t.Errorf("the stranger: %v", err)
			}
		}
	}
	if reused == 0 {
		t.Error("no process id was used again")
	}
}

// A stranger is a process of the host that ends by itself when it is let go.
type stranger struct {
	cmd  *exec.Cmd
	hold io.Closer
}

func (s *stranger) end() error { return errors.Join(s.hold.Close(), s.cmd.Wait()) }

// withPid starts a stranger under that process id, once it is free; nil if
// others were quicker, many times.
func withPid(t *testing.T, pid int) *stranger {
	t.Helper()
	for range 300 {
		s := &stranger{cmd: exec.Command("/usr/bin/cat")}
		var err error
		if s.hold, err = s.cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(itoa(pid-1)), 0); err != nil {
			t.Fatal(err)
		}
		if err := s.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if s.cmd.Process.Pid == pid {
			return s
		}
		if err := s.end(); err != nil {
			t.Fatal(err)
		}
	}
	return nil
}

package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

func init() {
	testenv.Role("victim", victim)
	testenv.Role("attacker", attacker)
}

// victim leaves what a sibling could find, says that it has, and waits for its
// stdin to end.
func victim() {
	os.WriteFile("/tmp/secret", []byte("secret"), 0o666)
	os.WriteFile("/dev/shm/secret", []byte("secret"), 0o666)
	if _, err := net.Listen("unix", os.Args[1]); err != nil {
		fmt.Println(err)
	}
	unix.SysvShmGet(4711, 4096, unix.IPC_CREAT|0o666)
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	fmt.Println("whole")
}

// attacker tries to reach the processes whose ids it is given, and what the
// victim left; it says what did not fail.
func attacker() {
	reached := []string{}
	try := func(err error, format string, args ...any) {
		if err == nil {
			reached = append(reached, fmt.Sprintf(format, args...))
		}
	}
	for _, arg := range os.Args[2:] {
		pid, _ := strconv.Atoi(arg)
		try(unix.Kill(pid, 0), "kill %d", pid)
		try(unix.PtraceSeize(pid), "ptrace %d", pid)
		_, err := unix.PidfdOpen(pid, 0)
		try(err, "pidfd_open %d", pid)
		b := make([]byte, 8)
		_, err = unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &b[0], Len: 8}}, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0)
		try(err, "process_vm_readv %d", pid)
		for _, file := range []string{"environ", "mem", "root", "cwd", "fd/0", "status"} {
			_, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
			try(err, "/proc/%d/%s", pid, file)
		}
		try(unix.Setpriority(unix.PRIO_PROCESS, pid, 19), "setpriority %d", pid)
		try(unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &unix.Rlimit{}), "prlimit %d", pid)
		var set unix.CPUSet
		try(unix.SchedGetaffinity(pid, &set), "sched_getaffinity %d", pid)
	}
	for _, file := range []string{"/tmp/secret", "/dev/shm/secret"} {
		_, err := os.ReadFile(file)
		try(err, "%s", file)
	}
	_, err := net.Dial("unix", os.Args[1])
	try(err, "abstract socket")
	_, err = unix.SysvShmGet(4711, 4096, 0)
	try(err, "shared memory")
	unix.Kill(-1, unix.SIGKILL) // everything that it may signal, itself excepted
	json.NewEncoder(os.Stdout).Encode(reached)
}

// TestSiblingsOfOneID: programs of the same host id cannot reach each other, nor
// processes of the host (T-23).
func TestSiblingsOfOneID(t *testing.T) {
	testenv.NoLeaks(t)
	for name, network := range map[string]isolate.Network{"no network": isolate.NetworkNone, "the host's network": isolate.NetworkHost} {
		t.Run(name, func(t *testing.T) {
			host, err := isolate.ThisHost()
			if err != nil {
				t.Fatal(err)
			}
			abstract := fmt.Sprintf("@proscenium-sibling-%d", os.Getpid())
			cell := func(role string, args ...string) *launcher.Cmd {
				cmd := testenv.Launcher(t).Command(testenv.Context(t), testenv.Self(t), append([]string{abstract}, args...)...)
				cmd.Env = []string{testenv.RoleEnv(role)}
				cmd.Isolation.Network = network
				return cmd
			}
			v := cell("victim")
			in, err := v.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			out, err := v.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			if err := v.Start(); err != nil {
				t.Fatal(err)
			}
			var word string
			if _, err := fmt.Fscan(out, &word); err != nil || word != "ready" {
				t.Fatalf("%q, %v", word, err)
			}
			pid, err := v.Process.Pid()
			if err != nil {
				t.Fatal(err)
			}
			args := []string{fmt.Sprint(pid), fmt.Sprint(testenv.Launcher(t).Pid()), fmt.Sprint(os.Getpid())}
			a := cell("attacker", args...)
			said, err := a.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, said)
			}
			var reached []string
			if err := json.Unmarshal(said, &reached); err != nil {
				t.Fatalf("%q: %v", said, err)
			}
			for _, r := range reached {
				if r == "abstract socket" && network == isolate.NetworkHost && host.Landlock < 6 {
					continue // the host's network is shared, by request
				}
				t.Errorf("reached: %s", r)
			}
			in.Close()
			if _, err := fmt.Fscan(out, &word); err != nil || word != "whole" {
				t.Errorf("the victim at its end: %q, %v", word, err)
			}
			if err := v.Wait(); err != nil {
				t.Errorf("the victim: %v", err)
			}
		})
	}
}

// TestInitKeepsOnePage: once the program runs, of what its init has read, and nothing
// of the stack that every process is born with.
func TestInitKeepsOnePage(t *testing.T) {
	testenv.Need(t, "root", os.Geteuid() == 0, "reads init's memory")
	testenv.NoLeaks(t)
	cmd := testenv.Launcher(t).Command(testenv.Context(t), "/usr/bin/sleep", "1000")
	cmd.Env = []string{"TOKEN=" + strings.Repeat("x", 8<<10) + secret}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	pid, err := cmd.Process.Pid()
	if err != nil {
		t.Fatal(err)
	}
	init := parentOf(t, pid)
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", init))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(maps), "[stack]") {
		t.Errorf("init has a stack:\n%s", maps)
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", init))
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	b := make([]byte, isolate.BufferSize)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // it has said before that the program runs
		if _, err := memory.ReadAt(b, isolate.BufferAddress); err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(b, []byte(secret)) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the end of the program's environment is in init's memory")
		}
	}
	if page := os.Getpagesize(); bytes.Count(b[:page], []byte{0}) == page {
		t.Error("this is not init's buffer")
	}
}

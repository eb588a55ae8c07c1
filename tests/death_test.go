package tests

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

func itoa(n int) string { return strconv.Itoa(n) }

func init() { testenv.Role("host", hostRole) }

// hostRole is a host that starts a program with background children, says the
// pids that matter, and waits to be killed. Its argument is how many more
// programs it starts without pause.
func hostRole() {
	g, err := cgroup.Open()
	if err != nil {
		fmt.Println("error", err)
		return
	}
	l, err := launcher.Start(launcher.Config{})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	spawn := func() (*handler.Cell, error) {
		cmd := l.Command(context.Background(), "/bin/sh", "-c", "trap '' TERM HUP; setsid sleep 1000 & sleep 1000 & wait")
		cmd.Isolation = shell
		return handler.StartCell(cmd, g, cgroup.Limits{}, handler.Budgets{})
	}
	c, err := spawn()
	if err != nil {
		fmt.Println("error", err)
		return
	}
	pid, _ := c.Pid()
	fmt.Println("running", l.Pid(), pid)
	for {
		c, err := spawn()
		if err != nil {
			return
		}
		c.Kill(handler.Killed)
		c.Wait()
	}
}

// aHost starts a host and waits until its first program runs.
func aHost(t *testing.T) (cmd *exec.Cmd, launcherPid, programPid int) {
	t.Helper()
	cmd = exec.Command(testenv.Self(t))
	cmd.Env = append(os.Environ(), testenv.RoleEnv("host"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if n, _ := fmt.Sscanf(line, "running %d %d", &launcherPid, &programPid); err != nil || n != 2 {
		cmd.Process.Kill()
		t.Fatalf("the host said %q, %v", line, err)
	}
	return cmd, launcherPid, programPid
}

// gone waits until none of the processes lives.
func gone(t *testing.T, pids []int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it is gone
		}
		defer unix.Close(fd)
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds()))
		if n == 0 {
			cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			t.Errorf("process %d still lives: %q", pid, cmdline)
		}
	}
}

// TestHostDeath: a host that is killed at any moment leaves no process; its
// groups are swept by the next one, and only they.
func TestHostDeath(t *testing.T) {
	var dead []int
	for i := range 8 {
		host, launcherPid, program := aHost(t)
		time.Sleep(time.Duration(i*7) * time.Millisecond) // any moment will do: it is starting programs
		pids := append(testenv.Descendants(host.Process.Pid), launcherPid, program)
		host.Process.Kill()
		host.Wait()
		gone(t, pids)
		dead = append(dead, host.Process.Pid)
	}
	next, _, _ := aHost(t)
	defer func() {
		next.Process.Kill()
		next.Wait()
		if err := cgroup.Sweep(); err != nil {
			t.Error(err)
		}
		if left := testenv.GroupDirs(next.Process.Pid); len(left) > 0 {
			t.Errorf("not swept: %v", left)
		}
	}()
	for _, pid := range dead {
		if left := testenv.GroupDirs(pid); len(left) > 0 {
			t.Errorf("not swept: %v", left)
		}
	}
	for _, dir := range testenv.GroupDirs(os.Getpid()) {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("the group of a living host was swept: %v", err)
		}
	}
}

// TestLauncherDeath: the launcher's death ends its programs and is an error of
// what is started later.
func TestLauncherDeath(t *testing.T) {
	testenv.NoLeaks(t)
	l, err := launcher.Start(launcher.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := l.Command(testenv.Context(t), "/usr/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid, err := cmd.Process.Pid()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(l.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	state := cmd.Process.Wait()
	if state.Signal() != syscall.SIGKILL || state.Reported() {
		t.Errorf("the program: %v", state)
	}
	gone(t, []int{pid})
	if err := l.Command(testenv.Context(t), "/usr/bin/true").Run(); err == nil {
		t.Error("a start after the launcher's death succeeded")
	}
}

// TestInitDeath: init's death is the death of all.
func TestNothingOutlivesTheProgram(t *testing.T) {
	testenv.NoLeaks(t)
	cmd := testenv.Launcher(t).Command(testenv.Context(t), "/bin/sh", "-c", "trap '' TERM HUP; setsid sleep 1000 & sleep 1000 & echo $!")
	cmd.Isolation = shell
	out, err := cmd.Output() // returns although the sleeps hold the pipe
	if err != nil || len(out) == 0 {
		t.Errorf("%q, %v", out, err)
	}
}

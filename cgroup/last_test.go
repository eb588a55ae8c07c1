package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// guestRole has its place in the group that it was born in until its input ends, as
// in a unified layout, but without controllers: a hybrid host has none on v2.
func guestRole() {
	required = nil
	g, err := Open()
	fmt.Println("open", err)
	io.Copy(io.Discard, os.Stdin)
	fmt.Println("closed", g.Close())
}

// A guest is a process in a group that others have their places in as well.
type guest struct {
	*exec.Cmd
	in  io.Closer
	out *bufio.Reader
}

func startGuest(t *testing.T, dir *os.File) *guest {
	t.Helper()
	g := &guest{Cmd: exec.Command("/proc/self/exe")}
	g.Env = append(os.Environ(), guestVariable+"=")
	g.Stderr = os.Stderr
	g.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	in, err := g.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := g.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Process.Kill(); g.Wait() })
	g.in, g.out = in, bufio.NewReader(out)
	return g
}

func (g *guest) expect(t *testing.T, want string) {
	t.Helper()
	if line, _ := g.out.ReadString('\n'); line != want+"\n" {
		t.Errorf("a guest said %q, not %q", line, want)
	}
}

// withUnified is the layout of a host with cgroup v2, which CI has both beside v1
// controllers and pure.
func withUnified(t *testing.T) layout {
	t.Helper()
	l, err := detect()
	if err != nil {
		t.Fatal(err)
	}
	if l.unified == nil {
		t.Skip("no cgroup2 is mounted")
	}
	return l
}

// TestTheLastOneCleansUp: of many instances in one group, such as those that one
// shell has started, nothing is left, whoever is the last; not of those that were
// killed either. Who was in the group is there again.
func TestTheLastOneCleansUp(t *testing.T) {
	l := withUnified(t)
	group := filepath.Join(l.unified.dir(), fmt.Sprintf("shell-%d", os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	shell := exec.Command("sleep", "1000")
	shell.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		shell.Process.Kill()
		shell.Wait()
		if err := rmdir(group); err != nil {
			t.Error(err)
		}
	}()
	for _, killed := range []int{0, 2} {
		var guests []*guest
		for range 8 {
			guests = append(guests, startGuest(t, dir))
		}
		for _, g := range guests {
			g.expect(t, "open <nil>")
		}
		// With controllers, the first one takes the shell along into its leaf.
		leaf, _ := filepath.Glob(fmt.Sprintf("%s/%s*-%d-*/%s", group, namePrefix, guests[0].Process.Pid, supervisor))
		if err := write(leaf[0], "cgroup.procs", fmt.Sprint(shell.Process.Pid)); err != nil {
			t.Fatal(err)
		}
		for _, g := range guests[:killed] {
			g.Process.Kill()
			g.Wait()
		}
		for _, g := range guests[killed:] {
			g.in.Close()
		}
		for _, g := range guests[killed:] {
			g.expect(t, "closed <nil>")
			g.Wait()
		}
		if left, _ := filepath.Glob(group + "/" + namePrefix + "*"); len(left) > 0 {
			t.Errorf("%d killed: left: %v", killed, left)
		}
		if members, err := os.ReadFile(group + "/cgroup.procs"); strings.TrimSpace(string(members)) != fmt.Sprint(shell.Process.Pid) {
			t.Errorf("%d killed: in the group: %q, %v", killed, members, err)
		}
	}
}

// TestCloseAmidARemoval: an exit does not wait for the removal of its leaf, so that a
// Group may be closed in the middle of one. It leaves nothing all the same.
func TestCloseAmidARemoval(t *testing.T) {
	g, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	l, err := g.New("a", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	amid, resume, removed := make(chan bool), make(chan bool), make(chan error)
	var once sync.Once
	step = func(name string) {
		if name == "leaf removed" {
			once.Do(func() { close(amid); <-resume })
		}
	}
	defer func() { step = func(string) {} }()
	go func() { removed <- l.Close() }()
	<-amid
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if left := places(t, os.Getpid()); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	close(resume)
	if err := <-removed; err != nil {
		t.Error(err)
	}
}

// TestTheDyingAreWaitedFor: a process that dies with its owner, in the owner's
// supervisor leaf, does not keep the next instance from removing that.
func TestTheDyingAreWaitedFor(t *testing.T) {
	l := withUnified(t)
	defer func(d time.Duration) { dyingTimeout = d }(dyingTimeout)
	dyingTimeout = 10 * time.Second
	for range 10 {
		owner, child := exec.Command("sleep", "1000"), exec.Command("sleep", "1000")
		for _, cmd := range []*exec.Cmd{owner, child} {
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
		}
		name, err := instanceName(owner.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(l.unified.dir(), name)
		leaf := filepath.Join(dir, supervisor)
		if err := os.MkdirAll(leaf, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := write(leaf, "cgroup.procs", strconv.Itoa(child.Process.Pid)); err != nil {
			t.Fatal(err)
		}
		owner.Process.Kill()
		owner.Wait()
		child.Process.Kill()
		if err := Sweep(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it is left: %v", err)
		}
		child.Wait()
		removeInstance(dir)
	}
}

// TestOldNewsOfAGroup: the kernel tells of changes late when they come one upon the
// other, and awaitEmpty does not take the news of a birth for that of an end.
func TestOldNewsOfAGroup(t *testing.T) {
	l := withUnified(t)
	dir := filepath.Join(l.unified.dir(), fmt.Sprintf("news-%d", os.Getpid()))
	other := dir + "-other"
	for _, dir := range []string{dir, other} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		defer rmdir(dir)
	}
	member := exec.Command("sleep", "1000")
	if err := member.Start(); err != nil {
		t.Fatal(err)
	}
	defer member.Wait()
	defer member.Process.Kill()
	for range 20 {
		for _, to := range []string{dir, other, dir} {
			if err := write(to, "cgroup.procs", strconv.Itoa(member.Process.Pid)); err != nil {
				t.Fatal(err)
			}
		}
		const timeout = 20 * time.Millisecond
		begin := time.Now()
		awaitEmpty(dir, timeout)
		if took := time.Since(begin); took < timeout {
			t.Fatalf("a member lives, and the wait for its end was over after %v", took)
		}
	}
}

// TestThereIsRoomForTheProgram: with a limit of two processes, that of init and the
// program, limits are in force only once who has cloned init is gone.
func TestThereIsRoomForTheProgram(t *testing.T) {
	g, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if g.Layout() != "unified" {
		t.Skip("with v1 controllers only init is put into the group")
	}
	l, err := g.Begin("narrow", Limits{Pids: MinPids})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, seconds := range []string{"0.3", "60"} {
		sleep := exec.Command("sleep", seconds)
		sleep.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(l.File().Fd())}
		if err := sleep.Start(); err != nil {
			t.Fatal(err)
		}
		reaped := make(chan struct{})
		go func() {
			sleep.Wait()
			close(reaped)
		}()
		defer func() {
			sleep.Process.Kill()
			<-reaped
		}()
	}
	if err := l.Ready(); err != nil {
		t.Fatal(err)
	}
	if n, err := os.ReadFile(l.Path() + "/pids.current"); err != nil || string(n) != "1\n" {
		t.Errorf("%q processes are in the leaf, %v", n, err)
	}
}

package launcher_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func TestOutput(t *testing.T) {
	testenv.NoLeaks(t)
	l := testenv.Launcher(t)
	out, err := l.Command(context.Background(), "/usr/bin/echo", "hello").Output()
	if err != nil || string(out) != "hello\n" {
		t.Fatalf("echo: %q, %v", out, err)
	}
}

// TestNothingIsLeftToReap: not of the first starts either, which do not wait for the
// launcher to be ready.
func TestNothingIsLeftToReap(t *testing.T) {
	testenv.NoLeaks(t)
	l, err := launcher.Start(launcher.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 3 {
		if err := l.Command(context.Background(), "/usr/bin/true").Run(); err != nil {
			t.Fatal(err)
		}
	}
	l.AwaitTemplates()
	forkers := testenv.Forkers(l)
	for deadline := time.Now().Add(5 * time.Second); len(testenv.Descendants(l.Pid())) > len(forkers); {
		if time.Now().After(deadline) {
			t.Fatalf("beside the forkers %v: %v", forkers, testenv.Descendants(l.Pid()))
		}
		time.Sleep(time.Millisecond) // what has ended is being reaped
	}
}

// TestForkersAreReplaced: the death of all forkers is the death of no program, and the
// next starts are as good.
func TestForkersAreReplaced(t *testing.T) {
	testenv.NoLeaks(t)
	l, err := launcher.Start(launcher.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cat := l.Command(context.Background(), "/usr/bin/cat")
	stdin, err := cat.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cat.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	spared := slices.DeleteFunc(testenv.Descendants(l.Pid()), func(pid int) bool { return slices.Contains(testenv.Forkers(l), pid) })
	for range 300 { // some of them before they have a plan
		for _, pid := range testenv.Descendants(l.Pid()) {
			if !slices.Contains(spared, pid) {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
	for range 3 {
		dead := testenv.Forkers(l)
		for _, pid := range dead {
			unix.Kill(pid, unix.SIGKILL)
		}
		// In the middle of it a start may fail.
		if err := l.Command(context.Background(), "/usr/bin/true").Run(); err != nil && !strings.Contains(err.Error(), "its forker") {
			t.Errorf("a start with the forkers' death: %v", err)
		}
		if testenv.Forkers(l, dead...) == nil {
			t.Errorf("after the death of forkers %v: %v", dead, testenv.Descendants(l.Pid()))
		}
		if err := l.Command(context.Background(), "/usr/bin/true").Run(); err != nil {
			t.Errorf("a start after the forkers' death: %v", err)
		}
	}
	if _, err := stdin.Write([]byte("still here")); err != nil {
		t.Error(err)
	}
	stdin.Close()
	if said, err := io.ReadAll(stdout); err != nil || string(said) != "still here" {
		t.Errorf("the program said %q, %v", said, err)
	}
	if err := cat.Wait(); err != nil {
		t.Errorf("the program: %v", err)
	}
}

// TestLimitsComeBehindStageOne: of a v2 group, for a forker waits for stage one; of v1
// groups, which only init joins, before.
func TestLimitsComeBehindStageOne(t *testing.T) {
	testenv.NoLeaks(t)
	cmd := testenv.Launcher(t).Command(testenv.Context(t), "/usr/bin/true")
	leaf, err := testenv.Group(t).Begin("behind", cgroup.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer leaf.Close()
	cmd.Cgroup, cmd.CgroupTasks, cmd.CgroupCount = leaf.File(), leaf.Tasks, leaf.TasksCount()
	launched, when := false, "never"
	launcher.SetStep(func(name string) { launched = launched || name == "launched" })
	defer launcher.SetStep(func(string) {})
	cmd.CgroupReady = func() error {
		when = "before"
		if launched {
			when = "behind"
		}
		return leaf.Ready()
	}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	want := "behind"
	if leaf.TasksCount() > 0 {
		want = "before"
	}
	if when != want {
		t.Errorf("limits were set %s stage one, want %s", when, want)
	}
}

// TestThen: what is to be done after the end is done once, in order, with all of it over;
// and at once where the end has been.
func TestThen(t *testing.T) {
	testenv.NoLeaks(t)
	cmd := testenv.Launcher(t).Command(context.Background(), "/usr/bin/cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	called := make(chan string, 3)
	for _, name := range []string{"first", "second"} {
		cmd.Process.Then(func() { called <- name + " after " + cmd.Process.Wait().String() })
	}
	if len(called) > 0 {
		t.Error("before the end: ", <-called)
	}
	stdin.Close()
	want := []string{"first after exit status 0", "second after exit status 0"}
	if got := []string{<-called, <-called}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	cmd.Process.Then(func() { called <- "late" })
	if got := <-called; got != "late" {
		t.Error(got)
	}
}

func TestExitStatus(t *testing.T) {
	testenv.NoLeaks(t)
	l := testenv.Launcher(t)
	cmd := l.Command(context.Background(), "/usr/bin/ls", "/nonexistent")
	out, err := cmd.CombinedOutput()
	var exit *launcher.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !exit.Reported() {
		t.Fatalf("ls of nothing: %v, want exit status 2", err)
	}
	if !strings.Contains(string(out), "No such file") {
		t.Errorf("stderr: %q", out)
	}
}

// TestSignalsToTheService: what a service manager or a terminal sends to every
// process of a service is the host's to answer. Programs go on, and can be started.
func TestSignalsToTheService(t *testing.T) {
	testenv.NoLeaks(t)
	l := testenv.Launcher(t)
	cat := l.Command(context.Background(), "/usr/bin/cat")
	in, err := cat.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGALRM} {
		for _, pid := range append(testenv.Forkers(l), l.Pid()) {
			if err := syscall.Kill(pid, sig); err != nil {
				t.Errorf("%v to %d: %v", sig, pid, err)
			}
		}
		if out, err := l.Command(context.Background(), "/usr/bin/echo", "hello").Output(); err != nil || string(out) != "hello\n" {
			t.Fatalf("after %v: %q, %v", sig, out, err)
		}
	}
	in.Close()
	if err := cat.Wait(); err != nil {
		t.Errorf("the program of before: %v", err)
	}
}

func TestKill(t *testing.T) {
	testenv.NoLeaks(t)
	l := testenv.Launcher(t)
	cmd := l.Command(context.Background(), "/usr/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if state := cmd.Process.Wait(); state.Signal() != syscall.SIGTERM || state.ExitCode() != -1 {
		t.Errorf("after SIGTERM: %v", state)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal after the end: %v, want %v", err, os.ErrProcessDone)
	}
}

func TestErrorsBeforeTheStart(t *testing.T) {
	testenv.NoLeaks(t)
	l := testenv.Launcher(t)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		cmd  *launcher.Cmd
		want error
		text string
	}{
		"no such program": {l.Command(context.Background(), "/nonexistent"), os.ErrNotExist, "/nonexistent"},
		"not a program":   {l.Command(context.Background(), "/etc/passwd"), os.ErrPermission, "/etc/passwd"},
		"a directory":     {l.Command(context.Background(), "/usr/bin"), os.ErrPermission, "/usr/bin"},
		"relative":        {l.Command(context.Background(), "ls"), nil, "not an absolute path"},
		"NUL":             {l.Command(context.Background(), "/usr/bin/ls", "a\x00b"), nil, "argument 1 contains a NUL byte"},
		"no such dir":     {&launcher.Cmd{}, nil, ""},
		"too long":        {l.Command(context.Background(), "/usr/bin/ls", strings.Repeat("x", 2<<20)), syscall.E2BIG, "at most"},
		"cancelled":       {l.Command(cancelled, "/usr/bin/ls"), context.Canceled, ""},
	} {
		if name == "no such dir" {
			c.cmd = l.Command(context.Background(), "/usr/bin/ls")
			c.cmd.Dir, c.want, c.text = "/nowhere", os.ErrNotExist, `chdir("/nowhere")`
		}
		err := c.cmd.Run()
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSetupErrorNamesTheCall: the failing system call, as strace prints it.
func TestSetupErrorNamesTheCall(t *testing.T) {
	cmd := testenv.Launcher(t).Command(context.Background(), "/usr/bin/ls")
	cmd.Dir = "/nowhere"
	var setup *launcher.SetupError
	if err := cmd.Run(); !errors.As(err, &setup) || setup.Step != "init" || setup.Call != `chdir("/nowhere")` || setup.Err != syscall.ENOENT {
		t.Errorf("%#v", setup)
	}
}

// TestConcurrentStarts: many at once, and each output is its own.
func TestConcurrentStarts(t *testing.T) {
	testenv.NoLeaks(t)
	l := testenv.Launcher(t)
	errs := make(chan error)
	const n = 40
	for i := range n {
		go func() {
			want := fmt.Sprint(i)
			out, err := l.Command(testenv.Context(t), "/usr/bin/echo", "-n", want).Output()
			if err == nil && string(out) != want {
				err = fmt.Errorf("got %q, want %q", out, want)
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestContextKills(t *testing.T) {
	testenv.NoLeaks(t)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := testenv.Launcher(t).Command(ctx, "/usr/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := cmd.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
}

func ExampleCmd_Output() {
	l, err := launcher.Start(launcher.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()
	out, err := l.Command(context.Background(), "/usr/bin/seq", "3").Output()
	fmt.Printf("%q %v\n", out, err)
	// Output: "1\n2\n3\n" <nil>
}

package launcher_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

func init() { testenv.Role("steps", stepsRole) }

// stepsRole is a host that starts a program and says each step of it. At the
// step STEP its VICTIM is killed: the host itself, its launcher, all forkers, or every
// stage one and init there is.
func stepsRole() {
	at, victim := os.Getenv("STEP"), os.Getenv("VICTIM")
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
	forkers := testenv.Forkers(l)
	if forkers == nil {
		fmt.Println("error the launcher has no forkers")
		return
	}
	var mu sync.Mutex // templates are made beside starts
	count := map[string]int{}
	launcherDies := false
	var killed []int
	launcher.SetStep(func(name string) {
		mu.Lock()
		defer mu.Unlock()
		count[name]++
		name = fmt.Sprintf("%s (%d)", name, count[name])
		fmt.Println("step", name)
		if name != at {
			return
		}
		switch victim {
		case "host":
			unix.Kill(os.Getpid(), unix.SIGKILL)
		case "launcher":
			launcherDies = true
			unix.Kill(l.Pid(), unix.SIGKILL)
		case "forkers":
			killed = forkers
			for _, pid := range killed {
				unix.Kill(pid, unix.SIGKILL)
			}
		case "init":
			for _, pid := range testenv.Descendants(l.Pid()) {
				if !slices.Contains(forkers, pid) {
					unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
	})
	start := func(script string) (*handler.Cell, error) {
		cmd := l.Command(context.Background(), "/bin/sh", "-c", script)
		cmd.Isolation = isolate.Spec{View: isolate.ViewSystem}
		return handler.StartCell(cmd, g, cgroup.Limits{}, handler.Budgets{})
	}
	// The second start has a template made, the third has it.
	for range 3 {
		cell, err := start("trap '' TERM HUP; setsid sleep 1000 & sleep 1000 & wait")
		l.AwaitTemplates()
		if err == nil {
			mu.Lock()
			if !launcherDies { // whose death is the program's
				cell.Kill(handler.Killed)
			}
			mu.Unlock()
			cell.Wait()
		}
	}
	launcher.SetStep(func(string) {})
	mu.Lock()
	dying := killed
	mu.Unlock()
	for _, pid := range dying { // one may yet take a request along
		for deadline := time.Now().Add(5 * time.Second); unix.Kill(pid, 0) == nil && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond) // the launcher hears of it, not we
		}
	}
	if cell, err := start("exit 7"); err != nil {
		fmt.Println("last", err)
	} else {
		fmt.Println("last", cell.Wait().ExitCode)
	}
	for deadline := time.Now().Add(5 * time.Second); len(testenv.Descendants(l.Pid())) > len(forkers); {
		if time.Now().After(deadline) {
			fmt.Println("error processes are left:", testenv.Descendants(l.Pid()), "forkers are", forkers)
			break
		}
		time.Sleep(time.Millisecond) // they have ended; the launcher has yet to reap them
	}
	l.Close()
	fmt.Println("closed", g.Close())
}

// A performance is one run of stepsRole.
type performance struct {
	pid   int
	steps []string
	said  map[string]string // first word of a line → the rest
}

// perform runs stepsRole to its end and waits until no process of it is left.
func perform(t *testing.T, env ...string) performance {
	t.Helper()
	before := testenv.Descendants(os.Getpid())
	temporary := t.TempDir()
	cmd := exec.Command(testenv.Self(t))
	cmd.Env = append(append(os.Environ(), testenv.RoleEnv("steps"), "TMPDIR="+temporary), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := performance{pid: cmd.Process.Pid, said: map[string]string{}}
	for s := bufio.NewScanner(out); s.Scan(); {
		word, rest, _ := strings.Cut(s.Text(), " ")
		if word == "step" {
			p.steps = append(p.steps, rest)
		}
		p.said[word] = rest
	}
	cmd.Wait()
	if message, ok := p.said["error"]; ok {
		t.Fatal(message)
	}
	orphansEnd(t, before)
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v, %v", left, err)
	}
	return p
}

// orphansEnd waits until we have no descendants but those before. Orphans are
// ours, for this process is a subreaper: none escapes the look.
func orphansEnd(t *testing.T, before []int) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		now := slices.DeleteFunc(testenv.Descendants(os.Getpid()), func(pid int) bool { return slices.Contains(before, pid) })
		if len(now) == 0 {
			return
		}
		for _, pid := range now {
			unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
		if time.Now().After(deadline) {
			for _, pid := range now {
				cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				t.Errorf("process %d still lives: %q", pid, cmdline)
				unix.Kill(pid, unix.SIGKILL)
			}
			return
		}
		time.Sleep(time.Millisecond) // an orphan's end needs no event of ours
	}
}

// TestDeathAtEveryStep kills the host, the launcher and init at each step of a
// start. What is left then is no process, no mount and no temporary file, and
// after a host's death only groups, which the next host removes; a program of
// another living host runs on.
func TestDeathAtEveryStep(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	testenv.NoLeaks(t)
	neighbour, err := handler.StartCell(testenv.Launcher(t).Command(context.Background(), "/usr/bin/sleep", "1000"), testenv.Group(t), cgroup.Limits{}, handler.Budgets{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := os.Stat(neighbour.Leaf.Path()); err != nil {
			t.Errorf("a living host's leaf: %v", err)
		}
		if err := neighbour.Kill(handler.Killed); err != nil {
			t.Errorf("a living host's program: %v", err)
		}
		neighbour.Wait()
	}()

	steps := perform(t).steps
	last := map[string]string{} // by name, its last time
	for _, step := range steps {
		name, _, _ := strings.Cut(step, " (")
		last[name] = step
	}
	for _, must := range []string{"pair made", "request sent", "cloned", "launched", "detached mounts made", "plan sent", "begun", "template made"} {
		if last[must] == "" {
			t.Errorf("a start has no step %q: %q", must, steps)
		}
	}
	dead := 0 // the last host that died
	swept := func(t *testing.T) {
		t.Helper()
		if left := testenv.GroupDirs(dead); dead != 0 && len(left) > 0 {
			t.Errorf("the next host has not swept %v", left)
		}
	}
	for _, step := range steps {
		if name, _, _ := strings.Cut(step, " ("); step != name+" (1)" && step != last[name] {
			continue // in between nothing is new
		}
		t.Run("host/"+step, func(t *testing.T) {
			p := perform(t, "STEP="+step, "VICTIM=host")
			if end := p.steps[len(p.steps)-1]; end != step || len(p.said) > 1 {
				t.Errorf("the host did not die at this step: %q, %q", p.steps, p.said)
			}
			swept(t)
			dead = p.pid // its groups are there, unless another package's tests have swept
		})
	}
	perform(t)
	swept(t)
	for _, step := range last {
		for _, victim := range []string{"launcher", "forkers", "init"} {
			t.Run(victim+"/"+step, func(t *testing.T) {
				p := perform(t, "STEP="+step, "VICTIM="+victim)
				switch {
				case p.said["closed"] != "<nil>":
					t.Errorf("closing after the death: %q", p.said)
				case victim == "launcher" && !strings.Contains(p.said["last"], "launcher"):
					t.Errorf("the host without its launcher: %q", p.said)
				case victim != "launcher" && p.said["last"] != "7":
					t.Errorf("the start after the death: %q", p.said)
				}
			})
		}
	}
}

package cgroup

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	stepVariable  = "PROSCENIUM_TEST_STEP"
	judgeVariable = "PROSCENIUM_TEST_JUDGE" // the name of an instance
	guestVariable = "PROSCENIUM_TEST_GUEST"
)

func TestMain(m *testing.M) {
	if at, ok := os.LookupEnv(stepVariable); ok {
		stepsRole(at)
		os.Exit(0)
	}
	if name, ok := os.LookupEnv(judgeVariable); ok {
		fmt.Println(abandoned(name))
		os.Exit(0)
	}
	if _, ok := os.LookupEnv(guestVariable); ok {
		guestRole()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// stepsRole makes and removes a leaf, says each step of it, and kills itself at
// one of them.
func stepsRole(at string) {
	count := map[string]int{}
	step = func(name string) {
		count[name]++
		name = fmt.Sprintf("%s (%d)", name, count[name])
		fmt.Println(name)
		if name == at {
			unix.Kill(os.Getpid(), unix.SIGKILL)
		}
	}
	g, err := Open()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, name := range []string{"a", "b"} { // v1 groups of the first are the second's
		l, err := g.New(name, Limits{})
		if err != nil {
			fmt.Println(err)
			return
		}
		l.Expect(true)
		if err := l.Close(); err != nil {
			fmt.Println(err)
		}
	}
	if err := g.Close(); err != nil {
		fmt.Println(err)
	}
	fmt.Println("done")
}

// places are the groups that a process has, or has left behind.
func places(t *testing.T, pid int) []string {
	t.Helper()
	l, err := detect()
	if err != nil {
		t.Fatal(err)
	}
	bases := []string{}
	if l.unified != nil {
		bases = append(bases, l.unified.dir())
	}
	for _, h := range l.legacy {
		bases = append(bases, h.dir())
	}
	var found []string
	for _, base := range bases {
		dirs, err := filepath.Glob(fmt.Sprintf("%s/%s*-*-%d-*", base, namePrefix, pid))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, dirs...)
	}
	return found
}

func perform(t *testing.T, at string) (pid int, said []string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), stepVariable+"="+at)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(out); s.Scan(); {
		said = append(said, s.Text())
	}
	cmd.Wait()
	return cmd.Process.Pid, said
}

// TestDeathAtEveryStep kills a process at each step of making and removing its
// groups. The next one removes what is left, and nothing of the living.
func TestDeathAtEveryStep(t *testing.T) {
	g, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	l, err := g.New("living", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	_, steps := perform(t, "")
	if n := len(steps) - 1; n < 8 || steps[n] != "done" {
		t.Fatalf("without a death: %q", steps)
	} else {
		steps = steps[:n]
	}
	musts := []string{"place made", "leaf made", "limits set", "leaf removed", "place removed"}
	if g.Layout() == "hybrid" {
		musts = append(musts, "group renamed")
	}
	for _, must := range musts {
		if !slices.Contains(steps, must+" (1)") {
			t.Errorf("there is no step %q: %q", must, steps)
		}
	}
	for _, at := range steps {
		t.Run(at, func(t *testing.T) {
			dead, said := perform(t, at)
			if said[len(said)-1] != at {
				t.Errorf("it did not die at this step: %q", said)
			}
			left := places(t, dead)
			if gone := strings.HasPrefix(at, "place removed"); len(left) == 0 && !gone {
				t.Error("it left nothing: nothing is tested")
			}
			if _, said := perform(t, ""); said[len(said)-1] != "done" {
				t.Errorf("the next one: %q", said)
			}
			if left := places(t, dead); len(left) > 0 {
				t.Errorf("not swept: %v", left)
			}
			for _, dir := range l.dirs {
				if _, err := os.Stat(dir); err != nil {
					t.Errorf("a living process's leaf: %v", err)
				}
			}
		})
	}
}

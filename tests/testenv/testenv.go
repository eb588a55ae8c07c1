// Package testenv is what tests that start programs share: a launcher and a
// control group, roles that the test binary plays inside a cell, abilities that
// a machine may lack, and a look for leaks.
package testenv

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/reexec"
)

var (
	theLauncher *launcher.Launcher
	theGroup    *cgroup.Group
	roles       = map[string]func(){"probe": printProbe}
)

// Role registers a part that the test binary plays when it is started with
// RoleEnv(name) in its environment.
func Role(name string, f func()) { roles[name] = f }

const roleVariable = "PROSCENIUM_TEST_ROLE"

// RoleEnv is the environment entry that makes the test binary play a role.
func RoleEnv(name string) string { return roleVariable + "=" + name }

// Main is TestMain: it plays a role, or makes launcher and control group, runs
// the tests, and looks whether anything of theirs is left.
func Main(m *testing.M) {
	reexec.Init()
	if name := os.Getenv(roleVariable); name != "" {
		roles[name]()
		os.Exit(0)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if theGroup, err = cgroup.Open(); err != nil {
		fmt.Fprintln(os.Stderr, "testenv:", err)
		return 1
	}
	if theLauncher, err = launcher.Start(launcher.Config{}); err != nil {
		fmt.Fprintln(os.Stderr, "testenv:", err)
		return 1
	}
	if len(Forkers(theLauncher)) == 0 {
		fmt.Fprintln(os.Stderr, "testenv: the launcher has no forkers")
		return 1
	}
	code := m.Run()
	theLauncher.Close()
	if copied, err := selfOutside(); err == nil && copied.made {
		os.Remove(copied.path)
	}
	if err := theGroup.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "testenv: a control group is left:", err)
		code = max(code, 1)
	}
	return code
}

// Launcher is the test binary's launcher.
func Launcher(testing.TB) *launcher.Launcher { return theLauncher }

// Group is the test binary's control group.
func Group(testing.TB) *cgroup.Group { return theGroup }

// Context ends when a test has taken longer than any should.
func Context(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// Need skips the test where the machine lacks an ability, with a sentence. Where
// PROSCENIUM_ABILITIES names the ability it fails instead: what a machine of CI
// has promised must not be skipped there.
func Need(t testing.TB, ability string, ok bool, sentence string) {
	t.Helper()
	if ok {
		return
	}
	if Promised(ability) {
		t.Fatalf("this machine promises the ability %q: %s", ability, sentence)
	}
	t.Skipf("needs the ability %q: %s", ability, sentence)
}

// Promised says whether PROSCENIUM_ABILITIES names the ability. "scratch" is one
// that only it can tell: the machine is there for the tests alone, which may
// change its settings.
func Promised(ability string) bool {
	return slices.Contains(strings.Fields(os.Getenv("PROSCENIUM_ABILITIES")), ability)
}

// NoLeaks compares, at the end of the test, what the process holds with what it
// holds now: descriptors, child processes, goroutines, mounts and leaves.
func NoLeaks(t testing.TB) {
	t.Helper()
	before := holdings()
	t.Cleanup(func() {
		deadline := time.Now().Add(10 * time.Second)
		for {
			after := holdings()
			leak := after.more(before)
			if leak == "" {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("leaked: %s", leak)
				return
			}
			runtime.Gosched()
			time.Sleep(10 * time.Millisecond) // what is closing needs no event of ours
		}
	})
}

type held struct {
	descriptors, children, mounts, groups []string
	goroutines                            int
}

func holdings() held {
	h := held{goroutines: runtime.NumGoroutine()}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		// The launcher keeps templates and network namespaces, and package cgroup groups
		// of v1, a bounded number of each, for the next start.
		kept := strings.HasPrefix(target, "user:[") || strings.HasPrefix(target, "mnt:[") || strings.HasPrefix(target, "net:[") || spare(target)
		if err == nil && !kept {
			h.descriptors = append(h.descriptors, strings.Split(target, ":")[0])
		}
	}
	for _, pid := range append(Descendants(os.Getpid()), Descendants(theLauncher.Pid())...) {
		h.children = append(h.children, fmt.Sprint(pid))
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		h.mounts = append(h.mounts, strings.TrimSpace(line))
	}
	for _, dir := range GroupDirs(os.Getpid()) {
		leaves, _ := filepath.Glob(dir + "/*/cgroup.procs")
		for _, leaf := range leaves {
			if !spare(filepath.Dir(leaf)) {
				h.groups = append(h.groups, leaf)
			}
		}
	}
	return h
}

// spare says whether it is the directory of a v1 group that waits for the next program.
func spare(dir string) bool {
	return strings.HasPrefix(dir, "/sys/fs/cgroup/") && strings.HasPrefix(filepath.Base(dir), ".")
}

// more says what h has more of than before.
func (h held) more(before held) string {
	var leaks []string
	if n := h.goroutines - before.goroutines; n > 0 {
		buf := make([]byte, 64<<10)
		leaks = append(leaks, fmt.Sprintf("%d goroutines\n%s", n, buf[:runtime.Stack(buf, true)]))
	}
	for _, l := range []struct {
		what        string
		now, before []string
	}{
		{"descriptors", h.descriptors, before.descriptors},
		{"processes", h.children, before.children},
		{"mounts", h.mounts, before.mounts},
		{"control groups", h.groups, before.groups},
	} {
		if len(l.now) > len(l.before) {
			rest := slices.Clone(l.now)
			for _, b := range l.before {
				if i := slices.Index(rest, b); i >= 0 {
					rest = slices.Delete(rest, i, i+1)
				}
			}
			leaks = append(leaks, fmt.Sprintf("%d %s: %s", len(l.now)-len(l.before), l.what, strings.Join(rest[:min(len(rest), 10)], ", ")))
		}
	}
	return strings.Join(leaks, "; ")
}

// Forkers waits until the launcher has all of its forkers, which stay: ten of
// root's, two of an ordinary user's, and none of the killed ones, who take a moment to
// die. Without them it gives none.
func Forkers(l *launcher.Launcher, killed ...int) []int {
	want := 10
	if os.Geteuid() != 0 {
		want = 2
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		forkers := slices.DeleteFunc(Descendants(l.Pid()), func(pid int) bool {
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)) // what they fork has it at first
			return string(name) != "proscenium-fork\n"
		})
		dying := slices.ContainsFunc(forkers, func(pid int) bool { return slices.Contains(killed, pid) })
		if len(forkers) == want && !dying {
			return forkers
		}
		time.Sleep(time.Millisecond) // their start needs no event of ours
	}
	return nil
}

// Descendants are the living children of a process, and theirs.
func Descendants(pid int) []int {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var all []int
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		for _, f := range bytes.Fields(b) {
			var child int
			fmt.Sscan(string(f), &child)
			all = append(all, child)
			all = append(all, Descendants(child)...)
		}
	}
	return all
}

// GroupDirs are the directories in which the instance with that pid keeps its
// leaves, in every hierarchy.
func GroupDirs(pid int) []string {
	var dirs []string
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		parts := strings.Split(d.Name(), "-")
		if len(parts) == 6 && parts[0] == "proscenium" && parts[4] == fmt.Sprint(pid) {
			dirs = append(dirs, path)
			return filepath.SkipDir
		}
		return nil
	})
	return dirs
}

// Self is the test binary as a program that a cell can be given. It does not lie in
// /tmp, where no template could show it.
func Self(t testing.TB) string {
	t.Helper()
	self, err := selfOutside()
	if err != nil {
		t.Fatal(err)
	}
	return self.path
}

type selfCopy struct {
	path string
	made bool // for us to remove
}

var selfOutside = sync.OnceValues(func() (c selfCopy, err error) {
	if c.path, err = os.Executable(); err != nil || !strings.HasPrefix(c.path, "/tmp/") {
		return c, err
	}
	from, err := os.Open(c.path)
	if err != nil {
		return c, err
	}
	defer from.Close()
	to, err := os.CreateTemp("/var/tmp", "proscenium-test-*")
	if err != nil {
		return c, err
	}
	defer to.Close()
	c = selfCopy{to.Name(), true}
	_, err = to.ReadFrom(from)
	return c, errors.Join(err, to.Chmod(0o755))
})

// Look runs the probe in the cell that cmd describes and returns what it saw.
func Look(t testing.TB, cmd *launcher.Cmd) Seen {
	t.Helper()
	cmd.Env = append(cmd.Env, RoleEnv("probe"))
	out, err := cmd.Output()
	return parse(t, out, err)
}

// LookWarm is Look in a cell that is warm before.
func LookWarm(t testing.TB, cmd *launcher.Cmd) Seen {
	t.Helper()
	w := Prepare(t, cmd)
	cmd.Env = append(cmd.Env, RoleEnv("probe"))
	out, err := w.Output()
	return parse(t, out, err)
}

// A Warm is a command that was prepared, with its output.
type Warm struct {
	*launcher.Cmd
	stdout *os.File
}

// Prepare prepares the command.
func Prepare(t testing.TB, cmd *launcher.Cmd) *Warm {
	t.Helper()
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Prepare()
	}
	if err != nil {
		t.Fatal(err)
	}
	return &Warm{cmd, stdout}
}

// Output runs it to its end.
func (w *Warm) Output() ([]byte, error) {
	if err := w.Start(); err != nil {
		return nil, err
	}
	defer w.stdout.Close()
	out, err := io.ReadAll(w.stdout)
	return out, errors.Join(err, w.Wait())
}

func parse(t testing.TB, out []byte, err error) Seen {
	t.Helper()
	if err != nil {
		t.Fatalf("the probe: %v\n%s", err, out)
	}
	var seen Seen
	if err := json.Unmarshal(out, &seen); err != nil {
		t.Fatalf("the probe said %q: %v", out, err)
	}
	return seen
}

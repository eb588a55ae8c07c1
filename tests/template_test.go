package tests

import (
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

// freshLauncher remembers no profile yet.
func freshLauncher(t *testing.T) *launcher.Launcher {
	l, err := launcher.Start(launcher.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// untilTemplate starts commands until one is in a template.
func untilTemplate(t *testing.T, command func() *launcher.Cmd) {
	t.Helper()
	for ctx := testenv.Context(t); ctx.Err() == nil; {
		cmd := command()
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		if cmd.Plan.InTemplate {
			return
		}
	}
	t.Fatal("no start was in a template")
}

// TestEveryWayOfStartingIsTheSame: a program sees the same in a cell made for it,
// in one from a template and in a warm one.
func TestEveryWayOfStartingIsTheSame(t *testing.T) {
	testenv.NoLeaks(t)
	data := t.TempDir()
	if err := os.Chmod(filepath.Dir(data), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spec     isolate.Spec
		template bool
	}{
		"hardened":     {isolate.Hardened(), true},
		"system":       {isolate.System(), true},
		"host network": {isolate.Spec{Network: isolate.NetworkHost}, true},
		"mounts":       {isolate.Spec{Mounts: []isolate.Mount{isolate.RO("/etc/passwd"), isolate.Tmpfs("/scratch", 1<<20)}, UID: 77, GID: 78}, true},
		"below tmp":    {isolate.Spec{Mounts: []isolate.Mount{isolate.RO(data)}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "system" && testing.Short() {
				t.Skip("the probe walks all of /usr, which takes an emulated machine, and who serves its files, too much")
			}
			l := freshLauncher(t)
			command := func() *launcher.Cmd {
				cmd := l.Command(testenv.Context(t), testenv.Self(t))
				cmd.Isolation, cmd.Env = c.spec, []string{testenv.RoleEnv("nothing")}
				return cmd
			}
			look := func(cmd *launcher.Cmd, how func(testing.TB, *launcher.Cmd) testenv.Seen) testenv.Seen {
				cmd.Env = nil
				s := how(t, cmd)
				s.Namespaces = nil
				maps.DeleteFunc(s.Status, func(field, _ string) bool { // what is of the moment
					return strings.HasPrefix(field, "Vm") || strings.HasPrefix(field, "Rss") || strings.HasSuffix(field, "ctxt_switches") || slices.Contains([]string{"Threads", "State", "SigQ", "SigPnd", "ShdPnd"}, field) // the Go runtime signals itself
				})
				for number := range s.Descriptors {
					s.Descriptors[number] = "open"
				}
				slices.Sort(s.Mounts)
				s.Mounts = slices.Compact(s.Mounts) // the template's /proc is below the program's
				return s
			}
			plain := look(command(), testenv.Look)
			if c.template {
				untilTemplate(t, command)
			}
			second := command()
			if s := look(second, testenv.Look); !reflect.DeepEqual(s, plain) {
				t.Errorf("in a template (%v):\n%+v\nwithout one:\n%+v", second.Plan.InTemplate, s, plain)
			}
			if second.Plan.InTemplate != c.template {
				t.Errorf("in a template: %v", second.Plan.InTemplate)
			}
			if s := look(command(), testenv.LookWarm); !reflect.DeepEqual(s, plain) {
				t.Errorf("warm:\n%+v\ncold:\n%+v", s, plain)
			}
		})
	}
}

// TestNetworksAreNotShared: programs that live at the same time each have a
// network namespace of their own.
func TestNetworksAreNotShared(t *testing.T) {
	testenv.NoLeaks(t)
	l := freshLauncher(t)
	seen := map[string]bool{}
	if ours, err := os.Readlink("/proc/self/ns/net"); err == nil {
		seen[ours] = true
	}
	for range 12 {
		cmd := l.Command(testenv.Context(t), testenv.Self(t))
		cmd.Env = []string{testenv.RoleEnv("network")}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			in.Close()
			cmd.Wait()
		})
		name := make([]byte, 64)
		n, err := io.ReadFull(out, name[:len("net:[4026531840]")])
		out.Close()
		if err != nil || seen[string(name[:n])] {
			t.Fatalf("the namespace %s is another's as well (%v)", name[:n], err)
		}
		seen[string(name[:n])] = true
	}
}

func init() {
	testenv.Role("nothing", func() {})
	testenv.Role("network", func() {
		name, _ := os.Readlink("/proc/self/ns/net")
		os.Stdout.WriteString(name)
		io.Copy(io.Discard, os.Stdin)
	})
}

// TestUpgradeIsSeen: a start shows a program as it is now, whatever was remembered
// of it.
func TestUpgradeIsSeen(t *testing.T) {
	testenv.NoLeaks(t)
	l := freshLauncher(t)
	dir, err := os.MkdirTemp("/var/tmp", "proscenium-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "program")
	install := func(source string) {
		t.Helper()
		b, err := os.ReadFile(source)
		if err == nil {
			err = os.WriteFile(program+".new", b, 0o755)
		}
		if err == nil {
			err = os.Rename(program+".new", program)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	command := func() *launcher.Cmd { return l.Command(testenv.Context(t), program) }
	install("/usr/bin/true")
	untilTemplate(t, command)
	stale := command()
	if err := stale.Prepare(); err != nil {
		t.Fatal(err)
	}
	install("/usr/bin/false")
	for name, cmd := range map[string]*launcher.Cmd{"cold": command(), "warm": stale} {
		if err := cmd.Run(); err == nil {
			t.Errorf("%s: the old program was run", name)
		}
	}
	untilFails := command()
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	if err := untilFails.Run(); !os.IsNotExist(unwrapAll(err)) {
		t.Errorf("without the program: %v", err)
	}
}

func unwrapAll(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok || u.Unwrap() == nil {
			return err
		}
		err = u.Unwrap()
	}
}

// TestWarmCells: what can happen to one before its program.
func TestWarmCells(t *testing.T) {
	testenv.NoLeaks(t)
	l := freshLauncher(t)
	prepare := func() *testenv.Warm {
		t.Helper()
		cmd := l.Command(testenv.Context(t), "/usr/bin/echo")
		cmd.Isolation.Allow = []string{"/usr/bin/echo", "/usr/bin/seq"}
		return testenv.Prepare(t, cmd)
	}
	forkers := testenv.Forkers(l)
	inits := func() []int {
		return slices.DeleteFunc(testenv.Descendants(l.Pid()), func(pid int) bool { return slices.Contains(forkers, pid) })
	}
	reaped := func(most int) { // a moment after the end
		t.Helper()
		for ctx := testenv.Context(t); len(inits()) > most; runtime.Gosched() {
			if ctx.Err() != nil {
				t.Fatalf("left: %v", inits())
			}
		}
	}

	released := prepare()
	reaped(1) // stage one is
	if len(inits()) != 1 {
		t.Errorf("a warm cell is the processes %v", inits())
	}
	released.Release()
	reaped(0)
	if err := released.Start(); err == nil {
		t.Error("a released command was started")
	}

	other := prepare()
	other.Path, other.Args = "/usr/bin/seq", []string{"seq", "2"}
	if out, err := other.Output(); err != nil || string(out) != "1\n2\n" {
		t.Errorf("another allowed program: %q, %v", out, err)
	}

	killed := prepare()
	for _, pid := range inits() {
		unix.Kill(pid, unix.SIGKILL)
	}
	reaped(0)
	killed.Args = []string{"echo", "cold"}
	if out, err := killed.Output(); err != nil || string(out) != "cold\n" {
		t.Errorf("after the death of its init: %q, %v", out, err)
	}

	wrong := prepare()
	wrong.Args = []string{"echo", "a\x00b"}
	if out, err := wrong.Output(); err == nil {
		t.Errorf("a NUL in an argument: %q", out)
	}
	reaped(0)

	orphan := prepare()
	l.Close()
	orphan.Args = []string{"echo", "no"}
	if out, err := orphan.Output(); err == nil {
		t.Errorf("after the launcher's end: %q", out)
	}
}

// TestWarmHandler: a handler with warm cells gives the same, under its limits, and
// leaves none behind; also where somebody has killed those that waited.
func TestWarmHandler(t *testing.T) {
	testenv.NoLeaks(t)
	c := handler.DefaultConfig()
	c.AllowedPrograms = []string{"/usr/bin/echo"}
	c.Limits = cgroup.Limits{Memory: 32 << 20}
	c.Warm = 2
	h, err := handler.New(c, testenv.Launcher(t), testenv.Group(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	sink := &gather{out: map[uint64]string{}}
	for i := range 20 {
		if i == 10 {
			killAll(t, "*-echo")
		}
		if _, err := h.Spawn(testenv.Context(t), handler.ProcessConfig{Program: "/usr/bin/echo", Args: []string{"hello"}}, sink); err != nil {
			t.Fatal(err)
		}
		if err := h.Wait(testenv.Context(t)); err != nil {
			t.Fatal(err)
		}
	}
	if len(sink.out) != 20 || sink.exits != 20 {
		t.Errorf("%d outputs, %d exits", len(sink.out), sink.exits)
	}
	for id, text := range sink.out {
		if text != "hello\n" {
			t.Errorf("process %d: %q", id, text)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := h.Spawn(ctx, handler.ProcessConfig{Program: "/usr/bin/echo"}, sink); err == nil {
		t.Error("a cancelled start succeeded")
	}
}

// killAll kills all that is in our leaves of that name, where v2 is mounted, and waits
// until it is dead.
func killAll(t *testing.T, name string) {
	t.Helper()
	for _, dir := range testenv.GroupDirs(os.Getpid()) {
		leaves, _ := filepath.Glob(filepath.Join(dir, name, "cgroup.kill"))
		for _, kill := range leaves {
			if err := os.WriteFile(kill, []byte("1"), 0); err != nil {
				continue // it is gone by now
			}
			procs := filepath.Join(filepath.Dir(kill), "cgroup.procs")
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
				if members, err := os.ReadFile(procs); err != nil || len(members) == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("somebody lives in %s", procs)
				}
			}
		}
	}
}

type gather struct {
	out   map[uint64]string
	exits int
}

func (g *gather) HandleStdout(id uint64, data []byte) error { g.out[id] += string(data); return nil }
func (g *gather) HandleStderr(id uint64, data []byte) error { return nil }
func (g *gather) HandleExit(uint64, handler.Result) error   { g.exits++; return nil }

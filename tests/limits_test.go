package tests

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

func openInheritable(path string) (int, error) { return unix.Open(path, unix.O_RDONLY, 0) }
func closeFD(fd int)                           { unix.Close(fd) }

// cell starts a program under limits; what it writes is collected.
type running struct {
	*handler.Cell
	out *bytes.Buffer
	end chan struct{}
}

func (r *running) wait() handler.Result {
	<-r.end
	return r.Cell.Wait()
}

func start(t testing.TB, limits cgroup.Limits, budgets handler.Budgets, spec isolate.Spec, program string, args ...string) *running {
	t.Helper()
	cmd := testenv.Launcher(t).Command(testenv.Context(t), program, args...)
	cmd.Isolation = spec
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	c, err := handler.StartCell(cmd, testenv.Group(t), limits, budgets)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{c, &bytes.Buffer{}, make(chan struct{})}
	go func() {
		io.Copy(r.out, pipe)
		pipe.Close()
		close(r.end)
	}()
	t.Cleanup(func() {
		c.Kill(handler.Killed)
		r.wait()
	})
	return r
}

var shell = isolate.Spec{View: isolate.ViewSystem}

func TestMemoryHogDiesAtItsLimit(t *testing.T) {
	testenv.NoLeaks(t)
	const limit = 32 << 20
	for name, c := range map[string]struct {
		spec    isolate.Spec
		program string
		args    []string
	}{
		"anonymous":     {isolate.Hardened(), "/usr/bin/tail", []string{"/dev/zero"}},
		"tmpfs":         {isolate.Hardened(), "/usr/bin/dd", []string{"if=/dev/zero", "of=/tmp/x", "bs=1M"}},
		"shared memory": {isolate.Hardened(), "/usr/bin/dd", []string{"if=/dev/zero", "of=/dev/shm/x", "bs=1M"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, cgroup.Limits{Memory: limit}, handler.Budgets{Wall: time.Minute}, c.spec, c.program, c.args...).wait()
			if r.Reason != handler.OutOfMemory || r.ExitCode != 137 {
				t.Errorf("%s, exit code %d", r.Reason, r.ExitCode)
			}
			if r.MemoryPeak > limit || r.MemoryPeak < limit/2 {
				t.Errorf("peak %d of %d bytes", r.MemoryPeak, limit)
			}
		})
	}
}

// TestNoCPUBudgetWithoutAnAccount: a budget that nobody would count is refused
// before anything starts.
func TestNoCPUBudgetWithoutAnAccount(t *testing.T) {
	testenv.NoLeaks(t)
	made := onDisk(t)
	budgets := handler.Budgets{CPU: time.Second}
	cmd := testenv.Launcher(t).Command(testenv.Context(t), "/usr/bin/touch", made+"/x")
	cmd.Isolation = isolate.Hardened()
	cmd.Isolation.Mounts = []isolate.Mount{isolate.RW(made)}
	c, err := handler.StartCell(cmd, nil, cgroup.Limits{}, budgets)
	if err == nil {
		c.Wait()
	}
	if err == nil || !strings.Contains(err.Error(), "needs a control group") {
		t.Errorf("a cell: %v", err)
	}
	if _, err := os.Stat(made + "/x"); err == nil {
		t.Error("the program has run")
	}
	if h, err := handler.New(handler.Config{Unlimited: true, MaxProcesses: 1, MaxOutputBuffer: 1, Budgets: budgets}, nil, nil, nil); err == nil {
		h.Close()
		t.Error("a handler was made that cannot keep its budget")
	}
}

// TestWholeTreeDies: the shell's child eats the memory, the shell dies as well.
func TestWholeTreeDies(t *testing.T) {
	testenv.NoLeaks(t)
	script := "tail /dev/zero & wait; echo survived"
	// With v1 controllers the rest dies of our kill, a moment after the first.
	atOnce := testenv.Group(t).Layout() == "unified"
	r := start(t, cgroup.Limits{Memory: 32 << 20}, handler.Budgets{Wall: time.Minute}, shell, "/bin/sh", "-c", script)
	if got := r.wait(); got.Reason != handler.OutOfMemory || atOnce && strings.Contains(r.out.String(), "survived") {
		t.Errorf("%s, %q", got.Reason, r.out)
	}
	r = start(t, cgroup.Limits{Memory: 32 << 20, KillOne: true}, handler.Budgets{Wall: time.Minute}, shell, "/bin/sh", "-c", script)
	if got := r.wait(); got.Reason != handler.Exited || !strings.Contains(r.out.String(), "survived") {
		t.Errorf("with KillOne: %s, %q", got.Reason, r.out)
	}
}

// TestTooLittleMemoryToStart: what is killed for want of memory in the middle of a start,
// a forker among them, takes no other program along. The limit is less than a leaf can
// have; with v1 controllers nobody is in the memory group yet who could be killed so.
func TestTooLittleMemoryToStart(t *testing.T) {
	testenv.NoLeaks(t)
	neighbour := start(t, cgroup.Limits{}, handler.Budgets{}, isolate.Hardened(), "/usr/bin/sleep", "1000")
	least := cgroup.Limits{Memory: 1 << 20}
	unified := testenv.Group(t).Layout() == "unified"
	before := testenv.Forkers(testenv.Launcher(t))
	for i := range 10 {
		leaf, err := testenv.Group(t).New(fmt.Sprintf("little-%d", i), least)
		if err != nil {
			t.Fatal(err)
		}
		if unified {
			if err := os.WriteFile(leaf.Path()+"/memory.max", []byte("4096"), 0); err != nil {
				t.Fatal(err)
			}
		}
		cmd := testenv.Launcher(t).Command(testenv.Context(t), "/usr/bin/true")
		cmd.Isolation, cmd.Cgroup = isolate.Hardened(), leaf.File()
		cmd.CgroupTasks, cmd.CgroupCount = leaf.Tasks, leaf.TasksCount()
		err = cmd.Run()
		if !unified && err != nil {
			t.Errorf("a start with little memory: %v", err)
		}
		if unified && (err == nil || !strings.Contains(err.Error(), "memory limit") && !strings.Contains(err.Error(), "killed")) {
			t.Errorf("a start with a page of memory: %v", err)
		}
		leaf.Close()
	}
	after := testenv.Forkers(testenv.Launcher(t))
	if after == nil {
		t.Error("forkers are missing")
	}
	if unified && slices.Equal(before, after) {
		t.Error("no forker was killed: the test is about nothing")
	}
	select {
	case <-neighbour.Gone():
		t.Error("the neighbour has ended")
	default:
	}
	if r := start(t, cgroup.Limits{}, handler.Budgets{}, isolate.Hardened(), "/usr/bin/true").wait(); r.Reason != handler.Exited {
		t.Errorf("the next start: %s", r.Reason)
	}
}

// TestBusyLoopIsThrottled: the share of the quota that was used, by the
// kernel's own account, for one busy process, for four, and for four threads of
// one, over the default period and a short one.
func TestBusyLoopIsThrottled(t *testing.T) {
	testenv.NoLeaks(t)
	const cores = 0.1 // little, so that a host with other work can give it
	loop := func(script string) func(*testing.T, cgroup.Limits) *handler.Cell {
		return func(t *testing.T, limits cgroup.Limits) *handler.Cell {
			return start(t, limits, handler.Budgets{Wall: time.Minute}, shell, "/bin/sh", "-c", script).Cell
		}
	}
	threads := func(t *testing.T, limits cgroup.Limits) *handler.Cell { return startHog(t, limits, "threads", 4).Cell }
	for name, begin := range map[string]func(*testing.T, cgroup.Limits) *handler.Cell{
		"one":     loop("while :; do :; done"),
		"four":    loop("for i in 1 2 3; do while :; do :; done & done; while :; do :; done"),
		"threads": threads,
	} {
		periods := []time.Duration{100 * time.Millisecond, 40 * time.Millisecond}
		if testing.Short() && name != "one" {
			periods = periods[:1]
		}
		for _, period := range periods {
			t.Run(name+"/"+period.String(), func(t *testing.T) {
				c := begin(t, cgroup.Limits{CPU: cores, CPUPeriod: period})
				checkShare(t, c.Leaf, cores)
				c.Kill(handler.Killed)
				s := c.Wait().Stat
				if s.ThrottledTime == 0 {
					t.Errorf("never throttled: %+v", s)
				}
				if some := s.CPUPressure.Some.Total; testenv.Group(t).Layout() == "unified" && hasPressure() && some == 0 {
					t.Errorf("waited for the cpu for %v", some)
				}
			})
		}
	}
}

// hasPressure says whether the kernel keeps pressure stall information.
func hasPressure() bool {
	_, err := os.ReadFile("/proc/pressure/cpu")
	return err == nil
}

// checkShare wants the leaf to use its quota within a tenth over a few seconds. A
// host that has other work to do can keep it from that: then another span is
// taken. One that is itself a virtual machine can stand still on its account, which
// it pays back later: so the sum of all spans will do.
func checkShare(t testing.TB, leaf *cgroup.Leaf, cores float64) {
	t.Helper()
	first, begun := usage(t, leaf)
	last, at := first, begun
	var ratios []float64
	for range 8 {
		time.Sleep(3 * time.Second)
		used, now := usage(t, leaf)
		span := float64(used-last) / float64(now.Sub(at)) / cores
		all := float64(used-first) / float64(now.Sub(begun)) / cores
		if math.Abs(span-1) <= 0.1 || math.Abs(all-1) <= 0.1 {
			return
		}
		last, at = used, now
		ratios = append(ratios, span)
	}
	t.Errorf("used %.2f of the quota", ratios)
}

func usage(t testing.TB, leaf *cgroup.Leaf) (time.Duration, time.Time) {
	t.Helper()
	u, err := leaf.Usage()
	if err != nil {
		t.Fatal(err)
	}
	return u.CPU, time.Now()
}

func TestForkBombIsHeld(t *testing.T) {
	testenv.NoLeaks(t)
	const limit = 16
	r := start(t, cgroup.Limits{Pids: limit}, handler.Budgets{Wall: time.Minute}, shell, "/bin/sh", "-c",
		"n=0; while [ $n -lt 100 ]; do sleep 1000 & n=$((n+1)); done")
	result := r.wait()
	if !strings.Contains(r.out.String(), "fork") || result.Stat.PidsRefused == 0 {
		t.Errorf("no fork was refused: %q, %+v", r.out, result.Stat)
	}
}

func TestCPUBudget(t *testing.T) {
	testenv.NoLeaks(t)
	r := start(t, cgroup.Limits{CPU: 1}, handler.Budgets{CPU: 500 * time.Millisecond, Wall: time.Minute, Grace: time.Millisecond}, shell, "/bin/sh", "-c", "while :; do :; done").wait()
	if r.Reason != handler.CPUTimeUsed || r.CPU < 500*time.Millisecond || r.CPU > 2*time.Second {
		t.Errorf("%s after %v of cpu time", r.Reason, r.CPU)
	}
}

// TestGraceThenKill: a program that ignores SIGTERM is killed; one that heeds it
// ends with its own exit code. Both were timed out.
func TestGraceThenKill(t *testing.T) {
	testenv.NoLeaks(t)
	b := handler.Budgets{Wall: 1500 * time.Millisecond, Grace: 300 * time.Millisecond}
	stubborn := start(t, cgroup.Limits{}, b, shell, "/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.05; done").wait()
	if stubborn.Reason != handler.TimedOut || stubborn.Signal != unix.SIGKILL {
		t.Errorf("stubborn: %s, %v", stubborn.Reason, stubborn.Signal)
	}
	b.Grace = time.Minute // a shell answers when its command has ended
	polite := start(t, cgroup.Limits{}, b, shell, "/bin/sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done").wait()
	if polite.Reason != handler.TimedOut || polite.ExitCode != 7 {
		t.Errorf("polite: %s, %d", polite.Reason, polite.ExitCode)
	}
}

// TestLimitsAreInForceAtTheFirstInstruction: the program itself finds them set,
// seen from outside through its leaf.
func TestLimitsAreReadBack(t *testing.T) {
	testenv.NoLeaks(t)
	r := start(t, cgroup.Limits{Memory: 40 << 20, CPU: 0.5, Pids: 7}, handler.Budgets{}, isolate.Hardened(), "/usr/bin/sleep", "1000")
	want := map[string]string{"memory.max": "41943040", "cpu.max": "50000 100000", "pids.max": "7", "memory.swap.max": "0", "memory.oom.group": "1"}
	if testenv.Group(t).Layout() != "unified" {
		want = map[string]string{"memory.limit_in_bytes": "41943040", "memory.memsw.limit_in_bytes": "41943040", "cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000", "pids.max": "7"}
	}
	found := map[string]string{}
	for _, dir := range testenv.GroupDirs(os.Getpid()) {
		for file := range want {
			name := strings.Replace(r.Leaf.Path(), testenv.GroupDirs(os.Getpid())[0], dir, 1)
			name = dir + "/" + name[strings.LastIndexByte(name, '/')+1:] + "/" + file
			if b, err := os.ReadFile(name); err == nil {
				found[file] = strings.TrimSpace(string(b))
			}
		}
	}
	for file, value := range want {
		if got, ok := found[file]; got != value && (ok || !strings.Contains(file, "sw")) {
			t.Errorf("%s = %q, want %q", file, got, value)
		}
	}
	pid, err := r.Pid()
	if err != nil {
		t.Fatal(err)
	}
	groups, err := os.ReadFile("/proc/" + itoa(pid) + "/cgroup")
	if n := strings.Count(string(groups), "/proscenium-"); err != nil || n < 1 || testenv.Group(t).Layout() == "hybrid" && n != 1+r.Leaf.TasksCount() {
		t.Errorf("the program is in\n%s%v", groups, err)
	}
}

// TestRefusedCellClosesItsPipes: both ends, at once, whoever refuses it.
func TestRefusedCellClosesItsPipes(t *testing.T) {
	testenv.NoLeaks(t)
	for name, c := range map[string]struct {
		program string
		limits  cgroup.Limits
	}{
		"the control group": {"/usr/bin/true", cgroup.Limits{Pids: 1}},
		"the start":         {"/nonexistent", cgroup.Limits{}},
	} {
		cmd := testenv.Launcher(t).Command(t.Context(), c.program)
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := handler.StartCell(cmd, testenv.Group(t), c.limits, handler.Budgets{}); err == nil {
			t.Fatalf("%s took it", name)
		}
		if ours, theirs := pipe.Close(), cmd.Stdout.Close(); !errors.Is(ours, os.ErrClosed) || !errors.Is(theirs, os.ErrClosed) {
			t.Errorf("refused by %s: %v, %v", name, ours, theirs)
		}
	}
}

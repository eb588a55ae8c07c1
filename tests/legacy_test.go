package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/metrics"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

func init() {
	testenv.Role("legacy", legacyRole)
	testenv.Role("bare", bareRole)
}

// hide takes file systems out of this process's own mount namespace: those of the
// types, or all that lie below /sys/fs/cgroup.
func hide(types ...string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(string(b)) {
		left, right, _ := strings.Cut(line, " - ")
		if strings.Contains(left, "shared:") || strings.Contains(left, "master:") {
			return fmt.Errorf("not a mount of our own: %s", line)
		}
		target, kind := strings.Fields(left)[4], strings.Fields(right)[0]
		for _, t := range types {
			if kind == t && strings.HasPrefix(target, "/sys/fs/cgroup") {
				errs = append(errs, os.NewSyscallError("umount "+target, unix.Unmount(target, unix.MNT_DETACH)))
			}
		}
	}
	return errors.Join(errs...)
}

// withHidden runs a role in a mount namespace of its own.
func withHidden(t *testing.T, role string, args ...string) []byte {
	t.Helper()
	testenv.Need(t, "root", os.Getuid() == 0, "a mount namespace of one's own")
	cmd := exec.Command(testenv.Self(t), args...)
	cmd.Env = append(os.Environ(), testenv.RoleEnv(role))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // which makes every mount private
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return out
}

// A legacyReport is what happened where only v1 is mounted.
type legacyReport struct {
	Layout, Enforced string
	Results          map[string]handler.Result
	Out              map[string]string
	Left             string
}

func legacyRole() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	fail(hide("cgroup2"))
	fail(unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) // no orphan escapes the look below
	g, err := cgroup.Open()
	fail(err)
	l, err := launcher.Start(launcher.Config{})
	fail(err)
	report := legacyReport{Layout: g.Layout(), Results: map[string]handler.Result{}, Out: map[string]string{}}
	for name, c := range map[string]struct {
		script  string
		limits  cgroup.Limits
		budgets handler.Budgets
		kill    bool
	}{
		"killed":     {script: "trap '' TERM HUP; echo; setsid sleep 1000 & sleep 1000 & wait", kill: true},
		"fork bomb":  {script: "echo; f() { setsid sh -c 'sleep 1000' & f; }; f 2>/dev/null; while :; do sleep 1000 & done 2>/dev/null", kill: true},
		"timed out":  {script: "trap '' TERM; echo; while :; do sleep 0.05; done", budgets: handler.Budgets{Wall: 300 * time.Millisecond, Grace: 100 * time.Millisecond}},
		"memory":     {script: "echo; tail /dev/zero & sleep 1000 & wait; sleep 1000", limits: cgroup.Limits{Memory: 32 << 20}},
		"one killed": {script: "echo; tail /dev/zero; exit 7", limits: cgroup.Limits{Memory: 32 << 20, KillOne: true}},
	} {
		cmd := l.Command(context.Background(), "/bin/sh", "-c", c.script)
		cmd.Isolation = shell
		pipe, err := cmd.StdoutPipe()
		fail(err)
		c.budgets.Wall = max(c.budgets.Wall, time.Duration(0))
		if c.budgets.Wall == 0 {
			c.budgets.Wall = time.Minute
		}
		cell, err := handler.StartCell(cmd, g, c.limits, c.budgets)
		fail(err)
		pipe.Read(make([]byte, 1)) // it runs
		if c.kill {
			fail(cell.Leaf.Kill()) // and not the program's, by its pidfd
		}
		report.Results[name] = cell.Wait()
		report.Enforced = strings.Join(cell.Enforced, "\n")
		pipe.Close()
	}
	l.Close()
	for deadline := time.Now().Add(10 * time.Second); len(testenv.Descendants(os.Getpid())) > 0 && time.Now().Before(deadline); {
		unix.Wait4(-1, nil, unix.WNOHANG, nil)
		time.Sleep(time.Millisecond) // an orphan's end needs no event of ours
	}
	report.Left = fmt.Sprint(testenv.Descendants(os.Getpid()))
	fail(g.Close())
	json.NewEncoder(os.Stdout).Encode(report)
}

// TestLegacyLayout: where only v1 is mounted, a program's tree ends by the death
// of its init, whoever ends it, and nothing is left.
func TestLegacyLayout(t *testing.T) {
	testenv.NoLeaks(t)
	if testenv.Group(t).Layout() != "hybrid" {
		t.Skip("of the layouts with v1 controllers, this host has none")
	}
	var r legacyReport
	if out := withHidden(t, "legacy"); json.Unmarshal(out, &r) != nil {
		t.Fatalf("%s", out)
	}
	if r.Layout != "legacy" || !strings.Contains(r.Enforced, "control groups: legacy") || r.Left != "[]" {
		t.Errorf("%+v", r)
	}
	for name, want := range map[string]handler.Reason{
		"killed": handler.Signalled, "fork bomb": handler.Signalled, // by the leaf, which knows no reason
		"timed out": handler.TimedOut, "memory": handler.OutOfMemory, "one killed": handler.Exited,
	} {
		if got := r.Results[name]; got.Reason != want || (got.ExitCode == 7) != (name == "one killed") {
			t.Errorf("%s: %s, exit code %d, %+v", name, got.Reason, got.ExitCode, got.Stat)
		}
	}
}

// bareRole is a host without control groups.
func bareRole() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	fail(hide("cgroup2", "cgroup"))
	_, err := cgroup.Open()
	var layout *cgroup.LayoutError
	if !errors.As(err, &layout) {
		fail(fmt.Errorf("control groups that are not there: %v", err))
	}
	fmt.Println(err)

	l, err := launcher.Start(launcher.Config{})
	fail(err)
	defer l.Close()
	log, err := handler.OpenAudit(os.Args[1], 0)
	fail(err)
	defer log.Close()
	m := metrics.New()
	config := handler.DefaultConfig()
	config.AllowedPrograms = []string{"/usr/bin/true"}
	if _, err := handler.New(config, l, nil, nil); err == nil {
		fail(errors.New("a handler was made that cannot limit anything"))
	}
	config.Unlimited = true
	h, err := handler.New(config, l, nil, handler.Recorders{log, m})
	fail(err)
	_, err = h.Spawn(context.Background(), handler.ProcessConfig{Program: "/usr/bin/true"}, nobody{})
	fail(err)
	fail(h.Wait(context.Background()))
	h.Close()
	fail(testutil.CollectAndCompare(m, strings.NewReader(`
# HELP proscenium_process_starts_unlimited_total Processes started without limits, by request.
# TYPE proscenium_process_starts_unlimited_total counter
proscenium_process_starts_unlimited_total 1
`), "proscenium_process_starts_unlimited_total"))
}

type nobody struct{}

func (nobody) HandleStdout(uint64, []byte) error       { return nil }
func (nobody) HandleStderr(uint64, []byte) error       { return nil }
func (nobody) HandleExit(uint64, handler.Result) error { return nil }

// TestBareHost: a host without control groups is refused with the reason, and
// runs programs only by explicit word, which the audit log and a metric show (and
// the report of exec: cmd/proscenium has that).
func TestBareHost(t *testing.T) {
	testenv.NoLeaks(t)
	audit := filepath.Join(t.TempDir(), "audit.jsonl")
	said := string(withHidden(t, "bare", audit))
	for _, want := range []string{"limits cannot be enforced in /sys/fs/cgroup: missing controllers: cpu, cpuacct, memory, pids", "mount cgroup2"} {
		if !strings.Contains(said, want) {
			t.Errorf("it said %q, without %q", said, want)
		}
	}
	if b, err := os.ReadFile(audit); err != nil || !strings.Contains(string(b), handler.NoLimits) {
		t.Errorf("the audit log does not say that there are no limits: %s, %v", b, err)
	}
}

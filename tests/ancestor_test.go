package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

func init() { testenv.Role("beneath", beneathRole) }

// A beneath is a host whose own group has limits.
type beneath struct {
	Groups    []string          // the host's group, in every hierarchy
	Files     map[string]string // its limits
	Later     map[string]string // the same, after the first program
	Limits    cgroup.Limits     // of each program
	Program   []string
	Contained bool // the host sees nothing above its group, as in a container (v2 only)
}

// A report is what it says of a program.
type report struct {
	Enforced string
	Result   handler.Result
	Error    string
}

// run starts the host and gives what it says of its two programs.
func (b beneath) run(t *testing.T) []report {
	t.Helper()
	for _, dir := range testenv.GroupDirs(os.Getpid()) {
		dir = filepath.Join(filepath.Dir(dir), fmt.Sprintf("beneath-%d", os.Getpid()))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			// The host itself may be in there for as long as it takes to end.
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
				err := os.Remove(dir)
				if err == nil {
					return
				}
				if time.Now().After(deadline) {
					t.Error(err)
					return
				}
			}
		})
		b.Groups = append(b.Groups, dir)
	}
	if err := b.write(b.Files); err != nil {
		t.Fatal(err)
	}
	what, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(testenv.Self(t), string(what))
	cmd.Env = append(os.Environ(), testenv.RoleEnv("beneath"))
	cmd.Stderr = os.Stderr
	if b.Contained {
		group, err := os.Open(b.Groups[0])
		if err != nil {
			t.Fatal(err)
		}
		defer group.Close()
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd()), Unshareflags: syscall.CLONE_NEWCGROUP | syscall.CLONE_NEWNS}
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var reports []report
	if err := json.Unmarshal(out, &reports); err != nil || len(reports) != 2 {
		t.Fatalf("%q: %v", out, err)
	}
	return reports
}

// write writes limit files, each in the hierarchy that has it.
func (b beneath) write(files map[string]string) error {
	for name, value := range files {
		for _, dir := range b.Groups {
			err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) { // a control file cannot be created
				return err
			}
		}
	}
	return nil
}

func beneathRole() {
	var b beneath
	var reports []report
	fail := func(err error) {
		if err != nil {
			json.NewEncoder(os.Stdout).Encode([]report{{Error: err.Error()}, {}})
			os.Exit(0)
		}
	}
	fail(json.Unmarshal([]byte(os.Args[1]), &b))
	if b.Contained {
		fail(hide("cgroup2")) // the host's
		fail(unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""))
		b.Groups = nil
	}
	for _, dir := range b.Groups {
		fail(os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0))
	}
	g, err := cgroup.Open()
	fail(err)
	l, err := launcher.Start(launcher.Config{})
	fail(err)
	for range 2 {
		fail(b.settle())
		cmd := l.Command(context.Background(), b.Program[0], b.Program[1:]...)
		cmd.Isolation = isolate.Spec{View: isolate.ViewSystem}
		var r report
		c, err := handler.StartCell(cmd, g, b.Limits, handler.Budgets{Wall: time.Minute})
		if err != nil {
			r.Error = err.Error()
		} else {
			r.Result, r.Enforced = c.Wait(), strings.Join(c.Enforced, "\n")
		}
		reports = append(reports, r)
		fail(b.write(b.Later))
	}
	l.Close()
	fail(g.Close())
	json.NewEncoder(os.Stdout).Encode(reports)
}

// settle waits until what a program had is the group's again: else memory runs out before the
// next one has more of it than the host, and the kernel ends the host.
func (b beneath) settle() error {
	limit, err := strconv.ParseInt(b.Files["memory.max"], 10, 64)
	if err != nil {
		return nil // there is none
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		used := int64(0)
		for _, dir := range b.Groups {
			for _, name := range []string{"memory.current", "memory.usage_in_bytes"} {
				if text, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
					if used, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err != nil {
						return err
					}
				}
			}
		}
		if used <= limit/2 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d bytes are in use without a program", used, limit)
		}
	}
}

// TestAncestorsLimitsAreReported: where the host's own group holds less than a
// program is given, the report of its limits says so; and what has changed since
// the last program.
func TestAncestorsLimitsAreReported(t *testing.T) {
	testenv.NoLeaks(t)
	reports := beneath{
		Files:   map[string]string{"memory.max": "100663296", "memory.limit_in_bytes": "100663296", "cpu.max": "50000 100000", "pids.max": "50"},
		Later:   map[string]string{"pids.max": "40", "cpu.max": "max"},
		Limits:  cgroup.Limits{Memory: 128 << 20},
		Program: []string{"/usr/bin/true"},
	}.run(t)
	cpu := "holds 0.5"
	if testenv.Group(t).Layout() != "unified" {
		cpu = "" // there it is an error: the next test
	}
	for i, want := range []map[string]string{
		{"memory": "holds 100663296", "cpu": cpu, "pids": "holds 50"},
		{"memory": "holds 100663296", "cpu": "", "pids": "holds 40"},
	} {
		if reports[i].Error != "" {
			t.Error(reports[i].Error)
		}
		for resource, tail := range want {
			found := false
			for line := range strings.SplitSeq(reports[i].Enforced, "\n") {
				above := strings.Contains(line, "; an ancestor (/sys/fs/cgroup/") && strings.Contains(line, "/beneath-")
				found = found || strings.HasPrefix(line, resource+": ") && strings.HasSuffix(line, tail) && above == (tail != "")
			}
			if !found {
				t.Errorf("program %d: nothing says %s: … %s:\n%s", i, resource, tail, reports[i].Enforced)
			}
		}
	}
}

// TestNoCPUAboveAnAncestors: v1 controllers take no CPU limit above an
// ancestor's, which the error then names.
func TestNoCPUAboveAnAncestors(t *testing.T) {
	testenv.NoLeaks(t)
	if testenv.Group(t).Layout() == "unified" {
		t.Skip("v2 takes any limit, and keeps the tightest")
	}
	reports := beneath{Files: map[string]string{"cpu.cfs_quota_us": "50000"}, Program: []string{"/usr/bin/true"}}.run(t)
	if e := reports[0].Error; !strings.Contains(e, "an ancestor (/sys/fs/cgroup/cpu") || !strings.Contains(e, "/beneath-") || !strings.HasSuffix(e, "holds 0.5") {
		t.Error(e)
	}
}

// TestOutOfMemoryAbove: memory that runs out in the host's group is told from
// memory that runs out in the program's own.
func TestOutOfMemoryAbove(t *testing.T) {
	testenv.NoLeaks(t)
	for above, reason := range map[int64]handler.Reason{96 << 20: handler.OutOfMemoryAbove, 512 << 20: handler.OutOfMemory} {
		t.Run(string(reason), func(t *testing.T) {
			limit := fmt.Sprint(above)
			host := beneath{
				Files:   map[string]string{"memory.max": limit, "memory.swap.max": "0", "memory.limit_in_bytes": limit},
				Limits:  cgroup.Limits{Memory: 192 << 20},
				Program: []string{"/usr/bin/tail", "/dev/zero"},
			}
			for _, r := range host.run(t) {
				own := r.Result.Stat.OOMs > 0
				if r.Error != "" || r.Result.Reason != reason || r.Result.ExitCode != 137 || r.Result.Stat.OOMKills == 0 || own != (reason == handler.OutOfMemory) {
					t.Errorf("%s, %s, %+v", r.Error, r.Result.Reason, r.Result.Stat)
				}
			}
		})
	}
}

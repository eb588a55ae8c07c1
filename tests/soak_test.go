package tests

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/tests/testenv"
)

// Ten thousand take a few minutes: go test ./tests -run ManyStarts -many 10000
var many = flag.Int("many", 300, "how many programs TestManyStarts starts; a third with -short")

// TestManyStarts: starts leave nothing behind, however many there were: no leaf,
// zombie, descriptor, goroutine or mount, and no memory in the host or the launcher.
func TestManyStarts(t *testing.T) {
	testenv.NoLeaks(t)
	l := testenv.Launcher(t)
	one := func(i int) error {
		// Now and then one that fails, before or after init is there, and one that
		// is killed.
		program, args, fails := "/usr/bin/true", []string(nil), false
		switch i % 10 {
		case 3:
			program, fails = "/nonexistent", true
		case 6:
			program, fails = testenv.GroupDirs(os.Getpid())[0]+"/cgroup.procs", true
		case 9:
			program, args = "/usr/bin/sleep", []string{"1000"}
		}
		cmd := l.Command(t.Context(), program, args...)
		cmd.Isolation = isolate.Hardened()
		c, err := handler.StartCell(cmd, testenv.Group(t), cgroup.Limits{}, handler.Budgets{})
		if fails {
			if err == nil {
				return fmt.Errorf("%s was started", program)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if args != nil {
			c.Kill(handler.Killed)
		}
		if r := c.Wait(); r.ExitCode != 0 && args == nil {
			return fmt.Errorf("%s: %+v", program, r)
		}
		return nil
	}
	run := func(n int) {
		var wg sync.WaitGroup
		for worker := range 4 {
			wg.Go(func() {
				for i := worker; i < n; i += 4 {
					if err := one(i); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		runtime.GC()
	}
	if testing.Short() {
		*many /= 3
	}
	run(100)
	memory := func() (host, launcher int) { return anonymous(t, os.Getpid()), anonymous(t, l.Pid()) }
	host, launcher := memory()
	run(*many)
	hostAfter, launcherAfter := memory()
	t.Logf("after %d starts: host %d → %d KiB, launcher %d → %d KiB", *many, host, hostAfter, launcher, launcherAfter)
	if hostAfter > host+8<<10 || launcherAfter > launcher+8<<10 {
		t.Errorf("memory grew: host %d → %d KiB, launcher %d → %d KiB", host, hostAfter, launcher, launcherAfter)
	}
}

// anonymous is a process's own memory in KiB: proc_pid_status(5).
func anonymous(t *testing.T, pid int) (kib int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			fmt.Sscan(rest, &kib)
		}
	}
	return kib
}

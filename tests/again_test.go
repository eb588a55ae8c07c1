package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

// TestGroupsOfTheDead: v1 groups are another program's next, with nothing in their account,
// but only if the program could give nobody what goes on being charged to them.
func TestGroupsOfTheDead(t *testing.T) {
	testenv.Need(t, "hybrid", testenv.Group(t).Layout() == "hybrid" && os.Geteuid() == 0, "root's groups are used again, of v1 beside v2")
	testenv.NoLeaks(t)
	memory := ""
	for _, dir := range testenv.GroupDirs(os.Getpid()) {
		if _, err := os.Stat(dir + "/memory.limit_in_bytes"); err == nil {
			memory = dir
		}
	}
	limits := cgroup.Limits{Pids: 777} // nobody else's
	hold := func(script string, stdout *os.File, change func(*isolate.Spec)) (memoryGroup uint64, r handler.Result) {
		t.Helper()
		cmd := testenv.Launcher(t).Command(testenv.Context(t), "/bin/sh", "-c", script+"read x")
		cmd.Isolation = isolate.Hardened()
		change(&cmd.Isolation)
		cmd.Stdout = stdout
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		cell, err := handler.StartCell(cmd, testenv.Group(t), limits, handler.Budgets{})
		if err != nil {
			t.Fatal(err)
		}
		var s unix.Stat_t
		if err := unix.Stat(filepath.Join(memory, filepath.Base(cell.Leaf.Path())), &s); err != nil {
			t.Error(err)
		}
		stdin.Close()
		r = cell.Wait()
		if err := cell.Leaf.Close(); err != nil {
			t.Error(err)
		}
		return s.Ino, r
	}
	plain := func(*isolate.Spec) {}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(pair[0]), "socket")
	defer socket.Close()
	defer unix.Close(pair[1])
	shared := t.TempDir()

	const big = 8_000_000
	allocate := fmt.Sprintf("x=x; while [ ${#x} -lt %d ]; do x=$x$x; done; ", big)
	for what, test := range map[string]struct {
		stdout *os.File
		change func(*isolate.Spec)
	}{
		"a socket":           {socket, plain},
		"the host's network": {nil, func(s *isolate.Spec) { s.Network = isolate.NetworkHost }},
		"a shared directory": {nil, func(s *isolate.Spec) { s.Mounts = []isolate.Mount{isolate.RO(shared)} }},
		"no filter":          {nil, func(s *isolate.Spec) { s.Seccomp = isolate.SeccompNone }},
	} {
		// Not of one that is still dying somewhere when it is looked at.
		used := false
		for range 10 {
			first, _ := hold(allocate, nil, plain)
			second, r := hold("", nil, plain)
			if used = second == first; used {
				if r.MemoryPeak >= big || r.CPU == 0 || r.CPU > time.Second {
					t.Errorf("after another's: %+v", r.Stat)
				}
				break
			}
		}
		if !used {
			t.Errorf("before %s: no group is used again", what)
		}
		open, _ := hold("", test.stdout, test.change)
		if next, _ := hold("", nil, plain); next == open {
			t.Errorf("%s: the group is used again", what)
		}
	}
}

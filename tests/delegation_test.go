package tests

import (
	"os"
	"strings"
	"testing"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/tests/testenv"
)

// TestInsideAContainer: a host that sees its own group as the root of the
// hierarchy makes its place there, and reports the container's limits.
func TestInsideAContainer(t *testing.T) {
	testenv.NoLeaks(t)
	if testenv.Group(t).Layout() != "unified" {
		t.Skip("a container that is given a subtree of v1 controllers is as good as none: it needs a mount of each")
	}
	testenv.Need(t, "root", os.Getuid() == 0, "a control group namespace, and a mount of it")
	host := beneath{
		Contained: true,
		Files:     map[string]string{"memory.max": "402653184", "pids.max": "60"},
		Limits:    cgroup.Limits{Memory: 32 << 20},
		Program:   []string{"/usr/bin/tail", "/dev/zero"},
	}
	for _, r := range host.run(t) {
		if r.Error != "" || r.Result.Reason != handler.OutOfMemory {
			t.Errorf("%s, %s", r.Error, r.Result.Reason)
		}
		for _, want := range []string{"memory: 33554432 bytes, no swap, the whole tree dies when it runs out\n", "pids: 64; an ancestor (/sys/fs/cgroup) holds 60\n", "control groups: unified"} {
			if !strings.Contains(r.Enforced, want) {
				t.Errorf("nothing says %q:\n%s", want, r.Enforced)
			}
		}
	}
}

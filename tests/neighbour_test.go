package tests

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/tests/testenv"
)

// limitAround gives a function that limits the group around all leaves, which holds
// nobody else with v1 controllers, until the test's end.
func limitAround(t *testing.T) func(bytes int) {
	t.Helper()
	if testenv.Group(t).Layout() == "unified" {
		t.Skip("in v2 the host is in the group around the leaves, and the kernel alone chooses who dies")
	}
	for _, dir := range testenv.GroupDirs(os.Getpid()) {
		file := filepath.Join(dir, "memory.limit_in_bytes")
		if _, err := os.Stat(file); err != nil {
			continue
		}
		set := func(bytes int) {
			if err := os.WriteFile(file, []byte(strconv.Itoa(bytes)), 0); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() { set(-1) })
		return set
	}
	t.Fatal("no group has memory.limit_in_bytes")
	return nil
}

// until waits for what a program does by itself.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come about: " + what)
		}
	}
}

// TestNeighbourOfAVictimLives: when memory runs out in a group above, the kernel
// tells every leaf. One that is all but full has nothing to do with it.
func TestNeighbourOfAVictimLives(t *testing.T) {
	testenv.NoLeaks(t)
	around := limitAround(t)
	around(160 << 20)
	// A buffer of 31 of 32 MiB.
	full := start(t, cgroup.Limits{Memory: 32 << 20, CPU: 0.2}, handler.Budgets{Wall: time.Minute}, isolate.Hardened(),
		"/usr/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=31M")
	until(t, "dd fills its buffer", func() bool {
		u, err := full.Leaf.Usage()
		return err != nil || u.Memory > 31<<20
	})
	for range 5 {
		r := start(t, cgroup.Limits{Memory: 512 << 20}, handler.Budgets{Wall: time.Minute}, isolate.Hardened(), "/usr/bin/tail", "/dev/zero").wait()
		if r.Reason != handler.OutOfMemoryAbove || r.Stat.OOMs != 0 || r.Stat.OOMKills == 0 {
			t.Errorf("the victim: %s, %+v", r.Reason, r.Stat)
		}
	}
	s, err := full.Leaf.Stat()
	if err != nil || s.OOMs != 0 || s.OOMKills != 0 || s.Memory < 31<<20 {
		t.Errorf("the neighbour: %+v, %v", s, err)
	}
	full.Kill(handler.Killed)
	if r := full.wait(); r.Reason != handler.Killed {
		t.Errorf("the neighbour ended before: %s, %+v", r.Reason, r.Stat)
	}
}

// TestVictimDiesWhole: of a leaf that has the victim of a group above, everything
// dies, as memory.oom.group has it in v2.
func TestVictimDiesWhole(t *testing.T) {
	testenv.NoLeaks(t)
	limitAround(t)(96 << 20)
	r := start(t, cgroup.Limits{Memory: 512 << 20}, handler.Budgets{Wall: time.Minute}, shell,
		"/bin/sh", "-c", "tail /dev/zero & sleep 1000").wait()
	if r.Reason != handler.OutOfMemoryAbove || r.Stat.OOMs != 0 || r.Stat.OOMKills == 0 {
		t.Errorf("%s, %+v", r.Reason, r.Stat)
	}
}

// TestPeakIsNoReason: a leaf that the page cache has once filled, and whose program
// is killed for a group above later, was not at its own limit.
func TestPeakIsNoReason(t *testing.T) {
	testenv.NoLeaks(t)
	around := limitAround(t)
	const limit = 48 << 20
	for _, killOne := range []bool{false, true} {
		dir := onDisk(t)
		spec := shell
		spec.Mounts = []isolate.Mount{isolate.RW(dir)}
		r := start(t, cgroup.Limits{Memory: limit, KillOne: killOne}, handler.Budgets{Wall: time.Minute}, spec, "/bin/sh", "-c",
			`cd $0; dd if=/dev/zero of=x bs=1M count=96 2>/dev/null; echo >done; while [ ! -e go ]; do sleep 0.05; done; exec tail /dev/zero`, dir)
		exists := func() bool { _, err := os.Stat(dir + "/done"); return err == nil }
		until(t, "the file is written", exists)
		if s, err := r.Leaf.Stat(); err != nil || s.MemoryPeak < limit-1<<20 || s.OOMs != 0 {
			t.Errorf("the page cache did not fill the leaf: %+v, %v", s, err)
		}
		around(limit / 2)
		if err := os.WriteFile(dir+"/go", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if r := r.wait(); r.Reason != handler.OutOfMemoryAbove || r.Stat.OOMs != 0 || r.Stat.OOMKills == 0 {
			t.Errorf("KillOne %v: %s, %+v", killOne, r.Reason, r.Stat)
		}
		around(-1)
		r = start(t, cgroup.Limits{Memory: limit, KillOne: killOne}, handler.Budgets{Wall: time.Minute}, isolate.Hardened(), "/usr/bin/tail", "/dev/zero")
		if r := r.wait(); r.Reason != handler.OutOfMemory || r.Stat.OOMs == 0 || r.Stat.OOMKills == 0 {
			t.Errorf("KillOne %v, at its own limit: %s, %+v", killOne, r.Reason, r.Stat)
		}
	}
}

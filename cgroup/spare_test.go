package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hybridGroup is a group with v1 controllers beside v2: only there are groups used again.
func hybridGroup(t *testing.T) *Group {
	t.Helper()
	g, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	if g.Layout() != "hybrid" {
		if strings.Contains(os.Getenv("PROSCENIUM_ABILITIES"), "hybrid") { // as testenv.Need
			t.Fatalf("this machine promises v1 controllers beside v2, and is %s", g.Layout())
		}
		t.Skipf("a host with v1 controllers beside v2 uses groups again, and this one is %s", g.Layout())
	}
	return g
}

func newLeaf(t *testing.T, g *Group, name string, limits Limits) *Leaf {
	t.Helper()
	l, err := g.New(name, limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// identity is the number of the leaf's memory group, which no other has at the same time.
func identity(t *testing.T, l *Leaf) uint64 {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Fstat(l.of("memory").fd, &s); err != nil {
		t.Fatal(err)
	}
	return s.Ino
}

// move puts a process that sleeps into a group, and ends it with the test.
func move(t *testing.T, tasks string) (pid int) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if err := os.WriteFile(tasks, []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// TestGroupsAreUsedAgain: by the next with the same limits, under its name, with an account
// that begins anew.
func TestGroupsAreUsedAgain(t *testing.T) {
	g := hybridGroup(t)
	limits := Limits{Memory: 256 << 20, CPU: 0.1, Pids: 10}
	first := newLeaf(t, g, "first", limits)
	was, dirs := identity(t, first), first.dirs
	s, err := first.Stat()
	for deadline := time.Now().Add(10 * time.Second); err == nil && s.Throttled == 0 && time.Now().Before(deadline); s, err = first.Stat() {
		in(t, first, `x=x; while [ ${#x} -lt 8000000 ]; do x=$x$x; done`)
	}
	if err != nil || s.MemoryPeak < 8_000_000 || s.Throttled == 0 {
		t.Errorf("the first: %+v, %v", s, err)
	}
	first.Expect(true)
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is still there", dir)
		}
	}
	if other := newLeaf(t, g, "other", Limits{Memory: 256 << 20, CPU: 0.2, Pids: 10}); identity(t, other) == was {
		t.Error("the group is used again by one with other limits")
	}
	second := newLeaf(t, g, "second", limits)
	if identity(t, second) != was {
		t.Error("the group is not used again")
	}
	for _, dir := range second.dirs {
		if _, err := os.Stat(dir); err != nil || filepath.Base(dir) != "second" {
			t.Errorf("%s: %v", dir, err)
		}
	}
	for _, group := range second.legacy {
		if filepath.Base(group.path()) != "second" {
			t.Errorf("errors will be of %s", group.path())
		}
	}
	if s, err := second.Stat(); err != nil || s.MemoryPeak > residue || s.Memory > residue || s.CPU > 0 || s.Throttled > 0 || s.ThrottledTime > 0 {
		t.Errorf("the second begins with %+v, %v", s, err)
	}
	// Limits are written again, whatever somebody did to them meanwhile.
	second.Expect(true)
	if err := second.Close(); err != nil || len(g.spares.kept) != 1 {
		t.Fatalf("%d spares, %v", len(g.spares.kept), err)
	}
	if err := write(filepath.Join(g.controllers["pids"], g.spares.kept[0].name), "pids.max", "max"); err != nil {
		t.Fatal(err)
	}
	third := newLeaf(t, g, "third", limits)
	b := new([4096]byte)
	if text, err := third.of("pids").read("pids.max", b); err != nil || string(text) != "10\n" || identity(t, third) != was {
		t.Errorf("the third's pids.max is %q, %v", text, err)
	}
}

// TestAnotherLeafIsNotReplaced: a name is taken or it is not, whether there are spares or none.
func TestAnotherLeafIsNotReplaced(t *testing.T) {
	g := hybridGroup(t)
	limits := Limits{CPU: 2}
	spare := newLeaf(t, g, "spare", limits)
	living := newLeaf(t, g, "living", limits)
	spare.Expect(true)
	if err := spare.Close(); err != nil || len(g.spares.kept) != 1 {
		t.Fatalf("%d spares, %v", len(g.spares.kept), err)
	}
	twin := &Leaf{name: "living", limits: living.limits, group: g, joins: living.joins}
	if err := twin.makeLegacy(); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second leaf of the same name: %v", err)
	}
	for _, dir := range living.dirs {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
	if left := leftIn(t, g); len(left) != len(living.dirs)-1 {
		t.Errorf("left of the spare: %v", left)
	}
}

// leftIn are the v1 groups in the instance's places.
func leftIn(t *testing.T, g *Group) (all []string) {
	t.Helper()
	for _, place := range g.places[1:] {
		entries, err := os.ReadDir(place)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() {
				all = append(all, filepath.Join(place, e.Name()))
			}
		}
	}
	return all
}

// TestSparesAreBounded: the oldest go, and one that somebody has removed is made anew.
func TestSparesAreBounded(t *testing.T) {
	before := descriptors(t)
	t.Cleanup(func() {
		if after := descriptors(t); after != before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
	})
	g := hybridGroup(t)
	const many, fewest = maxSpares + 3, 100
	var leaves []*Leaf
	for i := range int64(many) {
		leaves = append(leaves, newLeaf(t, g, fmt.Sprint(i), Limits{Pids: fewest + i}))
	}
	// It makes nobody leave who is as good.
	leaves = append(leaves, newLeaf(t, g, "twin", Limits{Pids: fewest + many - maxSpares}))
	for _, l := range leaves {
		l.Expect(true)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if left := leftIn(t, g); len(left) != maxSpares*leaves[0].joins || len(g.spares.kept) != maxSpares {
		t.Errorf("%d spares: %v", len(g.spares.kept), left)
	}
	if oldest := g.spares.kept[0].limits.Pids; oldest != fewest+many-maxSpares {
		t.Errorf("the oldest has %d", oldest)
	}
	newest := g.spares.kept[maxSpares-1]
	if err := os.Remove(filepath.Join(g.controllers["memory"], newest.name)); err != nil {
		t.Fatal(err)
	}
	l := newLeaf(t, g, "again", Limits{Pids: newest.limits.Pids})
	if len(g.spares.kept) != maxSpares-1 {
		t.Errorf("%d spares after one was taken", len(g.spares.kept))
	}
	if left := leftIn(t, g); len(left) != maxSpares*l.joins {
		t.Errorf("with one of a spare's removed: %v", left)
	}
}

// TestOnlyAsNew: each sign that tells a group from a new one keeps it from being used again.
func TestOnlyAsNew(t *testing.T) {
	for what, test := range map[string]struct {
		limits Limits
		use    func(t *testing.T, l *Leaf)
	}{
		"something outlives the program": {Limits{}, func(t *testing.T, l *Leaf) { l.Expect(false) }},
		"another may have its files": {Limits{}, func(t *testing.T, l *Leaf) {
			for range 2 {
				tasks, err := l.Tasks()
				if err != nil {
					t.Error(err)
				}
				for _, f := range tasks {
					f.Close()
				}
			}
		}},
		"a fork was refused": {Limits{Pids: 3}, func(t *testing.T, l *Leaf) { in(t, l, "true | true | true | true | true") }},
		"somebody was killed for memory": {Limits{KillOne: true}, func(t *testing.T, l *Leaf) {
			in(t, l, `awk 'BEGIN { s = "x"; while (1) s = s s }'`) // by the kernel: we would be quicker, with all of them
			if l.oom.own() == 0 {
				t.Error("memory did not run out")
			}
			l.oom.mu.Lock()
			l.oom.hereBefore = l.oom.here.count() // as if it had run out above
			l.oom.mu.Unlock()
		}},
		"memory ran out": {Limits{}, func(t *testing.T, l *Leaf) {
			unix.Write(l.oom.here.fd, []byte{1, 0, 0, 0, 0, 0, 0, 1}) // as the kernel tells it, on either kind of machine
		}},
		"more is charged": {Limits{}, func(t *testing.T, l *Leaf) {
			in(t, l, "head -c 6000000 /dev/zero > "+filepath.Join(t.TempDir(), "file"))
		}},
		"a group below": {Limits{}, func(t *testing.T, l *Leaf) {
			below := filepath.Join(l.of("cpu").path(), "below")
			if err := os.Mkdir(below, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Remove(below) })
		}},
		"somebody is in the memory group": {Limits{}, func(t *testing.T, l *Leaf) { move(t, l.of("memory").path()+"/tasks") }},
		"somebody is in the CPU group":    {Limits{}, func(t *testing.T, l *Leaf) { move(t, l.of("cpu").path()+"/tasks") }},
		"somebody is in the pids group":   {Limits{}, func(t *testing.T, l *Leaf) { move(t, l.of("pids").path()+"/tasks") }},
		"somebody is dying there": {Limits{}, func(t *testing.T, l *Leaf) {
			pid := move(t, l.of("pids").path()+"/tasks")
			unix.Kill(pid, unix.SIGKILL)
			if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(what, func(t *testing.T) {
			l := newLeaf(t, hybridGroup(t), "leaf", test.limits)
			in(t, l, "true | true")
			l.Expect(true)
			if !l.asNew() {
				u, err := l.Usage()
				t.Errorf("a leaf in which little was is not as new: %+v, %v", u, err)
			}
			test.use(t, l)
			if l.asNew() {
				t.Error("it is taken for new")
			}
		})
	}
}

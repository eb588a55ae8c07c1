package cgroup

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

func TestLeaf(t *testing.T) {
	g, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}()
	l, err := g.New("a", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(g.Layout(), l.Path(), l.Enforced())
	s, err := l.Stat()
	t.Logf("%+v %v", s, err)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// in runs a program in the leaf, and waits until nobody is there.
func in(t *testing.T, l *Leaf, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "read go; "+script)
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(cmd.Process.Pid)
	for _, group := range l.legacy { // not by Tasks, which may have been called once
		if err := group.write("tasks", pid); err != nil {
			t.Error(err)
		}
	}
	if l.unified != nil {
		if err := write(l.Path(), "cgroup.procs", pid); err != nil {
			t.Error(err)
		}
	}
	stdin.Close()
	cmd.Wait() // some of them fail, before their children
	b := new([4096]byte)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) { // whose end nobody tells
		text, err := l.stats.pids.read("pids.current", b)
		if err != nil {
			t.Fatal(err)
		}
		if string(text) == "0\n" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("somebody is still in the leaf")
		}
	}
}

// TestExpect: what is opened ahead is read when Stat is asked, and closed with the leaf.
func TestExpect(t *testing.T) {
	g, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	before := descriptors(t)
	l, err := g.New("expect", Limits{Pids: MinPids})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.Expect(false)
	opened := descriptors(t)
	l.Expect(false)
	if now := descriptors(t); now != opened || len(l.stats.ahead) < 4 {
		t.Errorf("%d descriptors, then %d; %v", opened, now, l.stats.ahead)
	}
	in(t, l, `x=$(exec awk 'BEGIN { s = "x"; while (length(s) < 8000000) s = s s; print s }'); true | true | true`)
	s, err := l.Stat()
	if err != nil || s.CPU == 0 || s.MemoryPeak < 8_000_000 || s.PidsRefused == 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if now := descriptors(t); now != before {
		t.Errorf("%d descriptors before, %d after", before, now)
	}
}

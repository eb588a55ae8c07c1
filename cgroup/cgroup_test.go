package cgroup

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
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
	program := exec.Command("sh", "-c", `read go; x=$(exec awk 'BEGIN { s = "x"; while (length(s) < 8000000) s = s s; print s }'); true | true | true`)
	in, err := program.StdinPipe()
	if err == nil {
		err = program.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(program.Process.Pid)
	tasks, err := l.Tasks()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range tasks {
		if _, err := f.WriteString(pid); err != nil {
			t.Error(err)
		}
		f.Close()
	}
	if l.unified != nil {
		if err := write(l.Path(), "cgroup.procs", pid); err != nil {
			t.Error(err)
		}
	}
	in.Close()
	program.Wait()
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

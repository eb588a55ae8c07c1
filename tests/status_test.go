package tests

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/tests/testenv"
)

// TestStatusIsTheKernels: what status says of a busy program is what /proc says
// of it, and costs no memory.
func TestStatusIsTheKernels(t *testing.T) {
	testenv.NoLeaks(t)
	config := handler.DefaultConfig()
	config.AllowedPrograms = []string{"/bin/sh"}
	config.Isolation = isolate.Spec{View: isolate.ViewSystem}
	config.Limits = cgroup.Limits{CPU: 0.4}
	h, err := handler.New(config, testenv.Launcher(t), testenv.Group(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	before := testenv.Descendants(testenv.Launcher(t).Pid())
	id, err := h.Spawn(context.Background(), handler.ProcessConfig{Program: "/bin/sh", Args: []string{"-c", "while :; do :; done"}}, nobody{})
	if err != nil {
		t.Fatal(err)
	}
	status := func() handler.Status {
		s, err := h.Status(id)
		if err != nil || !s.Running {
			t.Fatalf("%+v, %v", s, err)
		}
		return s
	}
	pid := 0
	for pid == 0 {
		status() // it lives
		for _, p := range testenv.Descendants(testenv.Launcher(t).Pid()) {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p))
			if name := strings.TrimSpace(string(comm)); (name == "sh" || name == "dash") && !slices.Contains(before, p) {
				pid = p
			}
		}
	}
	ran := func() time.Duration { // proc_pid_schedstat(5): nanoseconds on a processor
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		if err != nil {
			t.Fatal(err)
		}
		var ns int64
		fmt.Sscan(string(b), &ns)
		return time.Duration(ns)
	}
	status()
	ranBefore, at := ran(), time.Now()
	time.Sleep(2 * time.Second)
	s := status()
	percent := 100 * float64(ran()-ranBefore) / float64(time.Since(at))
	// /proc lags by a tick, and a busy host may stop us between two readings.
	if d := float64(s.CPU) - percent; d < -5 || d > 5 {
		t.Errorf("status says %.1f percent, /proc %.1f", s.CPU, percent)
	}
	if s.CPU < 1 || s.CPU > 60 {
		t.Errorf("%.1f percent of a core, of at most 40", s.CPU)
	}
	if allocations := testing.AllocsPerRun(1000, func() { status() }); allocations > 4 {
		t.Errorf("%v allocations a call", allocations)
	}
	if err := h.Kill(id); err != nil {
		t.Error(err)
	}
	if err := h.Wait(testenv.Context(t)); err != nil {
		t.Error(err)
	}
}

// TestMemoryInUse: a known amount is in use, and no more than the kernel needs to
// keep a process besides.
func TestMemoryInUse(t *testing.T) {
	testenv.NoLeaks(t)
	const amount = 64 << 20
	c := startHog(t, cgroup.Limits{Memory: 256 << 20}, "anonymous", amount)
	u, err := c.Leaf.Usage()
	if err != nil {
		t.Fatal(err)
	}
	if c.got < amount {
		c.Kill(handler.Killed)
		t.Fatalf("got %d: %s; %+v", c.got, c.said, c.Wait())
	}
	// /proc counts in batches: a program's own memory may be missing there for a while.
	if u.Memory < amount || u.Memory > amount+24<<20 {
		t.Errorf("%d bytes in use, of which the program asked for %d", u.Memory, amount)
	}
}

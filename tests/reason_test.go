package tests

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/tests/testenv"
)

// TestWhoseKill: a program that kills itself, one that an administrator kills,
// and one that we kill end by the same signal, for different reasons.
func TestWhoseKill(t *testing.T) {
	testenv.NoLeaks(t)
	begin := func(script string, b handler.Budgets) *running {
		return start(t, cgroup.Limits{}, b, shell, "/bin/sh", "-c", script)
	}
	expect := func(who string, r handler.Result, reason handler.Reason, code int) {
		t.Helper()
		if r.Reason != reason || r.ExitCode != code {
			t.Errorf("%s: %s, exit code %d", who, r.Reason, r.ExitCode)
		}
	}
	expect("itself", begin("kill -9 $$", handler.Budgets{}).wait(), handler.Signalled, 137)

	r := begin("echo; exec sleep 1000", handler.Budgets{})
	pid, err := r.Pid()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	expect("an administrator", r.wait(), handler.Signalled, 137)

	r = begin("exec sleep 1000", handler.Budgets{})
	r.Kill(handler.Killed)
	expect("we", r.wait(), handler.Killed, 137)

	// The first cause is the reason: a kill in the grace of a timeout, and a
	// timeout of what is being killed.
	r = begin("trap '' TERM; while :; do sleep 0.05; done", handler.Budgets{Grace: time.Minute})
	awaitIgnored(t, r)
	r.End(handler.TimedOut)
	r.Kill(handler.Killed)
	expect("a kill after the time was up", r.wait(), handler.TimedOut, 137)
	r = begin("exec sleep 1000", handler.Budgets{})
	r.Kill(handler.Killed)
	r.End(handler.TimedOut)
	expect("a timeout after the kill", r.wait(), handler.Killed, 137)

	// What comes after the end changes nothing.
	r = begin("exit 3", handler.Budgets{})
	r.wait()
	if err := r.Kill(handler.Killed); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a kill after the end: %v", err)
	}
	expect("after the end", r.wait(), handler.Exited, 3)
}

// awaitIgnored waits until the program ignores SIGTERM.
func awaitIgnored(t *testing.T, r *running) {
	t.Helper()
	pid, err := r.Pid()
	if err != nil {
		t.Fatal(err)
	}
	until(t, "SIGTERM is ignored", func() bool {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		_, text, _ := strings.Cut(string(status), "\nSigIgn:\t")
		text, _, _ = strings.Cut(text, "\n")
		mask, err := strconv.ParseUint(text, 16, 64)
		return err == nil && mask&(1<<(syscall.SIGTERM-1)) != 0
	})
}

// TestReasonsUnderRaces: whatever happens first, the reason fits the way in which
// the program ended.
func TestReasonsUnderRaces(t *testing.T) {
	testenv.NoLeaks(t)
	rounds := 60
	if testing.Short() {
		rounds = 20
	}
	// How long a program takes that ends by itself, to strike about then.
	begun := time.Now()
	start(t, cgroup.Limits{}, handler.Budgets{}, isolate.Hardened(), "/usr/bin/true").wait()
	usual := time.Since(begun)
	moment := func() time.Duration { return time.Duration(rand.Int64N(int64(usual))) }

	seen := map[handler.Reason]int{}
	for range rounds {
		r := start(t, cgroup.Limits{}, handler.Budgets{Grace: time.Minute}, isolate.Hardened(), "/usr/bin/true")
		time.Sleep(moment())
		err := r.Kill(handler.Killed)
		got := r.wait()
		seen[got.Reason]++
		switch {
		case got.Reason == handler.Exited && got.ExitCode == 0:
		case got.Reason == handler.Killed && got.Signal == syscall.SIGKILL && err == nil:
		default:
			t.Errorf("kill against exit: %s, exit code %d, the kill said %v", got.Reason, got.ExitCode, err)
		}
	}
	t.Log("kill against exit:", seen)
	clear(seen)
	for range rounds {
		r := start(t, cgroup.Limits{}, handler.Budgets{Wall: moment() + 1, Grace: time.Minute}, isolate.Hardened(), "/usr/bin/true")
		got := r.wait()
		seen[got.Reason]++
		switch {
		case got.Reason == handler.Exited && got.ExitCode == 0:
		case got.Reason == handler.TimedOut && (got.Signal == syscall.SIGTERM || got.ExitCode == 0):
		default:
			t.Errorf("timeout against exit: %s, exit code %d", got.Reason, got.ExitCode)
		}
	}
	t.Log("timeout against exit:", seen)
	clear(seen)

	begun = time.Now()
	hog := func() *running {
		return start(t, cgroup.Limits{Memory: 8 << 20}, handler.Budgets{}, isolate.Hardened(), "/usr/bin/tail", "/dev/zero")
	}
	hog().wait()
	usual = time.Since(begun)
	for range rounds {
		r := hog()
		time.Sleep(moment())
		r.Kill(handler.Killed)
		got := r.wait()
		seen[got.Reason]++
		switch {
		case got.Reason == handler.OutOfMemory && got.Stat.OOMKills > 0:
		case got.Reason == handler.Killed && got.Stat.OOMKills == 0:
		default:
			t.Errorf("kill against out-of-memory: %s, %+v", got.Reason, got.Stat)
		}
	}
	t.Log("kill against out-of-memory:", seen)
}

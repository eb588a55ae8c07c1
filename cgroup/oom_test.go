package cgroup

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// watchOf is a watch of a group that is nobody's, below one that is never told anything.
func watchOf(t *testing.T) (w *oomWatch, killed chan bool) {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	killed = make(chan bool, 1)
	w = &oomWatch{
		events: &oomEvents{above: notices{fd: -1}},
		group:  t.TempDir(),
		here:   notices{fd: fd},
		kill:   func() { killed <- true },
		more:   make(chan struct{}, 1),
		done:   make(chan struct{}),
	}
	t.Cleanup(w.close)
	return w, killed
}

func (w *oomWatch) victims(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.group, oomControl), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestLateVictim: a victim of a group above is counted some time after the notice,
// for the kernel kills one at a time on the whole host.
func TestLateVictim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, killed := watchOf(t)
		w.victims(t, "oom_kill 0\n")
		w.wake()
		time.Sleep(8 * time.Second)
		w.victims(t, "oom_kill 1\n")
		select {
		case <-killed:
		case <-time.After(time.Minute):
			t.Error("the tree lives on")
		}
	})
}

// TestNoVictim: a neighbour of a victim is left alone, and watched as before.
func TestNoVictim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, killed := watchOf(t)
		w.victims(t, "oom_kill 0\n")
		w.wake()
		time.Sleep(time.Minute)
		synctest.Wait()
		if w.deciding || len(killed) > 0 {
			t.Errorf("deciding: %v, killed: %d", w.deciding, len(killed))
		}
		unix.Write(w.here.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		w.wake()
		select {
		case <-killed:
		case <-time.After(time.Minute):
			t.Error("its own limit was reached later, and the tree lives on")
		}
	})
}

// TestWhoReadsRaisesTheAlarm: a Stat that takes a notice before the poller has seen it
// does not keep the tree alive.
func TestWhoReadsRaisesTheAlarm(t *testing.T) {
	w, killed := watchOf(t)
	unix.Write(w.here.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	if n := w.own(); n != 1 {
		t.Errorf("%d notices", n)
	}
	select {
	case <-killed:
	case <-time.After(10 * time.Second):
		t.Error("the tree lives on")
	}
}

// TestStatOfALeafThatIsNotReady is an error, or what there is, and no panic.
func TestStatOfALeafThatIsNotReady(t *testing.T) {
	g, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	l, err := g.Begin("a", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := l.Stat(); err == nil {
		t.Error("before its limits are set it has figures")
	}
	if g.oom == nil {
		return // v2 has no watch
	}
	g.oom.epoll.Close()
	if err := l.Ready(); err == nil {
		t.Error("ready without a watch")
	}
	l.Stat()
}

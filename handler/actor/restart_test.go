package actor

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/tests/testenv"
)

func quickBackoff(t *testing.T) {
	old := Backoff
	t.Cleanup(func() { Backoff = old })
	Backoff.Least, Backoff.Most = time.Millisecond, time.Minute
}

func (s *stage) config(t *testing.T) Config {
	return Config{Manifest: s.manifest, Launcher: testenv.Launcher(t), Group: testenv.Group(t), Recorder: &s.recorder, Cache: s.cache}
}

// TestRestart: a failed actor goes on from its last committed state, with new ids,
// until it ends well.
func TestRestart(t *testing.T) {
	testenv.NoLeaks(t)
	quickBackoff(t)
	s := newStage(t, cGuest(t, "restart.c"), "/usr/bin/echo")
	s.manifest.Restart = handler.RestartOnFailure
	a, err := Run(testenv.Context(t), s.config(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if state, _ := a.State(); string(state) != "iiii" {
		t.Errorf("state %q", state)
	}
	var ids []uint64
	for _, e := range s.recorder.all(handler.Spawned) {
		ids = append(ids, e.Process)
	}
	if !slices.Equal(ids, []uint64{1, 2, 3, 4}) {
		t.Errorf("processes %v", ids)
	}
	if n := len(s.recorder.all(handler.ActorFailed)); n != 3 {
		t.Errorf("%d records of failures, want 3", n)
	}
}

// TestNoRestart: never unless the manifest says so, not of what is no actor, and
// not after the context's end.
func TestNoRestart(t *testing.T) {
	testenv.NoLeaks(t)
	quickBackoff(t)
	s := newStage(t, cGuest(t, "restart.c"), "/usr/bin/echo")
	s.manifest.Restart = handler.RestartNever
	var f *Failure
	if a, err := Run(testenv.Context(t), s.config(t), nil); !errors.As(err, &f) || f.Call != "handle-stdout" {
		t.Errorf("never: %v", err)
	} else if state, _ := a.State(); string(state) != "i" {
		t.Errorf("never: state %q", state)
	}

	broken := newStage(t, []byte("\x00asm\x01\x00\x00\x00"), "/usr/bin/echo")
	broken.manifest.Restart = handler.RestartOnFailure
	if _, err := Run(testenv.Context(t), broken.config(t), nil); err == nil || errors.As(err, &f) {
		t.Errorf("a module without exports: %v", err)
	}

	Backoff.Least = time.Hour
	s = newStage(t, cGuest(t, "restart.c"), "/usr/bin/echo")
	s.manifest.Restart = handler.RestartOnFailure
	ctx, cancel := context.WithCancel(testenv.Context(t))
	started := make(chan *Actor, 1)
	ended := make(chan error)
	go func() {
		_, err := Run(ctx, s.config(t), func(a *Actor) { started <- a })
		ended <- err
	}()
	a := <-started
	a.Wait(ctx)
	cancel()
	if err := <-ended; err == nil {
		t.Error("no error after a failure and the end of the context")
	}
}

// TestActorsAreApart: two actors of one launcher and group have ids, quotas, logs,
// states and failures of their own.
func TestActorsAreApart(t *testing.T) {
	testenv.NoLeaks(t)
	module := cGuest(t, "restart.c")
	failing, well := newStage(t, module, "/usr/bin/echo"), newStage(t, module, "/usr/bin/echo")
	failing.manifest.Name, well.manifest.Name = "failing", "well"
	failing.manifest.Process.MaxProcesses = 1
	well.manifest.State = []byte("iii")
	done := make(chan error)
	go func() {
		_, err := Run(testenv.Context(t), failing.config(t), nil)
		done <- err
	}()
	a, err := Run(testenv.Context(t), well.config(t), func(a *Actor) {
		if err := <-done; err == nil {
			t.Error("the failing actor did not fail")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if state, _ := a.State(); string(state) != "iiii" {
		t.Errorf("state %q", state)
	}
	for _, s := range []*stage{failing, well} {
		for _, e := range s.recorder.events {
			if e.Actor != s.manifest.Name {
				t.Errorf("%s's recorder has %+v", s.manifest.Name, e)
			}
		}
		if spawned := s.recorder.all(handler.Spawned); len(spawned) != 1 || spawned[0].Process != 1 {
			t.Errorf("%s: %+v", s.manifest.Name, spawned)
		}
	}
	if n := len(well.recorder.all(handler.ActorFailed)); n != 0 {
		t.Errorf("%d failures of the well one", n)
	}
}

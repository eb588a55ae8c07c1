package actor

import (
	"context"
	"errors"
	"time"

	"github.com/proscenium-dev/proscenium/handler"
)

// A Failure is an actor that did something wrong: a trap, a missed deadline, an err
// of its init. What it did not do, a file that cannot be read or a module of other
// interfaces, is another error.
type Failure struct {
	Call string // the handler that was called
	Err  error
}

func (f *Failure) Error() string { return f.Call + ": " + f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// Backoff is the time before a restart: the first after Least, each next one after
// twice the time, up to Most. An actor that ran for Most without a failure begins
// again with Least.
var Backoff = struct{ Least, Most time.Duration }{time.Second, time.Minute}

// Run starts the actor and waits until nothing of it is alive or queued. Where the
// manifest says restart = "on-failure" a failed actor is started again, from its
// last committed state and with its ids going on, until it ends well or ctx does;
// the processes of the failed one are gone by then. started, where not nil, is told
// of each start.
//
// It returns the last actor, closed.
func Run(ctx context.Context, c Config, started func(*Actor)) (*Actor, error) {
	var last *Actor
	for wait := Backoff.Least; ; wait = min(2*wait, Backoff.Most) {
		began := time.Now()
		a, err := start(ctx, c)
		if err == nil {
			if started != nil {
				started(a)
			}
			err = a.Wait(ctx)
		}
		a.Close()
		last, c.resume = a, a
		var f *Failure
		if c.Manifest.Restart != handler.RestartOnFailure || !errors.As(err, &f) || ctx.Err() != nil {
			return last, err
		}
		if time.Since(began) >= Backoff.Most {
			wait = Backoff.Least
		}
		if c.Logger != nil {
			c.Logger.Warn("the actor is started again", "actor", c.Manifest.Name, "in", wait)
		}
		select {
		case <-ctx.Done():
			return last, err
		case <-time.After(wait):
		}
	}
}

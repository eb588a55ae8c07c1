package actor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tetratelabs/wazero/experimental"
)

// maxCompile is how long a guest may take to compile. JavaScript takes ten
// seconds on an idle machine.
var maxCompile = 5 * time.Minute

// compilers are how many functions are compiled at once. With one, wazero would
// not look whether the time is up.
const compilers = 2

// errCompile says that a guest does not compile in time.
var errCompile = errors.New("it takes longer to compile than this host allows")

// A compileError is one of the engine's while it compiled, not that it took too long.
type compileError struct{ error }

func (e *compileError) Unwrap() error { return e.error }

// compile runs f, which compiles. wazero looks at the time between functions
// only, and a hostile one takes minutes: what is late goes on by itself to the
// end of its function, with the runtime, which the actor no longer has.
func (a *Actor) compile(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(experimental.WithCompilationWorkers(ctx, compilers), maxCompile)
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	select {
	case err := <-done:
		late := ctx.Err() == context.DeadlineExceeded
		cancel()
		if err != nil && late {
			return fmt.Errorf("%w (%v)", errCompile, maxCompile)
		}
		if err != nil {
			return &compileError{err}
		}
		return nil
	case <-ctx.Done():
		err := ctx.Err()
		runtime, cache := a.runtime, a.cache
		a.runtime, a.cache = nil, nil
		go func() {
			<-done
			cancel()
			runtime.Close(context.Background())
			if cache != nil {
				cache.Close(context.Background())
			}
		}()
		if err == context.DeadlineExceeded {
			err = fmt.Errorf("%w (%v)", errCompile, maxCompile)
		}
		return err
	}
}

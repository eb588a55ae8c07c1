package handler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

// The predecessor's handler had these defects. Each has a test by its number;
// what the language rules out by itself is said so.

// shellConfig allows a shell with the system's tools.
func shellConfig() Config {
	c := allow("/usr/bin/dash")
	c.Isolation = isolate.System()
	return c
}

// sh spawns a shell script.
func sh(t testing.TB, h *Handler, sink Sink, mode Mode, script string, change ...func(*ProcessConfig)) uint64 {
	t.Helper()
	r := ProcessConfig{Program: "/bin/sh", Args: []string{"-c", script}, StdoutMode: mode, StderrMode: mode}
	for _, f := range change {
		f(&r)
	}
	id, err := h.Spawn(context.Background(), r, sink)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestDefect01KillEndsARunningProcess(t *testing.T) {
	testenv.NoLeaks(t)
	sink := collect(t)
	h := newHandler(t, shellConfig(), nil)
	id := sh(t, h, sink, Raw, "trap '' TERM INT HUP; while :; do sleep 1; done")
	if err := h.Kill(id); err != nil {
		t.Fatal(err)
	}
	wait(t, h)
	if r := sink.exits[id]; r.Reason != Killed || r.Signal != syscall.SIGKILL {
		t.Errorf("%+v", r)
	}
}

func TestDefect02KillAndExitGiveOneExit(t *testing.T) {
	testenv.NoLeaks(t)
	sink := collect(t) // fails the test on a second exit
	h := newHandler(t, shellConfig(), nil)
	for range 30 {
		id := sh(t, h, sink, Raw, "exit 3")
		time.Sleep(time.Duration(rand.IntN(4000)) * time.Microsecond) // races are the point
		h.Kill(id)
	}
	wait(t, h)
	if len(sink.exits) != 30 {
		t.Errorf("%d exits of 30", len(sink.exits))
	}
	for id, r := range sink.exits {
		if !(r.Reason == Exited && r.ExitCode == 3 || r.Reason == Killed && r.ExitCode == 137) {
			t.Errorf("process %d: %+v", id, r)
		}
	}
}

func TestDefect03RunningMeansRunning(t *testing.T) {
	sink := collect(t)
	h := newHandler(t, shellConfig(), nil)
	id := sh(t, h, sink, Raw, "read x; exit 5")
	if s, err := h.Status(id); err != nil || !s.Running || s.State != Running {
		t.Errorf("%+v, %v", s, err)
	}
	h.CloseStdin(id)
	wait(t, h)
	if s, err := h.Status(id); err != nil || s.Running || s.State != Gone || s.ExitCode != 5 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestDefect04DeathBySignalIsAnExit(t *testing.T) {
	sink := collect(t)
	h := newHandler(t, shellConfig(), nil)
	id := sh(t, h, sink, Raw, "kill -SEGV $$")
	wait(t, h)
	if r := sink.exits[id]; r.Reason != Signalled || r.Signal != syscall.SIGSEGV || r.ExitCode != 128+int(syscall.SIGSEGV) {
		t.Errorf("%+v", r)
	}
}

func TestDefect05ExitComesLast(t *testing.T) {
	sink := collect(t) // fails the test on output behind an exit
	h := newHandler(t, shellConfig(), nil)
	id := sh(t, h, sink, LineByLine, "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done; echo e >&2")
	wait(t, h)
	if n := len(sink.stdout[id]); n != 20000 || len(sink.stderr[id]) != 1 {
		t.Errorf("%d lines, %q", n, sink.stderr[id])
	}
}

func chunked(size uint32) func(*ProcessConfig) {
	return func(r *ProcessConfig) { r.ChunkSize = &size }
}

func TestDefect06And07ChunksHaveTheirSizeAndTheTailComes(t *testing.T) {
	sink := collect(t)
	h := newHandler(t, shellConfig(), nil)
	id := sh(t, h, sink, Chunked, "printf 0123456789abc", chunked(5))
	wait(t, h)
	if got := strings.Join(sink.stdout[id], "|"); got != "01234|56789|abc" {
		t.Errorf("%q", got)
	}
}

func TestDefect08BufferSizeZeroAndHuge(t *testing.T) {
	sink := collect(t)
	h := newHandler(t, shellConfig(), nil)
	for _, m := range []Mode{Raw, LineByLine, Chunked} {
		id := sh(t, h, sink, m, "printf abc", func(r *ProcessConfig) { r.BufferSize = 0 })
		wait(t, h)
		if got := strings.Join(sink.stdout[id], "|"); got != "abc" {
			t.Errorf("%v: %q", m, got)
		}
	}
	_, err := h.Spawn(context.Background(), ProcessConfig{Program: "/bin/sh", BufferSize: 1<<32 - 1}, sink)
	var d *Denial
	if !errors.As(err, &d) || d.Rule != "max_output_buffer" {
		t.Errorf("%v", err)
	}
}

func TestDefect09LinesAreWhole(t *testing.T) {
	sink := collect(t)
	h := newHandler(t, shellConfig(), nil)
	id := sh(t, h, sink, LineByLine, `printf 'a\n\n\r\nlong-line\nlast'`, func(r *ProcessConfig) { r.BufferSize = 5 })
	wait(t, h)
	if got := fmt.Sprintf("%q", sink.stdout[id]); got != `["a" "" "\r" "long-" "line" "last"]` {
		t.Errorf("%s", got)
	}
}

func TestDefect10JSONKeepsCharactersAndCountsTheRest(t *testing.T) {
	r, sink := &recording{}, collect(t)
	h := newHandler(t, shellConfig(), r)
	// The two bytes of é come apart, in two writes.
	id := sh(t, h, sink, JSON, `printf '{"a":"\303'; sleep 0.05; printf '\251"}\nnot json\n{\n"b":\n2}'`)
	wait(t, h)
	if got := fmt.Sprintf("%q", sink.stdout[id]); got != `["{\"a\":\"é\"}" "{\n\"b\":\n2}"]` {
		t.Errorf("%s", got)
	}
	// What is found in output that waits may be recorded behind the end.
	if k := fmt.Sprint(r.kinds(id)); k != "[spawned not-json ended]" && k != "[spawned ended not-json]" {
		t.Errorf("recorded %s", k)
	}
}

func TestDefect11StdinCanEnd(t *testing.T) {
	sink := collect(t)
	c := allow("/usr/bin/sort")
	h := newHandler(t, c, nil)
	id, err := h.Spawn(context.Background(), ProcessConfig{Program: "/usr/bin/sort", StdoutMode: LineByLine}, sink)
	if err != nil {
		t.Fatal(err)
	}
	h.WriteStdin(id, []byte("b\na\n"))
	if err := h.CloseStdin(id); err != nil {
		t.Fatal(err)
	}
	wait(t, h)
	if got := strings.Join(sink.stdout[id], ","); got != "a,b" {
		t.Errorf("%q", got)
	}
	c.StdinNull = true
	h = newHandler(t, c, nil)
	if id, err = h.Spawn(context.Background(), ProcessConfig{Program: "/usr/bin/sort"}, Discard); err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteStdin(id, []byte("x")); !errors.Is(err, ErrNoStdin) && !errors.Is(err, ErrExited) {
		t.Errorf("a write to a program without stdin: %v", err)
	}
	wait(t, h)
}

func TestDefect12TheAllowlistIsAboutFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/usr/bin/id", dir+"/cat"); err != nil {
		t.Fatal(err)
	}
	h := newHandler(t, allow("/usr/bin/cat"), nil)
	for _, r := range []ProcessConfig{
		{Program: dir + "/cat"},
		{Program: "cat", Env: []EnvVar{{"PATH", dir}}},
		{Program: "/usr/bin/cat", Cwd: "/etc"},
		{Program: "/usr/bin/cat", Env: []EnvVar{{"LD_PRELOAD", dir + "/x.so"}}},
	} {
		var d *Denial
		if _, err := h.Spawn(context.Background(), r, Discard); !errors.As(err, &d) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

func TestDefect13NothingIsInherited(t *testing.T) {
	t.Setenv("HOST_SECRET", "x")
	sink := collect(t)
	h := newHandler(t, allow("/usr/bin/env"), nil)
	id, err := h.Spawn(context.Background(), ProcessConfig{Program: "/usr/bin/env", Env: []EnvVar{{"A", "1"}}}, sink)
	if err != nil {
		t.Fatal(err)
	}
	wait(t, h)
	if got := strings.Join(sink.stdout[id], ""); got != "A=1\n" {
		t.Errorf("%q", got)
	}
}

func TestDefect14MaxProcessesCountsTheLiving(t *testing.T) {
	testenv.NoLeaks(t)
	c := allow("/usr/bin/true", "/usr/bin/sleep")
	c.MaxProcesses = 3
	h := newHandler(t, c, nil)
	for range 3 * c.MaxProcesses { // the dead do not count
		if _, err := h.Spawn(context.Background(), ProcessConfig{Program: "/usr/bin/true"}, Discard); err != nil {
			t.Fatal(err)
		}
		wait(t, h)
	}
	var started atomic.Int32
	var wg sync.WaitGroup
	for range 20 { // reserved before the start: not one too many
		wg.Go(func() {
			if _, err := h.Spawn(context.Background(), ProcessConfig{Program: "/usr/bin/sleep", Args: []string{"1000"}}, Discard); err == nil {
				started.Add(1)
			}
		})
	}
	wg.Wait()
	if n := started.Load(); n != 3 {
		t.Errorf("%d processes of 3", n)
	}
	h.Drain()
	wait(t, h)
}

func TestDefect15HandlersAreApart(t *testing.T) {
	a, b := collect(t), collect(t)
	ha, hb := newHandler(t, shellConfig(), nil), newHandler(t, shellConfig(), nil)
	id := sh(t, ha, a, Raw, "read x; echo $x")
	for _, err := range []error{hb.Kill(id), hb.Signal(id, 15), hb.CloseStdin(id)} {
		if !errors.Is(err, ErrNoProcess) {
			t.Errorf("another handler's process: %v", err)
		}
	}
	other := sh(t, hb, b, Raw, "echo other")
	ha.WriteStdin(id, []byte("mine\n"))
	wait(t, ha)
	wait(t, hb)
	if a.stdout[id][0] != "mine\n" || b.stdout[other][0] != "other\n" || len(a.exits) != 1 || len(b.exits) != 1 {
		t.Errorf("%v, %v", a.stdout, b.stdout)
	}
}

func TestDefect16StdinNeverBlocks(t *testing.T) {
	testenv.NoLeaks(t)
	h := newHandler(t, allow("/usr/bin/sleep"), nil)
	id, err := h.Spawn(context.Background(), ProcessConfig{Program: "/usr/bin/sleep", Args: []string{"1000"}}, Discard)
	if err != nil {
		t.Fatal(err)
	}
	data, total := make([]byte, 256<<10), 0
	for full := 0; full < 3; {
		n, err := h.WriteStdin(id, data)
		if err != nil {
			t.Fatal(err)
		}
		if total += n; n == 0 {
			full++
		}
		if total > 4<<20 {
			t.Fatalf("%d bytes were taken for a program that does not read", total)
		}
	}
	h.Kill(id)
	wait(t, h)
}

func TestDefect16bBrokenStdinIsReported(t *testing.T) {
	r := &recording{}
	h := newHandler(t, shellConfig(), r)
	id := sh(t, h, Discard, Raw, "exec <&-; sleep 1000")
	var err error
	for err == nil { // until the program has closed it and a write has met that
		_, err = h.WriteStdin(id, []byte("x"))
		runtime.Gosched()
	}
	if !errors.Is(err, ErrNoReader) {
		t.Errorf("%v", err)
	}
	h.Kill(id)
	wait(t, h)
}

var errSink = errors.New("the sink has had enough")

// failing is a sink that fails at its nth event.
type failing struct{ left atomic.Int32 }

func (f *failing) event() error {
	if f.left.Add(-1) < 0 {
		return errSink
	}
	return nil
}
func (f *failing) HandleStdout(uint64, []byte) error { return f.event() }
func (f *failing) HandleStderr(uint64, []byte) error { return f.event() }
func (f *failing) HandleExit(uint64, Result) error   { return f.event() }

func TestDefect17AFailedSinkEndsEverything(t *testing.T) {
	testenv.NoLeaks(t)
	h, err := New(shellConfig(), testenv.Launcher(t), testenv.Group(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	sink := &failing{}
	sink.left.Store(100)
	sh(t, h, sink, Raw, "sleep 1000")
	sh(t, h, sink, LineByLine, "yes")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := h.Wait(ctx); !errors.Is(err, errSink) {
		t.Errorf("%v", err)
	}
	if err := h.Close(); err != nil { // returns when nothing is left
		t.Error(err)
	}
	if _, err := h.Spawn(ctx, ProcessConfig{Program: "/bin/sh"}, sink); !errors.Is(err, ErrClosed) {
		t.Errorf("a spawn after the end: %v", err)
	}
	if n := sink.left.Load(); n != -1 {
		t.Errorf("%d events behind the failure", -1-n)
	}
}

// TestAFailureIsNoFailedRead: the files that are closed under the readers of quiet
// streams lose nothing.
func TestAFailureIsNoFailedRead(t *testing.T) {
	rec := &recording{}
	t.Cleanup(func() { // behind NoLeaks: the readers have ended
		for _, k := range rec.kinds(1) {
			if k == ReadFailed {
				t.Error("a failed read was recorded")
			}
		}
	})
	testenv.NoLeaks(t)
	h, err := New(shellConfig(), testenv.Launcher(t), testenv.Group(t), rec)
	if err != nil {
		t.Fatal(err)
	}
	sh(t, h, &failing{}, LineByLine, "echo; sleep 1000")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := h.Wait(ctx); !errors.Is(err, errSink) {
		t.Errorf("%v", err)
	}
	h.Close()
}

func TestDefect18CloseKillsTrees(t *testing.T) {
	testenv.NoLeaks(t) // looks for processes
	h, err := New(shellConfig(), testenv.Launcher(t), testenv.Group(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		sh(t, h, Discard, Raw, "trap '' TERM HUP; setsid sleep 1000 & sleep 1000 & wait")
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDefect19SignalsArrive(t *testing.T) {
	sink := collect(t)
	h := newHandler(t, shellConfig(), nil)
	id := sh(t, h, sink, LineByLine, "trap 'echo usr1; exit 9' USR1; echo ready; while :; do sleep 0.01; done")
	sink.awaitOutput(id) // the trap is set
	if err := h.Signal(id, uint32(syscall.SIGUSR1)); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []uint32{0, 32, 33, 65, 1 << 31} {
		if err := h.Signal(id, bad); err == nil {
			t.Errorf("signal %d was sent", bad)
		}
	}
	wait(t, h)
	if got := strings.Join(sink.stdout[id], ","); got != "ready,usr1" || sink.exits[id].ExitCode != 9 {
		t.Errorf("%q, %+v", got, sink.exits[id])
	}
	if err := h.Signal(id, 15); !errors.Is(err, ErrExited) {
		t.Errorf("after the exit: %v", err)
	}
}

func TestDefect20StatusKnowsCPUAndMemory(t *testing.T) {
	h := newHandler(t, shellConfig(), nil)
	id := sh(t, h, Discard, Raw, "while :; do :; done")
	deadline := time.Now().Add(20 * time.Second)
	for {
		s, err := h.Status(id)
		if err != nil {
			t.Fatal(err)
		}
		if s.CPU > 20 && s.CPU < 150 && s.Memory > 0 && time.Since(s.Start) < time.Minute {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", s)
		}
		time.Sleep(50 * time.Millisecond) // a span to measure
	}
	h.Kill(id)
	wait(t, h)
}

func TestDefect21TimeoutHasGraceAndReason(t *testing.T) {
	c := shellConfig()
	c.Budgets = Budgets{Wall: 1500 * time.Millisecond, Grace: 300 * time.Millisecond} // a slow machine sets a trap in a second
	sink := collect(t)
	h := newHandler(t, c, nil)
	polite := sh(t, h, sink, Raw, "trap 'exit 4' TERM; while :; do sleep 0.01; done")
	stubborn := sh(t, h, sink, Raw, "trap '' TERM; while :; do sleep 0.01; done")
	wait(t, h)
	if r := sink.exits[polite]; r.Reason != TimedOut || r.ExitCode != 4 {
		t.Errorf("polite: %+v", r)
	}
	if r := sink.exits[stubborn]; r.Reason != TimedOut || r.ExitCode != 137 {
		t.Errorf("stubborn: %+v", r)
	}
	c.Budgets.Wall = time.Minute // cancelled at the exit: nothing waits for it
	sink = collect(t)
	h = newHandler(t, c, nil)
	quick := sh(t, h, sink, Raw, "exit 0")
	wait(t, h)
	if r := sink.exits[quick]; r.Reason != Exited || r.Wall > 30*time.Second {
		t.Errorf("quick: %+v", r)
	}
}

func TestDefect22EveryOperationIsRecorded(t *testing.T) {
	r := &recording{}
	h := newHandler(t, shellConfig(), r)
	sink := collect(t)
	id := sh(t, h, sink, Raw, "read x; read y; echo read; sleep 1000", func(c *ProcessConfig) { c.Env = []EnvVar{{"TOKEN", "secret"}} })
	h.WriteStdin(id, []byte("stdin bytes\n"))
	h.CloseStdin(id)
	sink.awaitOutput(id) // it has read to the end
	h.CloseStdin(id)
	h.Signal(id, uint32(syscall.SIGCONT))
	h.Signal(id, 99)
	h.Kill(id)
	wait(t, h)
	h.Kill(id)
	h.WriteStdin(77, nil)
	if got := fmt.Sprint(r.kinds(id)); got != "[spawned stdin-written stdin-closed denied signal-sent denied kill-asked ended denied]" {
		t.Errorf("%s", got)
	}
	if got := fmt.Sprint(r.kinds(77)); got != "[denied]" {
		t.Errorf("%s", got)
	}
	if all := fmt.Sprintf("%+v", r.events); strings.Contains(all, "secret") || strings.Contains(all, "stdin bytes") || !strings.Contains(all, "TOKEN") {
		t.Errorf("recorded: %s", all)
	}
}

// The predecessor panicked, and left the child, when a program was started at a
// wrong moment. (What guests can pass is package actor's hostile guests' matter.)
func TestDefect23AStartAtAWrongMomentIsAnError(t *testing.T) {
	testenv.NoLeaks(t)
	h, err := New(shellConfig(), testenv.Launcher(t), testenv.Group(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	r := ProcessConfig{Program: "/bin/sh", Args: []string{"-c", "sleep 1000"}}
	if _, err := h.Spawn(cancelled, r, Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before the start: %v", err)
	}
	wait(t, h) // what did not start is not waited for
	h.Drain()
	if _, err := h.Spawn(context.Background(), r, Discard); !errors.Is(err, ErrClosed) {
		t.Errorf("while draining: %v", err)
	}
	h.Close()
	if _, err := h.Spawn(context.Background(), r, Discard); !errors.Is(err, ErrClosed) {
		t.Errorf("after the close: %v", err)
	}
}

func TestDefect24ErrorsCanBeToldApart(t *testing.T) {
	h := newHandler(t, shellConfig(), nil)
	_, denied := h.Spawn(context.Background(), ProcessConfig{Program: "/usr/bin/id"}, Discard)
	var d *Denial
	if !errors.As(denied, &d) || d.Rule != "allowed_programs" {
		t.Errorf("%v", denied)
	}
	id := sh(t, h, Discard, Raw, "read x")
	h.CloseStdin(id)
	if err := h.CloseStdin(id); !errors.Is(err, ErrStdinClosed) && !errors.Is(err, ErrExited) {
		t.Errorf("a second close: %v", err)
	}
	wait(t, h)
	for what, err := range map[string]error{"kill": h.Kill(id), "signal": h.Signal(id, 15), "close": h.CloseStdin(id)} {
		if !errors.Is(err, ErrExited) {
			t.Errorf("%s after the exit: %v", what, err)
		}
	}
	if _, err := h.Status(id + 1); !errors.Is(err, ErrNoProcess) {
		t.Errorf("no such process: %v", err)
	}
}

// Defect 25: there is an order within each stream and exits are last; this is
// the stress over random schedules, under the race detector in CI.
func TestDefect25OrderUnderAnyInterleaving(t *testing.T) {
	testenv.NoLeaks(t)
	for round := range 6 {
		sink := collect(t)
		c := shellConfig()
		c.MaxProcesses, c.MaxOutputBuffer = 40, 4096
		if round >= 4 { // some are timed out in the middle, some while they are killed
			c.Budgets = Budgets{Wall: time.Duration(1+rand.IntN(30)) * time.Millisecond, Grace: time.Millisecond}
		}
		h, err := New(c, testenv.Launcher(t), testenv.Group(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 12 {
			wg.Go(func() {
				n := rand.IntN(300)
				id := sh(t, h, sink, LineByLine, fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo $i; echo $i >&2; i=$((i+1)); done", n))
				time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
				switch rand.IntN(4) {
				case 0:
					h.Kill(id)
				case 1:
					h.Signal(id, uint32(syscall.SIGTERM))
				case 2:
					h.WriteStdin(id, []byte("x"))
				}
			})
		}
		wg.Wait()
		if round%2 == 0 {
			wait(t, h)
			if len(sink.exits) != 12 {
				t.Errorf("%d exits of 12", len(sink.exits))
			}
		}
		h.Close() // in the other rounds in the middle of it
		sink.mu.Lock()
		for id := range sink.stdout {
			for _, lines := range [][]string{sink.stdout[id], sink.stderr[id]} {
				for i, l := range lines {
					if l != fmt.Sprint(i) && !(i == len(lines)-1 && strings.HasPrefix(fmt.Sprint(i), l)) {
						t.Errorf("process %d: line %d is %q", id, i, l)
						break
					}
				}
			}
		}
		sink.mu.Unlock()
	}
}

func TestDefect26LimitsHold(t *testing.T) {
	c := shellConfig()
	c.Limits.Memory = 32 << 20
	sink := collect(t)
	h := newHandler(t, c, nil)
	id := sh(t, h, sink, Raw, "tail /dev/zero")
	wait(t, h)
	if r := sink.exits[id]; r.Reason != OutOfMemory || r.MemoryPeak > 32<<20 {
		t.Errorf("%+v", r)
	}
}

// sleeper is a sink that takes nothing until it is woken.
type sleeper struct {
	awake chan struct{}
	bytes atomic.Int64
}

func (s *sleeper) HandleStdout(_ uint64, data []byte) error {
	<-s.awake
	s.bytes.Add(int64(len(data)))
	return nil
}
func (s *sleeper) HandleStderr(uint64, []byte) error { return nil }
func (s *sleeper) HandleExit(uint64, Result) error   { return nil }

// TestBackPressure: a program that writes without end at a sleeping actor is
// blocked, not killed; what waits stays within the bound; it goes on later.
func TestBackPressure(t *testing.T) {
	testenv.NoLeaks(t)
	for _, mode := range []Mode{Raw, LineByLine, JSON, Chunked} {
		c := allow("/usr/bin/dd")
		h := newHandler(t, c, nil)
		s := &sleeper{awake: make(chan struct{})}
		const total = 64 << 20
		id, err := h.Spawn(context.Background(), ProcessConfig{Program: "/usr/bin/dd", Args: []string{"if=/dev/zero", "bs=64K", fmt.Sprint("count=", total/(64<<10)), "status=none"}, StdoutMode: mode}, s)
		if err != nil {
			t.Fatal(err)
		}
		h.mu.Lock()
		p := h.processes[id]
		h.mu.Unlock()
		used := func() int64 {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.used
		}
		if mode != JSON { // which skips zeros and never calls the sink
			// What the program has written and nobody has read yet fills its pipe.
			for !pipeIsFull(t, p.streams[0].file) {
				runtime.Gosched()
			}
			time.Sleep(20 * time.Millisecond) // long enough for it to overrun, if it could
			if used() == 0 {
				t.Errorf("%v: nothing that waits is counted", mode)
			}
			if n := used(); n > c.MaxOutputBuffer+readSize {
				t.Errorf("%v: %d bytes wait", mode, n)
			}
			if st, err := h.Status(id); err != nil || !st.Running {
				t.Errorf("%v: %+v, %v", mode, st, err)
			}
		}
		close(s.awake)
		wait(t, h)
		if n := s.bytes.Load(); mode != JSON && n != total {
			t.Errorf("%v: %d bytes of %d", mode, n, total)
		}
		if n := used(); n != 0 {
			t.Errorf("%v: %d bytes are still counted", mode, n)
		}
	}
}

// pipeIsFull says that the program can write no more of 64 KiB.
func pipeIsFull(t *testing.T, f *os.File) bool {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var holds, size int
	if e := raw.Control(func(fd uintptr) {
		if holds, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ); err == nil { // FIONREAD
			size, err = unix.FcntlInt(fd, unix.F_GETPIPE_SZ, 0)
		}
	}); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return holds > size-64<<10
}

// TestALineAsLongAsTheBuffer does not stop the reading.
func TestALineAsLongAsTheBuffer(t *testing.T) {
	c := allow("/usr/bin/dd")
	c.MaxOutputBuffer = 10
	sink := collect(t)
	h := newHandler(t, c, nil)
	id, err := h.Spawn(context.Background(), ProcessConfig{Program: "/usr/bin/dd", Args: []string{"if=/dev/zero", "bs=1000", "count=10", "status=none"}, StdoutMode: LineByLine}, sink)
	if err != nil {
		t.Fatal(err)
	}
	wait(t, h)
	if n := len(strings.Join(sink.stdout[id], "")); n != 10000 {
		t.Errorf("%d bytes", n)
	}
}

// TestTheQuietAreHeard: one loud process does not starve another's exit.
func TestTheQuietAreHeard(t *testing.T) {
	sink := collect(t)
	done := make(chan uint64, 10)
	sink.onExit = func(id uint64) { done <- id }
	h := newHandler(t, shellConfig(), nil)
	loud := sh(t, h, &sleeper{awake: func() chan struct{} { c := make(chan struct{}); close(c); return c }()}, Raw, "exec cat /dev/zero")
	quiet := sh(t, h, sink, LineByLine, "echo a; echo b >&2")
	select {
	case id := <-done:
		if id != quiet || len(sink.stdout[id]) != 1 || len(sink.stderr[id]) != 1 {
			t.Errorf("%d: %v", id, sink.stdout)
		}
	case <-time.After(time.Minute):
		t.Error("the quiet one was not heard")
	}
	h.Kill(loud)
	wait(t, h)
}

// TestBackgroundChildrenDoNotDelayTheExit although they hold the pipes.
func TestBackgroundChildrenDoNotDelayTheExit(t *testing.T) {
	sink := collect(t)
	h := newHandler(t, shellConfig(), nil)
	id := sh(t, h, sink, Raw, "setsid sleep 1000 & echo done")
	wait(t, h)
	if r := sink.exits[id]; r.Reason != Exited || r.Wall > 30*time.Second || sink.stdout[id][0] != "done\n" {
		t.Errorf("%+v, %q", r, sink.stdout[id])
	}
}

// TestOutputLimit: what comes beyond it kills the program; what came before is
// delivered, to the byte.
func TestOutputLimit(t *testing.T) {
	testenv.NoLeaks(t)
	c := allow("/usr/bin/yes", "/usr/bin/echo")
	c.Budgets.Output = 100001
	sink := collect(t)
	h := newHandler(t, c, nil)
	id, err := h.Spawn(context.Background(), ProcessConfig{Program: "/usr/bin/yes"}, sink)
	if err != nil {
		t.Fatal(err)
	}
	quiet, err := h.Spawn(context.Background(), ProcessConfig{Program: "/usr/bin/echo", Args: []string{"hello"}}, sink)
	if err != nil {
		t.Fatal(err)
	}
	wait(t, h)
	if n := len(strings.Join(sink.stdout[id], "")); n != 100001 || sink.exits[id].Reason != OutputLimit {
		t.Errorf("%d bytes, %+v", n, sink.exits[id])
	}
	if sink.exits[quiet].Reason != Exited {
		t.Errorf("%+v", sink.exits[quiet])
	}
}

// feeder writes to a cat what cat gave, until enough has gone round: the reader
// of a program is its writer as well.
type feeder struct {
	h           *Handler
	pending     int // bytes that stdin had no room for
	left, round int64
	closed      bool
}

func (f *feeder) HandleStdout(id uint64, data []byte) error {
	f.round += int64(len(data))
	f.pending += len(data)
	for f.pending > 0 && f.left > 0 {
		n, err := f.h.WriteStdin(id, make([]byte, min(f.pending, 64<<10, int(f.left))))
		if err != nil {
			return err
		}
		if f.pending, f.left = f.pending-n, f.left-int64(n); n == 0 {
			break // full: more output will come, as cat reads
		}
	}
	if f.left == 0 && !f.closed {
		f.closed = true
		return f.h.CloseStdin(id)
	}
	return nil
}
func (f *feeder) HandleStderr(uint64, []byte) error { return nil }
func (f *feeder) HandleExit(uint64, Result) error   { return nil }

// TestACatFedByItsOwnReader does not deadlock.
func TestACatFedByItsOwnReader(t *testing.T) {
	testenv.NoLeaks(t)
	h := newHandler(t, allow("/usr/bin/cat"), nil)
	const total = 128 << 20
	f := &feeder{h: h, left: total - 512<<10}
	id, err := h.Spawn(context.Background(), ProcessConfig{Program: "/usr/bin/cat"}, f)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := h.WriteStdin(id, make([]byte, 512<<10)); n != 512<<10 || err != nil {
		t.Fatal(n, err)
	}
	wait(t, h)
	if f.round != total {
		t.Errorf("%d bytes of %d went round", f.round, total)
	}
}

// TestThePastIsBounded: exited processes can be asked about, the last thousand.
func TestThePastIsBounded(t *testing.T) {
	h := newHandler(t, allow("/usr/bin/true"), nil)
	for i := range uint64(rememberMax + 50) { // as forget does it, without a thousand starts
		h.mu.Lock()
		p := &process{h: h, id: i + 1, gone: true}
		h.processes[p.id] = p
		h.active++
		h.mu.Unlock()
		h.forget(p)
	}
	if _, err := h.Status(50); !errors.Is(err, ErrNoProcess) {
		t.Errorf("the 50th: %v", err)
	}
	if s, err := h.Status(51); err != nil || s.State != Gone {
		t.Errorf("the 51st: %+v, %v", s, err)
	}
	if n := len(h.processes); n != rememberMax {
		t.Errorf("%d are remembered", n)
	}
}

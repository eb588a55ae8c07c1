package tests

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

// Too much of something: processes, output, arguments.

// T-13: the limits hold from the first instruction on. With room for init and
// the program, its very first fork is refused.
func TestT13LimitsHoldFromTheFirstInstruction(t *testing.T) {
	testenv.NoLeaks(t)
	for range 10 {
		r := start(t, cgroup.Limits{Pids: 2}, handler.Budgets{Wall: time.Minute}, shell, "/bin/sh", "-c", "/bin/true; echo forked")
		if result := r.wait(); strings.Contains(r.out.String(), "forked") || !strings.Contains(r.out.String(), "fork") || result.ExitCode != 2 {
			t.Fatalf("the first fork: %q, %+v", r.out, result)
		}
	}
}

// T-21: a program that forks without pause, away from its parents and sessions,
// and ignores every signal, is gone when its kill has been waited for.
func TestT21AForkBombIsGoneAfterItsKill(t *testing.T) {
	testenv.NoLeaks(t)
	marker := "PROSCENIUM_TEST_BOMB=" + itoa(os.Getpid())
	const bomb = `use POSIX; $SIG{$_} = "IGNORE" for qw(TERM HUP INT QUIT); while (1) { my $child = fork; setsid() if defined $child && !$child; fork }`
	cmd := testenv.Launcher(t).Command(testenv.Context(t), "/usr/bin/perl", "-e", bomb)
	cmd.Env = []string{marker}
	const limit = 30
	c, err := handler.StartCell(cmd, testenv.Group(t), cgroup.Limits{Pids: limit, CPU: 0.5}, handler.Budgets{})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; { // until it has met its limit
		s, err := c.Leaf.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if s.PidsRefused > 10 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not fork: %+v", s)
		}
		time.Sleep(10 * time.Millisecond) // it shares the processors
	}
	if n := marked(marker); n < limit/2 {
		t.Errorf("only %d of its processes were found", n)
	}
	if err := c.Kill(handler.Killed); err != nil {
		t.Error(err)
	}
	if r := c.Wait(); r.Reason != handler.Killed {
		t.Errorf("%+v", r)
	}
	if n := marked(marker); n > 0 {
		t.Errorf("%d of its processes live", n)
	}
}

// marked counts the processes with an entry in their environment.
func marked(entry string) (n int) {
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range all {
		if b, _ := os.ReadFile(name); bytes.Contains(b, []byte(entry)) {
			n++
		}
	}
	return n
}

var floodSize = flag.Int64("flood", 64<<20, "bytes that the floods of T-27 write at full speed; ten GiB is what they are for")

// A floodSink sleeps until it is woken, then takes everything.
type floodSink struct {
	asleep chan struct{}
	bytes  int64
	ended  bool
}

func (s *floodSink) HandleStdout(_ uint64, data []byte) error {
	<-s.asleep
	s.bytes += int64(len(data))
	return nil
}
func (s *floodSink) HandleStderr(id uint64, data []byte) error { return s.HandleStdout(id, data) }
func (s *floodSink) HandleExit(uint64, handler.Result) error   { s.ended = true; return nil }

// T-27: output without a newline, to an actor that sleeps: the program blocks,
// and the host's memory stays where it was; nothing is lost when it wakes.
func TestT27OutputWithoutEnd(t *testing.T) {
	testenv.NoLeaks(t)
	for _, mode := range []handler.Mode{handler.LineByLine, handler.JSON, handler.Raw} {
		c := handler.DefaultConfig()
		c.AllowedPrograms = []string{"/usr/bin/head"}
		h, err := handler.New(c, testenv.Launcher(t), testenv.Group(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		before := resident(t)
		sink := &floodSink{asleep: make(chan struct{})}
		id, err := h.Spawn(context.Background(), handler.ProcessConfig{
			Program: "/usr/bin/head", Args: []string{"-c", itoa(int(*floodSize)), "/dev/zero"}, StdoutMode: mode,
		}, sink)
		if err != nil {
			t.Fatal(err)
		}
		blocked(t, h, id)
		if grown := resident(t) - before; grown > 16<<20 {
			t.Errorf("%v: asleep, the host grew by %d bytes", mode, grown)
		}
		close(sink.asleep)
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+*floodSize>>25)*time.Minute)
		if err := h.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		if grown := resident(t) - before; grown > 32<<20 {
			t.Errorf("%v: awake, the host grew by %d bytes", mode, grown)
		}
		if want := *floodSize; !sink.ended || mode != handler.JSON && sink.bytes != want || mode == handler.JSON && sink.bytes != 0 {
			t.Errorf("%v: %d bytes arrived, ended %v", mode, sink.bytes, sink.ended)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
}

// blocked waits until the process has come to use no more processor time.
func blocked(t *testing.T, h *handler.Handler, id uint64) {
	t.Helper()
	for same, deadline := 0, time.Now().Add(time.Minute); same < 5; {
		if time.Now().After(deadline) {
			t.Fatalf("process %d goes on computing", id)
		}
		s, err := h.Status(id)
		if err != nil {
			t.Fatal(err)
		}
		if same++; s.CPU > 0 {
			same = 0
		}
		time.Sleep(20 * time.Millisecond) // the span that CPU is measured over
	}
}

// resident is the host's memory, in bytes.
func resident(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// allocations are the bytes that this process has ever allocated.
func allocations() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// T-19: arguments, environments and paths of any size and content are refused
// before anything starts, or arrive as they are.
func TestT19HostileArguments(t *testing.T) {
	testenv.NoLeaks(t)
	many := make([]string, 1_000_000)
	for i := range many {
		many[i] = "x"
	}
	huge := strings.Repeat("x", 64<<20)
	for name, c := range map[string]struct {
		args, env []string
		path, dir string
		want      error
	}{
		"a million arguments": {args: many, want: unix.E2BIG},
		"a huge argument":     {args: []string{huge}, want: unix.E2BIG},
		"a huge variable":     {env: []string{"X=" + huge}, want: unix.E2BIG},
		"a huge path":         {path: "/" + huge[:1<<20], want: unix.ENAMETOOLONG},
		"a huge directory":    {dir: "/" + huge[:1<<20], want: unix.ENAMETOOLONG},
		"NUL in an argument":  {args: []string{"a\x00b"}},
		"NUL in a variable":   {env: []string{"A=\x00"}},
		"NUL in a path":       {path: "/usr/bin/\x00"},
		"no name":             {env: []string{"=x"}},
		"no value":            {env: []string{"x"}},
	} {
		if c.path == "" {
			c.path = "/usr/bin/true"
		}
		cmd := testenv.Launcher(t).Command(testenv.Context(t), c.path, c.args...)
		cmd.Env, cmd.Dir = c.env, c.dir
		allocated := allocations()
		err := cmd.Run()
		if n := allocations() - allocated; n > 32<<20 {
			t.Errorf("%s: %d bytes were allocated for it", name, n)
		}
		if err == nil || cmd.Process != nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %.200v", name, err)
		}
		if err != nil && len(err.Error()) > 10_000 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
	odd := "a\nb\x01\xff\r\x1b[2J\"'\\ $(id)"
	cmd := testenv.Launcher(t).Command(testenv.Context(t), "/usr/bin/printf", "%s", odd)
	cmd.Isolation = isolate.Hardened()
	if out, err := cmd.Output(); err != nil || string(out) != odd {
		t.Errorf("an odd argument arrived as %q, %v", out, err)
	}
}

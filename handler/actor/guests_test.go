package actor

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/tests/testenv"
)

// TestEcho: every byte value goes through a program's stdin and stdout and the
// actor's state unchanged, in both naming schemes.
func TestEcho(t *testing.T) {
	testenv.NoLeaks(t)
	var want []byte
	for i := range 256 {
		want = append(want, byte(i))
	}
	for scheme, flags := range map[string][]string{"wit-bindgen": nil, "cm32p2": {"-DTHEATER_CM32P2"}} {
		t.Run(scheme, func(t *testing.T) {
			module := cGuest(t, "echo.c", flags...)
			if !bytes.Contains(module, []byte("cm32p2|theater:simple/process")) == (scheme == "cm32p2") {
				t.Error("the module has the other scheme's names")
			}
			if state, ok := newStage(t, module, "/usr/bin/cat").play(t); !ok || !bytes.Equal(state, want) {
				t.Errorf("%q", state)
			}
		})
	}
}

// count is what counter.c counts.
type count struct{ Hash, Bytes, Events, Largest uint64 }

func countOf(events []string) (c count) {
	h := fnv.New64a()
	for _, e := range events {
		h.Write([]byte(e))
		c.Bytes += uint64(len(e))
		c.Events++
		c.Largest = max(c.Largest, uint64(len(e)))
	}
	c.Hash = h.Sum64()
	return c
}

// TestModes counts and hashes both streams of one program, in each mode.
func TestModes(t *testing.T) {
	testenv.NoLeaks(t)
	const n, size = 5000, 1000 // size: counter.c's PARAMETER
	lines := func(prefix string) (lines []string) {
		for i := range n {
			lines = append(lines, fmt.Sprintf(`{"%s":%d}`, prefix, i+1))
		}
		return lines
	}
	expected := map[handler.Mode]func(prefix string) []string{
		handler.Raw:        func(prefix string) []string { return []string{strings.Join(lines(prefix), "\n") + "\n"} },
		handler.LineByLine: lines,
		handler.JSON:       lines,
		handler.Chunked: func(prefix string) (chunks []string) {
			text := strings.Join(lines(prefix), "\n") + "\n"
			for len(text) > size {
				chunks = append(chunks, text[:size])
				text = text[size:]
			}
			return append(chunks, text)
		},
	}
	script := fmt.Sprintf(`seq -f '{"out":%%.0f}' %d & seq -f '{"err":%%.0f}' %d >&2; wait`, n, n)
	for i := range 2 * (handler.Chunked + 1) {
		stdout, batched := i/2, i%2 == 1
		stderr := handler.Chunked - stdout
		var flags []string
		if batched {
			flags = []string{"-DTHEATER_BATCH"}
		}
		t.Run(fmt.Sprintf("%s and %s, batches %v", stdout, stderr, batched), func(t *testing.T) {
			s := newStage(t, cGuest(t, "counter.c", flags...), "/bin/sh", "/usr/bin/seq")
			s.manifest.State = fmt.Appendf(nil, "%d%d%s", stdout, stderr, script)
			state, _ := s.play(t)
			var got struct {
				Streams [2]count
				Code    int64
			}
			if err := binary.Read(bytes.NewReader(state), binary.LittleEndian, &got); err != nil || got.Code != 0 {
				t.Fatalf("exit code %d, %v, %s", got.Code, err, s.logged())
			}
			want := [2]count{countOf(expected[stdout]("out")), countOf(expected[stderr]("err"))}
			for i, mode := range []handler.Mode{stdout, stderr} {
				if mode == handler.Raw { // as many events as there were reads
					if c := got.Streams[i]; c.Events < want[i].Bytes/size || c.Largest > size {
						t.Errorf("stream %d: %+v, want events of at most %d bytes", i, c, size)
					}
					want[i].Events, want[i].Largest = got.Streams[i].Events, got.Streams[i].Largest
				}
			}
			if got.Streams != want {
				t.Errorf("%+v, want %+v", got.Streams, want)
			}
		})
	}
}

// TestControl: a spawn under tighter limits than the manifest's, and the report of
// its end.
func TestControl(t *testing.T) {
	testenv.NoLeaks(t)
	for name, c := range map[string]struct {
		script string
		want   handler.Reason
		signal uint32
	}{
		"exit":   {"echo 12; echo 3 >&2; exit 3", handler.Exited, 0},
		"memory": {"exec tail /dev/zero", handler.OutOfMemory, 9},
		"signal": {"kill -USR1 $$", handler.Signalled, 10},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, cGuest(t, "control.c"), "/bin/sh", "/usr/bin/tail")
			s.manifest.State = []byte(c.script)
			state, ok := s.play(t)
			var got struct {
				Reason                                        uint32
				HasSignal, Signal, _                          uint32
				CPUTime, MemoryPeak, StdoutBytes, StderrBytes uint64
			}
			if err := binary.Read(bytes.NewReader(state), binary.LittleEndian, &got); err != nil || !ok {
				t.Fatalf("%v, %s", err, s.logged())
			}
			if int(got.Reason) >= len(reasons) || reasons[got.Reason] != c.want || got.Signal != c.signal || (got.HasSignal != 0) != (c.signal != 0) {
				t.Errorf("%+v, want %s by signal %d", got, c.want, c.signal)
			}
			if got.CPUTime == 0 || got.MemoryPeak > 16<<20 {
				t.Errorf("%+v", got)
			}
			if name == "exit" && (got.StdoutBytes != 3 || got.StderrBytes != 2) {
				t.Errorf("%+v: want 3 and 2 bytes", got)
			}
			log := s.logged()
			for _, text := range []string{"limits: memory 1099511627776 is more than the manifest's 67108864 bytes", "process 1: the process has not ended yet"} {
				if !strings.Contains(log, text) {
					t.Errorf("%q is not in the log: %s", text, log)
				}
			}
			spawned := s.recorder.all(handler.Spawned)
			if len(spawned) != 1 || !strings.Contains(strings.Join(spawned[0].Enforced, "\n"), "memory: 16777216 bytes") {
				t.Errorf("%+v", spawned)
			}
		})
	}
}

// TestPipeline: the exit of one program starts the next.
func TestPipeline(t *testing.T) {
	testenv.NoLeaks(t)
	h := sha256.New()
	for i := 2000; i > 0; i-- {
		fmt.Fprintln(h, i)
	}
	s := newStage(t, cGuest(t, "pipeline.c"), "/usr/bin/seq", "/usr/bin/sort", "/usr/bin/sha256sum")
	if state, _ := s.play(t); string(state) != fmt.Sprintf("2%x  -", h.Sum(nil)) {
		t.Errorf("%.100q\n%s", state, s.logged())
	}
	for i, e := range s.recorder.all(handler.Ended) {
		if e.Process != uint64(i+1) || *e.ExitCode != 0 {
			t.Errorf("end %d: %+v", i, e)
		}
	}
}

// TestStatus reads what os-status wrote into the guest's memory.
func TestStatus(t *testing.T) {
	testenv.NoLeaks(t)
	begin := time.Now().UnixMilli()
	state, _ := newStage(t, cGuest(t, "status.c"), "/usr/bin/sleep").play(t)
	type status struct {
		PID         uint64
		Running     uint8
		_           [3]byte
		HasExitCode uint8
		_           [3]byte
		ExitCode    int32
		_           [4]byte
		Start       uint64
		CPU         uint32
		_           [4]byte
		Memory      uint64
	}
	var s [2]status
	r := bytes.NewReader(state)
	if err := binary.Read(r, binary.LittleEndian, &s); err != nil {
		t.Fatal(err)
	}
	alive, dead := s[0], s[1]
	if cpu := math.Float32frombits(alive.CPU); cpu < 0 || cpu > 1000 {
		t.Errorf("cpu usage %v", cpu)
	}
	if alive.PID != 1 || alive.Running != 1 || alive.HasExitCode != 0 || alive.Memory == 0 || alive.Memory > 64<<20 {
		t.Errorf("while it runs: %+v", alive)
	}
	if now := uint64(time.Now().UnixMilli()); alive.Start < uint64(begin) || alive.Start > now {
		t.Errorf("started at %d, between %d and %d", alive.Start, begin, now)
	}
	if want := (status{PID: 1, HasExitCode: 1, ExitCode: 137, Start: alive.Start}); dead != want {
		t.Errorf("after its end: %+v, want %+v", dead, want)
	}
	if text := string(state[len(state)-r.Len():]); text != "process 2: no such process" {
		t.Errorf("an unknown one: %q", text)
	}
}

// TestSignalsAndKills: each ends its program; on dead and unknown ones all of
// them are errors.
func TestSignalsAndKills(t *testing.T) {
	testenv.NoLeaks(t)
	five := func(text string) string { return strings.Repeat(text+"\n", 5) }
	want := five("process 999: no such process") + "ok\n" +
		"1 exited with 143\n" + five("process 1: the process has exited") + "ok\n" +
		"2 exited with 137\n" + five("process 2: the process has exited") + "ok\n" +
		"3 exited with 137\n" + five("process 3: the process has exited")
	s := newStage(t, cGuest(t, "signal.c"), "/usr/bin/sleep")
	if state, _ := s.play(t); string(state) != want {
		t.Errorf("got:\n%s\nwant:\n%s", state, want)
	}
	if n := len(s.recorder.all(handler.Denied)); n != 20 {
		t.Errorf("%d refusals were recorded, want 20", n)
	}
}

// TestStateRoundTrip: into init and out, into handle-exit and out.
func TestStateRoundTrip(t *testing.T) {
	testenv.NoLeaks(t)
	large := bytes.Repeat([]byte("0123456789abcdef"), 10<<16)
	for what, c := range map[string]struct{ initial, want []byte }{
		"none":         {nil, nil},
		"empty":        {[]byte{}, []byte{}},
		"some":         {[]byte("\x00\xff some"), []byte("\x00\xff some")},
		"10 MiB":       {large, large},
		"some to none": {[]byte("drop me"), nil},
		"refused":      {[]byte("refuse the exit"), []byte("refuse the exit")},
	} {
		t.Run(what, func(t *testing.T) {
			s := newStage(t, cGuest(t, "state.c"), "/usr/bin/true")
			s.manifest.State = c.initial
			state, ok := s.play(t)
			if ok != (c.want != nil) || !bytes.Equal(state, c.want) {
				t.Errorf("%.40q (%d bytes, %t), want %.40q", state, len(state), ok, c.want)
			}
			refused := s.recorder.all(handler.ActorRefused)
			if (len(refused) == 1) != (what == "refused") || len(s.recorder.all(handler.ActorFailed)) > 0 {
				t.Errorf("recorded: %+v", refused)
			}
		})
	}
}

// TestInitError: an actor that does not want to start does not, and says why.
func TestInitError(t *testing.T) {
	testenv.NoLeaks(t)
	s := newStage(t, cGuest(t, "state.c"))
	s.manifest.State = []byte("refuse init")
	if _, err := s.start(t); err == nil || err.Error() != "actor tested: init: the actor says: no thanks, says tested" {
		t.Error(err)
	}
	if r, f := s.recorder.all(handler.ActorRefused), s.recorder.all(handler.ActorFailed); len(r) != 1 || len(f) != 1 {
		t.Errorf("recorded %+v and %+v", r, f)
	}
}

// TestNoProcessHandler: without the handler in the manifest there are no
// processes, and the actor can tell.
func TestNoProcessHandler(t *testing.T) {
	s := newStage(t, cGuest(t, "state.c"))
	s.manifest.Process = nil
	if _, err := s.start(t); err == nil || !strings.Contains(err.Error(), `the actor says: the manifest has no handler of type "process"`) {
		t.Error(err)
	}
}

// TestLogAndChain: what the actor says, and what it can look back on.
func TestLogAndChain(t *testing.T) {
	testenv.NoLeaks(t)
	s := newStage(t, cGuest(t, "chain.c"), "/usr/bin/true")
	state, _ := s.play(t)
	if !strings.Contains(s.logged(), `level=INFO msg="☃ I am tested" actor=tested`) {
		t.Errorf("log: %s", s.logged())
	}
	var kinds []string
	before, parent := "none", uint64(0)
	for line := range strings.Lines(string(state)) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 4)
		kind, hash, has, data := f[0], f[1], f[2], f[3]
		if has != before {
			t.Errorf("the parent of %s is %s, the event before it has the hash %s", kind, has, before)
		}
		h := fnv.New64a()
		h.Write(binary.LittleEndian.AppendUint64(nil, parent))
		h.Write([]byte(data))
		if hash != fmt.Sprint(h.Sum64()) || !strings.Contains(data, `"event":"`+kind+`"`) {
			t.Errorf("the hash %s is not that of %s", hash, data)
		}
		kinds, before, parent = append(kinds, kind), hash, h.Sum64()
	}
	if k := fmt.Sprint(kinds); k != "[actor-started spawned ended]" {
		t.Errorf("the chain is %s", k)
	}
}

// TestGoActor: plain Go, through wasi_snapshot_preview1.
func TestGoActor(t *testing.T) {
	testenv.NoLeaks(t)
	module := build(t, []string{"GOOS=wasip1", "GOARCH=wasm"}, "go", "build", "-C", "testdata/goactor", "-buildmode=c-shared", "-ldflags=-s -w")
	s := newStage(t, module, "/bin/sh", "/usr/bin/cat", "/usr/bin/sleep")
	s.manifest.Deadline = time.Minute // -race takes its time
	state, _ := s.play(t)
	ended := func(pid, code int) string {
		gone := fmt.Sprintf("process %d: the process has exited\n", pid)
		return fmt.Sprintf("%d exit %d\nrunning false, code %d, <nil>\n", pid, code, code) + gone + gone
	}
	var out, err []string // there is no order between the two
	var rest strings.Builder
	for line := range strings.Lines(string(state)) {
		switch {
		case strings.HasPrefix(line, "1 out "):
			out = append(out, strings.TrimSpace(line[6:]))
		case strings.HasPrefix(line, "1 err "):
			err = append(err, strings.TrimSpace(line[6:]))
		default:
			rest.WriteString(line)
		}
	}
	if o, e := fmt.Sprintf("%q", out), fmt.Sprintf("%q", err); o != `["/usr/share" "value" "through stdin"]` || e != `["complaint"]` {
		t.Errorf("stdout %s, stderr %s", o, e)
	}
	if want := "nil true\n" + ended(1, 7) + ended(2, 137); rest.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", rest.String(), want)
	}
	for _, want := range []string{`level=INFO msg="I am tested"`, `level=WARN msg="and this is stderr"`} {
		if !strings.Contains(s.logged(), want) {
			t.Errorf("the log has no %s:\n%s", want, s.logged())
		}
	}
}

// TestGoBatchActor: batches, tighter limits and the report of the end in plain Go.
func TestGoBatchActor(t *testing.T) {
	testenv.NoLeaks(t)
	module := build(t, []string{"GOOS=wasip1", "GOARCH=wasm"}, "go", "build", "-C", "testdata/gobatch", "-buildmode=c-shared", "-ldflags=-s -w")
	s := newStage(t, module, "/bin/sh")
	s.manifest.Deadline = time.Minute // -race takes its time
	state, _ := s.play(t)
	streams := map[string]string{} // there is no order between the two
	var end string
	for line := range strings.Lines(string(state)) {
		switch stream, data, _ := strings.Cut(line, " "); stream {
		case "out", "err":
			streams[stream] += data
		default:
			end += line
		}
	}
	if streams["out"] != "a\n\nbc\n" || streams["err"] != "d\n" || end != "exit 3, reason 0, signal 0, 6 and 2 bytes" {
		t.Errorf("%q\n%s", state, s.logged())
	}
}

// TestWASIGivesNothing: no files, no environment, no arguments, no endless sleep
// and no end of the host; what goes to stderr is bounded.
func TestWASIGivesNothing(t *testing.T) {
	testenv.NoLeaks(t)
	const badDescriptor, fault = "8", "21"
	for _, c := range []struct{ question, name, state, err string }{
		{"0", "a file", badDescriptor, ""},
		{"1", "a preopened directory", badDescriptor, ""},
		{"2", "the environment", "0", ""},
		{"3", "arguments", "0", ""},
		{"4", "an endless sleep", "", ErrDeadline.Error()},
		{"5", "proc_exit(0)", "", "exit_code(0)"},
		{"6", "1 GiB of stderr", "0", ""},
		{"7", "random bytes behind the end", fault, ""},
		{"8", "stdin", "0", ""},
		{"9", "endless writes of nothing", "", ErrDeadline.Error()},
		{"a", "an import after the deadline", "", ErrDeadline.Error()},
		{"b", "an import of WASI after the deadline", "", ErrDeadline.Error()},
		{"c", "more random bytes than there are at once", "", "more random bytes than 1 MiB"},
		{"d", "more than is written at once", "0", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if asComponents && c.question == "7" { // the adapter's realloc, not the call, is what fails
				c.err = "is outside of memory"
			}
			if asComponents && c.question == "d" { // the adapter writes each of the guest's by itself
				c.state = "1"
			}
			s := newStage(t, cGuest(t, "wasi.c"))
			s.manifest.State = []byte(c.question)
			s.manifest.Deadline = 10 * time.Second
			if c.err == ErrDeadline.Error() {
				s.manifest.Deadline = 300 * time.Millisecond
			}
			a, err := s.start(t)
			if strings.Contains(s.logged(), "too late") {
				t.Error("an import was carried out after the deadline")
			}
			if err != nil || c.err != "" {
				if err == nil || c.err == "" || !strings.Contains(err.Error(), c.err) {
					t.Errorf("%v, want %q", err, c.err)
				}
				return
			}
			if state, _ := a.State(); string(state) != c.state {
				t.Errorf("the answer is %s, want %s", state, c.state)
			}
			if n := len(s.logged()); n > 64<<10 {
				t.Errorf("%d bytes were logged", n)
			}
		})
	}
}

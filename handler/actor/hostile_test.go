package actor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"github.com/proscenium-dev/proscenium/wit/canon"
)

// The hostile guest carries out an order, which is its initial state. The
// numbers are those of testdata/hostile.c.

type op uint32

const (
	opNothing op = iota
	opSpawn
	opWrite
	opStatus
	opSignal
	opKill
	opClose
	opLog
	opChain
	opReturn
	opTrap
	opLoop
	opRecurse
	opGrow
)

// A moment is when it happens.
type moment uint32

const (
	inInit moment = iota
	inStdout
	inStderr
	inExit
)

// A habit is what cabi_realloc and post-return functions do.
type habit uint32

const (
	honest habit = iota
	misaligned
	far
	overEnd
	atEnd
	zero
	grows
	loops
	traps
	callsLog
	callsSpawn
)

// A patch changes a parameter of the call or, from 1000 on, a word of data.
type patch struct {
	where uint32
	kind  patchKind
	value uint64
}

type patchKind uint32

const (
	absolute patchKind = iota
	inData             // an address
	pastEnd            // of memory
	victim             // the pid of the program that runs
	alias              // so many strings, all one of 1 MiB
	empty              // likewise, of 0 bytes
)

// The parameters of os-spawn. Of the other imports the pid is 0.
const (
	pProgram uint32 = iota
	pProgramLen
	pArgs
	pArgsLen
	pCwd
	pCwdPtr
	pCwdLen
	pEnv
	pEnvLen
	pBuffer
	pStdout
	pStderr
	pChunk
	pChunkSize
	pRet
)

type hostileOrder struct {
	op            op
	moment        moment
	realloc, post habit
	repeat        uint32
	ignore        uint32 // 1: an err is as good as an ok
	patches       []patch
	data          []byte
	memory        int64 // bytes that the manifest allows; 0: 16 MiB
}

func (o hostileOrder) encode() []byte {
	const header, size = 32, 16
	word := binary.LittleEndian.AppendUint32
	var b []byte
	for _, v := range []uint32{uint32(o.op), uint32(o.moment), uint32(o.realloc), uint32(o.post), o.repeat, uint32(len(o.patches)), uint32(header + size*len(o.patches)), o.ignore} {
		b = word(b, v)
	}
	for _, p := range o.patches {
		b = binary.LittleEndian.AppendUint64(word(word(b, p.where), uint32(p.kind)), p.value)
	}
	return append(b, o.data...)
}

// A part is what is wrong with an order, or one thing of it.
type part func(*hostileOrder)

func patched(where uint32, k patchKind, value uint64) part {
	return func(o *hostileOrder) { o.patches = append(o.patches, patch{where, k, value}) }
}

// set makes a parameter a number, point an address in data and end one relative
// to the end of memory.
func set(p uint32, value uint64) part    { return patched(p, absolute, value) }
func point(p uint32, offset uint64) part { return patched(p, inData, offset) }
func end(p uint32, offset int64) part    { return patched(p, pastEnd, uint64(offset)) }
func pid(offset int64) part              { return patched(0, victim, uint64(offset)) }

// The same for a word of data.
func word(at uint32, value uint64) part       { return set(1000+at, value) }
func wordPoint(at uint32, offset uint64) part { return point(1000+at, offset) }
func wordEnd(at uint32, offset int64) part    { return end(1000+at, offset) }

// aliases makes data so many strings, all the same.
func aliases(k patchKind, n uint64) part { return patched(1000, k, n) }

// text puts bytes into data.
func text(at int, s string) part {
	return func(o *hostileOrder) {
		o.data = append(o.data, make([]byte, max(0, at+len(s)-len(o.data)))...)
		copy(o.data[at:], s)
	}
}

func during(m moment) part     { return func(o *hostileOrder) { o.moment = m } }
func reallocates(h habit) part { return func(o *hostileOrder) { o.realloc = h } }
func postReturns(h habit) part { return func(o *hostileOrder) { o.post = h } }
func roomy(o *hostileOrder)    { o.memory = 128 << 20 }
func again(times uint32) part  { return func(o *hostileOrder) { o.repeat = times } }

func both(parts ...part) part {
	return func(o *hostileOrder) {
		for _, p := range parts {
			p(o)
		}
	}
}

// str makes two parameters a string.
func str(p uint32, s string) part {
	return both(point(p, 256), set(p+1, uint64(len(s))), text(256, s))
}

// wordStr makes two words a string.
func wordStr(at uint32, s string) part {
	const room = 512
	return both(wordPoint(at, room+64*uint64(at)), word(at+4, uint64(len(s))), text(room+64*int(at), s))
}

// arg makes the arguments one, env the environment variables.
func arg(s string) part { return both(point(pArgs, 0), set(pArgsLen, 1), wordStr(0, s)) }

func env(pairs ...string) part {
	parts := []part{point(pEnv, 0), set(pEnvLen, uint64(len(pairs)/2))}
	for i, s := range pairs {
		parts = append(parts, wordStr(uint32(8*i), s))
	}
	return both(parts...)
}

func cwd(s string) part { return both(set(pCwd, 1), str(pCwdPtr, s)) }

// state is the result that opReturn returns: ok, some of the bytes.
func state(parts ...part) part { return both(append([]part{word(0, 0), word(4, 1)}, parts...)...) }

// failure is the other: an err.
func failure(parts ...part) part { return both(append([]part{word(0, 1)}, parts...)...) }

// An outcome is how a call ends.
type outcome struct {
	how  string
	text string // in the error
}

var (
	fine     = outcome{how: "ok"}
	deadline = outcome{how: "deadline"}
)

func trap(text string) outcome    { return outcome{"violation", text} }
func engine(text string) outcome  { return outcome{"trap of the engine", text} }
func refused(text string) outcome { return outcome{"err", text} } // of the import; init returns it
func limit(text string) outcome   { return outcome{"limit", text} }

const (
	top     = math.MaxUint32
	notUTF8 = "is not valid UTF-8"
	outside = "is outside of memory"
	tooLong = "the longest is 268435455"
	tooMuch = "the call passes more data than the host takes"
	unknown = "no such process"
	noLeave = "was called from cabi_realloc or a post-return function"
)

type hostileCase struct {
	name    string
	want    outcome
	started int // programs, besides those that the guest always starts; many: any number
	op      op
	parts   []part
}

const many = -1

// A table collects cases.
type table []hostileCase

func (t *table) add(name string, want outcome, op op, parts ...part) {
	*t = append(*t, hostileCase{name: name, want: want, op: op, parts: parts})
}

// starts is add for a call that starts so many programs.
func (t *table) starts(n int, name string, want outcome, op op, parts ...part) {
	*t = append(*t, hostileCase{name, want, n, op, parts})
}

// TestHostileGuests: each call ends as it must; the actor's programs die with
// it, its failure is recorded once, and the host's memory stays bounded.
func TestHostileGuests(t *testing.T) {
	testenv.NoLeaks(t) // no victim lives, above all
	module := cGuest(t, "hostile.c")
	names := map[string]bool{}
	os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // forget the peak so far
	guardMemory(t)
	t.Run("cases", func(t *testing.T) {
		for _, c := range hostileCases() {
			if names[c.name] {
				t.Errorf("two cases are called %q", c.name)
			}
			names[c.name] = true
			t.Run(c.name, func(t *testing.T) {
				if c.want == deadline {
					t.Parallel() // most of the time it only waits
				}
				c.run(t, module)
			})
		}
	})
	if len(names) < 100 {
		t.Errorf("only %d cases", len(names))
	}
	peak := peakMemory(t)
	t.Logf("%d cases, at most %d MiB", len(names), peak>>20)
	if peak > mostMemory {
		t.Errorf("the host's memory rose to %d MiB", peak>>20)
	}
}

func (c hostileCase) run(t *testing.T, module []byte) {
	o := hostileOrder{op: c.op}
	both(c.parts...)(&o)
	s := newStage(t, module, "/usr/bin/sleep", "/usr/bin/echo", "/bin/sh")
	s.manifest.State = o.encode()
	s.manifest.Memory = max(o.memory, 16<<20)
	s.manifest.Deadline = 30 * time.Second
	if c.want == deadline {
		s.manifest.Deadline = 500 * time.Millisecond
	}
	begin := time.Now()
	a, err := s.start(t)
	if err == nil {
		if o.moment != inInit {
			err = a.Wait(testenv.Context(t))
		}
		a.Close()
	}
	c.judge(t, err)
	if took := time.Since(begin); c.want == deadline && took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	c.aftermath(t, s, o)
}

// judge compares how a case ended with how it must.
func (c hostileCase) judge(t *testing.T, err error) {
	t.Helper()
	var violation *canon.Trap
	var ok bool
	switch c.want.how {
	case "ok":
		ok = err == nil
	case "deadline":
		ok = errors.Is(err, ErrDeadline)
	case "violation":
		ok = errors.As(err, &violation)
	case "err":
		ok = err != nil && strings.Contains(err.Error(), "the actor says: ")
	default:
		ok = err != nil && !errors.As(err, &violation) && !errors.Is(err, ErrDeadline) && !strings.Contains(err.Error(), "the actor says: ")
	}
	if !ok || err != nil && !strings.Contains(err.Error(), c.want.text) {
		t.Errorf("ended with %.300v\nwant %s %q", err, c.want.how, c.want.text)
	}
}

// aftermath looks at what was recorded: of failures, of programs, and how much.
func (c hostileCase) aftermath(t *testing.T, s *stage, o hostileOrder) {
	t.Helper()
	failures := 1
	if c.want == fine {
		failures = 0
	}
	if n := len(s.recorder.all(handler.ActorFailed)); n != failures {
		t.Errorf("%d failures were recorded, want %d", n, failures)
	}
	started, ended := len(s.recorder.all(handler.Spawned)), len(s.recorder.all(handler.Ended))
	want := 1 + c.started
	if o.moment != inInit {
		want++
	}
	short := c.want == deadline && started < want // a busy machine took that long for a start
	if started != ended || started != want && c.started != many && !short {
		t.Errorf("%d programs were started and %d have ended, want %d", started, ended, want)
	}
	const longest = 64 << 10
	for _, k := range []handler.Kind{handler.ActorFailed, handler.ActorRefused, handler.SpawnDenied, handler.Denied} {
		for _, e := range s.recorder.all(k) {
			if len(e.Error) > longest {
				t.Errorf("%s was recorded with an error of %d bytes", k, len(e.Error))
				break
			}
		}
	}
}

// mostMemory is what the host may take for hostile guests with the race
// detector; without, it takes a third.
const mostMemory = 3 << 29

// guardMemory ends the tests before a bug eats the machine.
func guardMemory(t testing.TB) {
	tick, stop := time.NewTicker(100*time.Millisecond), make(chan struct{})
	t.Cleanup(func() { close(stop) })
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if peakMemory(t) > 2*mostMemory {
					panic("a hostile guest makes the host take all memory")
				}
			}
		}
	}()
}

// peakMemory is the most that this process has held.
func peakMemory(t testing.TB) (bytes uint64) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Error(err)
	}
	_, line, _ := strings.Cut(string(status), "VmHWM:")
	fmt.Sscan(line, &bytes)
	return bytes << 10
}

// TestInitializeIsBounded: what runs before init.
func TestInitializeIsBounded(t *testing.T) {
	testenv.NoLeaks(t)
	for habit, want := range map[habit]outcome{loops: deadline, traps: engine("unreachable")} {
		s := newStage(t, cGuest(t, "hostile.c", fmt.Sprintf("-DINITIALIZE=%d", habit)), "/bin/sh")
		s.manifest.Deadline = 500 * time.Millisecond
		_, err := s.start(t)
		c := hostileCase{want: want, started: many}
		c.judge(t, err)
		if n := len(s.recorder.all(handler.ActorFailed)); n != 1 {
			t.Errorf("%d failures were recorded, want 1", n)
		}
	}
}

// TestChainIsBounded: what an actor can look back on does not grow with what it
// asks for.
func TestChainIsBounded(t *testing.T) {
	testenv.NoLeaks(t)
	o := hostileOrder{op: opSpawn, ignore: 1}
	both(aliases(alias, 3), point(pArgs, 0), set(pArgsLen, 3), again(9))(&o)
	s := newStage(t, cGuest(t, "hostile.c"), "/usr/bin/sleep", "/usr/bin/echo")
	s.manifest.State = o.encode()
	a, err := s.start(t)
	if err != nil {
		t.Fatal(err)
	}
	held := 0
	for _, l := range a.chain.snapshot() {
		held += len(l.data)
	}
	if held > 8<<20 {
		t.Errorf("10 denials of 3 MiB left %d MiB in the chain", held>>20)
	}
}

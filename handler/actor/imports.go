package actor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/wit/canon"
)

// A hostFunction is what a guest imports. g is the memory of whoever calls and
// its realloc; the parameters are on the stack, as the ABI lowers them.
type hostFunction func(ctx context.Context, g *canon.Lowerer, stack []uint64)

// functions are what actors may import, whatever their format.
func (a *Actor) functions() map[string]map[string]hostFunction {
	return map[string]map[string]hostFunction{
		"theater:simple/runtime": {"log": a.log, "get-chain": a.getChain},
		"theater:simple/process": {
			"os-spawn": a.osSpawn, "os-write-stdin": a.osWriteStdin, "os-status": a.osStatus, "os-signal": a.osSignal, "os-kill": a.osKill,
		},
		"theater:simple/process-control": {
			"os-close-stdin": a.osCloseStdin, "os-spawn-limited": a.osSpawnLimited, "os-report": a.osReport,
		},
	}
}

// guarded refuses calls where the ABI forbids them, and calls of a guest whose
// time is up: wazero does not look before it enters a host function.
func (a *Actor) guarded(name string, f hostFunction) hostFunction {
	f = inTime(f)
	return func(ctx context.Context, g *canon.Lowerer, stack []uint64) {
		if !a.mayLeave {
			panic(&canon.Trap{Reason: name + " was called from cabi_realloc or a post-return function"})
		}
		f(ctx, g, stack)
	}
}

// inTime is the second half of guarded.
func inTime(f hostFunction) hostFunction {
	return func(ctx context.Context, g *canon.Lowerer, stack []uint64) {
		if err := ctx.Err(); err != nil {
			panic(err)
		}
		f(ctx, g, stack)
	}
}

// must ends the guest: the panic comes back from the call as an error.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// answer stores a result whose err is a string: its discriminant is at 0, the
// string at the payload's offset.
func answer(ctx context.Context, g *canon.Lowerer, ret uint32, r canon.Record, payload int, err error) {
	if err != nil {
		text := clip(strings.ToValidUTF8(err.Error(), "\ufffd"), maxError)
		ptr, n, e := g.Bytes(ctx, []byte(text))
		must(e)
		clear(r)
		r.U8(0, 1)
		r.U32(payload, ptr)
		r.U32(payload+4, n)
	}
	must(g.Memory.Store(ret, r))
}

// clip cuts a text to at most n bytes and says so.
func clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "") + "…"
}

var errNoProcesses = errors.New(`the manifest has no handler of type "process"`)

// processes is the handler, or why there is none.
func (a *Actor) processes() (*handler.Handler, error) {
	if a.handler == nil {
		return nil, errNoProcesses
	}
	return a.handler, nil
}

// osSpawn is os-spawn: func(config: process-config) -> result<u64, string>.
func (a *Actor) osSpawn(ctx context.Context, g *canon.Lowerer, s []uint64) {
	ret := uint32(s[14])
	must(g.Memory.Area(ret, 16, 8))
	a.spawn(ctx, g, ret, s, handler.Tighter{})
}

// spawn starts what the flat values of a process-config say. The return area was
// checked: nothing may trap behind the start.
func (a *Actor) spawn(ctx context.Context, g *canon.Lowerer, ret uint32, s []uint64, limits handler.Tighter) {
	r := make(canon.Record, 16)
	request, err := liftProcessConfig(g, s)
	request.Limits = limits
	if errors.Is(err, canon.ErrBudget) {
		err = fmt.Errorf("%w (%d bytes)", err, copyBudget)
		a.record(handler.Event{Kind: handler.SpawnDenied, Rule: "parameters", Error: err.Error()})
	} else {
		must(err)
		var h *handler.Handler
		if h, err = a.processes(); err == nil {
			var id uint64
			id, err = h.Spawn(ctx, request, a)
			r.U64(8, id)
		}
	}
	answer(ctx, g, ret, r, 8, err)
}

func liftProcessConfig(g *canon.Lowerer, s []uint64) (c handler.ProcessConfig, err error) {
	l := canon.Lifter{Memory: g.Memory, Budget: copyBudget}
	p := func(i int) uint32 { return uint32(s[i]) }
	if c.Program, err = l.String(p(0), p(1)); err != nil {
		return c, err
	}
	if c.Args, err = l.Strings(p(2), p(3)); err != nil {
		return c, err
	}
	cwd, err := canon.Case("cwd", s[4], 2)
	if err != nil {
		return c, err
	}
	if cwd == 1 {
		if c.Cwd, err = l.String(p(5), p(6)); err != nil {
			return c, err
		}
		if c.Cwd == "" {
			c.Cwd = "." // some("") is not none: it is relative, and refused as such
		}
	}
	env, err := l.Pairs(p(7), p(8))
	if err != nil {
		return c, err
	}
	for _, e := range env {
		c.Env = append(c.Env, handler.EnvVar{Name: e[0], Value: e[1]})
	}
	c.BufferSize = p(9)
	for _, m := range []struct {
		mode *handler.Mode
		flat uint64
	}{{&c.StdoutMode, s[10]}, {&c.StderrMode, s[11]}} {
		v, err := canon.Case("output-mode", m.flat, 4)
		if err != nil {
			return c, err
		}
		*m.mode = handler.Mode(v)
	}
	chunk, err := canon.Case("chunk-size", s[12], 2)
	if chunk == 1 {
		size := p(13)
		c.ChunkSize = &size
	}
	return c, err
}

// osWriteStdin is os-write-stdin: func(pid: u64, data: list<u8>) -> result<u32, string>.
func (a *Actor) osWriteStdin(ctx context.Context, g *canon.Lowerer, s []uint64) {
	ret := uint32(s[3])
	must(g.Memory.Area(ret, 12, 4))
	data, err := g.Memory.View(uint32(s[1]), uint32(s[2])) // the queue copies what fits
	must(err)
	r := make(canon.Record, 12)
	h, err := a.processes()
	if err == nil {
		var n int
		n, err = h.WriteStdin(s[0], data)
		r.U32(4, uint32(n))
	}
	answer(ctx, g, ret, r, 4, err)
}

// osStatus is os-status: func(pid: u64) -> result<process-status, string>.
func (a *Actor) osStatus(ctx context.Context, g *canon.Lowerer, s []uint64) {
	ret := uint32(s[1])
	must(g.Memory.Area(ret, 56, 8))
	r := make(canon.Record, 56)
	h, err := a.processes()
	if err == nil {
		var status handler.Status
		if status, err = h.Status(s[0]); err == nil {
			r.U64(8, status.ID)
			r.Bool(16, status.Running)
			if !status.Running {
				r.U8(20, 1)
				r.U32(24, uint32(int32(status.ExitCode)))
			}
			r.U64(32, uint64(status.Start.UnixMilli()))
			r.F32(40, status.CPU)
			r.U64(48, status.Memory)
		}
	}
	answer(ctx, g, ret, r, 8, err)
}

// osSignal is os-signal: func(pid: u64, signal: u32) -> result<_, string>.
func (a *Actor) osSignal(ctx context.Context, g *canon.Lowerer, s []uint64) {
	a.act(ctx, g, uint32(s[2]), func(h *handler.Handler) error { return h.Signal(s[0], uint32(s[1])) })
}

// osKill is os-kill: func(pid: u64) -> result<_, string>.
func (a *Actor) osKill(ctx context.Context, g *canon.Lowerer, s []uint64) {
	a.act(ctx, g, uint32(s[1]), func(h *handler.Handler) error { return h.Kill(s[0]) })
}

// osCloseStdin is os-close-stdin: func(pid: u64) -> result<_, string>.
func (a *Actor) osCloseStdin(ctx context.Context, g *canon.Lowerer, s []uint64) {
	a.act(ctx, g, uint32(s[1]), func(h *handler.Handler) error { return h.CloseStdin(s[0]) })
}

// act answers a result<_, string>.
func (a *Actor) act(ctx context.Context, g *canon.Lowerer, ret uint32, f func(*handler.Handler) error) {
	must(g.Memory.Area(ret, 12, 4))
	h, err := a.processes()
	if err == nil {
		err = f(h)
	}
	answer(ctx, g, ret, make(canon.Record, 12), 4, err)
}

// maxLog is the longest message that is logged whole, in bytes.
const maxLog = 16 << 10

// log is runtime.log: func(msg: string).
func (a *Actor) log(_ context.Context, g *canon.Lowerer, s []uint64) {
	l := canon.Lifter{Memory: g.Memory, Budget: copyBudget}
	text, err := l.String(uint32(s[0]), uint32(s[1]))
	if errors.Is(err, canon.ErrBudget) {
		text, err = fmt.Sprintf("a message of %d bytes is too long", uint32(s[1])), nil
	}
	must(err)
	a.say(slog.LevelInfo, text)
}

// Bounds of what of an actor's messages is logged in a second; the next one that is
// says how many were not.
const (
	maxLogRate  = 1000
	maxLogBytes = 1 << 20
)

// logRate counts the messages of a second.
type logRate struct {
	since          time.Time
	n, bytes, lost int
}

func (a *Actor) say(level slog.Level, text string, args ...any) {
	r := &a.logRate
	if now := time.Now(); now.Sub(r.since) >= time.Second {
		if r.lost > 0 {
			a.logger.Warn("the actor logs too much", "messages_lost", r.lost)
		}
		*r = logRate{since: now}
	}
	text = clip(text, maxLog)
	r.n++
	if r.bytes += len(text) + len(fmt.Sprint(args...)); r.n > maxLogRate || r.bytes > maxLogBytes {
		r.lost++
		return
	}
	a.logger.Log(context.Background(), level, text, args...)
}

// lineLogger makes log messages of what a guest writes.
type lineLogger struct {
	say  func(string)
	line []byte
}

func (l *lineLogger) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, ended := bytes.Cut(p, []byte("\n"))
		l.line = append(l.line, line[:min(len(line), maxLog-len(l.line))]...)
		if p = rest; ended {
			l.say(strings.ToValidUTF8(string(l.line), "\ufffd"))
			l.line = l.line[:0]
		}
	}
	return n, nil
}

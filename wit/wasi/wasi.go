// Package wasi is what components get of WASI 0.2: as much as wit-component's
// adapter for preview 1 and JavaScript engines need to start, and nothing that
// reaches the host.
//
//	clocks        the host's
//	random        the host's
//	stdout,stderr where the host says
//	stdin         at its end
//	environment, arguments, preopened directories, terminals: none
//	exit          the end of the actor
//
// Files, sockets and HTTP are not there. The interfaces of files and HTTP may be
// imported, since the engines do; a call is an error that names it.
package wasi

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/binary"
	"io"
	"time"

	"github.com/proscenium-dev/proscenium/wit/canon"
	"github.com/proscenium-dev/proscenium/wit/component"
	"github.com/tetratelabs/wazero/sys"
)

//go:embed wasi.wit
var text string

// refused are interfaces of which a component may import what is not in text.
var refused = []string{
	"wasi:filesystem/types@0.2", "wasi:io/error@0.2", "wasi:io/poll@0.2", "wasi:io/streams@0.2",
	"wasi:http/types@0.2", "wasi:http/outgoing-handler@0.2",
}

// A World is WASI for one instance of a component.
type World struct {
	Stdout, Stderr io.Writer
	// Guard wraps every function; it may refuse a call. nil: nothing does.
	Guard func(name string, f component.HostFunction) component.HostFunction

	start   time.Time
	handles handles
}

// maxRandom is the most random bytes of one call.
const maxRandom = 1 << 20

// Add adds the world to what components may import.
func (w *World) Add(h *component.Host) error {
	w.start = time.Now()
	type functions = map[string]component.HostFunction
	all := map[string]functions{
		"wasi:io/error@0.2": {"[resource-drop]error": w.drop(kindError)},
		"wasi:io/poll@0.2": {
			"[method]pollable.ready": w.ready, "[method]pollable.block": w.block, "poll": w.poll,
			"[resource-drop]pollable": w.drop(kindPollable),
		},
		"wasi:io/streams@0.2": {
			"[method]input-stream.read": w.read, "[method]input-stream.blocking-read": w.read,
			"[method]input-stream.subscribe":                 w.subscribe(kindInput),
			"[method]output-stream.check-write":              w.checkWrite,
			"[method]output-stream.write":                    w.write,
			"[method]output-stream.flush":                    w.flush,
			"[method]output-stream.subscribe":                w.subscribe(kindOutput),
			"[method]output-stream.blocking-flush":           w.flush,
			"[method]output-stream.blocking-write-and-flush": w.write,
			"[resource-drop]input-stream":                    w.drop(kindInput),
			"[resource-drop]output-stream":                   w.drop(kindOutput),
		},
		"wasi:clocks/monotonic-clock@0.2": {
			"now":                func(_ context.Context, _ *canon.Lowerer, s []uint64) { s[0] = w.now() },
			"resolution":         func(_ context.Context, _ *canon.Lowerer, s []uint64) { s[0] = 1 },
			"subscribe-instant":  func(_ context.Context, _ *canon.Lowerer, s []uint64) { s[0] = w.alarm(s[0]) },
			"subscribe-duration": func(_ context.Context, _ *canon.Lowerer, s []uint64) { s[0] = w.alarm(later(w.now(), s[0])) },
		},
		"wasi:clocks/wall-clock@0.2": {
			"now": func(_ context.Context, g *canon.Lowerer, s []uint64) {
				now := time.Now()
				datetime(g, s, uint64(now.Unix()), uint32(now.Nanosecond()))
			},
			"resolution": func(_ context.Context, g *canon.Lowerer, s []uint64) { datetime(g, s, 0, 1) },
		},
		"wasi:random/random@0.2":   {"get-random-bytes": randomBytes, "get-random-u64": randomNumber},
		"wasi:random/insecure@0.2": {"get-insecure-random-bytes": randomBytes, "get-insecure-random-u64": randomNumber},
		"wasi:random/insecure-seed@0.2": {"insecure-seed": func(_ context.Context, g *canon.Lowerer, s []uint64) {
			r := area(g, s[0], 16, 8)
			rand.Read(r)
			store(g, s[0], r)
		}},
		"wasi:cli/environment@0.2": {"get-environment": nothing(8), "get-arguments": nothing(8), "initial-cwd": nothing(12)},
		"wasi:cli/exit@0.2":        {"exit": leave},
		"wasi:cli/stdin@0.2":       {"get-stdin": func(_ context.Context, _ *canon.Lowerer, s []uint64) { s[0] = w.handles.add(handle{kind: kindInput}) }},
		"wasi:cli/stdout@0.2": {"get-stdout": func(_ context.Context, _ *canon.Lowerer, s []uint64) {
			s[0] = w.handles.add(handle{kind: kindOutput, to: w.Stdout})
		}},
		"wasi:cli/stderr@0.2": {"get-stderr": func(_ context.Context, _ *canon.Lowerer, s []uint64) {
			s[0] = w.handles.add(handle{kind: kindOutput, to: w.Stderr})
		}},
		"wasi:cli/terminal-input@0.2":  {"[resource-drop]terminal-input": w.drop(kindTerminal)},
		"wasi:cli/terminal-output@0.2": {"[resource-drop]terminal-output": w.drop(kindTerminal)},
		"wasi:cli/terminal-stdin@0.2":  {"get-terminal-stdin": nothing(8)},
		"wasi:cli/terminal-stdout@0.2": {"get-terminal-stdout": nothing(8)},
		"wasi:cli/terminal-stderr@0.2": {"get-terminal-stderr": nothing(8)},
		"wasi:filesystem/types@0.2":    {"[resource-drop]descriptor": w.drop(kindDescriptor)},
		"wasi:filesystem/preopens@0.2": {"get-directories": nothing(8)},
	}
	if w.Guard != nil {
		for iface, functions := range all {
			for name, f := range functions {
				functions[name] = w.Guard(iface+" "+name, f)
			}
		}
	}
	if err := h.Import(text, all); err != nil {
		return err
	}
	h.Refuse(refused...)
	return nil
}

// must ends the guest: the panic comes back from the call as an error.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// area is what will be stored in a return area, which is checked.
func area(g *canon.Lowerer, ptr uint64, size, align uint32) canon.Record {
	must(g.Memory.Area(uint32(ptr), size, align))
	return make(canon.Record, size)
}

func store(g *canon.Lowerer, ptr uint64, r canon.Record) { must(g.Memory.Store(uint32(ptr), r)) }

// nothing returns an empty list or none: zeroes of this size.
func nothing(size uint32) component.HostFunction {
	return func(_ context.Context, g *canon.Lowerer, s []uint64) { store(g, s[0], area(g, s[0], size, 4)) }
}

// leave is exit, which fails the actor whatever the status is.
func leave(_ context.Context, _ *canon.Lowerer, s []uint64) {
	code, err := canon.Case("exit's status", s[0], 2)
	must(err)
	panic(sys.NewExitError(code))
}

func datetime(g *canon.Lowerer, s []uint64, seconds uint64, nanoseconds uint32) {
	r := area(g, s[0], 16, 8)
	r.U64(0, seconds)
	r.U32(8, nanoseconds)
	store(g, s[0], r)
}

func randomNumber(_ context.Context, _ *canon.Lowerer, s []uint64) {
	var b [8]byte
	rand.Read(b[:])
	s[0] = binary.LittleEndian.Uint64(b[:])
}

func randomBytes(ctx context.Context, g *canon.Lowerer, s []uint64) {
	r := area(g, s[1], 8, 4)
	if s[0] > maxRandom {
		panic(&canon.Trap{Reason: "it asks for more random bytes than 1 MiB"})
	}
	b := make([]byte, s[0])
	rand.Read(b)
	ptr, n, err := g.Bytes(ctx, b)
	must(err)
	r.U32(0, ptr)
	r.U32(4, n)
	store(g, s[1], r)
}

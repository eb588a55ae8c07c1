package actor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"

	"github.com/proscenium-dev/proscenium/wit"
	"github.com/proscenium-dev/proscenium/wit/component"
	"github.com/proscenium-dev/proscenium/wit/wasi"
)

// loadComponent links, checks, compiles and instantiates a component.
func (a *Actor) loadComponent(ctx context.Context, code []byte) (guest, error) {
	host, err := a.componentHost()
	if err != nil {
		return guest{}, err
	}
	program, err := host.Load(code)
	if err == nil {
		err = checkComponent(program)
	}
	if err != nil {
		return guest{}, err
	}
	var compiled *component.Compiled
	runtime := a.runtime
	if err := a.compile(ctx, func(ctx context.Context) (err error) {
		compiled, err = host.Compile(ctx, runtime, program)
		return err
	}); err != nil {
		return guest{}, err
	}
	ctx, cancel := a.withDeadline(ctx)
	defer cancel()
	instance, err := compiled.Instantiate(ctx)
	if err != nil {
		return guest{}, a.explain(err)
	}
	g := guest{handlers: map[exportName]export{}}
	for _, e := range order {
		if f, ok := instance.Function(e.iface, e.function); ok {
			g.handlers[e] = export{e.function, f.Call, f.Post, f.Guest}
		}
	}
	return g, nil
}

// checkComponent does for exports what checkModule does; their types and the
// imports are checked already.
func checkComponent(p component.Program) error {
	var faults []error
	for _, e := range order {
		if !e.optional() && (e == exportInit || p.Imports("theater:simple/process", "os-spawn")) && !p.Exports(e.iface, e.function) {
			faults = append(faults, fmt.Errorf("it does not export %s %s", e.iface, e.function))
		}
	}
	return errors.Join(faults...)
}

// componentHost is what the actor offers to a component: what it offers to core
// modules, with the types of package wit, and WASI.
func (a *Actor) componentHost() (*component.Host, error) {
	text, err := witText()
	if err != nil {
		return nil, err
	}
	functions := map[string]map[string]component.HostFunction{}
	for iface, all := range a.functions() {
		functions[iface] = map[string]component.HostFunction{}
		for name, f := range all {
			functions[iface][name] = component.HostFunction(a.guarded(name, f))
		}
	}
	h := &component.Host{Memory: uint64(a.manifest.Memory), Allocator: a.memories, Realloc: a.reallocating}
	world := &wasi.World{
		Stdout: &lineLogger{say: func(s string) { a.say(slog.LevelInfo, s) }},
		Stderr: &lineLogger{say: func(s string) { a.say(slog.LevelWarn, s) }},
		Guard: func(name string, f component.HostFunction) component.HostFunction {
			return component.HostFunction(a.guarded(name, hostFunction(f)))
		},
	}
	return h, errors.Join(h.Import(text, functions), h.Export(text), world.Add(h))
}

// witText is package theater:simple.
func witText() (string, error) {
	names, err := fs.Glob(wit.Files, "*.wit")
	var b strings.Builder
	for _, name := range names {
		text, e := fs.ReadFile(wit.Files, name)
		b.Write(text)
		err = errors.Join(err, e)
	}
	return b.String(), err
}

package actor

import (
	"context"
	"strings"

	"github.com/proscenium-dev/proscenium/wit/canon"
	"github.com/proscenium-dev/proscenium/wit/wasm"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// loadCore compiles, checks and instantiates a core module.
func (a *Actor) loadCore(ctx context.Context, code []byte) (guest, error) {
	code, err := wasm.Bound(code, wasm.MaxTable)
	if err != nil {
		return guest{}, err
	}
	var compiled wazero.CompiledModule
	runtime := a.runtime
	if err := a.compile(ctx, func(ctx context.Context) (err error) {
		compiled, err = runtime.CompileModule(ctx, code)
		return err
	}); err != nil {
		return guest{}, err
	}
	names, err := checkModule(compiled)
	if err != nil {
		return guest{}, err
	}
	g := &canon.Lowerer{}
	if err := a.provideImports(ctx, compiled, g); err != nil {
		return guest{}, err
	}
	ctx, cancel := a.withDeadline(ctx)
	defer cancel()
	m, err := a.runtime.InstantiateModule(experimental.WithMemoryAllocator(ctx, a.memories), compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		return guest{}, a.explain(err)
	}
	g.Memory = canon.Memory{Memory: m.ExportedMemory(names.memory)}
	g.Realloc = a.reallocating(m.ExportedFunction(names.realloc))
	if f := m.ExportedFunction(names.initialize); f != nil {
		if _, err := f.Call(ctx); err != nil {
			return guest{}, a.explain(err)
		}
	}
	return findExports(m, names, g), nil
}

func findExports(m api.Module, names scheme, g *canon.Lowerer) guest {
	handlers := map[exportName]export{}
	for _, e := range order {
		if f := m.ExportedFunction(names.export(e)); f != nil {
			handlers[e] = export{e.function, f, m.ExportedFunction(names.post(e)), g}
		}
	}
	return guest{handlers}
}

// provideImports makes the host modules that a core module imports. g is filled
// in when the module is instantiated.
func (a *Actor) provideImports(ctx context.Context, m wazero.CompiledModule, g *canon.Lowerer) error {
	functions := a.functions()
	functions[wasip1] = a.wasi()
	wanted := map[string]bool{}
	for _, f := range m.ImportedFunctions() {
		module, _, _ := f.Import()
		wanted[module] = true
	}
	for module := range wanted {
		iface := strings.TrimPrefix(module, schemes[1].importPrefix)
		b := a.runtime.NewHostModuleBuilder(module)
		for name, f := range functions[iface] {
			s := importSignatures[iface][name]
			call := a.guarded(name, f)
			if iface == wasip1 && whileAllocating[name] {
				call = inTime(f)
			}
			b.NewFunctionBuilder().WithGoFunction(api.GoFunc(func(ctx context.Context, stack []uint64) {
				if g.Memory.Memory == nil {
					panic(&canon.Trap{Reason: name + " was called before the module was instantiated"})
				}
				call(ctx, g, stack)
			}), s.params, s.results).Export(name)
		}
		if _, err := b.Instantiate(ctx); err != nil {
			return err
		}
	}
	return nil
}

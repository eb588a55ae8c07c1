package component

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/proscenium-dev/proscenium/wit/canon"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// Compiled is a program whose modules are compiled for a runtime.
type Compiled struct {
	*program
	host    *Host
	runtime wazero.Runtime
	modules []wazero.CompiledModule
	relays  map[*relay]wazero.CompiledModule
}

// Compile compiles a program's modules.
func (h *Host) Compile(ctx context.Context, r wazero.Runtime, p Program) (*Compiled, error) {
	c := &Compiled{p.program, h, r, nil, map[*relay]wazero.CompiledModule{}}
	for _, m := range p.modules {
		compiled, err := r.CompileModule(ctx, m.code)
		if err != nil {
			return nil, err
		}
		c.modules = append(c.modules, compiled)
	}
	for _, s := range p.steps {
		for _, r := range s.relays {
			compiled, err := c.runtime.CompileModule(ctx, r.encode())
			if err != nil {
				return nil, err
			}
			c.relays[r] = compiled
		}
	}
	return c, c.check()
}

// check compares the core functions that the ABI calls with the types that they
// must have.
func (c *Compiled) check() error {
	i32 := []api.ValueType{api.ValueTypeI32}
	var faults []error
	check := func(what string, item *coreItem, params, results []api.ValueType) {
		if item == nil {
			return
		}
		f := c.modules[c.steps[item.instance].module.index].ExportedFunctions()[item.name]
		if f == nil || !slices.Equal(f.ParamTypes(), params) || !slices.Equal(f.ResultTypes(), results) {
			faults = append(faults, fmt.Errorf("the core function %q is not of the type that %s must have", item.name, what))
		}
	}
	for name, l := range c.exports {
		if l.core.instance < 0 {
			return fmt.Errorf("export %s %s is a function of the host", name.iface, name.name)
		}
		check(name.name, &l.core, l.params, l.results)
		check("a post-return function", l.post, l.results, nil)
		check("realloc", l.realloc, slices.Repeat(i32, 4), i32)
	}
	for _, t := range c.trampolines {
		check("realloc", t.realloc, slices.Repeat(i32, 4), i32)
	}
	return errors.Join(faults...)
}

// An Instance is a component that runs.
type Instance struct {
	*Compiled
	steps    []api.Module
	lowerers map[[2]coreItem]*canon.Lowerer
}

// Instantiate makes an instance; start functions of its modules run. There can be
// one at a time in a runtime, whose Close ends it.
func (c *Compiled) Instantiate(ctx context.Context) (*Instance, error) {
	i := &Instance{Compiled: c, lowerers: map[[2]coreItem]*canon.Lowerer{}}
	ctx = experimental.WithMemoryAllocator(ctx, c.host.Allocator)
	trampolines, err := i.makeTrampolines(ctx)
	if err != nil {
		return i, err
	}
	for n, s := range c.program.steps {
		imports := map[string]api.Module{}
		for name, r := range s.relays {
			if imports[name], err = i.instantiate(ctx, c.relays[r], i.byNumber); err != nil {
				return i, err
			}
		}
		for name, of := range s.direct {
			imports[name] = i.steps[of]
		}
		m, err := i.instantiate(ctx, c.modules[s.module.index], func(name string) api.Module { return imports[name] })
		if err != nil {
			return i, err
		}
		i.steps = append(i.steps, m)
		for _, t := range trampolines {
			t.bind(i, n)
		}
	}
	return i, nil
}

// byNumber resolves the imports of relays.
func (i *Instance) byNumber(name string) api.Module {
	if name == hostModule {
		return nil // wazero finds it
	}
	n, _ := strconv.Atoi(name)
	return i.steps[n]
}

func (i *Instance) instantiate(ctx context.Context, m wazero.CompiledModule, resolve experimental.ImportResolver) (api.Module, error) {
	return i.runtime.InstantiateModule(experimental.WithImportResolver(ctx, resolve), m, wazero.NewModuleConfig().WithName("").WithStartFunctions())
}

// bound is a trampoline of an instance.
type bound struct {
	*trampoline
	guest *canon.Lowerer // nil: its memory is not there yet
}

// makeTrampolines makes the host module.
func (i *Instance) makeTrampolines(ctx context.Context) (all []*bound, err error) {
	b := i.runtime.NewHostModuleBuilder(hostModule)
	for n := range i.trampolines {
		t := &bound{trampoline: &i.trampolines[n]}
		if t.memory == nil {
			t.guest = &canon.Lowerer{} // it needs none
		}
		all = append(all, t)
		b.NewFunctionBuilder().WithGoFunction(api.GoFunc(t.enter), t.params, t.results).Export(strconv.Itoa(n))
	}
	_, err = b.Instantiate(ctx)
	return all, err
}

func (t *bound) enter(ctx context.Context, stack []uint64) {
	switch {
	case t.refusal != "":
		panic(fmt.Errorf("%s was called, but %s", t.name, t.refusal))
	case t.guest == nil:
		panic(&canon.Trap{Reason: t.name + " was called before its memory was there"})
	}
	t.call(ctx, t.guest, stack)
}

// bind finds a trampoline's memory if it is there since the step.
func (t *bound) bind(i *Instance, step int) {
	ready := func(item *coreItem) bool { return item == nil || item.instance <= step }
	if t.guest == nil && ready(t.memory) && ready(t.realloc) {
		t.guest = i.lowerer(t.memory, t.realloc)
	}
}

// lowerer is the memory and realloc of canonical options. The same options have
// the same one, as the functions of wazero have stacks of their own.
func (i *Instance) lowerer(memory, realloc *coreItem) *canon.Lowerer {
	if memory == nil {
		return &canon.Lowerer{}
	}
	key := [2]coreItem{*memory}
	if realloc != nil {
		key[1] = *realloc
	}
	if l, ok := i.lowerers[key]; ok {
		return l
	}
	l := &canon.Lowerer{Memory: canon.Memory{Memory: i.steps[memory.instance].ExportedMemory(memory.name)}}
	if realloc != nil {
		l.Realloc = i.host.Realloc(i.steps[realloc.instance].ExportedFunction(realloc.name))
	}
	i.lowerers[key] = l
	return l
}

// A Function is an exported function by its core functions.
type Function struct {
	Call, Post api.Function // Post may be nil
	Guest      *canon.Lowerer
}

// Function is an export; ok is false if the component does not have it.
func (i *Instance) Function(iface, name string) (f Function, ok bool) {
	l, ok := i.exports[export{iface, name}]
	if !ok {
		return f, false
	}
	f.Call = i.steps[l.core.instance].ExportedFunction(l.core.name)
	if l.post != nil {
		f.Post = i.steps[l.post.instance].ExportedFunction(l.post.name)
	}
	f.Guest = i.lowerer(l.memory, l.realloc)
	return f, true
}

package component

import (
	"errors"
	"fmt"

	"github.com/proscenium-dev/proscenium/wit/wasm"
)

// module looks through a core module, once: a component that has it may be
// instantiated often.
func (l *linker) module(code []byte) (*module, error) {
	if len(code) == 0 {
		return nil, errors.New("a core module of no bytes")
	}
	if m, ok := l.looked[&code[0]]; ok {
		return m, nil
	}
	bounded, err := wasm.Bound(code, maxTable)
	if err != nil {
		return nil, err
	}
	m := &module{code: bounded, index: -1}
	m.Interface, err = wasm.Look(bounded)
	l.looked[&code[0]] = m
	return m, err
}

var coreKinds = map[coreSort]wasm.Kind{coreFunc: wasm.Function, coreTable: wasm.Table, coreMemory: wasm.Memory, coreGlobal: wasm.Global}

// findCore is the core item that a reference means.
func (s *scope) findCore(r reference) (coreItem, error) {
	kind, ok := coreKinds[r.core]
	if !ok || r.sort != sortCore {
		return coreItem{}, fmt.Errorf("an instance exports items of the sort %#x", byte(r.core))
	}
	return at("core "+kind.String(), s.core[kind], r.index)
}

func (s *scope) aliasCore(l *linker, d aliasDef) error {
	i, err := at("core instance", s.coreInstances, d.of)
	if err != nil {
		return err
	}
	kind, ok := coreKinds[d.core]
	if !ok || d.sort != sortCore {
		return fmt.Errorf("an alias of a core export of the sort %#x", byte(d.core))
	}
	item, ok := l.coreExport(i, d.name)
	if !ok || item.kind != kind {
		return fmt.Errorf("a core instance exports no %s %q", kind, d.name)
	}
	s.core[kind] = append(s.core[kind], item)
	return nil
}

// coreExport is what a core instance exports under a name.
func (l *linker) coreExport(i coreInst, name string) (coreItem, bool) {
	if i.step < 0 {
		item, ok := i.bundle[name]
		return item, ok
	}
	kind, ok := l.steps[i.step].module.Exports[name]
	return coreItem{kind: kind, instance: i.step, name: name}, ok
}

func (l *linker) coreBundle(s *scope, d coreBundle) (err error) {
	if err := l.spend(len(d)); err != nil {
		return err
	}
	b := map[string]coreItem{}
	for _, e := range d {
		if b[e.name], err = s.findCore(e.reference); err != nil {
			return err
		}
	}
	s.coreInstances = append(s.coreInstances, coreInst{-1, b})
	return nil
}

// coreInstantiate notes a step: the instantiation of a core module, of which
// every import is found.
func (l *linker) coreInstantiate(s *scope, d coreInstantiation) error {
	m, err := at("core module", s.modules, d.module)
	if err != nil {
		return err
	}
	if err := l.spend(len(d.args)); err != nil {
		return err
	}
	args := map[string]coreInst{}
	for _, a := range d.args {
		if args[a.name], err = at("core instance", s.coreInstances, a.index); err != nil {
			return err
		}
	}
	st := step{module: m, relays: map[string]*relay{}, direct: map[string]int{}}
	for _, i := range m.Imports {
		if err := l.spend(1); err != nil {
			return err
		}
		from, ok := args[i.Module]
		var item coreItem
		if ok {
			item, ok = l.coreExport(from, i.Name)
		}
		if !ok || item.kind != i.Kind {
			return fmt.Errorf("a core module imports the %s %q of %q, which it does not get", i.Kind, i.Name, i.Module)
		}
		if from.step >= 0 {
			st.direct[i.Module] = from.step
			continue
		}
		if st.relays[i.Module] == nil {
			if err := l.spend(relayWork); err != nil {
				return err
			}
			st.relays[i.Module] = &relay{}
		}
		if err := st.relays[i.Module].add(i, item); err != nil {
			return err
		}
	}
	if m.index < 0 {
		m.index = len(l.modules)
		l.modules = append(l.modules, m)
	}
	if l.memory += m.Memory; l.memory > l.host.Memory {
		return fmt.Errorf("its memories begin with %d bytes, over the limit of %d", l.memory, l.host.Memory)
	}
	if l.steps = append(l.steps, st); len(l.steps) > maxInstances {
		return fmt.Errorf("more than %d instances of core modules", maxInstances)
	}
	s.coreInstances = append(s.coreInstances, coreInst{step: len(l.steps) - 1})
	return nil
}

// options finds what canonical options name.
func (l *linker) options(s *scope, o options) (memory, realloc, post *coreItem, err error) {
	for _, c := range []struct {
		option *uint32
		to     **coreItem
		kind   wasm.Kind
	}{{o.memory, &memory, wasm.Memory}, {o.realloc, &realloc, wasm.Function}, {o.post, &post, wasm.Function}} {
		if c.option == nil {
			continue
		}
		item, err := at("core "+c.kind.String(), s.core[c.kind], *c.option)
		if err != nil {
			return nil, nil, nil, err
		}
		if item.instance < 0 {
			return nil, nil, nil, fmt.Errorf("a canonical option is a function of the host")
		}
		*c.to = &item
	}
	return memory, realloc, post, nil
}

func (l *linker) lift(s *scope, d liftDef) error {
	core, err := at("core function", s.core[wasm.Function], d.function)
	if err != nil {
		return err
	}
	t, err := at("type", s.types, d.typ)
	if err != nil {
		return err
	}
	ft, ok := t.(*funcType)
	if !ok {
		return fmt.Errorf("type %d is not that of a function", d.typ)
	}
	f := &function{typ: ft, lift: &lift{core: core}, name: core.name}
	if f.lift.memory, f.lift.realloc, f.lift.post, err = l.options(s, d.options); err != nil {
		return err
	}
	s.functions = append(s.functions, f)
	return check(ft, f.lift.memory, f.lift.realloc, ft.params.pointers, ft.result != nil && ft.result.pointers)
}

// lower makes a trampoline: into the host, or a refusal.
func (l *linker) lower(s *scope, d lowerDef) error {
	f, err := at("function", s.functions, d.function)
	if err != nil {
		return err
	}
	t := trampoline{name: f.name, call: f.host}
	t.params, t.results = f.typ.lowered()
	switch {
	case f.lift != nil:
		t.refusal = "this host does not carry out calls from one component to another"
	case f.host == nil:
		t.refusal = "this host has nothing behind it"
	}
	if t.memory, t.realloc, _, err = l.options(s, d.options); err != nil {
		return err
	}
	if err := l.trampoline(s, t); err != nil || f.host == nil {
		return err
	}
	l.imported[f.name] = true
	return check(f.typ, t.memory, t.realloc, f.typ.result != nil && f.typ.result.pointers, f.typ.params.pointers)
}

// check says whether a function has the canonical options that it needs: a
// memory for everything that is in memory, and realloc for what comes in.
func check(t *funcType, memory, realloc *coreItem, in, out bool) error {
	results := t.result != nil && len(t.result.flat) > maxFlatResults
	if memory == nil && (in || out || results || len(t.params.flat) > maxFlatParams) {
		return fmt.Errorf("a function of type %s has no canonical option memory", t)
	}
	if realloc == nil && in {
		return fmt.Errorf("a function of type %s has no canonical option realloc", t)
	}
	return nil
}

func (l *linker) trampoline(s *scope, t trampoline) error {
	item := coreItem{kind: wasm.Function, instance: -1, number: len(l.trampolines)}
	l.trampolines = append(l.trampolines, t)
	s.core[wasm.Function] = append(s.core[wasm.Function], item)
	if len(l.trampolines) > maxTrampolines {
		return fmt.Errorf("more than %d functions of the host", maxTrampolines)
	}
	return nil
}

// resourceFunc makes a trampoline for a built-in: the host's resources can be
// dropped, the guest's own are not carried out.
func (l *linker) resourceFunc(s *scope, d resourceFunc) error {
	item, err := at("type", s.types, d.typ)
	if err != nil {
		return err
	}
	r, ok := item.(*resource)
	if !ok {
		return fmt.Errorf("%s of type %d, which is no resource", d.what, d.typ)
	}
	t := trampoline{name: d.what + " " + r.name, params: []byte{0x7f}}
	if drop, ok := l.host.drops[r]; ok && d.what == "resource.drop" {
		t.call = drop
	} else {
		t.refusal = "this host does not carry out resources but its own"
	}
	if d.what != "resource.drop" {
		t.results = []byte{0x7f}
	}
	return l.trampoline(s, t)
}

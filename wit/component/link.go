package component

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/proscenium-dev/proscenium/wit/wasm"
	"github.com/tetratelabs/wazero/api"
)

// Bounds of what a component comes to when it is linked: a few definitions can
// instantiate each other very often.
const (
	maxWork        = 200000  // definitions that are carried out
	maxNesting     = 16      // of instantiations
	maxInstances   = 32      // of core modules
	maxTrampolines = 2000    // functions that the host makes
	maxTable       = 1 << 17 // elements of the tables of one module, of 8 bytes each
	relayWork      = 100     // what a relay costs, in definitions
)

// Items, which are in the index spaces of a component and in instances. The
// others are *module, *resource, *valueType, *funcType and *instance.
type (
	// A function is the host's or the guest's; if neither, it is refused when
	// it is called.
	function struct {
		name string
		typ  *funcType
		host HostFunction
		lift *lift
	}
	lift struct {
		core                  coreItem
		memory, realloc, post *coreItem
		params, results       []api.ValueType // of core
	}
	// A closure is a component with the scope it was defined in.
	closure struct {
		*component
		outer *scope
	}
	// A template is the type of an instance with its scope.
	template struct {
		instanceType
		outer *scope
	}
	instance struct {
		name    string
		exports map[string]any
		denied  bool // it exports whatever is wanted, and refuses its calls
	}
	module struct {
		code []byte // bounded
		wasm.Interface
		index int // among the modules of the program
	}
)

// A coreItem is exported by an instance of a core module, or it is a function
// that the host makes: a trampoline.
type coreItem struct {
	kind     wasm.Kind
	instance int // -1: a trampoline
	name     string
	number   int // of the trampoline
}

// A coreInst is an instance of a core module or a bundle of items.
type coreInst struct {
	step   int // -1: a bundle
	bundle map[string]coreItem
}

// A scope is the index spaces of one instance of a component, or of a type.
type scope struct {
	outer         *scope
	core          [wasm.Global + 1][]coreItem
	coreInstances []coreInst
	modules       []*module
	functions     []*function
	types         []any
	components    []closure
	instances     []*instance
}

type linker struct {
	host *Host
	*program
	work, depth int
	missing     []string          // imports that the host does not have
	looked      map[*byte]*module // by where they begin
}

func (l *linker) spend(n int) error {
	if l.work += n; l.work > maxWork {
		return fmt.Errorf("it takes more than %d definitions to link", maxWork)
	}
	return nil
}

// at is an element of an index space.
func at[T any](what string, space []T, index uint32) (t T, err error) {
	if uint64(index) >= uint64(len(space)) {
		return t, fmt.Errorf("there is no %s %d", what, index)
	}
	return space[index], nil
}

// instantiate carries out a component's definitions. imports finds what it
// imports.
func (l *linker) instantiate(c closure, imports func(name string) (any, error)) (*instance, error) {
	if l.depth++; l.depth > maxNesting {
		return nil, fmt.Errorf("instances nested more than %d deep", maxNesting)
	}
	defer func() { l.depth-- }()
	s := &scope{outer: c.outer}
	made := &instance{exports: map[string]any{}}
	for _, d := range c.definitions {
		if err := l.spend(1); err != nil {
			return nil, err
		}
		if err := l.define(s, d, made, imports); err != nil {
			return nil, err
		}
	}
	return made, nil
}

func (l *linker) define(s *scope, d any, made *instance, imports func(string) (any, error)) error {
	switch d := d.(type) {
	case moduleDef:
		m, err := l.module(d)
		s.modules = append(s.modules, m)
		return err
	case coreInstantiation:
		return l.coreInstantiate(s, d)
	case coreBundle:
		return l.coreBundle(s, d)
	case *component:
		s.components = append(s.components, closure{d, s})
	case instantiation:
		return l.instantiation(s, d)
	case bundle:
		return l.bundle(s, d)
	case aliasDef:
		return l.alias(s, d)
	case liftDef:
		return l.lift(s, d)
	case lowerDef:
		return l.lower(s, d)
	case resourceFunc:
		return l.resourceFunc(s, d)
	case importDef:
		item, err := imports(d.name)
		if err != nil {
			return err
		}
		if item, err = l.match(s, d.description, item); err != nil {
			return fmt.Errorf("import %s: %w", d.name, err)
		}
		s.push(item)
	case exportDef:
		return l.export(s, d, made)
	default:
		t, err := l.typ(s, d)
		s.types = append(s.types, t)
		return err
	}
	return nil
}

// push puts an item into its index space.
func (s *scope) push(item any) {
	switch item := item.(type) {
	case *function:
		s.functions = append(s.functions, item)
	case *instance:
		s.instances = append(s.instances, item)
	case closure:
		s.components = append(s.components, item)
	case *module:
		s.modules = append(s.modules, item)
	default:
		s.types = append(s.types, item)
	}
}

// find is the item that a reference means.
func (s *scope) find(r reference) (item any, err error) {
	switch r.sort {
	case sortFunc:
		return at("function", s.functions, r.index)
	case sortType:
		return at("type", s.types, r.index)
	case sortInstance:
		return at("instance", s.instances, r.index)
	case sortComponent:
		return at("component", s.components, r.index)
	}
	if r.core == coreModule {
		return at("core module", s.modules, r.index)
	}
	return nil, fmt.Errorf("a %s is no item of a component", r.sort)
}

func (l *linker) instantiation(s *scope, d instantiation) error {
	c, err := at("component", s.components, d.component)
	if err != nil {
		return err
	}
	if err := l.spend(len(d.args)); err != nil {
		return err
	}
	args := map[string]any{}
	for _, a := range d.args {
		if args[a.name], err = s.find(a.reference); err != nil {
			return err
		}
	}
	made, err := l.instantiate(c, func(name string) (any, error) {
		if item, ok := args[name]; ok {
			return item, nil
		}
		return nil, fmt.Errorf("a component inside gets no argument %s", name)
	})
	s.instances = append(s.instances, made)
	return err
}

func (l *linker) bundle(s *scope, d bundle) (err error) {
	if err := l.spend(len(d)); err != nil {
		return err
	}
	made := &instance{exports: map[string]any{}}
	for _, e := range d {
		if made.exports[e.name], err = s.find(e.reference); err != nil {
			return err
		}
	}
	s.instances = append(s.instances, made)
	return nil
}

func (l *linker) export(s *scope, d exportDef, made *instance) error {
	item, err := s.find(d.reference)
	if err != nil {
		return err
	}
	if d.as != nil {
		if item, err = l.match(s, *d.as, item); err != nil {
			return fmt.Errorf("export %s: %w", d.name, err)
		}
	}
	if _, ok := made.exports[d.name]; ok {
		return fmt.Errorf("two exports are called %s", d.name)
	}
	made.exports[d.name] = item
	s.push(item)
	return nil
}

func (l *linker) alias(s *scope, d aliasDef) error {
	switch d.target {
	case targetCoreExport:
		return s.aliasCore(l, d)
	case targetOuter:
		from := s
		for range d.of {
			if from = from.outer; from == nil {
				return errors.New("an alias of something outside of the component")
			}
		}
		if d.sort != sortType && d.sort != sortComponent && d.core != coreModule {
			return fmt.Errorf("an outer alias of a %s", d.sort)
		}
		item, err := from.find(d.reference)
		if err == nil {
			s.push(item)
		}
		return err
	}
	i, err := at("instance", s.instances, d.of)
	if err != nil {
		return err
	}
	item, ok := i.exports[d.name]
	if !ok || !is(item, d.reference) {
		return fmt.Errorf("instance %s has no %s %s", i.name, d.sort, d.name)
	}
	s.push(item)
	return nil
}

// is says whether an item is of the sort.
func is(item any, r reference) bool {
	switch item.(type) {
	case *function:
		return r.sort == sortFunc
	case *instance:
		return r.sort == sortInstance
	case closure:
		return r.sort == sortComponent
	case *module:
		return r.sort == sortCore && r.core == coreModule
	}
	return r.sort == sortType
}

// lookup is what the component as a whole may import.
func (l *linker) lookup(name string) (any, error) {
	if i, ok := l.host.find(name); ok {
		return i, nil
	}
	return nil, fmt.Errorf("it imports what this host does not have: %s", name)
}

// unknown are the imports that the host does not have, all of them.
func (l *linker) unknown(c *component) error {
	for _, d := range c.definitions {
		if d, ok := d.(importDef); ok {
			if _, ok := l.host.find(d.name); !ok {
				l.missing = append(l.missing, d.name)
			}
		}
	}
	if len(l.missing) == 0 {
		return nil
	}
	slices.Sort(l.missing)
	const most, longest = 50, 256
	list, more := l.missing, ""
	if len(list) > most {
		list, more = list[:most], fmt.Sprintf(" and %d more", len(list)-most)
	}
	for i, name := range list {
		if len(name) > longest {
			name = strings.ToValidUTF8(name[:longest], "") + "…"
		}
		list[i] = strconv.Quote(name)
	}
	return fmt.Errorf("it imports what this host does not have: %s%s", strings.Join(list, ", "), more)
}

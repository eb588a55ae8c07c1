// Package component loads components as current tools make them: wit-component
// for C and every language with wit-bindgen, its adapter for WASI preview 1,
// componentize-js, and componentize-qjs without async. wazero knows core modules
// only; what is between them is done here.
//
// A file goes through four hands, each of which trusts only what the one before
// has checked:
//
//	parse       bytes to definitions; every length is bounded, unknown forms are refused by name
//	link        definitions to a program: core modules and the order in which they are
//	            instantiated, who imports what of whom; types are compared by structure
//	Compile     the modules, with wazero
//	Instantiate a program's steps
//
// # How wazero is made to do it
//
// An import of a core module is resolved by its module's name. An instance is
// found by wazero's import resolver. Where a component makes a bundle of items of
// several instances, a relay stands in: a module without code that imports each
// from its owner and exports it under the name that is wanted (relay.go). The
// resolver cannot return a host module, so the functions that the host makes,
// the trampolines, are all in one host module, which wazero finds by its name.
//
// # What is not done
//
// Async, strings other than UTF-8, core types, start functions and values of
// components, imports of modules and components, memories of 64 bits and more
// than one memory a module are refused when the component is loaded. Functions
// of one component that are called by another, resources of the guest's own and
// what the host refuses are there, so that components which never use them can
// be linked; a call of one is an error that names it.
package component

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tetratelabs/wazero/api"
)

// A Program is a linked component: what to do, and nothing is done yet.
type Program struct{ *program }

type program struct {
	modules     []*module
	steps       []step
	trampolines []trampoline
	exports     map[export]*lift
	imported    map[string]bool // functions of the host
	memory      uint64          // bytes that the memories begin with
}

type export struct{ iface, name string }

// A step instantiates a core module.
type step struct {
	module *module
	relays map[string]*relay // by the name under which it is imported
	direct map[string]int    // likewise, another step's instance
}

// A trampoline is a core function that the host makes.
type trampoline struct {
	name            string
	params, results []api.ValueType
	call            HostFunction
	refusal         string // instead of call
	memory, realloc *coreItem
}

// Load reads and links a component. Nothing of it runs.
func (h *Host) Load(code []byte) (Program, error) {
	c, err := parse(code)
	if err != nil {
		return Program{}, err
	}
	l := &linker{host: h, looked: map[*byte]*module{}, program: &program{exports: map[export]*lift{}, imported: map[string]bool{}}}
	if err := l.unknown(c); err != nil {
		return Program{}, err
	}
	root, err := l.instantiate(closure{component: c}, l.lookup)
	if err != nil {
		return Program{}, err
	}
	return Program{l.program}, l.exported(root)
}

// exported looks for the exports that the host knows.
func (l *linker) exported(root *instance) error {
	var faults []error
	for iface, known := range l.host.exports {
		i, ok := root.exports[iface].(*instance)
		if !ok {
			continue
		}
		for name, item := range known.exports {
			want, isFunction := item.(*function)
			have, ok := i.exports[name].(*function)
			switch {
			case !isFunction || i.exports[name] == nil:
			case !ok || have.lift == nil:
				faults = append(faults, fmt.Errorf("export %s %s is no function of the component's", iface, name))
			case !have.typ.equal(want.typ):
				faults = append(faults, fmt.Errorf("export %s %s has the type %s, want %s", iface, name, have.typ, want.typ))
			default:
				have.lift.params, have.lift.results = want.typ.lifted()
				l.program.exports[export{iface, name}] = have.lift
			}
		}
	}
	slices.SortFunc(faults, func(a, b error) int { return slices.Compare([]byte(a.Error()), []byte(b.Error())) })
	return errors.Join(faults...)
}

// Exports says whether the component exports a function that the host knows.
func (p Program) Exports(iface, name string) bool { return p.exports[export{iface, name}] != nil }

// Imports says whether the component can call a function of the host.
func (p Program) Imports(iface, name string) bool { return p.imported[iface+" "+name] }

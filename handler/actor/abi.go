package actor

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

const (
	i32 = api.ValueTypeI32
	i64 = api.ValueTypeI64
)

// A signature is the core type that the canonical ABI lowers a function to.
type signature struct{ params, results []api.ValueType }

func (s signature) String() string { return typeList(s.params) + " -> " + typeList(s.results) }

func typeList(types []api.ValueType) string {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = api.ValueTypeName(t)
	}
	return "(" + strings.Join(names, ", ") + ")"
}

func (s signature) matches(f api.FunctionDefinition) bool {
	return slices.Equal(s.params, f.ParamTypes()) && slices.Equal(s.results, f.ResultTypes())
}

func params(types ...api.ValueType) []api.ValueType { return types }

func times(n int, t api.ValueType) []api.ValueType { return slices.Repeat(params(t), n) }

// The interfaces. MAX_FLAT_RESULTS is 1: results of imports go to a return area
// whose address is the last parameter; exports return the address of theirs.
// os-spawn's record flattens to 14 values, which fit the 16 of MAX_FLAT_PARAMS.
var importSignatures = map[string]map[string]signature{
	"theater:simple/runtime": {
		"log":       {params: times(2, i32)},
		"get-chain": {params: times(1, i32)},
	},
	"theater:simple/process": {
		"os-spawn":       {params: times(15, i32)},
		"os-write-stdin": {params: params(i64, i32, i32, i32)},
		"os-status":      {params: params(i64, i32)},
		"os-signal":      {params: params(i64, i32, i32)},
		"os-kill":        {params: params(i64, i32)},
	},
	"theater:simple/process-control": {
		"os-close-stdin": {params: params(i64, i32)},
		// 22 values are more than 16: the parameters lie in memory.
		"os-spawn-limited": {params: times(2, i32)},
		"os-report":        {params: params(i64, i32)},
	},
}

// exportName is an exported function of an interface.
type exportName struct{ iface, function string }

var (
	exportInit   = exportName{"theater:simple/actor", "init"}
	exportStdout = exportName{"theater:simple/process-handlers", "handle-stdout"}
	exportStderr = exportName{"theater:simple/process-handlers", "handle-stderr"}
	exportExit   = exportName{"theater:simple/process-handlers", "handle-exit"}

	exportStdoutBatch = exportName{"theater:simple/process-batch-handlers", "handle-stdout-batch"}
	exportStderrBatch = exportName{"theater:simple/process-batch-handlers", "handle-stderr-batch"}
)

// order is how the exports are told about, in errors.
var order = []exportName{exportInit, exportStdout, exportStderr, exportExit, exportStdoutBatch, exportStderrBatch}

// optional exports need not be there.
func (e exportName) optional() bool { return e == exportStdoutBatch || e == exportStderrBatch }

var exportSignatures = map[exportName]signature{
	exportInit:   {times(5, i32), params(i32)},
	exportStdout: {params(i32, i32, i32, i64, i32, i32), params(i32)},
	exportStderr: {params(i32, i32, i32, i64, i32, i32), params(i32)},
	exportExit:   {params(i32, i32, i32, i64, i32), params(i32)},

	exportStdoutBatch: {params(i32, i32, i32, i64, i32, i32, i32, i32), params(i32)},
	exportStderrBatch: {params(i32, i32, i32, i64, i32, i32, i32, i32), params(i32)},
}

// A scheme is a way in which tools name the functions of a core module.
type scheme struct {
	importPrefix                string
	export, post                func(exportName) string
	memory, realloc, initialize string
}

var schemes = []scheme{
	{ // wit-bindgen's
		export:  func(e exportName) string { return e.iface + "#" + e.function },
		post:    func(e exportName) string { return "cabi_post_" + e.iface + "#" + e.function },
		memory:  "memory",
		realloc: "cabi_realloc", initialize: "_initialize",
	},
	{ // wit-component's "standard32"
		importPrefix: "cm32p2|",
		export:       func(e exportName) string { return "cm32p2|" + e.iface + "|" + e.function },
		post:         func(e exportName) string { return "cm32p2|" + e.iface + "|" + e.function + "_post" },
		memory:       "cm32p2_memory",
		realloc:      "cm32p2_realloc", initialize: "cm32p2_initialize",
	},
}

// checkModule compares every import and export with the interfaces, before
// anything is instantiated, and finds out which scheme the module uses. All
// faults are told at once.
func checkModule(m wazero.CompiledModule) (scheme, error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }

	var unknown []string
	spawns := false
	for _, f := range m.ImportedFunctions() {
		module, name, _ := f.Import()
		iface := strings.TrimPrefix(module, schemes[1].importPrefix)
		want, ok := importSignatures[iface][name]
		switch {
		case !ok:
			unknown = append(unknown, module+" "+name)
		case !want.matches(f):
			fault("import %s %s has the type %s, want %s", module, name, signature{f.ParamTypes(), f.ResultTypes()}, want)
		}
		spawns = spawns || name == "os-spawn"
	}
	if len(unknown) > 0 {
		fault("it imports what this host does not have: %s", quoted(unknown))
	}
	if len(m.ImportedMemories()) > 0 {
		fault("it imports its memory; it must have and export one")
	}

	exported := m.ExportedFunctions()
	names := schemes[0]
	if _, ok := exported[schemes[1].export(exportInit)]; ok {
		names = schemes[1]
	}
	for _, e := range order {
		f, ok := exported[names.export(e)]
		want := exportSignatures[e]
		switch {
		case !ok && !e.optional() && (e == exportInit || spawns):
			fault("it does not export %s", names.export(e))
		case ok && !want.matches(f):
			fault("export %s has the type %s, want %s", names.export(e), signature{f.ParamTypes(), f.ResultTypes()}, want)
		}
		if f, ok := exported[names.post(e)]; ok && !(signature{params: times(1, i32)}).matches(f) {
			fault("export %s has the type %s, want (i32) -> ()", names.post(e), signature{f.ParamTypes(), f.ResultTypes()})
		}
	}
	if f, ok := exported[names.realloc]; !ok {
		fault("it does not export %s", names.realloc)
	} else if want := (signature{times(4, i32), params(i32)}); !want.matches(f) {
		fault("export %s has the type %s, want %s", names.realloc, signature{f.ParamTypes(), f.ResultTypes()}, want)
	}
	if f, ok := exported[names.initialize]; ok && !(signature{}).matches(f) {
		fault("export %s takes or returns something", names.initialize)
	}
	if _, ok := m.ExportedMemories()[names.memory]; !ok {
		fault("it does not export its memory as %s", names.memory)
	}
	return names, errors.Join(faults...)
}

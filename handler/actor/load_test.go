package actor

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/tests/testenv"
)

// A core module, as far as these tests need it. A function that has no code of
// its own is one instruction: unreachable.
type module struct {
	imports []field
	exports []field // functions
	memory  string  // the name of the exported memory; "": it has none
	min     int     // pages
	table   []byte  // its type
	start   bool    // the first of exports is the start function
}

type field struct {
	module, name      string
	params, results   string // one letter a type: i, I, f or F
	memory, undefined bool   // a memory; a global
	code              []byte // locals and instructions
}

func uleb(n int) []byte { return binary.AppendUvarint(nil, uint64(n)) }

func name(s string) []byte { return append(uleb(len(s)), s...) }

func section(id byte, entries [][]byte) []byte {
	if len(entries) == 0 {
		return nil
	}
	body := append(uleb(len(entries)), slices.Concat(entries...)...)
	return slices.Concat([]byte{id}, uleb(len(body)), body)
}

func valueTypes(letters string) []byte {
	codes := map[rune]byte{'i': 0x7f, 'I': 0x7e, 'f': 0x7d, 'F': 0x7c}
	b := uleb(len(letters))
	for _, l := range letters {
		b = append(b, codes[l])
	}
	return b
}

const (
	externFunction = iota
	externTable
	externMemory
	externGlobal
)

func (m module) encode() []byte {
	var types, imports, functions, exports, code [][]byte
	function := func(f field) []byte {
		types = append(types, slices.Concat([]byte{0x60}, valueTypes(f.params), valueTypes(f.results)))
		return uleb(len(types) - 1)
	}
	imported := 0
	for _, f := range m.imports {
		b := slices.Concat(name(f.module), name(f.name))
		switch {
		case f.memory:
			b = append(b, externMemory, 0, 1)
		case f.undefined:
			b = append(b, externGlobal, 0x7f, 0)
		default:
			b = slices.Concat(b, []byte{externFunction}, function(f))
			imported++
		}
		imports = append(imports, b)
	}
	for i, f := range m.exports {
		functions = append(functions, function(f))
		exports = append(exports, slices.Concat(name(f.name), []byte{externFunction}, uleb(imported+i)))
		body := []byte{0, 0x00, 0x0b}
		if f.code != nil {
			body = f.code
		}
		code = append(code, append(uleb(len(body)), body...))
	}
	var tables, memories, start []byte
	if m.table != nil {
		tables = section(4, [][]byte{m.table})
	}
	if m.memory != "" {
		exports = append(exports, append(name(m.memory), externMemory, 0))
		memories = section(5, [][]byte{append([]byte{0}, uleb(m.min)...)})
	}
	if m.start {
		start = slices.Concat([]byte{8}, uleb(len(uleb(imported))), uleb(imported))
	}
	return slices.Concat([]byte("\x00asm\x01\x00\x00\x00"),
		section(1, types), section(2, imports), section(3, functions), tables, memories, section(7, exports), start, section(10, code))
}

// renameMemory gives the memory's export of a module another name.
func renameMemory(t testing.TB, b []byte, to string) []byte {
	t.Helper()
	const exports = 7
	for at := 8; at < len(b); {
		id := b[at]
		size, n := binary.Uvarint(b[at+1:])
		from, end := at+1+n, at+1+n+int(size)
		if id == exports {
			old, renamed := append(name("memory"), externMemory), append(name(to), externMemory)
			body := []byte(strings.Replace(string(b[from:end]), string(old), string(renamed), 1))
			return slices.Concat(b[:at+1], uleb(len(body)), body, b[end:])
		}
		at = end
	}
	t.Fatal("the module exports nothing")
	return nil
}

// good is a module that loads; its init traps.
func good() module {
	var m module
	for iface, functions := range importSignatures {
		for f, s := range functions {
			m.imports = append(m.imports, field{module: iface, name: f, params: letters(s.params), results: letters(s.results)})
		}
	}
	for _, e := range order {
		s := exportSignatures[e]
		m.exports = append(m.exports, field{name: schemes[0].export(e), params: letters(s.params), results: letters(s.results)})
	}
	m.exports = append(m.exports, field{name: "cabi_realloc", params: "iiii", results: "i"})
	m.memory, m.min = "memory", 1
	return m
}

func letters(types []byte) string {
	var b strings.Builder
	for _, t := range types {
		b.WriteByte(map[byte]byte{i32: 'i', i64: 'I'}[t])
	}
	return b.String()
}

// change returns good with one thing different.
func change(f func(*module)) []byte {
	m := good()
	f(&m)
	return m.encode()
}

func without(name string) []byte {
	return change(func(m *module) {
		m.exports = slices.DeleteFunc(m.exports, func(f field) bool { return f.name == name })
	})
}

func exporting(f field) []byte {
	return change(func(m *module) {
		m.exports = slices.DeleteFunc(m.exports, func(g field) bool { return f.name == g.name })
		m.exports = append(m.exports, f)
	})
}

func importing(f ...field) []byte {
	return change(func(m *module) { m.imports = append(m.imports, f...) })
}

const (
	initName   = "theater:simple/actor#init"
	stdoutName = "theater:simple/process-handlers#handle-stdout"
	exitName   = "theater:simple/process-handlers#handle-exit"
)

// TestWrongModules: what is wrong with a module is told before anything of it
// runs, and is recorded.
func TestWrongModules(t *testing.T) {
	testenv.NoLeaks(t)
	valid := good().encode()
	for what, c := range map[string]struct {
		module []byte
		want   string // in the error
	}{
		"nothing":             {nil, "is not a WebAssembly module"},
		"text":                {[]byte("#!/bin/sh\n"), "is not a WebAssembly module"},
		"magic only":          {[]byte("\x00asm"), "is not a WebAssembly module"},
		"another version":     {[]byte("\x00asm\x02\x00\x00\x00"), "is not a WebAssembly module"},
		"an empty component":  {[]byte("\x00asm\x0d\x00\x01\x00"), "it does not export theater:simple/actor init"},
		"an empty module":     {valid[:8], "it does not export " + initName},
		"cut short":           {valid[:len(valid)-1], ""}, // in the words of whoever notices
		"garbage behind":      {append(slices.Clone(valid), 0xff), ""},
		"an unknown module":   {importing(field{module: "env", name: "puts", params: "i"}), "it imports what this host does not have: \"env puts\""},
		"an unknown function": {importing(field{module: "theater:simple/process", name: "os-exec"}), "it imports what this host does not have: \"theater:simple/process os-exec\""},
		"several unknown":     {importing(field{module: "a", name: "b"}, field{module: "c", name: "d"}), "it imports what this host does not have: \"a b\", \"c d\""},
		"another interface":   {importing(field{module: "theater:simple/runtime", name: "os-kill", params: "Ii"}), "it imports what this host does not have: \"theater:simple/runtime os-kill\""},
		"WASI preview 2":      {importing(field{module: "wasi:cli/environment@0.2.0", name: "get-environment", params: "i"}), "it imports what this host does not have: \"wasi:cli/environment"},
		"unknown WASI":        {importing(field{module: wasip1, name: "format_disk"}), "it imports what this host does not have: \"wasi_snapshot_preview1 format_disk\""},
		"an imported global":  {importing(field{module: "env", name: "g", undefined: true}), "module[env] not instantiated"},
		"an imported memory":  {importing(field{module: "env", name: "memory", memory: true}), "at most one"}, // it has two memories
		"only imported memory": {change(func(m *module) {
			m.memory = ""
			m.imports = append(m.imports, field{module: "env", name: "memory", memory: true})
		}), "it imports its memory; it must have and export one"},
		"a spawn of 14":         {importing(field{module: "theater:simple/process", name: "os-spawn", params: strings.Repeat("i", 14)}), "import theater:simple/process os-spawn has the type (i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32, i32) -> (), want (i32, i32,"},
		"a pid of 32 bits":      {importing(field{module: "theater:simple/process", name: "os-kill", params: "ii"}), "import theater:simple/process os-kill has the type (i32, i32) -> (), want (i64, i32) -> ()"},
		"a log with a result":   {importing(field{module: "theater:simple/runtime", name: "log", params: "ii", results: "i"}), "import theater:simple/runtime log has the type (i32, i32) -> (i32), want (i32, i32) -> ()"},
		"no init":               {without(initName), "it does not export " + initName},
		"no handle-stdout":      {without(stdoutName), "it does not export " + stdoutName},
		"no realloc":            {without("cabi_realloc"), "it does not export cabi_realloc"},
		"init of 4":             {exporting(field{name: initName, params: "iiii", results: "i"}), "export " + initName + " has the type (i32, i32, i32, i32) -> (i32), want (i32, i32, i32, i32, i32) -> (i32)"},
		"handle-exit of floats": {exporting(field{name: exitName, params: "iiiIf", results: "i"}), "export " + exitName + " has the type (i32, i32, i32, i64, f32) -> (i32), want (i32, i32, i32, i64, i32) -> (i32)"},
		"init without result":   {exporting(field{name: initName, params: "iiiii"}), "export " + initName + " has the type"},
		"post-return of 0":      {exporting(field{name: "cabi_post_" + initName}), "export cabi_post_" + initName + " has the type () -> (), want (i32) -> ()"},
		"realloc of 3":          {exporting(field{name: "cabi_realloc", params: "iii", results: "i"}), "export cabi_realloc has the type (i32, i32, i32) -> (i32), want (i32, i32, i32, i32) -> (i32)"},
		"_initialize of 1":      {exporting(field{name: "_initialize", params: "i"}), "export _initialize takes or returns something"},
		"no memory":             {change(func(m *module) { m.memory = "" }), "it does not export its memory as memory"},
		"memory by other name":  {change(func(m *module) { m.memory = "heap" }), "it does not export its memory as memory"},
		"memory over the limit": {change(func(m *module) { m.min = 257 }), "over limit of 256 pages"},
		"half of each scheme":   {exporting(field{name: "cm32p2|theater:simple/actor|init", params: "iiiii", results: "i"}), "it does not export cm32p2|theater:simple/process-handlers|handle-stdout"},
		"a start that traps":    {change(func(m *module) { m.exports = slices.Insert(m.exports, 0, field{name: "begin"}); m.start = true }), "unreachable"},
		"init that traps":       {valid, "init: wasm error: unreachable"},
	} {
		t.Run(what, func(t *testing.T) {
			s := newStage(t, c.module, "/usr/bin/true")
			s.manifest.Memory = 16 << 20
			_, err := s.start(t)
			if err == nil || !strings.HasPrefix(err.Error(), "actor tested: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if n := len(s.recorder.all(handler.ActorFailed)); bytes.HasPrefix(c.module, valid[:8]) && n != 1 {
				t.Errorf("%d failures were recorded, want 1", n)
			}
		})
	}
}

// TestFaultsAreToldTogether: an author mends them all at once.
func TestFaultsAreToldTogether(t *testing.T) {
	m := good()
	m.exports, m.memory = nil, ""
	m.imports = append(m.imports, field{module: "env", name: "puts"})
	_, err := newStage(t, m.encode()).start(t)
	for _, want := range []string{"env puts", initName, stdoutName, exitName, "cabi_realloc", "its memory"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not tell of %s", err, want)
		}
	}
}

// TestPlainActor: without os-spawn the handlers of events may be missing, and
// without a process handler in the manifest the module is loaded all the same.
func TestPlainActor(t *testing.T) {
	m := good()
	m.imports = nil
	m.exports = slices.DeleteFunc(m.exports, func(f field) bool { return strings.Contains(f.name, "process-handlers") })
	for _, handlers := range []bool{true, false} {
		s := newStage(t, m.encode(), "/usr/bin/true")
		if !handlers {
			s.manifest.Process = nil
		}
		if _, err := s.start(t); err == nil || !strings.Contains(err.Error(), "init: wasm error: unreachable") {
			t.Errorf("%v, want a module that loads and traps", err)
		}
		if n := len(s.recorder.all(handler.ActorFailed)); n != 1 {
			t.Errorf("%d failures were recorded", n)
		}
	}
}

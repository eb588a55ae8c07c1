package component

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/proscenium-dev/proscenium/wit"
	"github.com/proscenium-dev/proscenium/wit/canon"
)

// testHost has the package's interfaces, of which it carries out log and os-kill.
func testHost(t testing.TB) *Host {
	t.Helper()
	var all strings.Builder
	names, _ := fs.Glob(wit.Files, "*.wit")
	for _, name := range names {
		text, _ := fs.ReadFile(wit.Files, name)
		all.Write(text)
	}
	nothing := func(context.Context, *canon.Lowerer, []uint64) {}
	h := &Host{Memory: 1 << 20}
	if err := h.Import(all.String(), map[string]map[string]HostFunction{
		"theater:simple/runtime": {"log": nothing},
		"theater:simple/process": {"os-kill": nothing},
	}); err != nil {
		t.Fatal(err)
	}
	if err := h.Export(all.String()); err != nil {
		t.Fatal(err)
	}
	h.Refuse("wasi:http/types@0.2")
	return h
}

// assemble puts sections together.
func assemble(sections ...[]byte) []byte {
	return append([]byte(header), slices.Concat(sections...)...)
}

// sec is a section with elements.
func sec(id byte, elements ...string) []byte {
	var list [][]byte
	for _, e := range elements {
		list = append(list, []byte(e))
	}
	return section(id, list)
}

// whole is a section that is one thing.
func whole(id byte, body []byte) []byte { return slices.Concat([]byte{id}, number(len(body)), body) }

func str(s string) string { return string(text(s)) }

// Section numbers.
const (
	idModule, idCoreInstance, idCoreType, idComponent, idInstance, idAlias, idType, idCanon, idStart, idImport, idExport, idValue = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
)

// importing is an import of an instance with one function.
func importing(iface, function, typ string) []byte {
	return slices.Concat(
		sec(idType, "\x42\x02"+"\x01"+typ+"\x04\x00"+str(function)+"\x01\x00"),
		sec(idImport, "\x00"+str(iface)+"\x05\x00"))
}

const (
	logType  = "\x40\x01\x03msg\x73\x01\x00"     // func(msg: string)
	emptyMod = "\x00asm\x01\x00\x00\x00"         // no imports, no exports
	pageMod  = emptyMod + "\x05\x03\x01\x00\x01" // a memory of a page
)

var instantiate0 = "\x00\x00\x00"

// components, each with what is wrong with it; "" is nothing.
func components() map[string]struct {
	code []byte
	want string
} {
	nested := assemble()
	for range maxDepth + 1 {
		nested = assemble(whole(idComponent, nested))
	}
	// Each instantiates the one before twice.
	doubling := slices.Concat(whole(idComponent, assemble()))
	for n := range 30 {
		doubling = slices.Concat(doubling, whole(idComponent, assemble(
			sec(idAlias, "\x04\x02\x01"+string(number(n))),
			sec(idInstance, instantiate0, instantiate0))))
	}
	chain := whole(idComponent, assemble())
	for n := range maxNesting + 1 {
		chain = slices.Concat(chain, whole(idComponent, assemble(sec(idAlias, "\x04\x02\x01"+string(number(n))), sec(idInstance, instantiate0))))
	}
	types := []string{"\x6f\x02\x7f\x7f"}
	for n := range 30 {
		types = append(types, "\x6f\x02"+string(number(n))+string(number(n)))
	}
	many := func(n int, element string) (all []string) { return slices.Repeat([]string{element}, n) }
	times := func(n int, element string) string { return string(number(n)) + strings.Repeat(element, n) }
	// A component that is instantiated a hundred times.
	often := func(sections ...[]byte) []byte {
		return assemble(whole(idComponent, assemble(sections...)), sec(idInstance, many(100, instantiate0)...))
	}
	lower := func(options string) []byte {
		return assemble(importing("theater:simple/runtime", "log", logType), sec(idAlias, "\x01\x00\x00"+str("log")), sec(idCanon, "\x01\x00\x00"+options))
	}
	type c = struct {
		code []byte
		want string
	}
	return map[string]c{
		"empty":                   {assemble(), ""},
		"a custom section":        {assemble(whole(0, []byte("\x04name"))), ""},
		"not a component":         {[]byte(emptyMod), "it is not a component of this version"},
		"cut short":               {assemble()[:6], "it is not a component of this version"},
		"a claim":                 {append(assemble(), 7, 0xff, 0xff, 0xff, 0xff, 0xf), "are claimed in 0 bytes"},
		"elements claimed":        {append(assemble(), 7, 5, 0xff, 0xff, 0xff, 0xff, 0xf), "are claimed in 0 bytes"},
		"something behind":        {assemble(whole(idType, []byte("\x00\x00"))), "1 bytes too many"},
		"core types":              {assemble(sec(idCoreType, "\x60\x00\x00")), "section core type: this host does not know it"},
		"a start function":        {assemble(whole(idStart, []byte("\x00\x00\x00"))), "section start: this host does not know it"},
		"values":                  {assemble(sec(idValue, "\x7f\x01\x00")), "section value: this host does not know it"},
		"an unknown section":      {assemble(whole(99, nil)), "section 0x63: this host does not know it"},
		"async lower":             {lower("\x01\x06"), "the canonical option async: this host does not know async"},
		"async callback":          {lower("\x01\x07\x00"), "the canonical option callback"},
		"UTF-16":                  {lower("\x01\x01"), "strings in UTF-16"},
		"Latin-1":                 {lower("\x01\x02"), "strings in Latin-1"},
		"encoding twice":          {lower("\x02\x00\x00"), "is given twice"},
		"no such memory":          {lower("\x01\x03\x00"), "there is no core memory 0"},
		"no memory":               {lower("\x00"), "has no canonical option memory"},
		"post-return of lower":    {lower("\x01\x05\x00"), "a lowering has a post-return function"},
		"an unknown option":       {lower("\x01\x20"), "the canonical option 0x20"},
		"a stream":                {assemble(sec(idCanon, "\x0e\x00")), "(a stream, future or error-context): this host does not know async"},
		"task.return":             {assemble(sec(idCanon, "\x09\x00\x00")), "(task.return)"},
		"a thread":                {assemble(sec(idCanon, "\x40\x00")), "(thread.spawn-ref)"},
		"an unknown built-in":     {assemble(sec(idCanon, "\xf0")), "the canonical built-in 0xf0 (unknown)"},
		"an async function":       {assemble(sec(idType, "\x43\x00\x01\x00")), "(async function)"},
		"a stream type":           {assemble(sec(idType, "\x66\x00")), "(stream)"},
		"a component type":        {assemble(sec(idType, "\x41\x00")), "(component type)"},
		"an unknown type":         {assemble(sec(idType, "\x20")), "(unknown)"},
		"an async resource":       {assemble(sec(idType, "\x3e\x7f\x00\x00")), "(async resource)"},
		"33 flags":                {assemble(sec(idType, "\x6e\x21"+strings.Repeat("\x01a", 33))), "flags of more than 32 labels"},
		"import of a module":      {assemble(sec(idImport, "\x00\x01a\x00\x11\x00")), "imports and exports of the form core module"},
		"import of a value":       {assemble(sec(idImport, "\x00\x01a\x02\x01\x7f")), "imports and exports of the form value"},
		"unknown import":          {assemble(importing("wasi:sockets/tcp@0.2.0", "connect", logType)), "it imports what this host does not have: \"wasi:sockets/tcp@0.2.0\""},
		"many unknown imports":    {assemble(sec(idType, "\x42\x00"), sec(idImport, many(120, "\x00"+str(strings.Repeat("a", 300))+"\x05\x00")...)), strings.Repeat("a", 256) + "…\" and 70 more"},
		"unknown function":        {assemble(importing("theater:simple/runtime", "shout", logType)), "it imports what this host does not have: shout"},
		"known, not carried out":  {assemble(importing("theater:simple/process", "os-signal", logType)), "it imports what this host does not have: os-signal"},
		"another type":            {assemble(importing("theater:simple/process", "os-kill", logType)), "os-kill: it has the type func<msg: string>, want"},
		"another name":            {assemble(importing("theater:simple/runtime", "log", "\x40\x01\x03mag\x73\x01\x00")), "log: it has the type func<mag: string>"},
		"another result":          {assemble(importing("theater:simple/runtime", "log", "\x40\x01\x03msg\x73\x00\x7f")), "func<msg: string> -> bool, want func<msg: string>"},
		"as it should be":         {assemble(importing("theater:simple/runtime", "log", logType)), ""},
		"refused, of any type":    {assemble(importing("wasi:http/types@0.2.9", "anything", logType)), ""},
		"no such type":            {assemble(sec(idImport, "\x00"+str("theater:simple/runtime")+"\x05\x07")), "there is no type 7"},
		"no such instance":        {assemble(sec(idAlias, "\x01\x00\x07"+str("x"))), "there is no instance 7"},
		"no such component":       {assemble(sec(idInstance, instantiate0)), "there is no component 0"},
		"no such module":          {assemble(sec(idCoreInstance, instantiate0)), "there is no core module 0"},
		"no such core instance":   {assemble(sec(idAlias, "\x00\x00\x01\x07"+str("x"))), "there is no core instance 7"},
		"too far out":             {assemble(sec(idAlias, "\x03\x02\x09\x00")), "an alias of something outside of the component"},
		"own of no resource":      {assemble(sec(idType, "\x7f", "\x69\x00")), "which is no resource"},
		"nested too deep":         {nested, "nested more than 8 deep"},
		"instances too deep":      {assemble(chain, sec(idInstance, "\x00"+string(number(maxNesting+1))+"\x00")), "instances nested more than 16 deep"},
		"2^30 instances":          {assemble(doubling, sec(idInstance, "\x00\x1e\x00")), "instances nested more than 16 deep"},
		"2^14 instances":          {assemble(doubling, sec(idInstance, many(20, "\x00\x0e\x00")...)), "it takes more than 200000 definitions to link"},
		"bundles":                 {often(sec(idType, "\x7f"), sec(idInstance, "\x01"+times(3000, "\x00\x01a\x03\x00"))), "it takes more than 200000 definitions to link"},
		"arguments":               {often(sec(idType, "\x7f"), whole(idComponent, assemble()), sec(idInstance, "\x00\x00"+times(3000, "\x01a\x03\x00"))), "it takes more than 200000 definitions to link"},
		"fields":                  {often(sec(idType, "\x72"+times(2000, "\x01a\x7f"))), "it takes more than 200000 definitions to link"},
		"parameters":              {often(sec(idType, "\x40"+times(2000, "\x01a\x7f")+"\x01\x00")), "it takes more than 200000 definitions to link"},
		"2^30 parts of a type":    {assemble(sec(idType, types...)), "a type of more than 4096 parts"},
		"very many definitions":   {assemble(sec(idType, many(maxDefinitions+1, "\x7f")...)), "more than 50000 definitions"},
		"a long name":             {assemble(sec(idType, "\x6d\x01"+str(strings.Repeat("a", maxName+1)))), "a name of 1025 bytes"},
		"a name that is none":     {assemble(sec(idType, "\x6d\x01\x01\xff")), "not UTF-8"},
		"a name of control codes": {assemble(sec(idType, "\x6d\x01"+str("a\x1b[2J"))), "cannot be printed"},
		"many core instances":     {assemble(whole(idModule, []byte(emptyMod)), sec(idCoreInstance, many(maxInstances+1, instantiate0)...)), "more than 32 instances of core modules"},
		"many memories":           {assemble(whole(idModule, []byte(pageMod)), sec(idCoreInstance, many(17, instantiate0)...)), "its memories begin with 1114112 bytes, over the limit of 1048576"},
		"as much as it may":       {assemble(whole(idModule, []byte(pageMod)), sec(idCoreInstance, many(16, instantiate0)...)), ""},
		"very many trampolines":   {assemble(sec(idType, "\x3f\x7f\x00"), sec(idCanon, many(maxTrampolines+1, "\x03\x00")...)), "more than 2000 functions of the host"},
		"a module of nothing":     {assemble(whole(idModule, nil)), "a core module of no bytes"},
		"a lying module":          {assemble(whole(idModule, []byte(emptyMod+"\x01\x05\xff\xff\xff\xff\x0f"))), "are claimed in 0 bytes"},
		"a module that is none":   {assemble(whole(idModule, []byte("\x00asm\x02\x00\x00\x00"))), "it is not a WebAssembly module"},
	}
}

// TestLoad: what is not known is refused by name, what is endless is bounded.
func TestLoad(t *testing.T) {
	for what, c := range components() {
		t.Run(what, func(t *testing.T) {
			_, err := testHost(t).Load(c.code)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// FuzzParse: whatever the bytes are, the answer is an error or a program within
// the bounds, and the same twice.
func FuzzParse(f *testing.F) {
	for _, c := range components() {
		if len(c.code) < 4096 {
			f.Add(c.code)
		}
	}
	if dir := os.Getenv("PROSCENIUM_GUESTS"); dir != "" {
		files, _ := filepath.Glob(filepath.Join(dir, "*.wasm"))
		for _, file := range files {
			if code, err := os.ReadFile(file); err == nil && len(code) < 64<<10 {
				f.Add(code)
			}
		}
	}
	h := testHost(f)
	f.Fuzz(func(t *testing.T, code []byte) {
		p, err := h.Load(code)
		_, again := h.Load(code)
		if (err == nil) != (again == nil) {
			t.Fatalf("%v, then %v", err, again)
		}
		if err != nil {
			return
		}
		if !Is(code) || len(p.steps) > maxInstances || p.memory > h.Memory || len(p.modules) > len(p.steps) {
			t.Fatalf("%d steps, %d modules, %d bytes", len(p.steps), len(p.modules), p.memory)
		}
		inside := func(i *coreItem, step int) bool {
			return i == nil || i.instance < step && i.number < len(p.trampolines) && i.number >= 0
		}
		for n, s := range p.steps {
			for _, r := range s.relays {
				r.encode()
				for _, i := range r.items {
					if !inside(&i.from, n) || i.from.kind != i.wanted.Kind {
						t.Fatalf("step %d imports %+v", n, i)
					}
				}
			}
			for _, of := range s.direct {
				if of < 0 || of >= n {
					t.Fatalf("step %d imports of %d", n, of)
				}
			}
		}
		for _, t2 := range p.trampolines {
			if (t2.call == nil) == (t2.refusal == "") || !inside(t2.memory, len(p.steps)) || !inside(t2.realloc, len(p.steps)) || len(t2.params) > maxFlatParams+1 {
				t.Fatalf("trampoline %+v", t2)
			}
		}
	})
}

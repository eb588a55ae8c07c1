package wasm

import (
	"fmt"
	"slices"
)

// A Kind is what can be imported and exported.
type Kind byte

const (
	Function Kind = iota
	Table
	Memory
	Global
)

func (k Kind) String() string {
	if int(k) < 4 {
		return [...]string{"function", "table", "memory", "global"}[k]
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// An Import is what a module wants.
type Import struct {
	Module, Name string
	Kind         Kind
	// Type is the descriptor as it stands in the module; of a function, the
	// function type itself.
	Type []byte
}

// An Interface is what a module wants and offers.
type Interface struct {
	Imports []Import
	Exports map[string]Kind
	Memory  uint64 // bytes that its own memory begins with
}

// Look reads the interface of a module that is bounded.
func Look(code []byte) (Interface, error) {
	x := Interface{Exports: map[string]Kind{}}
	var types [][]byte
	if !IsModule(code) {
		return x, fmt.Errorf("it is not a WebAssembly module")
	}
	r := NewReader(code[len(header):])
	for r.Len() > 0 && r.Err == nil {
		id := r.Byte()
		s := NewReader(r.Bytes())
		switch id {
		case sectionType:
			s.Vector(func() { types = append(types, s.since(func() { s.functionType() })) })
		case sectionImport:
			s.Vector(func() { x.Imports = append(x.Imports, s.anImport(types)) })
		case sectionMemory:
			s.Vector(func() {
				least, _, _ := s.limits()
				x.Memory += uint64(least) << 16
			})
		case sectionExport:
			s.Vector(func() {
				name, kind := string(s.Bytes()), Kind(s.Byte())
				s.Skip()
				x.Exports[name] = kind
			})
		}
		if s.Err != nil {
			return x, fmt.Errorf("section %d of the module: %w", id, s.Err)
		}
	}
	return x, r.Err
}

func (r *Reader) anImport(types [][]byte) (i Import) {
	i.Module, i.Name, i.Kind = string(r.Bytes()), string(r.Bytes()), Kind(r.Byte())
	switch i.Kind {
	case Function:
		t := r.U32()
		if int64(t) >= int64(len(types)) {
			r.Fail("import %s %s has the type %d of %d", i.Module, i.Name, t, len(types))
			return i
		}
		i.Type = types[t]
	case Table:
		i.Type = r.since(func() { r.valueType(); r.limits() })
	case Memory:
		i.Type = r.since(func() { r.limits() })
	case Global:
		i.Type = r.since(func() { r.valueType(); r.Byte() })
	default:
		r.Fail("import of %s", i.Kind)
	}
	return i
}

// since is what f read.
func (r *Reader) since(f func()) []byte {
	before := r.b
	f()
	return slices.Clone(before[:len(before)-len(r.b)])
}

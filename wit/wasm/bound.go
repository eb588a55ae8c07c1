// Package wasm looks through core modules before an engine does, which trusts
// what they claim: it bounds them, and says what they import and export.
package wasm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Bounds of a module, of the order of browsers'. What JavaScript engines have is
// about StarlingMonkey, the largest of which tools make.
const (
	maxImports   = 100000     // likewise exports, types, globals, and segments of elements and of data
	maxFunctions = 1000000    // functions
	maxFunction  = 1 << 19    // bytes of a function; the largest of JavaScript engines has 171 628
	maxSignature = 1000       // parameters of a function, and results
	maxLocals    = 50000      // of a function
	maxAllLocals = 1000000    // of all functions, with their parameters; JavaScript engines have 120 000
	maxBulk      = 4096       // fills and copies in a function: each is many instructions of the machine; of JavaScript engines 126
	maxFlow      = 50_000_000 // locals and parameters of a function, times its blocks and branches, which a compiler multiplies; of JavaScript engines 640 000
	maxElements  = 1 << 20    // of all segments of elements
)

// MaxTable is how many elements the tables of an actor should have at most: the
// host holds 8 bytes for each.
const MaxTable = 1 << 20

// Bound looks through a module before wazero does, which trusts lengths:
// it allocates for as many elements as a vector claims to have, and what Go
// cannot allocate is the end of the process. It also lets tables, which are not
// in the guest's memory, grow without end unless they have a maximum: in the
// module that is returned each has one, and all together have at most so many
// elements. And wazero looks whether a guest's time is up in loops only: calls
// without any loop can go on for ever, and nothing of the host runs that waits
// for the garbage collector. In the module that is returned functions begin with
// a loop, and so does what fills and copies (code.go).
//
// Custom sections are left out. wazero trusts the debugging information that is in
// them, with which a guest can end the process at its next trap, and it writes the
// names that are in them into errors, whatever their length.
//
// Whether the module is valid is wazero's to say: this follows lengths only.
func Bound(code []byte, tables int) ([]byte, error) {
	if !IsModule(code) {
		return nil, errors.New("it is not a WebAssembly module")
	}
	r := NewReader(code[len(header):])
	b := &bounder{}
	out := []byte(header)
	for len(r.b) > 0 {
		id := r.Byte()
		body := r.Take(r.Count())
		s := NewReader(body)
		switch id {
		case sectionTable:
			body = s.tables(tables)
		case sectionCode:
			body = b.code(s)
		default:
			b.section(s, id)
		}
		if r.Err != nil {
			return nil, fmt.Errorf("the module is cut short: %w", r.Err)
		}
		if s.Err != nil {
			return nil, fmt.Errorf("section %d of the module: %w", id, s.Err)
		}
		if id == sectionCustom {
			continue
		}
		out = append(out, id)
		out = binary.AppendUvarint(out, uint64(len(body)))
		out = append(out, body...)
	}
	return out, nil
}

// header begins every core module.
const header = "\x00asm\x01\x00\x00\x00"

// IsModule says whether code begins as a core module does.
func IsModule(code []byte) bool { return bytes.HasPrefix(code, []byte(header)) }

const (
	sectionCustom = iota
	sectionType
	sectionImport
	sectionFunction
	sectionTable
	sectionMemory
	sectionGlobal
	sectionExport
	sectionStart
	sectionElement
	sectionCode
	sectionData
	sectionDataCount
)

// A bounder is what sections are bounded by together.
type bounder struct {
	types     []int // parameters of each
	functions []int // likewise
	locals    uint64
	elements  int
}

func (b *bounder) section(r *Reader, id byte) {
	switch id {
	case sectionCustom:
		r.Bytes() // its name
	case sectionType:
		r.atMost(maxImports, func() { b.types = append(b.types, r.functionType()) })
	case sectionImport:
		r.atMost(maxImports, r.imported)
	case sectionFunction:
		r.atMost(maxFunctions, func() { b.function(r.U32()) })
	case sectionGlobal:
		r.atMost(maxImports, func() { r.valueType(); r.Byte(); r.expression() })
	case sectionExport:
		r.atMost(maxImports, func() { r.Bytes(); r.Byte(); r.Skip() })
	case sectionElement:
		r.atMost(maxImports, func() { b.element(r) })
	case sectionData:
		r.atMost(maxImports, r.data)
	case sectionMemory, sectionStart, sectionDataCount: // wazero allocates nothing for them
	default:
		r.Fail("unknown")
	}
}

// function notes how many parameters a function has. A type that is not there
// wazero refuses.
func (b *bounder) function(typ uint32) {
	n := 0
	if uint64(typ) < uint64(len(b.types)) {
		n = b.types[typ]
	}
	b.functions = append(b.functions, n)
}

// atMost is Vector for so many elements.
func (r *Reader) atMost(n int, element func()) {
	left := n
	r.Vector(func() {
		if left--; left < 0 {
			r.Fail("it has more than %d elements", n)
			return
		}
		element()
	})
}

func (r *Reader) functionType() (params int) {
	if form := r.Byte(); form != 0x60 {
		r.Fail("type of form %#x", form)
	}
	results := 0
	r.Vector(func() { r.valueType(); params++ })
	r.Vector(func() { r.valueType(); results++ })
	if n := max(params, results); n > maxSignature {
		r.Fail("a function of %d parameters or results, more than %d", n, maxSignature)
	}
	return params
}

func (r *Reader) imported() {
	r.Bytes()
	r.Bytes()
	switch kind := r.Byte(); kind {
	case 0: // function
		r.Skip()
	case 1: // table
		r.valueType()
		r.limits()
	case 2: // memory
		r.limits()
	case 3: // global
		r.valueType()
		r.Byte()
	default:
		r.Fail("import of kind %d", kind)
	}
}

// element: bit 0 of the kind is passive or declarative, bit 1 an explicit table
// or declarative, bit 2 expressions instead of indices.
func (b *bounder) element(r *Reader) {
	kind := r.U32()
	if kind > 7 {
		r.Fail("element segment of kind %d", kind)
	}
	if kind&1 == 0 {
		if kind&2 != 0 {
			r.Skip()
		}
		r.expression()
	}
	if kind&3 != 0 {
		r.valueType() // or the kind of element, a byte as well
	}
	one := r.Skip
	if kind&4 != 0 {
		one = r.expression
	}
	r.Vector(func() {
		if b.elements++; b.elements > maxElements {
			r.Fail("its segments of elements have more than %d", maxElements)
			return
		}
		one()
	})
}

func (r *Reader) data() {
	switch kind := r.U32(); kind {
	case 2:
		r.Skip()
		r.expression()
	case 0:
		r.expression()
	case 1:
	default:
		r.Fail("data segment of kind %d", kind)
	}
	r.Bytes()
}

// tables returns the section with a maximum for each table.
func (r *Reader) tables(limit int) []byte {
	n := r.Count()
	out := binary.AppendUvarint(nil, uint64(n))
	total := uint64(0)
	for range n {
		kind := r.Byte()
		least, most, bounded := r.limits()
		if kind != 0x70 && kind != 0x6f {
			r.Fail("table of type %#x", kind)
		}
		if total += uint64(least); total > uint64(limit) {
			r.Fail("tables of %d elements are more than %d", total, limit)
		}
		if share := uint32(limit / n); !bounded || most > share {
			most = max(least, share)
		}
		out = append(out, kind, 1)
		out = binary.AppendUvarint(out, uint64(least))
		out = binary.AppendUvarint(out, uint64(most))
	}
	return out
}

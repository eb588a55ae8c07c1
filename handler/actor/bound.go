package actor

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// Bounds of a module, beyond those of its memory.
const (
	maxLocals = 50000   // of a function, as in browsers
	maxTable  = 1 << 20 // elements of a module's tables, which the host holds: 8 bytes each
)

// boundModule looks through a module before wazero does, which trusts lengths:
// it allocates for as many elements as a vector claims to have, and what Go
// cannot allocate is the end of the process. It also lets tables, which are not
// in the guest's memory, grow without end unless they have a maximum: in the
// module that is returned each has one.
//
// Whether the module is valid is wazero's to say: this follows lengths only.
func boundModule(code []byte) ([]byte, error) {
	const header = 8
	r := &reader{b: code[header:]}
	out := slices.Clone(code[:header])
	for len(r.b) > 0 {
		id := r.byte()
		body := r.take(r.count())
		s := &reader{b: body}
		if id == sectionTable {
			body = s.tables()
		} else {
			s.section(id)
		}
		if r.err != nil {
			return nil, fmt.Errorf("the module is cut short: %w", r.err)
		}
		if s.err != nil {
			return nil, fmt.Errorf("section %d of the module: %w", id, s.err)
		}
		out = append(out, id)
		out = binary.AppendUvarint(out, uint64(len(body)))
		out = append(out, body...)
	}
	return out, nil
}

// A reader reads the binary format; after an error it reads nothing.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	r.b = nil
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail("unexpected end")
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u32() uint32 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > math.MaxUint32 {
		r.fail("unexpected end, or a number of more than 32 bits")
		return 0
	}
	r.b = r.b[n:]
	return uint32(v)
}

// number skips a number, signed or not.
func (r *reader) number() {
	for r.byte() >= 0x80 {
	}
}

// count is the length of a vector, whose elements take a byte at least.
func (r *reader) count() int {
	n := r.u32()
	if uint64(n) > uint64(len(r.b)) {
		r.fail("%d elements are claimed in %d bytes", n, len(r.b))
		return 0
	}
	return int(n)
}

func (r *reader) vector(element func()) {
	for range r.count() {
		if element(); r.err != nil {
			return
		}
	}
}

func (r *reader) bytes() { r.take(r.count()) }

func (r *reader) valueType() {
	if t := r.byte(); t == 0x63 || t == 0x64 { // ref null, ref
		r.number()
	}
}

func (r *reader) limits() (least, most uint32, bounded bool) {
	bounded = r.byte()&1 != 0
	least = r.u32()
	if bounded {
		most = r.u32()
	}
	return least, most, bounded
}

// expression skips a constant expression.
func (r *reader) expression() {
	for r.err == nil {
		switch op := r.byte(); op {
		case 0x0b: // end
			return
		case 0x41, 0x42, 0x23, 0xd0, 0xd2: // i32.const, i64.const, global.get, ref.null, ref.func
			r.number()
		case 0x43: // f32.const
			r.take(4)
		case 0x44: // f64.const
			r.take(8)
		case 0xfd: // v128.const
			r.number()
			r.take(16)
		default:
			r.fail("opcode %#x in a constant expression", op)
		}
	}
}

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

func (r *reader) section(id byte) {
	switch id {
	case sectionCustom:
		r.custom()
	case sectionType:
		r.vector(r.functionType)
	case sectionImport:
		r.vector(r.imported)
	case sectionFunction:
		r.vector(r.number)
	case sectionGlobal:
		r.vector(func() { r.valueType(); r.byte(); r.expression() })
	case sectionExport:
		r.vector(func() { r.bytes(); r.byte(); r.number() })
	case sectionElement:
		r.vector(r.element)
	case sectionCode:
		r.vector(r.function)
	case sectionData:
		r.vector(r.data)
	case sectionMemory, sectionStart, sectionDataCount: // wazero allocates nothing for them
	default:
		r.fail("unknown")
	}
}

func (r *reader) functionType() {
	if form := r.byte(); form != 0x60 {
		r.fail("type of form %#x", form)
	}
	r.vector(r.valueType)
	r.vector(r.valueType)
}

func (r *reader) imported() {
	r.bytes()
	r.bytes()
	switch kind := r.byte(); kind {
	case 0: // function
		r.number()
	case 1: // table
		r.valueType()
		r.limits()
	case 2: // memory
		r.limits()
	case 3: // global
		r.valueType()
		r.byte()
	default:
		r.fail("import of kind %d", kind)
	}
}

// element: bit 0 of the kind is passive or declarative, bit 1 an explicit table
// or declarative, bit 2 expressions instead of indices.
func (r *reader) element() {
	kind := r.u32()
	if kind > 7 {
		r.fail("element segment of kind %d", kind)
	}
	if kind&1 == 0 {
		if kind&2 != 0 {
			r.number()
		}
		r.expression()
	}
	if kind&3 != 0 {
		r.valueType() // or the kind of element, a byte as well
	}
	if kind&4 != 0 {
		r.vector(r.expression)
	} else {
		r.vector(r.number)
	}
}

func (r *reader) function() {
	body := &reader{b: r.take(r.count())}
	locals := uint64(0)
	body.vector(func() {
		locals += uint64(body.u32())
		body.valueType()
	})
	if locals > maxLocals {
		body.fail("a function has %d locals, more than %d", locals, maxLocals)
	}
	if body.err != nil {
		r.fail("%w", body.err)
	}
}

func (r *reader) data() {
	switch kind := r.u32(); kind {
	case 2:
		r.number()
		r.expression()
	case 0:
		r.expression()
	case 1:
	default:
		r.fail("data segment of kind %d", kind)
	}
	r.bytes()
}

// custom follows the one custom section that wazero reads.
func (r *reader) custom() {
	if string(r.take(r.count())) != "name" {
		return
	}
	for len(r.b) > 0 {
		id := r.byte()
		s := &reader{b: r.take(r.count())}
		named := func() { s.number(); s.bytes() }
		switch id {
		case 0: // the module
			s.bytes()
		case 1: // functions
			s.vector(named)
		case 2: // their locals
			s.vector(func() { s.number(); s.vector(named) })
		}
		if s.err != nil {
			r.fail("%w", s.err)
		}
	}
}

// tables returns the section with a maximum for each table.
func (r *reader) tables() []byte {
	n := r.count()
	out := binary.AppendUvarint(nil, uint64(n))
	total := uint64(0)
	for range n {
		kind := r.byte()
		least, most, bounded := r.limits()
		if kind != 0x70 && kind != 0x6f {
			r.fail("table of type %#x", kind)
		}
		if total += uint64(least); total > maxTable {
			r.fail("tables of %d elements are more than %d", total, maxTable)
		}
		if share := uint32(maxTable / n); !bounded || most > share {
			most = max(least, share)
		}
		out = append(out, kind, 1)
		out = binary.AppendUvarint(out, uint64(least))
		out = binary.AppendUvarint(out, uint64(most))
	}
	return out
}

package wasm

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A Reader reads the binary format. After an error it reads nothing: numbers are
// 0, vectors empty.
type Reader struct {
	b   []byte
	Err error // the first
}

// NewReader reads b, of which it keeps nothing but slices.
func NewReader(b []byte) *Reader { return &Reader{b: b} }

// Len is how many bytes are left.
func (r *Reader) Len() int { return len(r.b) }

// Fail notes an error, if it is the first.
func (r *Reader) Fail(format string, args ...any) {
	if r.Err == nil {
		r.Err = fmt.Errorf(format, args...)
	}
	r.b = nil
}

// Take is the next n bytes, not copied.
func (r *Reader) Take(n int) []byte {
	if n > len(r.b) {
		r.Fail("unexpected end")
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

// Byte is the next byte.
func (r *Reader) Byte() byte {
	if b := r.Take(1); b != nil {
		return b[0]
	}
	return 0
}

// U32 is a number in LEB128.
func (r *Reader) U32() uint32 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > math.MaxUint32 {
		r.Fail("unexpected end, or a number of more than 32 bits")
		return 0
	}
	r.b = r.b[n:]
	return uint32(v)
}

// Skip skips a number, signed or not.
func (r *Reader) Skip() {
	for r.Byte() >= 0x80 {
	}
}

// Count is the length of a vector, whose elements take a byte at least.
func (r *Reader) Count() int {
	n := r.U32()
	if uint64(n) > uint64(len(r.b)) {
		r.Fail("%d elements are claimed in %d bytes", n, len(r.b))
		return 0
	}
	return int(n)
}

// Vector reads each element of a vector.
func (r *Reader) Vector(element func()) {
	for range r.Count() {
		if element(); r.Err != nil {
			return
		}
	}
}

// Bytes is a length and so many bytes, not copied.
func (r *Reader) Bytes() []byte { return r.Take(r.Count()) }

func (r *Reader) valueType() {
	if t := r.Byte(); t == 0x63 || t == 0x64 { // ref null, ref
		r.Skip()
	}
}

func (r *Reader) limits() (least, most uint32, bounded bool) {
	bounded = r.Byte()&1 != 0
	least = r.U32()
	if bounded {
		most = r.U32()
	}
	return least, most, bounded
}

// expression skips a constant expression.
func (r *Reader) expression() {
	for r.Err == nil {
		switch op := r.Byte(); op {
		case 0x0b: // end
			return
		case 0x41, 0x42, 0x23, 0xd0, 0xd2: // i32.const, i64.const, global.get, ref.null, ref.func
			r.Skip()
		case 0x6a, 0x6b, 0x6c, 0x7c, 0x7d, 0x7e: // extended-const: i32 and i64 add, sub, mul
		case 0x43: // f32.const
			r.Take(4)
		case 0x44: // f64.const
			r.Take(8)
		case 0xfd: // v128.const
			r.Skip()
			r.Take(16)
		default:
			r.Fail("opcode %#x in a constant expression", op)
		}
	}
}

// Package canon lifts values out of a guest's memory and lowers values into it,
// by the canonical ABI of the component model (sync, wasm32, utf8), for the types
// that package wit's interfaces use.
//
// Everything that comes from a guest is checked before it is used: what the
// specification says must trap is a *Trap, and the caller ends the guest. What
// is legal but more than a caller wants to hold is ErrBudget, which is the
// caller's to answer. Nothing of the guest's memory is kept: it is copied, but
// for View.
package canon

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/tetratelabs/wazero/api"
)

// A Trap is a violation of the ABI by the guest, after which its instance must
// not be used again.
type Trap struct{ Reason string }

func (t *Trap) Error() string { return "guest violates the canonical ABI: " + t.Reason }

func trapf(format string, args ...any) error { return &Trap{fmt.Sprintf(format, args...)} }

// ErrBudget is a call that asks the host to copy more than its budget.
var ErrBudget = errors.New("the call passes more data than the host takes")

// maxBytes is the longest string or list in bytes (the specification's
// MAX_STRING_BYTE_LENGTH and MAX_LIST_BYTE_LENGTH).
const maxBytes = 1<<28 - 1

// Memory is a guest's memory.
type Memory struct{ api.Memory }

// check is the range test, in 64 bits: [ptr, ptr+n) lies in memory. An empty
// range must as well.
func (m Memory) check(what string, ptr uint32, n uint64) error {
	if n > maxBytes {
		return trapf("%s has %d bytes, the longest is %d", what, n, maxBytes)
	}
	if uint64(ptr)+n > uint64(m.Size()) {
		return trapf("%s at %#x+%d is outside of memory (%d bytes)", what, ptr, n, m.Size())
	}
	return nil
}

// Area checks a return area: aligned, and in memory. Check it before acting, or
// a trap leaves behind what was done.
func (m Memory) Area(ptr, size, align uint32) error {
	if ptr%align != 0 {
		return trapf("return area at %#x is not aligned to %d", ptr, align)
	}
	return m.check("return area", ptr, uint64(size))
}

// Parameters checks parameters that lie in memory, too many for the stack.
func (m Memory) Parameters(ptr, size, align uint32) error {
	if ptr%align != 0 {
		return trapf("parameters at %#x are not aligned to %d", ptr, align)
	}
	return m.check("parameters", ptr, uint64(size))
}

// View is the list<u8> at ptr, not copied: it is valid until the guest runs.
func (m Memory) View(ptr, n uint32) ([]byte, error) {
	if err := m.check("list<u8>", ptr, uint64(n)); err != nil {
		return nil, err
	}
	b, _ := m.Read(ptr, n)
	return b, nil
}

// A Lifter lifts the parameters of one call. Budget is how many bytes it may
// still copy, over all of them: one string can be listed 65 536 times.
type Lifter struct {
	Memory Memory
	Budget int
}

// elementCost is what an element costs the host besides its bytes.
const elementCost = 16

func (l *Lifter) spend(n uint64) error {
	if n > uint64(max(l.Budget, 0)) {
		l.Budget = 0
		return ErrBudget
	}
	l.Budget -= int(n)
	return nil
}

// String lifts a string, which must be valid UTF-8 and may contain NUL.
func (l *Lifter) String(ptr, n uint32) (string, error) {
	if err := l.Memory.check("string", ptr, uint64(n)); err != nil {
		return "", err
	}
	view, _ := l.Memory.Read(ptr, n)
	if err := l.spend(uint64(n)); err != nil {
		return "", err
	}
	if !utf8.Valid(view) {
		return "", trapf("string at %#x+%d is not valid UTF-8", ptr, n)
	}
	return string(view), nil
}

// list checks a list of n elements and pays for them.
func (l *Lifter) list(what string, ptr, n, size, align uint32) error {
	if ptr%align != 0 {
		return trapf("%s at %#x is not aligned to %d", what, ptr, align)
	}
	if err := l.Memory.check(what, ptr, uint64(n)*uint64(size)); err != nil {
		return err
	}
	return l.spend(uint64(n) * elementCost)
}

// at lifts the string whose pointer and length stand at ptr, which was checked.
func (l *Lifter) at(ptr uint32) (string, error) {
	p, _ := l.Memory.ReadUint32Le(ptr)
	n, _ := l.Memory.ReadUint32Le(ptr + 4)
	return l.String(p, n)
}

// Strings lifts a list<string>.
func (l *Lifter) Strings(ptr, n uint32) ([]string, error) {
	if err := l.list("list<string>", ptr, n, 8, 4); err != nil {
		return nil, err
	}
	out := make([]string, 0, n)
	for i := range n {
		s, err := l.at(ptr + 8*i)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// Pairs lifts a list<tuple<string, string>>.
func (l *Lifter) Pairs(ptr, n uint32) ([][2]string, error) {
	if err := l.list("list<tuple<string, string>>", ptr, n, 16, 4); err != nil {
		return nil, err
	}
	out := make([][2]string, 0, n)
	for i := range n {
		var pair [2]string
		for j := range pair {
			s, err := l.at(ptr + 16*i + 8*uint32(j))
			if err != nil {
				return nil, err
			}
			pair[j] = s
		}
		out = append(out, pair)
	}
	return out, nil
}

// Case checks a flat discriminant, of which all 32 bits count.
func Case(what string, value uint64, cases uint32) (uint32, error) {
	if v := uint32(value); v < cases {
		return v, nil
	}
	return 0, trapf("%s has no case %d", what, uint32(value))
}

// CaseAt checks a discriminant in memory, of which one byte counts. The address
// was checked.
func (m Memory) CaseAt(what string, ptr uint32, cases byte) (byte, error) {
	b, ok := m.Read(ptr, 1)
	switch {
	case !ok:
		return 0, trapf("%s at %#x is outside of memory", what, ptr)
	case b[0] >= cases:
		return 0, trapf("%s has no case %d", what, b[0])
	}
	return b[0], nil
}

// Realloc is the guest's cabi_realloc, called for new memory only.
type Realloc func(ctx context.Context, align, size uint32) (uint32, error)

// A Lowerer lowers values into one guest.
type Lowerer struct {
	Memory  Memory
	Realloc Realloc
}

// Alloc is new memory of the guest's; the guest's answer is checked. An empty
// list needs none.
func (l *Lowerer) Alloc(ctx context.Context, size, align uint32) (uint32, error) {
	if size == 0 {
		return align, nil
	}
	ptr, err := l.Realloc(ctx, align, size)
	if err != nil {
		return 0, err
	}
	if ptr%align != 0 {
		return 0, trapf("cabi_realloc gave %#x, not aligned to %d", ptr, align)
	}
	if err := l.Memory.check("cabi_realloc's memory", ptr, uint64(size)); err != nil {
		return 0, err
	}
	return ptr, nil
}

// Bytes lowers a list<u8> or, if it is valid UTF-8, a string.
func (l *Lowerer) Bytes(ctx context.Context, b []byte) (ptr, n uint32, err error) {
	ptr, err = l.Aligned(ctx, b, 1)
	return ptr, uint32(len(b)), err
}

// Aligned lowers the bytes of a list whose elements have that alignment.
func (l *Lowerer) Aligned(ctx context.Context, b []byte, align uint32) (ptr uint32, err error) {
	if len(b) > maxBytes {
		return 0, ErrBudget
	}
	if ptr, err = l.Alloc(ctx, uint32(len(b)), align); err != nil {
		return 0, err
	}
	if len(b) > 0 && !l.Memory.Write(ptr, b) {
		return 0, trapf("memory at %#x shrank", ptr)
	}
	return ptr, nil
}

// A Record is memory that is being laid out: fields by their offsets.
type Record []byte

func (r Record) U8(offset int, v byte)    { r[offset] = v }
func (r Record) U32(offset int, v uint32) { binary.LittleEndian.PutUint32(r[offset:], v) }
func (r Record) U64(offset int, v uint64) { binary.LittleEndian.PutUint64(r[offset:], v) }

// F32 stores a float; every NaN is the canonical one.
func (r Record) F32(offset int, v float32) {
	bits := math.Float32bits(v)
	if v != v {
		bits = 0x7fc00000
	}
	r.U32(offset, bits)
}

// Bool stores a bool.
func (r Record) Bool(offset int, v bool) {
	if v {
		r[offset] = 1
	}
}

// Store writes the record to a return area that was checked.
func (m Memory) Store(ptr uint32, r Record) error {
	if !m.Write(ptr, r) {
		return trapf("return area at %#x+%d is outside of memory", ptr, len(r))
	}
	return nil
}

package canon

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"testing"
	"unicode/utf8"

	"github.com/tetratelabs/wazero/api"
)

// flat is a guest's memory without a guest: of api.Memory what canon uses.
type flat struct {
	api.Memory
	b []byte
}

func (f *flat) Size() uint32 { return uint32(len(f.b)) }

func (f *flat) Read(at, n uint32) ([]byte, bool) {
	if uint64(at)+uint64(n) > uint64(len(f.b)) {
		return nil, false
	}
	return f.b[at : at+n : at+n], true
}

func (f *flat) ReadUint32Le(at uint32) (uint32, bool) {
	b, ok := f.Read(at, 4)
	if !ok {
		return 0, false
	}
	return binary.LittleEndian.Uint32(b), true
}

func (f *flat) Write(at uint32, v []byte) bool {
	b, ok := f.Read(at, uint32(len(v)))
	copy(b, v)
	return ok
}

// reference is the specification's way to load a string, written for reading.
func reference(mem []byte, ptr, n uint32) (string, bool) {
	if uint64(n) > maxBytes || uint64(ptr)+uint64(n) > uint64(len(mem)) {
		return "", false
	}
	s := string(mem[ptr : uint64(ptr)+uint64(n)])
	return s, utf8.ValidString(s)
}

func referenceList(mem []byte, ptr, n uint32) (list []string, ok bool) {
	if ptr%4 != 0 || uint64(n)*8 > maxBytes || uint64(ptr)+uint64(n)*8 > uint64(len(mem)) {
		return nil, false
	}
	for i := range n {
		at := ptr + 8*i
		s, ok := reference(mem, binary.LittleEndian.Uint32(mem[at:]), binary.LittleEndian.Uint32(mem[at+4:]))
		if !ok {
			return nil, false
		}
		list = append(list, s)
	}
	return list, true
}

// FuzzLift: lifting agrees with the reference, or the budget stopped it, and
// never copies more than the budget.
func FuzzLift(f *testing.F) {
	f.Add([]byte("\x08\x00\x00\x00\x02\x00\x00\x00héllo, world"), uint32(0), uint32(1), 100)
	f.Add([]byte{0, 0, 0, 0, 255, 255, 255, 255}, uint32(0), uint32(1), 100)
	f.Add(make([]byte, 64), uint32(4), uint32(1<<29), 1<<20)
	f.Add([]byte("\xed\xa0\x80"), uint32(0), uint32(3), 10)
	f.Fuzz(func(t *testing.T, mem []byte, ptr, n uint32, budget int) {
		m := Memory{&flat{b: mem}}
		l := Lifter{m, budget}
		got, err := l.String(ptr, n)
		want, ok := reference(mem, ptr, n)
		if !errors.Is(err, ErrBudget) && (err == nil) != ok || err == nil && got != want {
			t.Errorf("String(%d, %d) = %q, %v; want %q, %v", ptr, n, got, err, want, ok)
		}
		l = Lifter{m, budget}
		list, err := l.Strings(ptr, n)
		wantList, ok := referenceList(mem, ptr, n)
		if !errors.Is(err, ErrBudget) && (err == nil) != ok || err == nil && !slices.Equal(list, wantList) {
			t.Errorf("Strings(%d, %d) = %q, %v; want %q, %v", ptr, n, list, err, wantList, ok)
		}
		total := 0
		for _, s := range list {
			total += len(s) + elementCost
		}
		if total > max(budget, 0) {
			t.Errorf("%d bytes were copied on a budget of %d", total, budget)
		}
		l = Lifter{m, budget}
		if pairs, err := l.Pairs(ptr, n); err == nil && len(pairs) > 0 {
			if flatList, ok := referenceList(mem, ptr, 2*n); !ok || pairs[0] != [2]string{flatList[0], flatList[1]} {
				t.Errorf("Pairs(%d, %d) = %q", ptr, n, pairs)
			}
		}
	})
}

func TestTraps(t *testing.T) {
	m := Memory{&flat{b: make([]byte, 64)}}
	var trap *Trap
	for name, err := range map[string]error{
		"behind the end":         m.check("x", 60, 5),
		"empty behind the end":   m.check("x", 65, 0),
		"wraps around":           m.check("x", 0xfffffff0, 0x20),
		"too long":               m.check("x", 0, maxBytes+1),
		"area not aligned":       m.Area(4, 16, 8),
		"area behind the end":    m.Area(56, 16, 8),
		"case of a flat variant": second(Case("x", 256, 4)),
		"case in memory":         second(m.CaseAt("x", 0, 0)),
	} {
		if !errors.As(err, &trap) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := errors.Join(m.check("x", 64, 0), m.Area(48, 16, 8), second(Case("x", 1<<32|3, 4))); err != nil {
		t.Error(err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestLower(t *testing.T) {
	mem := &flat{b: make([]byte, 64)}
	answer := uint32(8)
	l := Lowerer{Memory{mem}, func(context.Context, uint32, uint32) (uint32, error) { return answer, nil }}
	ctx := context.Background()
	if ptr, n, err := l.Bytes(ctx, []byte("abc")); err != nil || ptr != 8 || n != 3 || !bytes.Equal(mem.b[8:11], []byte("abc")) {
		t.Errorf("%d, %d, %v", ptr, n, err)
	}
	if ptr, n, err := l.Bytes(ctx, nil); err != nil || ptr != 1 || n != 0 {
		t.Errorf("empty: %d, %d, %v", ptr, n, err)
	}
	var trap *Trap
	for name, c := range map[string]struct{ answer, align uint32 }{"misaligned": {9, 8}, "out of range": {63, 1}, "far out": {0xffffffff, 1}} {
		answer = c.answer
		if _, err := l.Alloc(ctx, 2, c.align); !errors.As(err, &trap) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := make(Record, 16)
	r.F32(0, float32(math.NaN()))
	r.U64(8, 1<<40)
	r.Bool(4, true)
	if !bytes.Equal(r, []byte{0, 0, 0xc0, 0x7f, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0}) {
		t.Errorf("% x", r)
	}
}

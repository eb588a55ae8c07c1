package wasm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// Modules whose function 0, exported as f, takes very long without any loop.
const (
	// f(n) = n == 0 ? 1 : f(n-1) + f(n-1)
	doubling = "\x20\x00\x45\x04\x7f\x41\x01\x05\x20\x00\x41\x01\x6b\x10\x00\x20\x00\x41\x01\x6b\x10\x00\x6a\x0b\x0b"
	// f(n) = f(n-1), as a tail call
	tail = "\x20\x00\x41\x01\x6b\x12\x00\x0b"
)

// reached is where a function that straight made stores a 7 at its end.
const reached = 64

// straight is a function that does the same very often, and nothing else.
func straight(instruction string) string {
	const store = "\x41\xc0\x00\x41\x07\x3a\x00\x00"
	return strings.Repeat(instruction, 1000) + store + "\x20\x00\x0b"
}

// On 16 MiB of memory and a table of a million elements; the address or number to
// begin with is 0.
const (
	fillMemory = "\x41\x00\x41\x00\x41\x80\x80\x80\x08\xfc\x0b\x00"
	copyMemory = "\x41\x00\x41\x01\x41\xff\xff\xff\x07\xfc\x0a\x00\x00"
	fillTable  = "\x41\x00\xd0\x70\x41\x80\x80\xc0\x00\xfc\x11\x00"
	copyTable  = "\x41\x00\x41\x01\x41\xff\xff\x3f\xfc\x0e\x00\x00"
)

func vec(bytes string) string { return string(binary.AppendUvarint(nil, uint64(len(bytes)))) + bytes }

func part(id byte, body string) string { return string(id) + vec(body) }

// module has a memory, a table and the function f(i32) -> i32 of this code, without
// locals.
func module(code string) []byte {
	return []byte(header + part(sectionType, "\x01\x60\x01\x7f\x01\x7f") + part(sectionFunction, "\x01\x00") +
		part(sectionTable, "\x01\x70\x00\x80\x80\x40") + part(sectionMemory, "\x01\x00\x80\x02") +
		part(sectionExport, "\x02\x01f\x00\x00\x01m\x02\x00") + part(sectionCode, "\x01"+vec("\x00"+code)))
}

// TestCallsEnd: calls without loops end when their time is up.
func TestCallsEnd(t *testing.T) {
	for what, code := range map[string]string{
		"doubling": doubling, "tail call": tail,
		"memory.fill": straight(fillMemory), "memory.copy": straight(copyMemory),
		"table.fill": straight(fillTable), "table.copy": straight(copyTable),
	} {
		t.Run(what, func(t *testing.T) {
			code, err := Bound(module(code), MaxTable)
			if err != nil {
				t.Fatal(err)
			}
			r := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfig().WithCloseOnContextDone(true).
				WithCoreFeatures(api.CoreFeaturesV2|experimental.CoreFeaturesTailCall))
			defer r.Close(context.Background())
			m, err := r.Instantiate(t.Context(), code)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			memory := m.Memory()
			if _, err := m.ExportedFunction("f").Call(ctx, 100); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			if b, ok := memory.ReadByte(reached); !ok || b != 0 {
				t.Error("the function has come to its end")
			}
		})
	}
}

// TestCustomSectionsAreDropped: a guest's names and debugging information reach
// nobody.
func TestCustomSectionsAreDropped(t *testing.T) {
	plain := module(tail)
	custom := "\x00\x0a\x04name\x01\x03\x01\x00\x00"
	with := append([]byte(header+custom), append(plain[len(header):], custom...)...)
	want, err := Bound(plain, MaxTable)
	got, err2 := Bound(with, MaxTable)
	if err != nil || err2 != nil || !bytes.Equal(got, want) {
		t.Errorf("%v, %v: %q, want %q", err, err2, got, want)
	}
}

// TestWalk: immediates that look like instructions are none, and what this host does
// not know is refused by name.
func TestWalk(t *testing.T) {
	for what, c := range map[string]struct {
		code string
		bulk int // where the only such instruction is; -1: there is none
		want string
	}{
		"i32.const":                 {"\x41\xfc\x0b\x1a\xfc\x0b\x00\x0b", 4, ""},
		"8191 bytes":                {"\x41\xff\x3f\xfc\x0b\x00\x0b", -1, ""},
		"8192 bytes":                {"\x41\x80\xc0\x00\xfc\x0b\x00\x0b", 4, ""},
		"-1 bytes":                  {"\x41\x7f\xfc\x0b\x00\x0b", 2, ""},
		"-1 bytes, longer":          {"\x41\xff\x7f\xfc\x0b\x00\x0b", 3, ""},
		"a block behind a constant": {"\x41\x01\x02\x40\x0b\xfc\x0b\x00\x0b", 5, ""},
		"f64.const":                 {"\x44\xfc\x0b\x00\xfc\x0b\x00\xfc\x0b\x1a\x0b", -1, ""},
		"v128.const":                {"\xfd\x0c" + strings.Repeat("\xfc\x0b", 8) + "\x1a\x0b", -1, ""},
		"i32x4.abs":                 {"\xfd\xa0\x01\xfc\x0b\x00\x0b", 3, ""},
		"a store of a lane":         {"\xfd\x58\x00\xfc\x0b\x00\xfc\x0a\x00\x00\x0b", 6, ""},
		"br_table":                  {"\x0e\x02\xfc\x0b\xfc\x0b\x00\xfc\x08\x00\x00\x0b", 7, ""},
		"select":                    {"\x1c\x01\x7f\xfc\x0e\x00\x00\x0b", 3, ""},
		"a saturating conversion":   {"\xfc\x00\x0b", -1, ""},
		"a relaxed vector":          {"\xfd\x80\x02\x0b", -1, "the opcode 0xfd 0x80 0x2, which"},
		"a long vector":             {"\xfd\x80\x00\x00\x00\x0b", -1, "the opcode 0xfd 0x80 0x0, which"},
		"an atomic":                 {"\xfe\x03\x00\x0b", -1, "the opcode 0xfe, which"},
		"an exception":              {"\x08\x00\x0b", -1, "the opcode 0x8, which"},
		"a half":                    {"\x44\x00\x00", -1, "unexpected end"},
	} {
		t.Run(what, func(t *testing.T) {
			r := NewReader([]byte(c.code))
			b := r.walk()
			if c.want != "" {
				if r.Err == nil || !strings.Contains(r.Err.Error(), c.want) {
					t.Errorf("%v, want %q", r.Err, c.want)
				}
				return
			}
			at := -1
			if len(b.bulk) == 1 {
				at = b.bulk[0]
			}
			if r.Err != nil || len(b.bulk) > 1 || at != c.bulk {
				t.Errorf("%v: bulk instructions at %d, want %d", r.Err, b.bulk, c.bulk)
			}
		})
	}
}

// functions is a module of n functions of this type and code, with locals.
func functions(n int, typ, code string) []byte {
	count := string(binary.AppendUvarint(nil, uint64(n)))
	return []byte(header + part(sectionType, "\x01\x60"+typ) + part(sectionFunction, count+strings.Repeat("\x00", n)) +
		part(sectionCode, count+strings.Repeat(vec(code), n)))
}

// TestBounds: what takes an engine very long to compile is refused by name.
func TestBounds(t *testing.T) {
	const (
		nothing  = "\x00\x00"
		locals49 = "\x01\xe8\xfe\x02\x7f" // 49 000 of i32
	)
	times := func(n int, s string) string {
		return string(binary.AppendUvarint(nil, uint64(n))) + strings.Repeat(s, n)
	}
	element := func(n int, index string) []byte {
		return []byte(header + part(sectionElement, "\x01\x01\x00"+times(n, index)))
	}
	for what, c := range map[string]struct {
		code []byte
		want string // "": nothing
	}{
		"fills":            {module(strings.Repeat(fillMemory, maxBulk+1) + "\x20\x00\x0b"), "in 4097 places, more than 4096"},
		"locals":           {functions(21, nothing, locals49+"\x0b"), "its functions have more than 1000000 locals"},
		"fewer locals":     {functions(20, nothing, locals49+"\x0b"), ""},
		"parameters":       {functions(1001, times(1000, "\x7f")+"\x00", "\x00\x0b"), "its functions have more than 1000000 locals"},
		"a long signature": {functions(1, times(1001, "\x7f")+"\x00", "\x00\x0b"), "1001 parameters or results"},
		"blocks":           {functions(1, nothing, locals49+strings.Repeat("\x02\x40\x0b", 1021)+"\x0b"), "49000 locals with 1021 blocks and branches"},
		"fewer blocks":     {functions(1, nothing, locals49+strings.Repeat("\x02\x40\x0b", 1020)+"\x0b"), ""},
		"a branch table":   {functions(1, nothing, locals49+"\x41\x00\x0e"+times(1020, "\x00")+"\x00\x0b"), "49000 locals with 1021 blocks"},
		"elements":         {element(maxElements+1, "\x00"), "more than 1048576"},
		"fewer elements":   {element(maxElements, "\x00"), ""},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := Bound(c.code, MaxTable)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

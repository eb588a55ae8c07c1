package actor

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

// dwarf is debugging information about all code, by which it was inlined from the
// file that the line table has under this number.
func dwarf(callFile byte) []byte {
	word := func(b []byte, n int) []byte { return binary.LittleEndian.AppendUint32(b, uint32(n)) }
	sized := func(b []byte) []byte { return append(word(nil, len(b)), b...) }
	custom := func(title string, data []byte) []byte {
		body := append(name(title), data...)
		return slices.Concat([]byte{0}, uleb(len(body)), body)
	}
	const all = 0x7ffffff0 // bytes of code
	abbrev := []byte{1, 0x11, 1, 0x10, 0x17, 0x11, 1, 0x12, 6, 0, 0, 2, 0x1d, 0, 0x11, 1, 0x12, 6, 0x58, 0x0d, 0, 0, 0}
	info := word(word(word([]byte{4, 0, 0, 0, 0, 0, 4, 1}, 0), 1), all)
	info = append(word(word(append(info, 2), 1), all), callFile, 0)
	head := slices.Concat([]byte{1, 1, 1, 0xfb, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0}, []byte("a\x00\x00\x00\x00\x00"))
	program := slices.Concat([]byte{0, 5, 2}, word(nil, 1), []byte{1, 2}, uleb(0x7000000), []byte{1, 0, 1, 1})
	line := slices.Concat([]byte{4, 0}, sized(head), program)
	return slices.Concat(custom(".debug_abbrev", abbrev), custom(".debug_info", sized(info)), custom(".debug_line", sized(line)))
}

// TestDebugInformationIsNotRead: wazero's reader of it panics at files that the
// line table does not have, in the middle of telling of a trap.
func TestDebugInformationIsNotRead(t *testing.T) {
	for _, callFile := range []byte{0, 0x7f} {
		code := append(good().encode(), dwarf(callFile)...)
		_, err := newStage(t, code, "/usr/bin/true").start(t)
		if err == nil || !strings.Contains(err.Error(), "init: wasm error: unreachable") {
			t.Errorf("file %#x: %v", callFile, err)
		}
	}
}

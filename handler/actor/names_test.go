package actor

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/proscenium-dev/proscenium/handler"
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

// TestGuestsNamesAreBounded: of what a guest has made up, errors, the log and the
// record have little, and nothing that a terminal obeys or that looks like another
// line.
func TestGuestsNamesAreBounded(t *testing.T) {
	const evil = "\x1b[2J\nactor tested: all is well"
	many := make([]field, 200)
	for i := range many {
		many[i] = field{module: "env", name: fmt.Sprint(i) + evil + strings.Repeat("x", 1000), params: "i"}
	}
	for what, code := range map[string][]byte{
		"unknown imports":   importing(many...),
		"an unknown global": importing(field{module: evil, name: strings.Repeat("y", 1<<20), undefined: true}),
		"an export twice":   change(func(m *module) { m.exports = append(m.exports, field{name: evil}, field{name: evil}) }),
	} {
		t.Run(what, func(t *testing.T) {
			s := newStage(t, code, "/usr/bin/true")
			_, err := s.start(t)
			if err == nil {
				t.Fatal("it loads")
			}
			texts := []string{err.Error()}
			for _, e := range s.recorder.all(handler.ActorFailed) {
				texts = append(texts, e.Error)
			}
			for _, text := range texts {
				if len(text) > maxTold+100 || strings.ContainsAny(text, "\x1b\n") {
					t.Errorf("%d bytes: %.300q", len(text), text)
				}
			}
			if n := len(s.logged()); n > 2*maxTold {
				t.Errorf("%d bytes were logged", n)
			}
		})
	}
}

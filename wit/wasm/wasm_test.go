package wasm

import (
	"bytes"
	"context"
	"errors"
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

func module(code string) []byte {
	section := func(id byte, body string) string { return string(id) + string(rune(len(body))) + body }
	return []byte(header + section(sectionType, "\x01\x60\x01\x7f\x01\x7f") + section(sectionFunction, "\x01\x00") +
		section(sectionExport, "\x01\x01f\x00\x00") + section(sectionCode, "\x01"+string(rune(len(code)+1))+"\x00"+code))
}

// TestCallsEnd: calls without loops end when their time is up.
func TestCallsEnd(t *testing.T) {
	for what, code := range map[string]string{"doubling": doubling, "tail call": tail} {
		t.Run(what, func(t *testing.T) {
			code, err := Bound(module(code), MaxTable)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCloseOnContextDone(true).
				WithCoreFeatures(api.CoreFeaturesV2|experimental.CoreFeaturesTailCall))
			defer r.Close(context.Background())
			m, err := r.Instantiate(ctx, code)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.ExportedFunction("f").Call(ctx, 100); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
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

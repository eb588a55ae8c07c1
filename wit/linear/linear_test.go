package linear

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const page = 64 << 10

// TestGrowthCopiesNothing: a memory stays where it is.
func TestGrowthCopiesNothing(t *testing.T) {
	m := New(256 * page)
	defer m.Close()
	l := m.Allocate(page, 256*page)
	first := l.Reallocate(page)
	first[0], first[page-1] = 1, 2
	for n := uint64(2); n <= 256; n++ {
		b := l.Reallocate(n * page)
		if uint64(len(b)) != n*page || &b[0] != &first[0] || b[0] != 1 || b[page-1] != 2 || b[n*page-1] != 0 {
			t.Fatalf("%d pages: %d bytes", n, len(b))
		}
	}
	if l.Reallocate(257*page) != nil {
		t.Error("it grows beyond its bound")
	}
}

// TestMemoriesShare: the bound is for all memories together.
func TestMemoriesShare(t *testing.T) {
	m := New(3 * page)
	defer m.Close()
	one, two := m.Allocate(0, 3*page), m.Allocate(0, 3*page)
	for i, c := range []struct {
		of    interface{ Reallocate(uint64) []byte }
		pages uint64
		ok    bool
	}{{one, 1, true}, {two, 2, true}, {one, 2, false}, {two, 2, true}, {two, 3, false}} {
		if got := c.of.Reallocate(c.pages * page); (got != nil) != c.ok || c.ok && uint64(len(got)) != c.pages*page {
			t.Errorf("%d: %d bytes, want %t", i, len(got), c.ok)
		}
	}
	two.Free()
	if got := one.Reallocate(3 * page); len(got) != 3*page {
		t.Error("what was freed cannot be had")
	}
}

// TestClose: what was reserved is given back, and only then.
func TestClose(t *testing.T) {
	const much = 64 << 30
	before := addresses(t)
	m := New(page)
	l := m.Allocate(0, much)
	b := l.Reallocate(page)
	l.Free()
	_ = b[0] // whoever has it may read it
	if got := addresses(t); got < before+much {
		t.Errorf("%d bytes of addresses became %d", before, got)
	}
	m.Close()
	if got := addresses(t); got > before+much/2 {
		t.Errorf("%d bytes of addresses became %d", before, got)
	}
}

// addresses is how much this process has reserved.
func addresses(t *testing.T) (bytes uint64) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(status), "VmSize:")
	fmt.Sscan(line, &bytes)
	return bytes << 10
}

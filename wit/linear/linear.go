// Package linear gives guests their memory.
//
// An engine's own grows by copying: for a moment there are two of it, and what was
// left behind stays until the garbage collector comes. Here the addresses of all
// that a memory may ever have are reserved at once, which costs nothing, and become
// memory as it grows.
package linear

import (
	"sync"

	"github.com/tetratelabs/wazero/experimental"
	"golang.org/x/sys/unix"
)

// Memories are those of one guest, with a bound for all together. It is a
// MemoryAllocator.
//
// An engine frees a memory as soon as the module that has it is closed, but others
// may still have its address. What was reserved is given back in Close only.
type Memories struct {
	mu       sync.Mutex
	left     uint64
	reserved [][]byte
}

// New makes memories of at most so many bytes.
func New(bytes uint64) *Memories { return &Memories{left: bytes} }

// Allocate implements experimental.MemoryAllocator.
func (m *Memories) Allocate(_, most uint64) experimental.LinearMemory {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := &memory{of: m}
	if most == 0 {
		return l
	}
	b, err := unix.Mmap(-1, 0, int(most), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err == nil { // else it grows by copying
		l.reserved = b
		m.reserved = append(m.reserved, b)
	}
	return l
}

// Close gives everything back. Nothing may use the memories any more.
func (m *Memories) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.reserved {
		unix.Munmap(b)
	}
	m.reserved = nil
}

type memory struct {
	of       *Memories
	bytes    []byte
	reserved []byte // nil: there were no addresses
}

// Reallocate implements experimental.LinearMemory; nil is no.
func (l *memory) Reallocate(size uint64) []byte {
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	old := uint64(len(l.bytes))
	if size < old || size-old > l.of.left {
		return nil
	}
	switch {
	case l.reserved == nil:
		l.bytes = append(l.bytes, make([]byte, size-old)...)
	case size > uint64(len(l.reserved)):
		return nil
	case size > old && unix.Mprotect(l.reserved[old:size], unix.PROT_READ|unix.PROT_WRITE) != nil:
		return nil
	default:
		l.bytes = l.reserved[:size:size]
	}
	l.of.left -= size - old
	return l.bytes
}

// Free implements experimental.LinearMemory. The bytes stay until Close.
func (l *memory) Free() {
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	l.of.left += uint64(len(l.bytes))
	l.bytes, l.reserved = nil, nil
}

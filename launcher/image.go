package launcher

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/reexec"
	"golang.org/x/sys/unix"
)

// initProgram is init's text, in init_*.s. Nothing calls it: it is copied.
func initProgram()

// initText is the address of initProgram. A func value would be the address of
// the wrapper that adapts calling conventions.
func initText() unsafe.Pointer

// initEnd stands behind init's last instruction. A symbol that follows in the
// source need not follow in the binary (-randlayout), so the end has a mark.
var initEnd = []byte("proscenium end.\x00")

// maxText bounds the search for initEnd.
const maxText = 4096

const (
	elfHeaderSize  = 64
	elfSegmentSize = 56
	textAddress    = 0x400000
)

// initImage is init as a static ELF executable: the text, readable and
// executable, and the buffers for plans at isolate.BufferAddress, which cost
// memory only where it is written. See elf(5).
func initImage() ([]byte, error) {
	text := unsafe.Slice((*byte)(initText()), maxText)
	end := bytes.Index(text, initEnd)
	if end < 0 {
		return nil, errors.New("bug: the end of init's text was not found")
	}
	machine := map[string]uint16{"amd64": 62, "arm64": 183}[runtime.GOARCH]

	const header = elfHeaderSize + 3*elfSegmentSize
	var b []byte
	u16 := func(v uint16) { b = binary.NativeEndian.AppendUint16(b, v) }
	u32 := func(v uint32) { b = binary.NativeEndian.AppendUint32(b, v) }
	u64 := func(v uint64) { b = binary.NativeEndian.AppendUint64(b, v) }
	segment := func(kind, flags uint32, offset, address, fileSize, memorySize, align uint64) {
		u32(kind)
		u32(flags)
		u64(offset)
		u64(address)
		u64(address)
		u64(fileSize)
		u64(memorySize)
		u64(align)
	}

	b = append(b, 0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	u16(2) // ET_EXEC
	u16(machine)
	u32(1)
	u64(textAddress + header) // entry
	u64(elfHeaderSize)        // program headers
	u64(0)                    // no sections
	u32(0)
	u16(elfHeaderSize)
	u16(elfSegmentSize)
	u16(3)
	u16(0)
	u16(0)
	u16(0)
	const load, stack = 1, 0x6474e551
	const r, w, x = 4, 2, 1
	segment(load, r|x, 0, textAddress, header+uint64(end), header+uint64(end), 0x1000)
	segment(load, r|w, 0, isolate.BufferAddress, 0, isolate.BuffersSize, 0x1000)
	segment(stack, r|w, 0, 0, 0, 0, 16)
	return append(b, text[:end]...), nil
}

// imageDescriptor is at least where the image's descriptor lies, out of reach
// of the numbers that a fork hands to the child: the child finds the image by
// the path /proc/self/fd/N after its descriptors were laid out.
const imageDescriptor = 100

// openImage puts init into a sealed memfd: nobody, not even a program that
// gets hold of the descriptor, can change what the next start runs
// (CVE-2019-5736 was that).
func openImage() (path string, err error) {
	image, err := initImage()
	if err != nil {
		return "", err
	}
	f, err := reexec.Seal("proscenium-init", bytes.NewReader(image))
	if err != nil {
		return "", err
	}
	defer f.Close()
	high, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, imageDescriptor)
	if err != nil {
		return "", os.NewSyscallError("fcntl(F_DUPFD_CLOEXEC)", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", high), nil
}

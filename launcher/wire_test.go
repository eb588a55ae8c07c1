package launcher

import (
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReceiveRefusesWhatDoesNotFit, and closes what came with it.
func TestReceiveRefusesWhatDoesNotFit(t *testing.T) {
	here, far, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	defer unix.Close(far)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	for name, m := range map[string]struct{ size, fds int }{"too long": {9, 1}, "too many descriptors": {8, 3}} {
		fds := make([]int, m.fds)
		for i := range fds {
			fds[i] = far
		}
		if err := unix.Sendmsg(far, make([]byte, m.size), unix.UnixRights(fds...), nil, 0); err != nil {
			t.Fatal(err)
		}
		if n, got, err := here.recv(make([]byte, 8), 1); err == nil {
			t.Errorf("%s: %d bytes, %d descriptors", name, n, len(got))
		}
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// TestNoRoomForADescriptor: who has too many files open is told so.
func TestNoRoomForADescriptor(t *testing.T) {
	here, far, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	defer unix.Close(far)
	if err := unix.Sendmsg(far, []byte{0}, unix.UnixRights(far), nil, 0); err != nil {
		t.Fatal(err)
	}
	var own unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &own); err != nil {
		t.Fatal(err)
	}
	free, err := unix.Dup(far)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(free) // all below are taken
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(free), Max: own.Max}, nil); err != nil {
		t.Fatal(err)
	}
	_, _, err = here.recv(make([]byte, 8), 1)
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &own, nil); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, unix.EMFILE) {
		t.Errorf("%v, want EMFILE", err)
	}
}

// TestInitImage: a static executable without sections, in which nothing lies but
// the text; no PC-relative data behind the code could be reached.
func TestInitImage(t *testing.T) {
	image, err := initImage()
	if err != nil {
		t.Fatal(err)
	}
	if len(image) > 1024 {
		t.Errorf("init has grown to %d bytes", len(image))
	}
	e, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	if e.Type != elf.ET_EXEC || len(e.Progs) != 3 || len(e.Sections) > 1 {
		t.Errorf("%v, %d segments, %d sections", e.Type, len(e.Progs), len(e.Sections))
	}
	for _, p := range e.Progs {
		if p.Flags&elf.PF_W != 0 && p.Flags&elf.PF_X != 0 {
			t.Errorf("a segment is writable and executable: %v", p)
		}
	}
	if strings.Contains(string(image), "go.buildid") || bytes.Contains(image, initEnd) {
		t.Error("more than the text was copied")
	}
}

// TestLastWords: what the far end said before it went is read, also if it left
// something unread behind.
func TestLastWords(t *testing.T) {
	near, far, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	if err := near.send([]byte("never read")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendmsg(far, []byte("why"), nil, nil, 0); err != nil {
		t.Fatal(err)
	}
	unix.Close(far)
	b := make([]byte, 8)
	if n, _, err := near.recv(b, 0); err != nil || string(b[:n]) != "why" {
		t.Errorf("%q, %v", b[:n], err)
	}
	if _, _, err := near.recv(b, 0); err != io.EOF {
		t.Errorf("%v, want io.EOF", err)
	}
}

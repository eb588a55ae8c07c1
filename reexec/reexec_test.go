package reexec

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func init() {
	Register("reexec-test-child", func() {
		// What the child can do to its own image: nothing.
		_, err := os.OpenFile("/proc/self/exe", os.O_WRONLY, 0)
		exe, _ := os.Readlink("/proc/self/exe")
		fmt.Println(os.Args[1:], exe, err != nil)
	})
}

func TestMain(m *testing.M) {
	Init()
	os.Exit(m.Run())
}

func TestStart(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start("reexec-test-child", &os.ProcAttr{Files: []*os.File{nil, w, os.Stderr}}, "a", "b")
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if state, err := p.Wait(); err != nil || !state.Success() {
		t.Errorf("%v, %v", state, err)
	}
	if got := string(out); !strings.HasPrefix(got, "[a b] /memfd:reexec-test-child") || !strings.HasSuffix(got, "true\n") {
		t.Errorf("%q", got)
	}
	if _, err := Start("nobody", &os.ProcAttr{}); err == nil {
		t.Error("a name that is not registered was started")
	}
}

// TestSealed: no way to change the image is left (T-01).
func TestSealed(t *testing.T) {
	f, err := Seal("test", bytes.NewReader([]byte("content")))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	path := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if w, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
		if _, err := w.Write([]byte("x")); err == nil {
			t.Error("it was written")
		}
		w.Close()
	}
	if err := os.Truncate(path, 0); err == nil {
		t.Error("it was cut")
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, 0); err == nil {
		t.Error("seals can still be added")
	}
	if b, err := io.ReadAll(f); err != nil || string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestRegisterPanics(t *testing.T) {
	for _, name := range []string{"", "reexec-test-child"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Register(%q) did not panic", name)
				}
			}()
			Register(name, func() {})
		}()
	}
}

package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

// The attacks: each class T-01 … T-27 of what has broken other sandboxes is a
// hostile program that tries, and fails. The files attack_*_test.go hold them by
// matter; SECURITY.md has the table.
//
// A hostile program is a role that this test binary plays inside a cell. It
// keeps count of what it tried and says what gave way. One that does not come to
// its end proves nothing and fails the test.

// A hostile is what such a program reports.
type hostile struct {
	Tried   int
	GaveWay []string
	Says    map[string]string // what the test wants to know besides
}

// refused: the attempt must have failed, for whatever reason.
func (h *hostile) refused(err error, what string, args ...any) {
	h.holds(err != nil, what, args...)
}

// answers: the attempt must have failed for this reason.
func (h *hostile) answers(err error, want unix.Errno, what string, args ...any) {
	h.holds(errors.Is(err, want), "%s: %v instead of %v", fmt.Sprintf(what, args...), err, want)
}

// holds: what must be so.
func (h *hostile) holds(ok bool, what string, args ...any) {
	h.Tried++
	if !ok {
		h.GaveWay = append(h.GaveWay, fmt.Sprintf(what, args...))
	}
}

// attacks are the hostile programs by name.
var attacks = map[string]func(h *hostile, args []string){}

func init() {
	testenv.Role("attack", func() {
		h := hostile{Says: map[string]string{}}
		attacks[os.Args[1]](&h, os.Args[2:])
		json.NewEncoder(os.Stdout).Encode(h)
	})
	testenv.Role("user's host", usersHost)
}

// A scene is the cell that an attack is made in. It is data, because an ordinary
// user's host, another process, is given it as well.
type scene struct {
	Attack   string
	Program  string // the test binary under another path; "" for its own
	Root     string // isolate.Spec's
	Args     []string
	Env      []string
	Dir      string
	RO, RW   []string
	Allow    []string
	NoFilter bool // what holds without the filter: namespaces, ids, capabilities
}

func (s scene) command(ctx context.Context, l *launcher.Launcher, self string) *launcher.Cmd {
	if s.Program != "" {
		self = s.Program
	}
	cmd := l.Command(ctx, self, append([]string{s.Attack}, s.Args...)...)
	cmd.Env = append([]string{testenv.RoleEnv("attack")}, s.Env...)
	cmd.Dir = s.Dir
	cmd.Isolation.Allow, cmd.Isolation.Root = s.Allow, s.Root
	for _, p := range s.RO {
		cmd.Isolation.Mounts = append(cmd.Isolation.Mounts, isolate.RO(p))
	}
	for _, p := range s.RW {
		cmd.Isolation.Mounts = append(cmd.Isolation.Mounts, isolate.RW(p))
	}
	if s.NoFilter {
		cmd.Isolation.Seccomp = isolate.SeccompNone
	}
	return cmd
}

// fails makes the attack on the host of this test and, where that is root's, on
// an ordinary user's host as well. It returns what the first one said.
func (s scene) fails(t *testing.T) map[string]string {
	t.Helper()
	testenv.NoLeaks(t)
	out, err := s.command(testenv.Context(t), testenv.Launcher(t), testenv.Self(t)).Output()
	says := judge(t, "attack "+s.Attack, out, err)
	if os.Geteuid() == 0 {
		out, err := s.asUser(t)
		judge(t, "attack "+s.Attack+" on an ordinary user's host", out, err)
	}
	return says
}

func judge(t *testing.T, name string, out []byte, err error) map[string]string {
	t.Helper()
	var h hostile
	if err != nil || json.Unmarshal(out, &h) != nil || h.Tried == 0 {
		var exit *launcher.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		t.Fatalf("%s did not come to its end: %v: %s", name, err, out)
	}
	for _, what := range h.GaveWay {
		t.Errorf("%s: %s", name, what)
	}
	return h.Says
}

// user is who owns the ordinary user's host, where root runs the tests.
const user = 54321

// asUser makes the attack in a cell of a host that is an ordinary user's.
func (s scene) asUser(t *testing.T) ([]byte, error) {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return outside(t, user, "user's host", string(text)).Output()
}

// outside is a role of the test binary outside of any cell, as somebody else
// where this is root.
func outside(t *testing.T, uid uint32, role string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(testenv.Context(t), forEverybody(t), args...)
	cmd.Dir = "/"
	cmd.Env = []string{testenv.RoleEnv(role)}
	cmd.Stderr = os.Stderr
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	return cmd
}

// forEverybody is a copy of the test binary where every user may run it: that of
// `go test` lies in a private directory.
func forEverybody(t testing.TB) string {
	t.Helper()
	path := filepath.Join(testDir(t), "test")
	if err := copyFile(path, testenv.Self(t), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func copyFile(to, from string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(mode), out.Close())
}

// usersHost is the role: a host without limits that starts one scene.
func usersHost() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "the user's host:", err)
			os.Exit(1)
		}
	}
	var s scene
	fail(json.Unmarshal([]byte(os.Args[1]), &s))
	l, err := launcher.Start(launcher.Config{})
	fail(err)
	self, err := os.Executable()
	fail(err)
	out, err := s.command(context.Background(), l, self).Output()
	fail(err)
	os.Stdout.Write(out)
}

// addressOf is where a raw system call finds v.
func addressOf[T any](v *T) uintptr { return uintptr(unsafe.Pointer(v)) }

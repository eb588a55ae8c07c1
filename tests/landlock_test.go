package tests

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

func init() { testenv.Role("second line", printSecondLine) }

// printSecondLine tries what only Landlock refuses, and what it must not.
func printSecondLine() {
	said := map[string]string{}
	try := func(what string, err error) { said[what] = testenv.Errno(err) }
	for _, libc := range glob("/lib/*/libc.so.6", "/lib64/libc.so.6") {
		try("execute a library", unix.Exec(libc, []string{libc}, nil))
	}
	try("make a device", unix.Mknod("/tmp/device", unix.S_IFCHR, int(unix.Mkdev(1, 3)))) // EPERM would be for want of a capability
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Connect(s, &unix.SockaddrUnix{Name: os.Args[1]})
	}
	try("connect to the host", err)

	try("mkdir", os.MkdirAll("/tmp/a/b", 0o755))
	try("write", os.WriteFile("/tmp/a/b/file", []byte("text"), 0o644))
	try("rename", os.Rename("/tmp/a/b/file", "/tmp/file"))
	try("link", os.Link("/tmp/file", "/tmp/a/file"))
	try("truncate", os.Truncate("/tmp/file", 0))
	try("symlink", os.Symlink("file", "/tmp/link"))
	try("fifo", unix.Mkfifo("/tmp/fifo", 0o644))
	try("remove", os.RemoveAll("/tmp/a"))
	try("null", os.WriteFile("/dev/null", []byte("text"), 0))
	try("shared memory", os.WriteFile("/dev/shm/file", nil, 0o644))
	try("mounted file", os.WriteFile(os.Args[2], []byte("text"), 0o644))
	json.NewEncoder(os.Stdout).Encode(said)
}

func glob(patterns ...string) (all []string) {
	for _, p := range patterns {
		found, _ := filepath.Glob(p)
		all = append(all, found...)
	}
	return all
}

// TestSecondLine: Landlock refuses what the mounts let pass (which is no more
// than what it is there to repeat), and nothing that a program may do.
func TestSecondLine(t *testing.T) {
	host, err := isolate.ThisHost()
	if err != nil {
		t.Fatal(err)
	}
	testenv.Need(t, "landlock", host.Landlock >= 2, "Landlock is not in use, or of version 1")
	testenv.NoLeaks(t)
	abstract := fmt.Sprintf("@proscenium-test-%d", os.Getpid())
	listener, err := net.Listen("unix", abstract)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	file := testDir(t) + "/file"
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	os.Chmod(file, 0o666)

	cmd := testenv.Launcher(t).Command(testenv.Context(t), testenv.Self(t), abstract, file)
	cmd.Env = []string{testenv.RoleEnv("second line")}
	cmd.Isolation = isolate.Spec{Allow: []string{"/usr/bin/true"}, Network: isolate.NetworkHost, Mounts: []isolate.Mount{isolate.RW(file)}}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var said map[string]string
	if err := json.Unmarshal(out, &said); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	refused := map[string]string{"execute a library": "EACCES", "make a device": "EACCES", "connect to the host": "EPERM"}
	if host.Landlock < 6 {
		refused["connect to the host"] = ""
	}
	for what, errno := range said {
		if errno != refused[what] {
			t.Errorf("%s: %q, want %q", what, errno, refused[what])
		}
	}
	if len(said) != 14 {
		t.Errorf("only %d were tried: %v", len(said), said)
	}
	if !slices.ContainsFunc(cmd.Plan.Enforced, func(s string) bool { return strings.HasPrefix(s, "Landlock, version ") }) {
		t.Errorf("Enforced does not say it: %q", cmd.Plan.Enforced)
	}
}

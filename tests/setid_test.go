package tests

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

func init() { testenv.Role("set id", printSetID) }

// printSetID tries every way to a set-id file in the directory that it is given.
func printSetID() {
	dir := os.Args[1]
	os.WriteFile(dir+"/plain", nil, 0o755)
	fd, _ := unix.Open(dir+"/plain", unix.O_RDWR, 0)
	path, _ := unix.BytePtrFromString(dir + "/plain")
	said := map[string]string{}
	try := func(what string, err error) { said[what] = testenv.Errno(err) }
	opened := func(fd int, err error) error { return err }
	fchmodat2 := func(mode uintptr) error {
		_, _, errno := unix.RawSyscall6(unix.SYS_FCHMODAT2, ^uintptr(99), uintptr(unsafe.Pointer(path)), mode, 0, 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	}
	for name, mode := range map[string]uint32{"uid": 0o4755, "gid": 0o2755} {
		try("EPERM chmod "+name, unix.Chmod(dir+"/plain", mode))
		try("EPERM fchmod "+name, unix.Fchmod(fd, mode))
		try("EPERM fchmodat "+name, unix.Fchmodat(unix.AT_FDCWD, dir+"/plain", mode, 0))
		try("EPERM fchmodat2 "+name, fchmodat2(uintptr(mode)))
		try("EPERM open "+name, opened(unix.Open(dir+"/open-"+name, unix.O_CREAT|unix.O_RDWR, mode)))
		try("EPERM openat "+name, opened(unix.Openat(unix.AT_FDCWD, dir+"/openat-"+name, unix.O_CREAT|unix.O_RDWR, mode)))
		try("EPERM O_TMPFILE "+name, opened(unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, mode)))
		try("EPERM creat "+name, opened(unix.Creat(dir+"/creat-"+name, mode)))
		try("EPERM mknod "+name, unix.Mknod(dir+"/mknod-"+name, unix.S_IFREG|mode, 0))
		try("EPERM mknodat "+name, unix.Mknodat(unix.AT_FDCWD, dir+"/mknodat-"+name, unix.S_IFREG|mode, 0))
		try("EPERM mkdir "+name, unix.Mkdir(dir+"/mkdir-"+name, mode))
		try("ENOSYS openat2 "+name, opened(unix.Openat2(unix.AT_FDCWD, dir+"/openat2-"+name, &unix.OpenHow{Flags: unix.O_CREAT | unix.O_RDWR, Mode: uint64(mode)})))
	}
	try(" chmod", unix.Chmod(dir+"/plain", 0o1711))
	try(" open", opened(unix.Open(dir+"/made", unix.O_CREAT|unix.O_RDWR, 0o755)))
	try(" open without a mode", opened(unix.Open(dir+"/made", unix.O_RDWR, 0o6755)))
	try(" O_TMPFILE", opened(unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o755)))
	try(" mkdir", unix.Mkdir(dir+"/directory", 0o755))
	try(" fifo", unix.Mkfifo(dir+"/fifo", 0o644))
	json.NewEncoder(os.Stdout).Encode(said)
}

// TestNoSetIDFiles: a program can leave no set-id file behind for the host's
// users to run as the program's id, or as the owner of a mount.
func TestNoSetIDFiles(t *testing.T) {
	testenv.NoLeaks(t)
	dir := testDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := testenv.Launcher(t).Command(testenv.Context(t), testenv.Self(t), dir)
	cmd.Env = []string{testenv.RoleEnv("set id")}
	cmd.Isolation.Mounts = []isolate.Mount{isolate.RW(dir)}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var said map[string]string
	if err := json.Unmarshal(out, &said); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	if len(said) != 30 {
		t.Errorf("%d ways were tried", len(said))
	}
	for what, errno := range said {
		if want, _, _ := strings.Cut(what, " "); errno != want {
			t.Errorf("%s: %q", what, errno)
		}
	}
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if info, e := d.Info(); err != nil || e != nil || info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
		return nil
	})
}

package tests

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

// The list of allowed programs is the view: what is not on it is not there, and
// what can be written cannot be executed, in whatever way.

func init() { attacks["execute"] = attackExecute }

// TestNoJIT: with it no memory is writable and executable, or no program starts.
func TestNoJIT(t *testing.T) {
	testenv.NoLeaks(t)
	const script = "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC); print('executable')"
	_, err := os.Stat("/usr/bin/python3")
	testenv.Need(t, "programs", err == nil, "python3 is not installed; hack/test names the packages")
	for _, noJIT := range []bool{false, true} {
		cmd := testenv.Launcher(t).Command(testenv.Context(t), "/usr/bin/python3", "-c", script)
		cmd.Isolation.NoJIT = noJIT
		out, err := cmd.CombinedOutput()
		var lacking *isolate.UnsupportedError
		switch text := string(out); {
		case !noJIT:
			if text != "executable\n" {
				t.Errorf("without it: %v: %s", err, text)
			}
		case errors.As(err, &lacking): // before Linux 6.3
			if lacking.Since != "6.3" || !strings.Contains(err.Error(), "no_jit") {
				t.Error(err)
			}
		case !strings.Contains(text, "PermissionError"):
			t.Errorf("%v: %s", err, text)
		}
	}
}

// TestOnlyAllowedProgramsRun: programs that start programs do not get at others.
func TestOnlyAllowedProgramsRun(t *testing.T) {
	testenv.NoLeaks(t)
	rw := testDir(t)
	os.Chmod(rw, 0o777)
	for _, name := range []string{"id", "dash"} { // a program where it can be written
		if err := copyFile(filepath.Join(rw, name), "/usr/bin/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(rw+"/script", []byte("#!/usr/bin/perl\nprint qq(uid=\\n)"), 0o755); err != nil {
		t.Fatal(err)
	}
	linker, err := interpreter("/usr/bin/id")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ program, args string }{
		{"/usr/bin/find", `/ -exec /usr/bin/id ;`},
		{"/usr/bin/find", `/ -maxdepth 0 -exec /bin/sh -c id ;`},
		{"/usr/bin/find", rw + ` -exec ` + rw + `/id ;`},
		{"/usr/bin/find", rw + ` -exec ` + linker + ` ` + rw + `/id ;`},
		{"/usr/bin/find", rw + ` -exec ` + linker + ` --preload ` + rw + `/id /usr/bin/id ;`},
		{"/usr/bin/find", `/proc/self -maxdepth 0 -exec /proc/1/root` + `/usr/bin/id ;`},
		{"/usr/bin/perl", `-e exec {"/usr/bin/id"} "id" or die $!`},
		{"/usr/bin/perl", `-e exec {"` + rw + `/id"} "id" or die $!`},
		{"/usr/bin/perl", `-e exec {"` + linker + `"} "ld.so", "` + rw + `/id" or die $!`},
		{"/usr/bin/perl", `-e exec {"` + rw + `/script"} "script" or die $!`},
		{"/usr/bin/perl", `-e open F, ">", "/tmp/s"; print F "#!/usr/bin/perl\nprint qq(uid=)"; close F; chmod 0755, "/tmp/s"; exec {"/tmp/s"} "s" or die $!`},
		{"/usr/bin/perl", `-e system("id") and die $!`},
		{"/usr/bin/perl", `-e symlink "/usr/bin/id", "/tmp/l"; exec {"/tmp/l"} "l" or die $!`},
		{"/usr/bin/perl", `-e link "/usr/bin/perl", "/tmp/l" and print "uid="; link "/usr/bin/perl", "` + rw + `/l" and print "uid="; die $!`},
		{"/usr/bin/xargs", `-a /dev/null id`},
		{"/usr/bin/env", `id`},
		{"/usr/bin/nice", rw + `/id`},
		{"/usr/bin/timeout", `1 /bin/sh -c id`},
	} {
		args := strings.Fields(c.args)
		if code, ok := strings.CutPrefix(c.args, "-e "); ok {
			args = []string{"-e", code}
		}
		cmd := testenv.Launcher(t).Command(testenv.Context(t), c.program, args...)
		cmd.Env = []string{"PATH=/usr/bin:/bin:" + rw}
		cmd.Isolation.Mounts = []isolate.Mount{isolate.RW(rw)}
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), "uid=") || len(out) == 0 {
			t.Errorf("%s %s: %v: %.300s", c.program, c.args, err, out)
		}
	}
}

// interpreter is the dynamic linker of a program.
func interpreter(program string) (string, error) {
	f, err := elf.Open(program)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b := make([]byte, p.Filesz)
			_, err := p.ReadAt(b, 0)
			return string(bytes.TrimRight(b, "\x00")), err
		}
	}
	return "", fmt.Errorf("%s has no interpreter", program)
}

// TestNothingWritableIsExecutable, for a program that does what it can itself.
func TestNothingWritableIsExecutable(t *testing.T) {
	rw := testDir(t)
	os.Chmod(rw, 0o777)
	scene{Attack: "execute", Args: []string{rw}, RW: []string{rw}}.fails(t)
}

// attackExecute tries to run, or to map, what it has written.
func attackExecute(h *hostile, args []string) {
	self, err := os.ReadFile(os.Args[0])
	h.holds(err == nil, "its own file: %v", err)
	for _, shown := range append(args, "/tmp", "/dev/shm") {
		dir, err := os.MkdirTemp(shown, "x")
		if err != nil {
			h.holds(false, "%s cannot be written: %v", shown, err)
			continue
		}
		name := filepath.Join(dir, "program")
		os.WriteFile(name, self, 0o755)
		os.Chmod(name, 0o4755)
		h.answers(exec.Command(name).Run(), unix.EACCES, "%s was executed", name)
		script := filepath.Join(dir, "script")
		os.WriteFile(script, []byte("#!"+os.Args[0]+"\n"), 0o755)
		h.answers(exec.Command(script).Run(), unix.EACCES, "%s was executed", script)
		for _, flags := range []int{unix.O_RDONLY, unix.O_RDWR, unix.O_PATH} {
			fd, err := unix.Open(name, flags, 0)
			if err != nil {
				h.holds(false, "%s: %v", name, err)
				continue
			}
			h.refused(exec.Command(fmt.Sprintf("/proc/self/fd/%d", fd)).Run(), "%s was executed by way of a descriptor", name)
			empty := [1]byte{}
			_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(fd), addressOf(&empty), 0, 0, unix.AT_EMPTY_PATH, 0)
			h.answers(errnoError(errno), unix.ENOSYS, "execveat of %s", name)
			for _, kind := range []int{unix.MAP_PRIVATE, unix.MAP_SHARED} {
				_, err = unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, kind)
				h.refused(err, "%s was mapped executable", name)
				if b, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, kind); err == nil {
					h.refused(unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC), "%s became executable in memory", name)
					unix.Munmap(b)
				}
			}
			unix.Close(fd)
		}
		if fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o755); err == nil {
			unix.Write(fd, self)
			h.refused(exec.Command(fmt.Sprintf("/proc/self/fd/%d", fd)).Run(), "a file without a name in %s was executed", dir)
			unix.Close(fd)
		}
		h.refused(os.Link(os.Args[0], filepath.Join(dir, "link")), "this program got a second name in %s", dir)
	}
	for _, flags := range []int{0, unix.MFD_CLOEXEC, unix.MFD_EXEC, unix.MFD_NOEXEC_SEAL, unix.MFD_ALLOW_SEALING, unix.MFD_HUGETLB} {
		_, err := unix.MemfdCreate("x", flags)
		h.answers(err, unix.ENOSYS, "memfd_create(%#x)", flags)
	}
	_, err = unix.MemfdSecret(0)
	h.answers(err, unix.ENOSYS, "memfd_secret")
	// Attached without it, such memory is as good as anonymous memory, which
	// compilers make executable; only NoJIT stops that.
	if id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o777); err == nil {
		const shmExec = 0o100000
		_, err = unix.SysvShmAttach(id, 0, shmExec)
		h.refused(err, "System V memory was attached executable")
		unix.SysvShmCtl(id, unix.IPC_RMID, nil)
	}
	_, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, 0x0400000, 0, 0) // READ_IMPLIES_EXEC
	h.refused(errnoError(errno), "reading became executing")
}

// TestInterpretersLibrariesHoldNoPrograms: what the kinds show besides brings no
// ELF program that could be executed; the command and its linker are all.
func TestInterpretersLibrariesHoldNoPrograms(t *testing.T) {
	testenv.NoLeaks(t)
	for _, name := range realPrograms() {
		program := resolved(t, name)
		cmd := testenv.Launcher(t).Command(testenv.Context(t), "/usr/bin/find", "/", "-path", "/proc", "-prune", "-o", "-type", "f", "-perm", "/111", "-print")
		cmd.Isolation.Allow = []string{name}
		out, err := cmd.Output()
		if err != nil {
			t.Logf("%s: find: %v", name, err) // of what it may not enter
		}
		allowed := []string{program, "/usr/bin/find"}
		var tried []string
		for line := range strings.Lines(string(out)) {
			file := strings.TrimSpace(line)
			if f, err := elf.Open(file); err == nil {
				f.Close()
				if !slices.Contains(allowed, file) && !strings.Contains(filepath.Base(file), ".so") {
					tried = append(tried, file)
				}
			}
		}
		for _, file := range tried {
			cmd := testenv.Launcher(t).Command(testenv.Context(t), "/usr/bin/find", "/", "-maxdepth", "0", "-exec", file, ";")
			cmd.Isolation.Allow = []string{name}
			if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), "Permission denied") {
				t.Errorf("%s brings the program %s, which runs: %s", name, file, out)
			}
		}
	}
}

// TestAScriptsInterpreterIsAProgram: it must be allowed, and the error says so.
func TestAScriptsInterpreterIsAProgram(t *testing.T) {
	testenv.NoLeaks(t)
	script := filepath.Join(testDir(t), "script")
	if err := os.WriteFile(script, []byte("#!/usr/bin/perl -l\nprint 6 * 7\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := testenv.Launcher(t).Command(testenv.Context(t), script)
	if err := cmd.Run(); err == nil || !strings.Contains(err.Error(), "its interpreter /usr/bin/perl is a program as well and must be allowed") {
		t.Errorf("%v", err)
	}
	outer := filepath.Join(filepath.Dir(script), "outer")
	if err := os.WriteFile(outer, []byte("#!"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd = testenv.Launcher(t).Command(testenv.Context(t), outer)
	cmd.Isolation.Allow = []string{script}
	if err := cmd.Run(); err == nil || !strings.Contains(err.Error(), script+": it is a script: its interpreter /usr/bin/perl") {
		t.Errorf("a script of a script: %v", err)
	}
	windows := filepath.Join(filepath.Dir(script), "windows")
	if err := os.WriteFile(windows, []byte("#!/usr/bin/perl\r\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd = testenv.Launcher(t).Command(testenv.Context(t), windows)
	cmd.Isolation.Allow = []string{"/usr/bin/perl"}
	if err := cmd.Run(); err == nil || !strings.Contains(err.Error(), `its interpreter "/usr/bin/perl\r"`) {
		t.Errorf("a carriage return: %v", err)
	}
	cmd = testenv.Launcher(t).Command(testenv.Context(t), script)
	cmd.Isolation.Allow = []string{"/usr/bin/perl"}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "42\n" {
		t.Errorf("%v: %s", err, out)
	}
}

func resolved(t *testing.T, name string) string {
	t.Helper()
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		t.Fatal(err)
	}
	return real
}

func init() { testenv.Role("alias", aliasRole) }

// aliasRole mounts a program's directory at a second path, which is then shown
// writable.
func aliasRole() {
	dir := os.Args[1]
	app, alias := filepath.Join(dir, "app"), filepath.Join(dir, "alias")
	if err := unix.Mount(app, alias, "", unix.MS_BIND, ""); err != nil {
		fmt.Println(err)
		return
	}
	l, err := launcher.Start(launcher.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()
	cmd := l.Command(context.Background(), filepath.Join(app, "tool"))
	cmd.Isolation.Mounts = []isolate.Mount{isolate.RW(alias)}
	fmt.Println(cmd.Run())
}

// TestAWritableAliasIsRefused: a directory of programs has no second, writable path.
func TestAWritableAliasIsRefused(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"app", "alias"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	tool, err := os.ReadFile(resolved(t, "/usr/bin/true"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "app", "tool"), tool, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out := string(withHidden(t, "alias", dir)); !strings.Contains(out, "must not be executed") {
		t.Errorf("the start: %s", out)
	}
}

package tests

import (
	"context"
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

func probe(t testing.TB) *launcher.Cmd {
	return testenv.Launcher(t).Command(testenv.Context(t), testenv.Self(t), "one", "two")
}

// TestHardenedProfile looks at every line of the default profile from inside.
func TestHardenedProfile(t *testing.T) {
	testenv.NoLeaks(t)
	cmd := probe(t)
	cmd.Env = []string{"A=1"}
	s := testenv.Look(t, cmd)

	for _, ns := range []string{"user", "mnt", "pid", "ipc", "uts", "net", "cgroup"} {
		ours, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil || s.Namespaces[ns] == "" || s.Namespaces[ns] == ours {
			t.Errorf("namespace %s: %q inside, %q outside (%v)", ns, s.Namespaces[ns], ours, err)
		}
	}
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if s.Status[set] != "0000000000000000" {
			t.Errorf("%s = %s", set, s.Status[set])
		}
	}
	if s.Status["NoNewPrivs"] != "1" || s.Status["Seccomp"] != "2" || s.Securebits != 0xef {
		t.Errorf("no_new_privs %s, seccomp %s, securebits %#x", s.Status["NoNewPrivs"], s.Status["Seccomp"], s.Securebits)
	}
	if s.UID != 1000 || s.GID != 1000 || s.PID != 2 || s.PPID != 1 || s.Session != 2 {
		t.Errorf("uid %d, gid %d, pid %d, ppid %d, session %d", s.UID, s.GID, s.PID, s.PPID, s.Session)
	}
	if os.Geteuid() == 0 && len(slices.DeleteFunc(slices.Clone(s.Groups), func(g int) bool { return g == 1000 })) > 0 {
		t.Errorf("supplementary groups %v", s.Groups)
	}
	if len(s.Descriptors) != 3 || s.Descriptors["0"] == "" || s.Descriptors["1"] == "" || s.Descriptors["2"] == "" {
		t.Errorf("descriptors %v", s.Descriptors)
	}
	if !slices.Equal(s.Env, []string{"A=1", testenv.RoleEnv("probe")}) {
		t.Errorf("environment %q", s.Env)
	}
	if !slices.Equal(s.Args, []string{testenv.Self(t), "one", "two"}) {
		t.Errorf("arguments %q", s.Args)
	}
	if s.Dir != "/" || s.Hostname != "proscenium" {
		t.Errorf("directory %q, hostname %q", s.Dir, s.Hostname)
	}
	if s.Terminal != "ENOENT" || s.Init != "ENOENT" {
		t.Errorf("/dev/tty: %s, /proc/1: %s", s.Terminal, s.Init)
	}
	if s.Blocked != "0000000000000000" || s.Ignored != "0000000000000000" {
		t.Errorf("signals: %s blocked, %s ignored", s.Blocked, s.Ignored)
	}
	if !slices.Equal(s.Interfaces, []string{"lo"}) {
		t.Errorf("network interfaces %v", s.Interfaces)
	}
	for line := range strings.Lines(s.Cgroup) {
		if strings.HasPrefix(line, "0::") && line != "0::/\n" {
			t.Errorf("own control group as seen inside: %q", line)
		}
	}
	if s.Limits["core"] != [2]uint64{1, 1} || s.Limits["nofile"][1] != isolate.DefaultRlimits.OpenFiles || s.Limits["nproc"][1] != isolate.DefaultRlimits.Processes || s.Limits["fsize"][1] != isolate.DefaultRlimits.FileSize {
		t.Errorf("limits %v", s.Limits)
	}
}

// TestViewIsTheAllowlist: of executables there are the program and the linker;
// what can be written cannot be executed; nothing else can be written.
func TestViewIsTheAllowlist(t *testing.T) {
	testenv.NoLeaks(t)
	cmd := probe(t)
	cmd.Isolation.Allow = []string{"/usr/bin/true"}
	s := testenv.Look(t, cmd)
	for _, f := range []string{"/usr/bin/id", "/usr/bin/sh", "/bin/sh", "/etc/shadow", "/root", "/home", "/sys", "/proc/sys", "/proc/kcore", "/proc/keys", "/srv", "/opt"} {
		if slices.Contains(s.Files, f) {
			t.Errorf("%s is there", f)
		}
	}
	if !slices.Contains(s.Files, "/usr/bin/true") {
		t.Error("an allowed program is not there")
	}
	var programs []string
	for _, f := range s.Files {
		if strings.HasPrefix(f, "/usr/bin/") {
			programs = append(programs, f)
		}
	}
	if !slices.Equal(programs, []string{"/usr/bin/true"}) {
		t.Errorf("in /usr/bin: %v", programs)
	}
	for _, w := range s.Writable {
		// The cell's own /tmp and /dev/shm, and the devices.
		if !strings.HasPrefix(w, "/tmp/") && w != "/dev/shm/" && !slices.Contains([]string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}, w) {
			t.Errorf("%s can be written", w)
		}
	}
	for _, m := range s.Mounts {
		f := strings.Fields(m)
		options := strings.Split(f[2], ",")
		has := func(o string) bool { return slices.Contains(options, o) }
		if !has("nosuid") {
			t.Errorf("mount without nosuid: %s", m)
		}
		if !has("nodev") && !strings.HasPrefix(f[0], "/dev/") {
			t.Errorf("mount without nodev: %s", m)
		}
		if !has("ro") && !has("noexec") {
			t.Errorf("mount that is writable and executable: %s", m)
		}
	}
}

// TestMounts: what --ro and --rw show, from inside and from outside.
func TestMounts(t *testing.T) {
	testenv.NoLeaks(t)
	base := testDir(t)
	ro, rw := filepath.Join(base, "ro"), filepath.Join(base, "rw")
	for _, dir := range []string{ro, rw} {
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		os.Chmod(dir, 0o777)
		if err := os.WriteFile(dir+"/file", []byte("content"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	l := testenv.Launcher(t)
	cmd := l.Command(testenv.Context(t), "/usr/bin/cp", ro+"/file", rw+"/copy")
	cmd.Isolation.Mounts = []isolate.Mount{isolate.RO(ro), isolate.RW(rw)}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	if b, err := os.ReadFile(rw + "/copy"); err != nil || string(b) != "content" {
		t.Errorf("the copy: %q, %v", b, err)
	}
	cmd = l.Command(testenv.Context(t), "/usr/bin/cp", rw+"/file", ro+"/copy")
	cmd.Isolation.Mounts = []isolate.Mount{isolate.RO(ro), isolate.RW(rw)}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "Read-only file system") {
		t.Errorf("cp into a read-only mount: %v: %s", err, out)
	}
	cmd = l.Command(testenv.Context(t), "/usr/bin/pwd")
	cmd.Dir = rw
	cmd.Isolation.Mounts = []isolate.Mount{isolate.RW(rw)}
	if out, err := cmd.Output(); err != nil || string(out) != rw+"\n" {
		t.Errorf("pwd: %q, %v", out, err)
	}
}

// testDir is a directory whose parents everybody may enter, as t.TempDir's may
// not.
func testDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "proscenium-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestWorkingDirectoryStaysInside: a directory by way of a descriptor, of init's
// root, of .. or of a link out never becomes the working directory (T-03).
func TestWorkingDirectoryStaysInside(t *testing.T) {
	testenv.NoLeaks(t)
	base := testDir(t)
	if err := os.Symlink("/etc", base+"/out"); err != nil {
		t.Fatal(err)
	}
	dirs := []string{"/proc/1/cwd", "/proc/1/root", "/nonexistent", base + "/out/ssl/private", "relative"}
	for fd := range 70 {
		dirs = append(dirs, fmt.Sprintf("/proc/self/fd/%d", fd))
	}
	for _, dir := range dirs {
		cmd := testenv.Launcher(t).Command(testenv.Context(t), "/usr/bin/pwd")
		cmd.Dir = dir
		cmd.Isolation.Mounts = []isolate.Mount{isolate.RO(base)}
		if out, err := cmd.Output(); err == nil {
			t.Errorf("in %s the program ran, in %q", dir, out)
		}
	}
	cmd := testenv.Launcher(t).Command(testenv.Context(t), "/usr/bin/pwd")
	cmd.Dir = base + "/../../../../../../tmp"
	cmd.Isolation.Mounts = []isolate.Mount{isolate.RO(base)}
	if out, err := cmd.Output(); err != nil || string(out) != "/tmp\n" {
		t.Errorf("..: %q, %v", out, err)
	}
}

// TestNoDirectoryIsHandedIn: by a directory as stdin a program would be out of its view, and
// /proc/self/fd/0 as working directory out of its root.
func TestNoDirectoryIsHandedIn(t *testing.T) {
	testenv.NoLeaks(t)
	for _, flags := range []int{unix.O_RDONLY, unix.O_PATH} {
		fd, err := unix.Open("/etc", flags|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		dir := os.NewFile(uintptr(fd), "/etc")
		defer dir.Close()
		for i := range 3 {
			for name, start := range map[string]func(*launcher.Cmd) error{"start": (*launcher.Cmd).Run, "prepare": (*launcher.Cmd).Prepare} {
				cmd := testenv.Launcher(t).Command(testenv.Context(t), "/usr/bin/pwd")
				*[]**os.File{&cmd.Stdin, &cmd.Stdout, &cmd.Stderr}[i] = dir
				cmd.Dir = fmt.Sprintf("/proc/self/fd/%d", i)
				if err := start(cmd); !errors.Is(err, unix.EISDIR) || !strings.Contains(err.Error(), "mount") {
					t.Errorf("%s with /etc as descriptor %d: %v", name, i, err)
				}
			}
		}
	}
}

// TestInitIsFiltered: the hardened filter holds for the first process of the cell as well.
func TestInitIsFiltered(t *testing.T) {
	pid := aSleeper(t)
	for _, pid := range []int{pid, parentOf(t, pid)} {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil || !strings.Contains(string(status), "\nSeccomp:\t2\n") {
			t.Errorf("process %d has no filter: %v\n%s", pid, err, status)
		}
	}
}

// TestDescriptorsDoNotLeak: fifty descriptors that the host forgot to mark
// close-on-exec, directories, sockets and files in memory, stay the host's (T-02).
func TestDescriptorsDoNotLeak(t *testing.T) {
	for i := range 50 {
		fd, err := -1, error(nil)
		switch i % 3 {
		case 0:
			fd, err = openInheritable("/")
		case 1:
			fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		case 2:
			fd, err = unix.MemfdCreate("secret", 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer closeFD(fd)
	}
	l, err := launcher.Start(launcher.Config{}) // one that inherits them
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, l := range []*launcher.Launcher{l, testenv.Launcher(t)} {
		cmd := l.Command(testenv.Context(t), testenv.Self(t))
		if s := testenv.Look(t, cmd); len(s.Descriptors) != 3 {
			t.Errorf("descriptors %v", s.Descriptors)
		}
	}
}

// TestOutputsCanBeOpenedAgain: /dev/stdout is the pipe, which must be the program's
// to open. Its stdin is not its to write, unless the host is an ordinary user's, whose
// id it has.
func TestOutputsCanBeOpenedAgain(t *testing.T) {
	testenv.NoLeaks(t)
	cmd := testenv.Launcher(t).Command(testenv.Context(t), "/bin/sh", "-c", "echo a >/dev/stdout; echo b >/dev/stderr; echo c >/proc/self/fd/0 || exit 7; exit 8")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	out, err := cmd.Output()
	var exit *launcher.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("%q, %v", out, err)
	}
	code := 8
	if os.Geteuid() == 0 {
		code = 7
	}
	if string(out) != "a\n" || !strings.HasPrefix(string(exit.Stderr), "b\n") || exit.ExitCode() != code {
		t.Errorf("%q, %q, %v", out, exit.Stderr, exit)
	}
}

// TestNothingIsInheritedFromTheHost: neither its place in the kernel's order of
// victims nor its priority.
func TestNothingIsInheritedFromTheHost(t *testing.T) {
	testenv.NoLeaks(t)
	cmd := exec.Command(testenv.Self(t))
	cmd.Env = append(os.Environ(), testenv.RoleEnv("privileged host"))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if want := "0 0\n"; err != nil || string(out) != want {
		t.Errorf("%q, %v, want %q", out, err, want)
	}
}

func init() { testenv.Role("privileged host", privilegedHostRole) }

// privilegedHostRole raises itself where it may, and asks a program of it what it
// has of that: its oom_score_adj, its policy of scheduling.
func privilegedHostRole() {
	if os.Geteuid() == 0 {
		// Root without CAP_SYS_RESOURCE may not; the virtual machine's may.
		if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-500"), 0); err != nil && !errors.Is(err, unix.EACCES) {
			fmt.Println(err)
			return
		}
		if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: -5}, 0); err != nil {
			fmt.Println(err)
			return
		}
	}
	l, err := launcher.Start(launcher.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()
	out, err := l.Command(context.Background(), "/bin/sh", "-c", `read n </proc/self/oom_score_adj; read s </proc/self/stat; set -- ${s##*) }; echo $n ${17}`).Output()
	fmt.Printf("%s", out)
	if err != nil {
		fmt.Println(err)
	}
}

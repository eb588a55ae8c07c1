package tests

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

// bundle makes a root file system of the probe and a few traps, in a directory
// with what is mounted.
func bundle(t *testing.T) string {
	t.Helper()
	base := testDir(t)
	root := filepath.Join(base, "rootfs")
	self := testenv.Self(t)
	copyInto(t, self, root+"/bin/probe")
	// Nothing for a static test binary.
	libraries, _ := exec.Command("ldd", self).Output()
	for field := range strings.FieldsSeq(string(libraries)) {
		if filepath.IsAbs(field) {
			copyInto(t, field, root+field)
		}
	}
	for _, name := range []string{"rootfs/etc/own", "rootfs/var/mail", "rootfs/var/cache/old", "rootfs/run/old", "rootfs/tmp/old", "rootfs/proc/old", "data/file", "secret/file"} {
		writeFile(t, filepath.Join(base, name), "x")
	}
	// For a program of another user, as a privileged host's is.
	os.Chmod(base+"/data", 0o777)
	os.Chmod(base+"/data/file", 0o666)
	for name, text := range map[string]string{"var/run": "/run", "secret": base + "/secret", "up": "../../../../.." + base + "/secret"} {
		if err := os.Symlink(text, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	return base
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func copyInto(t *testing.T, from, to string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(to), 0o755)
	if err == nil {
		err = copyFile(to, from, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

const containerConfig = `{
	"ociVersion": "1.0.2",
	"process": {
		"user": {"uid": 1234, "gid": 1235}, "args": ["probe", "an argument"], "env": ["PATH=/nowhere:/bin", "A=b"], "cwd": "/job", "noNewPrivileges": true,
		"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99}, {"type": "RLIMIT_NPROC", "soft": 77, "hard": 77}, {"type": "RLIMIT_FSIZE", "soft": 4096, "hard": 4096}]
	},
	"root": {"path": "rootfs", "readonly": true},
	"hostname": "stage",
	"mounts": [
		{"destination": "/proc", "type": "proc"},
		{"destination": "/dev/shm", "type": "tmpfs", "options": ["noexec", "size=4k", "mode=0700"]},
		{"destination": "/run", "type": "tmpfs", "options": ["noexec", "size=1m"]},
		{"destination": "/run/deep/file", "type": "bind", "source": "data/file", "options": ["bind", "ro", "noexec"]},
		{"destination": "/var/cache", "type": "tmpfs", "options": ["noexec", "size=1m", "mode=0755"]},
		{"destination": "/job", "type": "bind", "source": "data", "options": ["rbind", "noexec"]}
	],
	"linux": {"namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "user"}, {"type": "cgroup"}]}
}`

// TestContainerConfig: what a config.json asks for is what the program sees.
func TestContainerConfig(t *testing.T) {
	testenv.NoLeaks(t)
	base := bundle(t)
	host, err := isolate.ThisHost()
	if err != nil {
		t.Fatal(err)
	}
	config := containerConfig
	if !host.Privileged {
		config = strings.Replace(config, `"linux": {`, fmt.Sprintf(`"linux": {"uidMappings": [{"containerID": 1234, "hostID": %d, "size": 1}],`, host.UID), 1)
	}
	run := func(config string) *launcher.Cmd {
		c, err := isolate.FromOCI([]byte(config), base, host)
		if err != nil {
			t.Fatal(err)
		}
		cmd := testenv.Launcher(t).Command(testenv.Context(t), c.Program.Path)
		cmd.Args, cmd.Env, cmd.Dir, cmd.Isolation = c.Program.Args, c.Program.Env, c.Program.Dir, c.Spec
		return cmd
	}
	checkContainer(t, "alone", testenv.Look(t, run(config)), "/run/deep/")
	// Without a mount in a tmpfs, which is each start's own, starts come to
	// share a template, which is made while they go on.
	config = strings.Replace(config, "/run/deep/file", "/var/mail", 1)
	for i := 0; ; i++ {
		cmd := run(config)
		checkContainer(t, fmt.Sprintf("start %d", i), testenv.Look(t, cmd))
		if strings.Contains(cmd.Plan.String(), "setns(") {
			break
		}
		if i == 100 {
			t.Fatal("no template was used")
		}
	}
	if b, err := os.ReadFile(base + "/rootfs/etc/own"); err != nil || string(b) != "x" {
		t.Errorf("the root was changed: %q, %v", b, err)
	}
	if _, err := os.Lstat(base + "/rootfs/job"); err == nil {
		t.Error("a mount point was made in the root")
	}
}

// checkContainer takes what is writable besides the usual.
func checkContainer(t *testing.T, name string, s testenv.Seen, more ...string) {
	t.Helper()
	got, _ := json.Marshal([]any{s.UID, s.GID, s.Hostname, s.Dir, s.Args, s.Interfaces, s.Limits["nofile"], s.Limits["nproc"], s.Limits["fsize"], s.Init, s.Status["CapBnd"], s.Status["NoNewPrivs"], s.Status["Seccomp"]})
	const want = `[1234,1235,"stage","/job",["probe","an argument"],["lo"],[99,99],[77,77],[4096,4096],"ENOENT","0000000000000000","1","2"]`
	if string(got) != want {
		t.Errorf("%s: got  %s\nwant %s", name, got, want)
	}
	if !slices.Contains(s.Env, "A=b") {
		t.Errorf("%s: environment %v", name, s.Env)
	}
	for _, file := range []string{"/bin/probe", "/etc/own", "/job/file", "/secret", "/up", "/var/run"} {
		if !slices.Contains(s.Files, file) {
			t.Errorf("%s: %s is not there", name, file)
		}
	}
	top := []string{"/bin", "/etc", "/var", "/run", "/dev", "/tmp", "/job", "/secret", "/up", "/lib", "/lib64"}
	for _, file := range s.Files {
		first, _, deeper := strings.Cut(file[1:], "/")
		if file != "/" && !slices.Contains(top, "/"+first) || deeper && (first == "secret" || first == "up") || filepath.Base(file) == "old" {
			t.Errorf("%s: %s is there", name, file)
		}
	}
	devices := []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}
	writable := slices.DeleteFunc(slices.Clone(s.Writable), func(w string) bool { return slices.Contains(devices, w) })
	more = append(more, "/dev/shm/", "/run/", "/tmp/", "/var/cache/", "/job/", "/job/file")
	slices.Sort(more)
	if slices.Sort(writable); !slices.Equal(writable, more) {
		t.Errorf("%s: writable are %v, want %v", name, writable, more)
	}
	for _, m := range s.Mounts {
		f := strings.Fields(m)
		options := strings.Split(f[2], ",")
		has := func(o string) bool { return slices.Contains(options, o) }
		if !has("nosuid") || !has("ro") && !has("noexec") || !has("nodev") && !strings.HasPrefix(f[0], "/dev/") {
			t.Errorf("%s: mount %s", name, m)
		}
	}
}

// TestContainerOnTheHostsNetwork: no network namespace in the file is the host's.
func TestContainerOnTheHostsNetwork(t *testing.T) {
	testenv.NoLeaks(t)
	base := bundle(t)
	host, err := isolate.ThisHost()
	if err != nil {
		t.Fatal(err)
	}
	c, err := isolate.FromOCI([]byte(strings.Replace(containerConfig, `{"type": "network"}, `, "", 1)), base, host)
	if err != nil {
		t.Fatal(err)
	}
	cmd := testenv.Launcher(t).Command(testenv.Context(t), c.Program.Path)
	cmd.Args, cmd.Env, cmd.Dir, cmd.Isolation = c.Program.Args, c.Program.Env, c.Program.Dir, c.Spec
	ours, err := os.Readlink("/proc/self/ns/net")
	if seen := testenv.Look(t, cmd); err != nil || seen.Namespaces["net"] != ours {
		t.Errorf("network namespace %s, ours is %s (%v)", seen.Namespaces["net"], ours, err)
	}
}

func init() { testenv.Role("below", belowRole) }

// belowRole mounts something below what a container is shown and says what of it
// is seen with bind, and with rbind. It is in a mount namespace of its own.
func belowRole() {
	base := os.Args[1]
	host, err := isolate.ThisHost()
	if err == nil {
		err = unix.Mount("none", base+"/data/sub", "tmpfs", 0, "")
	}
	if err == nil {
		err = os.WriteFile(base+"/data/sub/below", nil, 0o644)
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	l, err := launcher.Start(launcher.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()
	for _, option := range []string{"bind", "rbind"} {
		c, err := isolate.FromOCI([]byte(strings.Replace(containerConfig, `"rbind"`, strconv.Quote(option), 1)), base, host)
		if err != nil {
			fmt.Println(err)
			return
		}
		cmd := l.Command(context.Background(), c.Program.Path)
		cmd.Args, cmd.Dir, cmd.Isolation = c.Program.Args, c.Program.Dir, c.Spec
		cmd.Env = append(c.Program.Env, testenv.RoleEnv("probe"))
		out, err := cmd.Output()
		fmt.Println(option, bytes.Contains(out, []byte("/job/sub/below")), err)
	}
}

// TestBindIsNotRecursive: what is mounted below the source comes along only with
// rbind. (An ordinary user's host cannot take it away: the kernel refuses.)
func TestBindIsNotRecursive(t *testing.T) {
	testenv.Need(t, "root", os.Geteuid() == 0, "only root mounts without a user namespace")
	testenv.NoLeaks(t)
	base := bundle(t)
	if err := os.Mkdir(base+"/data/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(testenv.Self(t), base)
	cmd.Env = append(os.Environ(), testenv.RoleEnv("below"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if want := "bind false <nil>\nrbind true <nil>\n"; err != nil || string(out) != want {
		t.Errorf("got %q, %v, want %q", out, err, want)
	}
}

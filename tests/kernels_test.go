package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

// Old and odd kernels: a host under a filter that hides a system call, or that
// refuses it as older container engines do. A start does without, by the table
// isolate.Features, and is as strong as ever; or it fails and names what it lacks.

func init() {
	testenv.Role("odd host", oddHost)
	testenv.Role("masked host", maskedHost)
}

// A hole is what an odd kernel lacks.
type hole struct {
	Calls []int
	// With an argument that has one of these bits; 0: always.
	Argument int
	Bits     uint32
	Errno    unix.Errno
}

// install puts this process, all of its threads, under the filter.
func (h hole) install() error {
	ret := func(k uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k}
	}
	load := func(k uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: k}
	}
	code := []unix.SockFilter{load(0)}
	refusal := []unix.SockFilter{ret(unix.SECCOMP_RET_ERRNO | uint32(h.Errno))}
	if h.Bits != 0 {
		refusal = []unix.SockFilter{
			load(uint32(16 + 8*h.Argument)),
			{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: h.Bits, Jf: 1},
			refusal[0], ret(unix.SECCOMP_RET_ALLOW),
		}
	}
	for _, n := range h.Calls {
		code = append(code, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(n), Jf: uint8(len(refusal))})
		code = append(code, refusal...)
	}
	code = append(code, ret(unix.SECCOMP_RET_ALLOW))
	program := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, addressOf(&program))
	return errnoError(errno)
}

// An oddStart is what came of a start on such a host.
type oddStart struct {
	Error       string
	Unsupported string // the feature that the error is about, by its type
	Restricted  string // the setting, likewise
	Seen        testenv.Seen
}

func oddHost() {
	var h hole
	json.Unmarshal([]byte(os.Args[1]), &h)
	if err := h.install(); err != nil {
		fmt.Fprintln(os.Stderr, "the filter:", err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(oneStart())
}

// oneStart starts the probe, in a leaf where this host may have one.
func oneStart() (s oddStart) {
	err := func() error {
		g, err := cgroup.Open()
		if err != nil {
			return err
		}
		if g != nil {
			defer g.Close()
		}
		l, err := launcher.Start(launcher.Config{})
		if err != nil {
			return err
		}
		defer l.Close()
		self, _ := os.Executable()
		cmd := l.Command(context.Background(), self)
		cmd.Env = []string{testenv.RoleEnv("probe")}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		defer out.Close()
		c, err := handler.StartCell(cmd, g, cgroup.Limits{}, handler.Budgets{})
		if err != nil {
			return err
		}
		err = json.NewDecoder(out).Decode(&s.Seen)
		if r := c.Wait(); r.ExitCode != 0 || r.Reason != handler.Exited {
			return fmt.Errorf("the probe ended: %s, %d", r.Reason, r.ExitCode)
		}
		return err
	}()
	if err != nil {
		s.Error = err.Error()
		var u *isolate.UnsupportedError
		if errors.As(err, &u) && errors.Is(err, errors.ErrUnsupported) {
			s.Unsupported = u.Feature
		}
		var r *isolate.RestrictedError
		if errors.As(err, &r) {
			s.Restricted = r.Setting
		}
	}
	return s
}

// onOddHost is one start there.
func onOddHost(t *testing.T, h hole) oddStart {
	t.Helper()
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	return oddRole(t, 0, "odd host", string(text))
}

// oddRole plays a role, in new namespaces if some are given (not by unshare(2)
// there, which is one thread's).
func oddRole(t *testing.T, namespaces uintptr, role string, args ...string) (s oddStart) {
	t.Helper()
	cmd := exec.CommandContext(testenv.Context(t), testenv.Self(t), args...)
	cmd.Env = append(os.Environ(), testenv.RoleEnv(role))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: namespaces}
	out, err := cmd.Output()
	if err := errors.Join(err, json.Unmarshal(out, &s)); err != nil {
		t.Fatalf("the odd host: %v: %s", err, out)
	}
	return s
}

// strength is what a program must find the same on every kernel, line by line.
func strength(s testenv.Seen) []string {
	lines := slices.Concat(s.Mounts, s.Files)
	add := func(what string, value any) { lines = append(lines, fmt.Sprint(what, " ", value)) }
	for _, w := range s.Writable {
		add("writable", w)
	}
	for name, inode := range s.Namespaces { // new ones each time
		ours, _ := os.Readlink("/proc/self/ns/" + name)
		add(name, inode != "" && inode != ours)
	}
	for _, name := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups"} {
		add(name, s.Status[name])
	}
	for name, limit := range s.Limits {
		add(name, limit)
	}
	add("securebits", s.Securebits)
	add("ids", []int{s.PID, s.PPID, s.Session})
	add("interfaces", s.Interfaces)
	add("descriptors", len(s.Descriptors))
	add("init", s.Init)
	add("terminal", s.Terminal)
	slices.Sort(lines)
	return lines
}

// differing are the lines of a that b has not.
func differing(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(line string) bool { return slices.Contains(b, line) })
}

func TestOldKernels(t *testing.T) {
	usual := onOddHost(t, hole{Calls: []int{unix.SYS_KEXEC_LOAD}, Errno: unix.ENOSYS})
	for name, c := range map[string]struct {
		calls    []int
		argument int
		bits     uint32
		invalid  bool   // an unknown flag, instead of an unknown call
		lacks    string // of the feature in the error; "": a start does without
		text     string // or, where no feature is known, of the error
	}{
		"openat2":           {calls: []int{unix.SYS_OPENAT2}, lacks: "openat2"},
		"clone3":            {calls: []int{unix.SYS_CLONE3}, lacks: "clone3"},
		"mount_setattr":     {calls: []int{unix.SYS_MOUNT_SETATTR}, lacks: "mount_setattr"},
		"close_range":       {calls: []int{unix.SYS_CLOSE_RANGE}, lacks: "close_range"},
		"open_tree":         {calls: []int{unix.SYS_OPEN_TREE}, lacks: "open_tree"},
		"move_mount":        {calls: []int{unix.SYS_MOVE_MOUNT}, lacks: "move_mount"},
		"fsopen":            {calls: []int{unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_FSCONFIG}, lacks: "fsopen"},
		"pidfd_send_signal": {calls: []int{unix.SYS_PIDFD_SEND_SIGNAL}, lacks: "pidfd_send_signal"},
		"memfd_create":      {calls: []int{unix.SYS_MEMFD_CREATE}, lacks: "memfd_create"},
		"seccomp":           {calls: []int{unix.SYS_SECCOMP}, lacks: "seccomp"},
		"pidfd_open":        {calls: []int{unix.SYS_PIDFD_OPEN}, lacks: "pidfd_open"},
		"Landlock":          {calls: []int{unix.SYS_LANDLOCK_CREATE_RULESET, unix.SYS_LANDLOCK_ADD_RULE, unix.SYS_LANDLOCK_RESTRICT_SELF}},
		"statx":             {calls: []int{unix.SYS_STATX}},
		"MFD_EXEC":          {calls: []int{unix.SYS_MEMFD_CREATE}, argument: 1, bits: unix.MFD_EXEC | unix.MFD_NOEXEC_SEAL, invalid: true},
		"clone's pidfd":     {calls: []int{unix.SYS_CLONE}, argument: 0, bits: unix.CLONE_PIDFD, invalid: true, text: "clone("},
		"CLOSE_RANGE flags": {calls: []int{unix.SYS_CLOSE_RANGE}, argument: 2, bits: unix.CLOSE_RANGE_CLOEXEC, invalid: true, lacks: "close_range"},
		"keyctl":            {calls: []int{unix.SYS_KEYCTL}},
	} {
		t.Run(name, func(t *testing.T) {
			errnos := []unix.Errno{unix.ENOSYS, unix.EPERM}
			if c.invalid {
				errnos = []unix.Errno{unix.EINVAL}
			}
			if name == "close_range" { // a forker without it would serve nobody, and not end
				errnos = append(errnos, unix.EACCES)
			}
			if name == "clone3" { // with EPERM the C library itself makes no thread, and aborts
				errnos = errnos[:1]
			}
			for _, errno := range errnos {
				s := onOddHost(t, hole{c.calls, c.argument, c.bits, errno})
				lacks := c.lacks
				if name == "keyctl" && errno == unix.EPERM {
					lacks = "keyrings" // a kernel has them, and the program would share one
				}
				switch {
				case lacks != "" && !strings.Contains(s.Unsupported, lacks):
					t.Errorf("%v: %q is about %q, not about %s", errno, s.Error, s.Unsupported, lacks)
				case c.text != "" && !strings.Contains(s.Error, c.text):
					t.Errorf("%v: %q", errno, s.Error)
				case lacks == "" && c.text == "" && s.Error != "":
					t.Errorf("%v: %s", errno, s.Error)
				}
				if s.Error != "" {
					continue
				}
				if now, then := strength(s.Seen), strength(usual.Seen); !slices.Equal(now, then) {
					t.Errorf("%v: a program started that is held otherwise: %q instead of %q", errno, differing(now, then), differing(then, now))
				}
			}
		})
	}
}

// TestMaskedProc: a container's /proc, of which the engine covers parts, is
// recognised, and said with the remedy.
func TestMaskedProc(t *testing.T) {
	testenv.Need(t, "root", os.Geteuid() == 0, "makes a mount namespace and mounts in it")
	s := oddRole(t, unix.CLONE_NEWNS, "masked host")
	if !strings.Contains(s.Restricted, "/proc is masked: /proc/") || !strings.Contains(s.Error, "systempaths=unconfined") {
		t.Errorf("%+v", s.Error)
	}
}

func maskedHost() {
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Mount("/dev/null", "/proc/timer_list", "", unix.MS_BIND, "")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(oneStart())
}

// forbid sets the host's setting to 0, on a machine that is there for the tests. What
// it returns, and the end of the test, set it back.
func forbid(t *testing.T, name string) (allow func()) {
	t.Helper()
	testenv.Need(t, "scratch", testenv.Promised("scratch"), "sets "+name+", on a machine of its own only")
	testenv.Need(t, "root", os.Geteuid() == 0, "sets "+name)
	setting := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
	old, err := os.ReadFile(setting)
	if err != nil {
		t.Fatal(err)
	}
	set := func(text []byte) {
		if err := os.WriteFile(setting, text, 0); err != nil {
			t.Fatal(err)
		}
	}
	set([]byte("0"))
	allow = func() { set(old) }
	t.Cleanup(allow)
	return allow
}

// TestNoUserNamespaces: a host that forbids them is named with its setting.
func TestNoUserNamespaces(t *testing.T) {
	forbid(t, "user.max_user_namespaces")
	err := testenv.Launcher(t).Command(testenv.Context(t), "/usr/bin/true").Run()
	var r *isolate.RestrictedError
	if !errors.As(err, &r) || r.Setting != "user.max_user_namespaces = 0" || !strings.Contains(r.Remedy, "sysctl -w") || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
}

// TestNoNetworkNamespaces: the same for those, which are made ahead of a start. What
// failed ahead is no failure of a start any more when its cause is gone.
func TestNoNetworkNamespaces(t *testing.T) {
	allow := forbid(t, "user.max_net_namespaces")
	l := freshLauncher(t)
	testenv.Forkers(l)
	for range 2 {
		err := l.Command(testenv.Context(t), "/usr/bin/true").Run()
		var r *isolate.RestrictedError
		if !errors.As(err, &r) || r.Setting != "user.max_net_namespaces = 0" || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%v", err)
		}
	}
	allow()
	for range 6 {
		if err := l.Command(testenv.Context(t), "/usr/bin/true").Run(); err != nil {
			t.Errorf("with the setting as it was: %v", err)
		}
	}
}

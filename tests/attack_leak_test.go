package tests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

// What of the host could come along into a cell, or of a cell out of it: keys,
// environments, cores, a terminal's input. (T-02, descriptors, is
// TestDescriptorsDoNotLeak.)

func init() {
	attacks["keys"] = attackKeys
	attacks["environment"] = attackEnvironment
	attacks["terminal"] = attackTerminal
	testenv.Role("terminal host", terminalHost)
}

// T-17: keys of the host's user, of its session and of its thread cannot be read
// or found, with the filter and without.
func TestT17KeysStayOutside(t *testing.T) {
	description := fmt.Sprintf("proscenium-test-%d", os.Getpid())
	var serials []string
	for _, ring := range []int{unix.KEY_SPEC_SESSION_KEYRING, unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_PROCESS_KEYRING} {
		serial, err := unix.AddKey("user", description, []byte(secret), ring)
		if err != nil {
			t.Logf("no key in keyring %d: %v", ring, err) // a kernel without keys has none to lose
			continue
		}
		defer unix.KeyctlInt(unix.KEYCTL_INVALIDATE, serial, 0, 0, 0)
		serials = append(serials, itoa(serial))
	}
	for _, noFilter := range []bool{false, true} {
		scene{Attack: "keys", Args: append([]string{description}, serials...), NoFilter: noFilter}.fails(t)
	}
}

func attackKeys(h *hostile, args []string) {
	read := func(serial int) string {
		b := make([]byte, 256)
		n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, serial, b, 0)
		if err != nil {
			return ""
		}
		return string(b[:min(n, len(b))])
	}
	for _, text := range args[1:] {
		var serial int
		fmt.Sscan(text, &serial)
		h.holds(read(serial) == "", "key %d was read", serial)
	}
	for _, ring := range []int{unix.KEY_SPEC_SESSION_KEYRING, unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_USER_SESSION_KEYRING, unix.KEY_SPEC_PROCESS_KEYRING} {
		_, err := unix.KeyctlSearch(ring, "user", args[0], 0)
		h.refused(err, "a key was found in keyring %d", ring)
	}
	_, err := unix.RequestKey("user", args[0], "", unix.KEY_SPEC_PROCESS_KEYRING)
	h.refused(err, "a key was found by request")
	_, err = os.Lstat("/proc/keys")
	h.answers(err, unix.ENOENT, "/proc/keys")
}

// T-24: nothing of the host's environment comes along; what the request's
// environment asks of the dynamic linker makes nothing executable that can be
// written.
func TestT24TheEnvironmentIsTheRequests(t *testing.T) {
	t.Setenv("PROSCENIUM_HOST_SECRET", secret)
	scene{Attack: "environment", Env: []string{"A=1"}}.fails(t)

	testenv.NoLeaks(t)
	dir := testDir(t)
	os.Chmod(dir, 0o777)
	matches, _ := filepath.Glob("/lib/*-linux-gnu/libm.so.6")
	if len(matches) == 0 {
		t.Fatal("no library to copy")
	}
	library := dir + "/libm.so.6"
	if err := copyFile(library, matches[0], 0o755); err != nil {
		t.Fatal(err)
	}
	for _, env := range []string{"LD_PRELOAD=" + library, "LD_AUDIT=" + library, "LD_LIBRARY_PATH=" + dir, "GCONV_PATH=" + dir} {
		cmd := testenv.Launcher(t).Command(testenv.Context(t), "/usr/bin/cat", "/proc/self/maps")
		cmd.Env = []string{env, "PATH=" + dir}
		cmd.Isolation.Mounts = []isolate.Mount{isolate.RW(dir)}
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%s: %v", env, err)
		}
		if regexp.MustCompile(`(?m)^\S+ ..x. .*` + dir).Match(out) {
			t.Errorf("%s: a library that can be written was mapped executable:\n%s", env, out)
		}
	}
}

func attackEnvironment(h *hostile, _ []string) {
	for _, e := range os.Environ() {
		h.holds(e == "A=1" || strings.HasPrefix(e, "PROSCENIUM_TEST_ROLE="), "%s", e)
	}
	found, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range append(found, "/proc/1/environ") {
		b, _ := os.ReadFile(name)
		h.holds(!strings.Contains(string(b), secret), "the host's secret is in %s", name)
	}
	b, _ := os.ReadFile("/proc/self/maps")
	h.holds(!strings.Contains(string(b), "proscenium-init"), "init's image is mapped")
}

// T-25: a program that crashes leaves no core, neither in its directory nor with
// a handler of the host's (core(5): a pipe ignores a limit of 0, but not of 1).
func TestT25NoCores(t *testing.T) {
	testenv.NoLeaks(t)
	crash(t)
}

func TestT25NoCoreHandlerRuns(t *testing.T) {
	testenv.NoLeaks(t)
	testenv.Need(t, "scratch", testenv.Promised("scratch"), "sets kernel.core_pattern, on a machine of its own only")
	testenv.Need(t, "root", os.Geteuid() == 0, "sets kernel.core_pattern")
	const pattern = "/proc/sys/kernel/core_pattern"
	old, err := os.ReadFile(pattern)
	if err != nil {
		t.Fatal(err)
	}
	defer os.WriteFile(pattern, old, 0)
	dir := testDir(t)
	marker, handler := dir+"/core", dir+"/handler"
	if err := os.WriteFile(handler, []byte("#!/bin/sh\necho it was run >"+marker+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pattern, []byte("|"+handler), 0); err != nil {
		t.Fatal(err)
	}
	crash(t)
	if _, err := os.Stat(marker); err == nil {
		t.Error("the host's core handler was run")
	}
	// It works: a crash outside of a cell runs it, and the kernel waits for it.
	exec.Command("/bin/sh", "-c", "ulimit -c unlimited; kill -SEGV $$").Run()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(marker); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a crash outside does not run it either")
		}
	}
}

// crash runs a program that ends by SIGSEGV where it can write.
func crash(t *testing.T) {
	t.Helper()
	dir := testDir(t)
	os.Chmod(dir, 0o777)
	cmd := testenv.Launcher(t).Command(testenv.Context(t), "/usr/bin/perl", "-e", "kill SEGV => $$; sleep 1000")
	cmd.Dir = dir
	cmd.Isolation.Mounts = []isolate.Mount{isolate.RW(dir)}
	err := cmd.Run()
	var exit *launcher.ExitError
	if !errors.As(err, &exit) || exit.Signal() != syscall.SIGSEGV {
		t.Fatalf("it did not crash: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("it left %v, %v", entries, err)
	}
}

// T-10, CVE-2017-5226 and CVE-2019-7303: a program on a terminal cannot put
// characters into its input, nor become its owner, with the filter and without.
func TestT10TerminalInput(t *testing.T) {
	testenv.NoLeaks(t)
	for _, noFilter := range []bool{false, true} {
		master, slave := terminal(t)
		cmd := exec.CommandContext(testenv.Context(t), testenv.Self(t), fmt.Sprint(noFilter))
		cmd.Env = []string{testenv.RoleEnv("terminal host")}
		cmd.Stdin = slave
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		out, err := cmd.Output()
		slave.Close()
		judge(t, fmt.Sprintf("on a terminal, filter off: %v", noFilter), out, err)
		// What it put into the input would be echoed.
		unix.SetNonblock(int(master.Fd()), true)
		b := make([]byte, 64)
		if n, err := unix.Read(int(master.Fd()), b); n > 0 {
			t.Errorf("the terminal got %q, %v", b[:n], err)
		}
		master.Close()
	}
}

// terminal opens a new pseudo terminal, pty(7).
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// terminalHost is a host with a controlling terminal, which its program gets.
func terminalHost() {
	l, err := launcher.Start(launcher.Config{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	self, _ := os.Executable()
	cmd := scene{Attack: "terminal", NoFilter: os.Args[1] == "true"}.command(context.Background(), l, self)
	cmd.Stdin = os.Stdin
	out, err := cmd.Output()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Stdout.Write(out)
}

func attackTerminal(h *hostile, _ []string) {
	_, err := unix.IoctlGetTermios(0, unix.TCGETS)
	h.holds(err == nil, "stdin is no terminal: %v", err)
	h.answers(open("/dev/tty", unix.O_RDWR), unix.ENOENT, "/dev/tty")
	h.refused(open("/dev/console", unix.O_RDWR), "/dev/console was opened")
	h.refused(open("/dev/ptmx", unix.O_RDWR), "/dev/ptmx was opened")
	h.refused(unix.IoctlSetInt(0, unix.TIOCSCTTY, 0), "it became the terminal's session")
	h.refused(unix.IoctlSetInt(0, unix.TIOCSCTTY, 1), "it stole the terminal")
	char := byte('x')
	for _, high := range []uintptr{0, 1 << 32, 1 << 63, 0xffffffff << 32} { // the kernel looks at 32 bits
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, 0, unix.TIOCSTI|high, addressOf(&char))
		h.refused(errnoError(errno), "TIOCSTI with %#x", high)
		for _, function := range []byte{2, 3, 4, 6, 12} { // paste the selection, …: ioctl_console(2)
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, 0, 0x541c|high, addressOf(&function))
			h.refused(errnoError(errno), "TIOCLINUX %d with %#x", function, high)
		}
	}
}

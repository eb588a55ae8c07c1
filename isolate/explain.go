package isolate

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Why a call of a start failed: what on this host is at fault, by name, and what
// to do about it.

// A Restriction is a setting of the host that keeps cells from being made.
type Restriction struct {
	Setting string // and its value: "user.max_user_namespaces = 0"
	Whose   string
	Remedy  string
}

// A RestrictedError is a start that failed for a restriction. errors.Is knows
// the errno.
type RestrictedError struct {
	Restriction
	Err error
}

func (e *RestrictedError) Error() string {
	return fmt.Sprintf("%v: %s (%s); %s", e.Err, e.Setting, e.Whose, e.Remedy)
}

func (e *RestrictedError) Unwrap() error { return e.Err }

// settings reads a file of /proc, without the newline at its end; "" for one
// that is not there.
type settings func(file string) string

func hostSettings(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(b), "\n")
}

// Restrictions are those of this host's that forbid user namespaces, or any
// other of a cell's.
func Restrictions() []Restriction { return restrictions(hostSettings) }

func restrictions(read settings) []Restriction {
	found := lackingRoot(read)
	add := func(name, value, whose, remedy string) {
		if read("/proc/sys/"+strings.ReplaceAll(name, ".", "/")) == value {
			found = append(found, Restriction{name + " = " + value, whose, remedy})
		}
	}
	for _, kind := range []string{"user", "mnt", "pid", "ipc", "uts", "net", "cgroup"} {
		name := "user.max_" + kind + "_namespaces"
		add(name, "0", "an administrator's setting, or that of a container around this process", "sysctl -w "+name+"=15000")
	}
	add("kernel.unprivileged_userns_clone", "0", "Debian's setting", "sysctl -w kernel.unprivileged_userns_clone=1")
	add("kernel.apparmor_restrict_unprivileged_userns", "1", "Ubuntu's AppArmor, which takes the privileges inside from programs without a profile",
		"an AppArmor profile with `userns,` for this program, or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
	return found
}

// lackingRoot is a process that is root and cannot do what root does: of most
// containers, or of a user namespace with one id.
func lackingRoot(read settings) (found []Restriction) {
	status := map[string][]string{}
	for line := range strings.Lines(read("/proc/self/status")) {
		name, value, _ := strings.Cut(line, ":")
		status[name] = strings.Fields(value)
	}
	if len(status["Uid"]) < 2 || status["Uid"][1] != "0" || len(status["CapEff"]) == 0 {
		return nil
	}
	effective, err := strconv.ParseUint(status["CapEff"][0], 16, 64)
	if err != nil {
		return nil
	}
	var lacks []string
	for _, c := range []struct {
		name   string
		number int
	}{{"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN}, {"CAP_SETUID", unix.CAP_SETUID}, {"CAP_SETGID", unix.CAP_SETGID}} {
		if effective&(1<<c.number) == 0 {
			lacks = append(lacks, c.name)
		}
	}
	if len(lacks) > 0 {
		found = append(found, Restriction{"this process is root without " + strings.Join(lacks, ", "), "as in a container",
			"start the container with --cap-add " + strings.ReplaceAll(strings.Join(lacks, " --cap-add "), "CAP_", "") + ", or this process as an ordinary user whose container lets it make user namespaces"})
	}
	for _, m := range []string{"uid_map", "gid_map"} {
		if text := read("/proc/self/" + m); text != "" && !hasID(text, defaultHostID) {
			found = append(found, Restriction{fmt.Sprintf("the id %d, which programs get outside, is not in /proc/self/%s", defaultHostID, m), "a user namespace around this process",
				"start it as the ordinary user himself, without the namespace, or map more ids (newuidmap, a container engine's --subuidname)"})
			break
		}
	}
	return found
}

// hasID says whether the text of an id map has the id: user_namespaces(7).
func hasID(text string, id uint64) bool {
	for line := range strings.Lines(text) {
		var first, outside, count uint64
		if n, _ := fmt.Sscan(line, &first, &outside, &count); n == 3 && id >= first && id-first < count {
			return true
		}
	}
	return false
}

// MaskedProc are the files of /proc that something is mounted over, as container
// engines do: the kernel then gives a cell no /proc of its own.
func MaskedProc() []string { return maskedProc(hostSettings) }

func maskedProc(read settings) []string {
	var masked []string
	for line := range strings.Lines(read("/proc/self/mountinfo")) {
		f := strings.Fields(line)
		// An empty directory that is there to be mounted on hides nothing.
		if len(f) > 4 && strings.HasPrefix(f[4], "/proc/") && f[4] != "/proc/sys/fs/binfmt_misc" {
			masked = append(masked, f[4])
		}
	}
	return masked
}

// RemedyMaskedProc is what to do about it.
const RemedyMaskedProc = "start the container with --security-opt systempaths=unconfined (docker, podman), or procMount: Unmasked (Kubernetes)"

// Explain adds to the errno of a call, as a plan prints it, that failed in a
// start, what is known to be at fault. The error stays what it was for errors.Is.
func Explain(call string, err error) error { return explain(hostSettings, call, err) }

func explain(read settings, call string, err error) error {
	var errno unix.Errno
	if err == nil || !errors.As(err, &errno) {
		return err
	}
	name, args, _ := strings.Cut(call, "(")
	var inner *os.SyscallError
	if errors.As(err, &inner) {
		name = inner.Syscall
	}
	refused := errno == unix.EPERM || errno == unix.EACCES
	namespaces := name == "clone" || name == "unshare"
	switch {
	case name == "prctl" && errno == unix.EINVAL && strings.HasPrefix(args, "PR_SET_MDWE"):
		return &UnsupportedError{"no_jit (PR_SET_MDWE)", "6.3", err}
	case name == "futex" && errno == unix.EAGAIN:
		return fmt.Errorf("%w: what was to be mounted was replaced while the program was being started", err)
	case name == "mount" && refused && strings.HasPrefix(args, `"proc"`):
		if masked := maskedProc(read); len(masked) > 0 {
			return &RestrictedError{Restriction{"/proc is masked: " + strings.Join(masked, ", "), "as in a container: the kernel gives no new /proc to who sees only a part of the old one", RemedyMaskedProc}, err}
		}
	case namespaces && (errno == unix.ENOSPC || errno == unix.EUSERS) || refused && (namespaces || name == "write" || name == "openat" || name == "capset" || name == "mount"):
		// AppArmor lets the namespace be made and refuses what is done in it.
		if r := restrictions(read); len(r) > 0 {
			return &RestrictedError{r[0], err}
		}
		if name == "clone" && strings.Contains(read("/proc/self/status"), "\nSeccomp:\t2") {
			return &RestrictedError{Restriction{"a system call filter around this process", "a container engine's?", "let the container make user namespaces: --security-opt seccomp=unconfined, or a profile that allows clone with namespaces"}, err}
		}
		if !refused {
			return fmt.Errorf("%w: this host has as many namespaces as user.max_user_namespaces and its siblings allow", err)
		}
	}
	if errno == unix.ENOSYS || errno == unix.EPERM {
		if f, ok := featureOf(name); ok && (errno == unix.ENOSYS || f.anybody || strings.Contains(read("/proc/self/status"), "\nSeccomp:\t2")) {
			return &UnsupportedError{f.Name, f.Since, err}
		}
	}
	return err
}

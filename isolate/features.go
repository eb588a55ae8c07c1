package isolate

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// UnsupportedError says that the kernel lacks a feature, or that something
// around this process refuses it, and since when Linux has it. It is
// errors.ErrUnsupported and the errno.
type UnsupportedError struct {
	Feature string
	Since   string // Linux release
	Err     error
}

func (e *UnsupportedError) Error() string {
	if errors.Is(e.Err, unix.EPERM) {
		return fmt.Sprintf("%s is refused (%v): Linux has it since %s, so that a filter around this process (a container engine's?) or a security module forbids it", e.Feature, e.Err, e.Since)
	}
	return fmt.Sprintf("%s is not available (%v): it needs Linux %s, configured with it, and no filter around this process that hides it", e.Feature, e.Err, e.Since)
}

// Is reports whether target is errors.ErrUnsupported.
func (e *UnsupportedError) Is(target error) bool { return target == errors.ErrUnsupported }

func (e *UnsupportedError) Unwrap() error { return e.Err }

// A Feature is something of the kernel that a start uses.
type Feature struct {
	Name  string
	Since string // Linux release
	Why   string // what a program would lack
	// Without is what is done where the feature is missing. Empty: no program
	// is started, and the error names the feature.
	Without string

	calls   []string // that need it
	anybody bool     // the probe needs no privilege: EPERM is a filter's
	probe   func() error
}

// Features are what a hardened start uses, dated. Each is tried, not looked up:
// distributions carry features back and configurations leave them out. The
// baseline is Linux 5.15; what is newer has its fallback here.
var Features = []Feature{
	{Name: "seccomp filters", Since: "3.17", Why: "system calls are filtered", Without: "a start fails, unless it asks for no filter", calls: []string{"seccomp"}, anybody: true, probe: probeCall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, 0)},
	{Name: "user namespaces", Since: "3.8", Why: "every cell lives in one", probe: exists("/proc/self/ns/user")},
	{Name: "memfd_create", Since: "3.17", Why: "what the launcher runs cannot be changed", calls: []string{"memfd_create"}, anybody: true, probe: probeCall(unix.SYS_MEMFD_CREATE, 0, ^uintptr(0))},
	{Name: "control group namespaces", Since: "4.6", Why: "the cell would see the host's groups", probe: exists("/proc/self/ns/cgroup")},
	{Name: "pidfd_send_signal", Since: "5.1", Why: "signals could hit a stranger", calls: []string{"pidfd_send_signal"}, anybody: true, probe: probeCall(unix.SYS_PIDFD_SEND_SIGNAL, ^uintptr(0), 0, 0, 0)},
	{Name: "open_tree, move_mount, fsopen, fsmount", Since: "5.2", Why: "mounts are made by descriptor", calls: []string{"open_tree", "move_mount", "fsopen", "fsconfig", "fsmount"}, probe: probeCall(unix.SYS_MOVE_MOUNT, ^uintptr(0), 0, ^uintptr(0), 0)},
	{Name: "the pidfd of a clone", Since: "5.2", Why: "the program's end is seen by it"}, // a start names the clone
	{Name: "openat2", Since: "5.6", Why: "paths are resolved without links", calls: []string{"openat2"}, anybody: true, probe: probeCall(unix.SYS_OPENAT2, ^uintptr(0), 0, 0, 0)},
	{Name: "birth in a control group (clone3)", Since: "5.7", Why: "limits are in force at the first instruction", Without: "a start with limits fails", calls: []string{"clone3"}, anybody: true, probe: clones},
	{Name: "proc with subset=pid and hidepid", Since: "5.8", Why: "/proc shows the program's own processes only"}, // a start names the mount
	{Name: "close_range", Since: "5.9; CLOSE_RANGE_CLOEXEC 5.11", Why: "no descriptor leaks", calls: []string{"close_range"}, anybody: true, probe: closesRange},
	{Name: "mount_setattr", Since: "5.12", Why: "binds become read-only", calls: []string{"mount_setattr"}, probe: probeCall(unix.SYS_MOUNT_SETATTR, ^uintptr(0), 0, 0, 0, 0)},
	{Name: "session keyrings", Since: "2.6.18", Why: "keys of the host are not the program's", Without: "a kernel without keys has none to share; one that only refuses the call is an error", calls: []string{"keyctl"}, anybody: true, probe: probeCall(unix.SYS_KEYCTL, ^uintptr(0))},
	{Name: "pidfd_open", Since: "5.3", Why: "the ends of init and launcher are seen by it", calls: []string{"pidfd_open"}, anybody: true, probe: probeCall(unix.SYS_PIDFD_OPEN, ^uintptr(0), 0)},
	{Name: "Landlock, version 2", Since: "5.19", Why: "a second line behind the view of the file system", Without: "the view alone holds, and the report of a start says so", anybody: true, probe: landlockThere},
	{Name: "sealing a memfd's mode (MFD_EXEC, F_SEAL_EXEC)", Since: "6.3", Why: "the launcher's image stays executable whatever vm.memfd_noexec says", Without: "it is sealed against writing alone", anybody: true, probe: sealsMode},
}

// Check tries every feature without which no program is started and names those
// that are missing. It is nil as well where only a start can tell.
func Check() error {
	if _, err := os.Lstat("/proc/self/status"); err != nil {
		return fmt.Errorf("/proc is not mounted, which every start needs: %w", err)
	}
	var missing []error
	for _, r := range lackingRoot(hostSettings) {
		missing = append(missing, &RestrictedError{r, unix.EPERM})
	}
	for _, f := range Features {
		if f.Without == "" {
			missing = append(missing, f.Probe())
		}
	}
	return errors.Join(missing...)
}

// Probe is nil when the kernel has the feature, or when only a start can tell,
// and an *UnsupportedError when it has not.
func (f Feature) Probe() error {
	if f.probe == nil {
		return nil
	}
	err := f.probe()
	if err == nil || errors.Is(err, unix.EPERM) && !f.anybody {
		return nil
	}
	return &UnsupportedError{f.Name, f.Since, err}
}

// Tried is false for a feature that only a start tells.
func (f Feature) Tried() bool { return f.probe != nil }

// featureOf is what a call needs.
func featureOf(call string) (Feature, bool) {
	i := slices.IndexFunc(Features, func(f Feature) bool { return slices.Contains(f.calls, call) })
	if i < 0 {
		return Feature{}, false
	}
	return Features[i], true
}

// closesRange closes nothing. Every errno counts: without this call descriptors leak,
// and a forker that cannot make it serves nobody.
func closesRange() error {
	return unix.CloseRange(math.MaxUint32, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
}

// clones makes no clone. Every errno but that of the arguments counts: what has no
// control group is forked by clone then.
func clones() error {
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0)
	if errno != unix.EINVAL {
		return errno
	}
	return nil
}

func exists(path string) func() error {
	return func() error {
		_, err := os.Lstat(path)
		return err
	}
}

func sealsMode() error {
	fd, err := unix.MemfdCreate("probe", unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// probeCall makes a call whose arguments cannot work. ENOSYS says that there is
// none, EPERM that a filter refuses it or that a privilege is needed; any other
// errno is the call's own.
func probeCall(number uintptr, args ...uintptr) func() error {
	return func() error {
		var a [6]uintptr
		copy(a[:], args)
		_, _, errno := unix.RawSyscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
		if errno == unix.ENOSYS || errno == unix.EPERM {
			return errno
		}
		return nil
	}
}

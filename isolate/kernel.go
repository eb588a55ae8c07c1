package isolate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A Host is what Compile must know of the machine. ThisHost asks the machine;
// a test writes one down.
type Host struct {
	// Privileged hosts may give a program another user's id and make detached
	// mounts of files that only they can reach: root, in its user namespace.
	Privileged bool
	// UID and GID of this process, for a host that is not privileged.
	UID, GID int
	// LastCap is the highest capability that the kernel knows.
	LastCap int
	// Landlock is the version of Landlock's interface; 0 where the kernel has
	// none, or none that is in use.
	Landlock int
	// Files is the root of the file system.
	Files fileSystem
}

// ThisHost describes the running machine. The answer does not change while a
// process lives, but for Files, which is read anew by each Prepare.
var ThisHost = sync.OnceValues(func() (Host, error) {
	h := Host{
		Privileged: os.Geteuid() == 0,
		UID:        os.Geteuid(),
		GID:        os.Getegid(),
		Landlock:   landlockVersion(),
		Files:      hostFiles{os.DirFS("/").(fileSystem)},
	}
	b, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return h, fmt.Errorf("the highest capability is not known: %w", err)
	}
	if h.LastCap, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
		return h, fmt.Errorf("/proc/sys/kernel/cap_last_cap: %w", err)
	}
	return h, nil
})

// hostFiles is the root of the host. Opening a fifo does not wait for its writer.
type hostFiles struct{ fileSystem }

func (hostFiles) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	return os.OpenFile("/"+name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
}

// UnsupportedError says that the kernel lacks a feature, and since when Linux
// has it. It is errors.ErrUnsupported.
type UnsupportedError struct {
	Feature string
	Since   string // Linux release
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s is not available: it needs Linux %s with the feature enabled", e.Feature, e.Since)
}

// Is reports whether target is errors.ErrUnsupported.
func (e *UnsupportedError) Is(target error) bool { return target == errors.ErrUnsupported }

// A Feature is something of the kernel that a plan uses.
type Feature struct {
	Name  string
	Since string // Linux release
	Why   string // what a program would lack
	probe func() error
}

// Features are what a hardened start needs, dated. Each is tried, not looked
// up: distributions carry features back and configurations leave them out.
var Features = []Feature{
	{"user namespaces", "3.8", "every cell lives in one", func() error { return exists("/proc/self/ns/user") }},
	{"control group namespaces", "4.6", "the cell would see the host's groups", func() error { return exists("/proc/self/ns/cgroup") }},
	{"pidfd_send_signal", "5.1", "signals could hit a stranger", probeCall(unix.SYS_PIDFD_SEND_SIGNAL, ^uintptr(0), 0, 0, 0)},
	{"open_tree, move_mount, fsmount", "5.2", "mounts are made by descriptor", probeCall(unix.SYS_MOVE_MOUNT, ^uintptr(0), 0, ^uintptr(0), 0)},
	{"pidfd of a clone", "5.2", "the program's end is seen by it", nil},
	{"openat2", "5.6", "paths are resolved without links", probeCall(unix.SYS_OPENAT2, ^uintptr(0), 0, 0, 0)},
	{"birth in a control group", "5.7", "limits are in force at the first instruction", nil},
	{"proc with subset=pid and hidepid", "5.8", "/proc shows the program's own processes only", nil},
	{"close_range", "5.11", "no descriptor leaks", probeCall(unix.SYS_CLOSE_RANGE, ^uintptr(0), 0, 0, 0)},
	{"mount_setattr", "5.12", "binds become read-only", probeCall(unix.SYS_MOUNT_SETATTR, ^uintptr(0), 0, 0, 0, 0)},
	{"seccomp filters", "3.5", "system calls are filtered", probeCall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, 0)},
}

// Probe is nil when the kernel has the feature and an *UnsupportedError when it
// has not.
func (f Feature) Probe() error {
	if f.probe == nil {
		return nil // comes with a neighbour that is probed, and a start names it
	}
	return f.probe()
}

func exists(path string) error {
	if _, err := os.Lstat(path); err != nil {
		return err
	}
	return nil
}

// probeCall makes a call whose arguments cannot work: any errno but ENOSYS says
// that it exists. (EPERM is what an ordinary user gets of some outside of a cell,
// and what a filter may say: there a start tells more.)
func probeCall(number uintptr, args ...uintptr) func() error {
	return func() error {
		var a [6]uintptr
		copy(a[:], args)
		_, _, errno := unix.RawSyscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
		if errno == unix.ENOSYS {
			return errno
		}
		return nil
	}
}

package isolate

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"slices"
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
	// ForeignGroups is how many supplementary groups programs keep: an ordinary user
	// cannot drop his.
	ForeignGroups int
	// CoreSocket is a host whose cores go to a socket (core_pattern begins with @,
	// Linux 6.16), which the kernel does not bound by RLIMIT_CORE.
	CoreSocket bool
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
		Files:      hostFiles{os.DirFS("/").(fileSystem)},
	}
	h.Landlock, _ = landlockVersion()
	if groups, err := os.Getgroups(); err == nil && !h.Privileged {
		h.ForeignGroups = len(slices.DeleteFunc(groups, func(g int) bool { return g == h.GID }))
	}
	if pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern"); err == nil {
		h.CoreSocket = bytes.HasPrefix(pattern, []byte("@"))
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

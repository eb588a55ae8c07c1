package isolate

import (
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Landlock says a second time, by other code of the kernel, what the mounts say:
// only allowed programs and their dynamic linker can be executed, and only what
// is writable can be changed; from version 6 on (Linux 6.12) signals and abstract
// sockets do not leave the cell. See landlock(7). It is never the reason to show
// more: what it lets be (libraries that are mapped, programs given to the dynamic
// linker, memfds) the view and the filter stop.

// leastLandlock is the first version that lets a file be moved to another
// directory: before it, a git in a cell would fail.
const leastLandlock = 2 // Linux 5.19

// landlockVersion asks the kernel: 0 and why where Landlock is not built, not enabled
// (the boot parameter lsm=), or refused to us.
func landlockVersion() (version int, err error) {
	v, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, errno
	}
	return int(v), nil
}

func landlockThere() error {
	version, err := landlockVersion()
	if err == nil && version < leastLandlock {
		return unix.ENOSYS
	}
	return err
}

// A landlockRight is something that a ruleset refuses where no rule allows it.
type landlockRight struct {
	name  string
	value uint64
	since int  // version of the interface
	file  bool // a right to a file, and not only to what is in a directory
	write bool // given where a program may write
}

// landlockRights are what the rulesets handle. Nothing may make devices (a
// whiteout, which a rename leaves, Landlock does not see: the filter refuses it), and
// nothing that is opened inside answers ioctls of a device.
var landlockRights = []landlockRight{
	{"EXECUTE", unix.LANDLOCK_ACCESS_FS_EXECUTE, 1, true, false},
	{"WRITE_FILE", unix.LANDLOCK_ACCESS_FS_WRITE_FILE, 1, true, true},
	{"REMOVE_DIR", unix.LANDLOCK_ACCESS_FS_REMOVE_DIR, 1, false, true},
	{"REMOVE_FILE", unix.LANDLOCK_ACCESS_FS_REMOVE_FILE, 1, false, true},
	{"MAKE_CHAR", unix.LANDLOCK_ACCESS_FS_MAKE_CHAR, 1, false, false},
	{"MAKE_DIR", unix.LANDLOCK_ACCESS_FS_MAKE_DIR, 1, false, true},
	{"MAKE_REG", unix.LANDLOCK_ACCESS_FS_MAKE_REG, 1, false, true},
	{"MAKE_SOCK", unix.LANDLOCK_ACCESS_FS_MAKE_SOCK, 1, false, true},
	{"MAKE_FIFO", unix.LANDLOCK_ACCESS_FS_MAKE_FIFO, 1, false, true},
	{"MAKE_BLOCK", unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK, 1, false, false},
	{"MAKE_SYM", unix.LANDLOCK_ACCESS_FS_MAKE_SYM, 1, false, true},
	{"REFER", unix.LANDLOCK_ACCESS_FS_REFER, 2, false, true},
	{"TRUNCATE", unix.LANDLOCK_ACCESS_FS_TRUNCATE, 3, true, true},
	{"IOCTL_DEV", unix.LANDLOCK_ACCESS_FS_IOCTL_DEV, 5, true, false},
}

const landlockScopes = 6 // version

// rights is the sum of those of a version that which selects, and its text.
func rights(version int, which func(landlockRight) bool) (sum uint64, text string) {
	var names []string
	for _, r := range landlockRights {
		if r.since <= version && which(r) {
			sum |= r.value
			names = append(names, r.name)
		}
	}
	return sum, strings.Join(names, "|")
}

// Descriptors of the ruleset and of the file that a rule is about. A rule has
// the number in memory, where no result of a call can stand; but with everything
// from the first on closed (see setUp), the kernel gives the lowest free one, so both are
// known.
const (
	landlockRuleset = firstClosed
	landlockFile    = firstClosed + 1
)

// landlock makes the ruleset, in init, as the last of the set-up: the root is final
// by then. The program restricts itself by it. Nothing for a kernel without.
func (c *compiler) landlock() {
	version := c.host.Landlock
	if version < leastLandlock {
		return
	}
	handled, text := rights(version, func(landlockRight) bool { return true })
	attributes := binary.NativeEndian.AppendUint64(nil, handled)
	attributes = binary.NativeEndian.AppendUint64(attributes, 0) // network: it has none, or the host's by request
	var scoped uint64
	if version >= landlockScopes {
		scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
		text += ", scoped=ABSTRACT_UNIX_SOCKET|SIGNAL"
	}
	attributes = binary.NativeEndian.AppendUint64(attributes, scoped) // zeros that an older kernel does not know are no fault

	ruleset := sys("landlock_create_ruleset", at(&block{bytes: attributes}, 0, "{handled_access_fs="+text+"}"), num(int64(len(attributes))), num(0))
	c.add(ruleset)
	rule := func(fd int, allowed uint64, text string) *Call {
		b := binary.NativeEndian.AppendUint64(nil, allowed)
		b = binary.NativeEndian.AppendUint32(b, uint32(fd))
		call := sys("landlock_add_rule", resultOf(ruleset), flags("LANDLOCK_RULE_PATH_BENEATH"), at(&block{bytes: b}, 0, fmt.Sprintf("{allowed_access=%s, parent_fd=%d}", text, fd)), num(0))
		return c.add(call)
	}
	beneath := func(name string, allowed uint64, text string) {
		c.add(sys("openat", flags("AT_FDCWD"), str(name), flags("O_PATH|O_NOFOLLOW|O_CLOEXEC"), num(0)))
		rule(landlockFile, allowed, text)
		c.add(sys("close", num(landlockFile)))
	}

	execute, executeText := rights(version, func(r landlockRight) bool { return r.name == "EXECUTE" })
	write, writeText := rights(version, func(r landlockRight) bool { return r.write })
	writeFile, writeFileText := rights(version, func(r landlockRight) bool { return r.write && r.file })
	// What is open already can be opened again, as /dev/stdout; a pipe needs no
	// rule and can have none.
	open, openText := rights(version, func(r landlockRight) bool { return r.name == "WRITE_FILE" || r.name == "IOCTL_DEV" })
	for _, fd := range []int{1, 2} {
		rule(fd, open, openText).tolerate(unix.EBADFD)
	}
	beneath("/dev", write, writeText) // the devices, and /dev/shm
	for _, t := range c.tmpfs() {
		if path.Dir(t.path) != "/dev" {
			beneath(t.path, write, writeText)
		}
	}
	for _, b := range c.view.ordered() {
		switch {
		case b.writable && b.info.IsDir():
			beneath(b.path, write, writeText)
		case b.writable:
			beneath(b.path, writeFile, writeFileText)
		}
	}
	for _, name := range c.executables() {
		beneath(name, execute, executeText)
	}
}

// executables are the files that may be executed, sorted; for ViewSystem and a
// root the directories of which that is so.
func (c *compiler) executables() []string {
	var list []string
	may := func(b bind) bool { return b.run || b.exec && c.spec.Root != "" }
	for name, b := range c.view.binds {
		if in, inside := c.view.below(name); may(b) && !(inside && may(in)) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

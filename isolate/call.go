package isolate

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Call is one prepared system call: its number, its arguments, and at most
// one errno that is no failure. Init performs calls as they stand; nothing is
// computed after the clone.
type Call struct {
	Name     string
	Args     []Arg
	Tolerate unix.Errno // 0: every errno is a failure
}

// String prints the call as strace would.
func (c *Call) String() string {
	var b strings.Builder
	b.WriteString(c.Name)
	b.WriteByte('(')
	for i, a := range c.Args {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(a.text)
	}
	b.WriteByte(')')
	return b.String()
}

// An Arg is one argument of a Call: a number, the address of something in the
// plan, or an address whose content, known only when the call is made, is the
// argument (the result of an earlier call, a received descriptor).
type Arg struct {
	number uint64
	block  *block // the address of block+offset
	offset int
	result *Call // the address of this call's result slot
	load   bool  // pass what stands at the address, not the address
	text   string
}

// A block is memory of the plan that a call reads or that the kernel fills in.
type block struct {
	bytes []byte
	words []Arg // instead of bytes: eight-byte words, addresses among them
}

func (b *block) size() int {
	if b.words != nil {
		return 8 * len(b.words)
	}
	return len(b.bytes)
}

func num(n int64) Arg { return Arg{number: uint64(n), text: strconv.FormatInt(n, 10)} }

func octal(n uint32) Arg { return Arg{number: uint64(n), text: fmt.Sprintf("%#o", n)} }

// str is the address of s with a NUL behind it. Callers have refused strings
// that contain one.
func str(s string) Arg {
	return Arg{block: &block{bytes: append([]byte(s), 0)}, text: strconv.Quote(s)}
}

// null is a null pointer.
var null = Arg{text: "NULL"}

// at is the address of b+offset, printed as text.
func at(b *block, offset int, text string) Arg { return Arg{block: b, offset: offset, text: text} }

// resultOf is what the earlier call c returned.
func resultOf(c *Call) Arg {
	name := c.Name
	for _, a := range c.Args {
		if strings.HasPrefix(a.text, `"`) && a.text != `""` {
			name += " " + a.text
			break
		}
	}
	return Arg{result: c, load: true, text: "<" + name + ">"}
}

// received is the descriptor that a recvmsg stores at b+offset. Init loads
// eight bytes; the kernel takes the low four of a descriptor argument.
func received(b *block, offset int, text string) Arg {
	return Arg{block: b, offset: offset, load: true, text: "<" + text + ">"}
}

// flags looks up the names, joined by |, in the constants table; a name that
// is not there is a mistake of ours and panics (every plan is compiled in the
// tests).
func flags(names string) Arg {
	var n uint64
	for name := range strings.SplitSeq(names, "|") {
		v, ok := constants[name]
		if !ok {
			panic("isolate: bug: unknown constant " + name)
		}
		n |= v
	}
	return Arg{number: n, text: names}
}

// stringArray is a null-terminated array of strings, as execve takes it. With
// hidden values only the part before "=" is printed: a plan may be logged.
func stringArray(list []string, hideValues bool) Arg {
	words := make([]Arg, 0, len(list)+1)
	texts := make([]string, 0, len(list))
	for _, s := range list {
		words = append(words, str(s))
		if name, _, ok := strings.Cut(s, "="); ok && hideValues {
			s = name + "=…"
		}
		texts = append(texts, strconv.Quote(s))
	}
	words = append(words, null)
	return at(&block{words: words}, 0, "["+strings.Join(texts, ", ")+"]")
}

// sys makes a call; the name must be in the numbers table.
func sys(name string, args ...Arg) *Call {
	if _, ok := numbers[name]; !ok {
		panic("isolate: bug: unknown system call " + name)
	}
	return &Call{Name: name, Args: args}
}

// tolerate names the errno that is no failure of c.
func (c *Call) tolerate(errno unix.Errno) *Call {
	c.Tolerate = errno
	return c
}

// numbers has every system call that a plan may make.
var numbers = map[string]uintptr{
	"capset":         unix.SYS_CAPSET,
	"chdir":          unix.SYS_CHDIR,
	"clone":          unix.SYS_CLONE,
	"clone3":         unix.SYS_CLONE3,
	"close":          unix.SYS_CLOSE,
	"close_range":    unix.SYS_CLOSE_RANGE,
	"dup3":           unix.SYS_DUP3,
	"execve":         unix.SYS_EXECVE,
	"exit_group":     unix.SYS_EXIT_GROUP,
	"fchdir":         unix.SYS_FCHDIR,
	"fsconfig":       unix.SYS_FSCONFIG,
	"fsmount":        unix.SYS_FSMOUNT,
	"fsopen":         unix.SYS_FSOPEN,
	"fstat":          unix.SYS_FSTAT,
	"futex":          unix.SYS_FUTEX,
	"keyctl":         unix.SYS_KEYCTL,
	"madvise":        unix.SYS_MADVISE,
	"mkdirat":        unix.SYS_MKDIRAT,
	"mknodat":        unix.SYS_MKNODAT,
	"mount":          unix.SYS_MOUNT,
	"mount_setattr":  unix.SYS_MOUNT_SETATTR,
	"move_mount":     unix.SYS_MOVE_MOUNT,
	"open_tree":      unix.SYS_OPEN_TREE,
	"pidfd_open":     unix.SYS_PIDFD_OPEN,
	"munmap":         unix.SYS_MUNMAP,
	"openat":         unix.SYS_OPENAT,
	"openat2":        unix.SYS_OPENAT2,
	"pivot_root":     unix.SYS_PIVOT_ROOT,
	"prctl":          unix.SYS_PRCTL,
	"prlimit64":      unix.SYS_PRLIMIT64,
	"recvmsg":        unix.SYS_RECVMSG,
	"rt_sigaction":   unix.SYS_RT_SIGACTION,
	"rt_sigprocmask": unix.SYS_RT_SIGPROCMASK,
	"seccomp":        unix.SYS_SECCOMP,
	"sendmsg":        unix.SYS_SENDMSG,
	"sethostname":    unix.SYS_SETHOSTNAME,
	"setgid":         unix.SYS_SETGID,
	"setgroups":      unix.SYS_SETGROUPS,
	"setns":          unix.SYS_SETNS,
	"setsid":         unix.SYS_SETSID,
	"setuid":         unix.SYS_SETUID,
	"symlinkat":      unix.SYS_SYMLINKAT,
	"timer_create":   unix.SYS_TIMER_CREATE,
	"timer_settime":  unix.SYS_TIMER_SETTIME,
	"umount2":        unix.SYS_UMOUNT2,
	"umask":          unix.SYS_UMASK,
	"unshare":        unix.SYS_UNSHARE,
	"write":          unix.SYS_WRITE,

	"landlock_add_rule":       unix.SYS_LANDLOCK_ADD_RULE,
	"landlock_create_ruleset": unix.SYS_LANDLOCK_CREATE_RULESET,
	"landlock_restrict_self":  unix.SYS_LANDLOCK_RESTRICT_SELF,
}

// constants has every named constant that a plan may print.
var constants = map[string]uint64{
	"AT_EMPTY_PATH":             unix.AT_EMPTY_PATH,
	"AT_FDCWD":                  ^uint64(99), // -100
	"AT_RECURSIVE":              unix.AT_RECURSIVE,
	"CLOCK_MONOTONIC":           unix.CLOCK_MONOTONIC,
	"CLONE_NEWCGROUP":           unix.CLONE_NEWCGROUP,
	"CLONE_NEWIPC":              unix.CLONE_NEWIPC,
	"CLONE_NEWNET":              unix.CLONE_NEWNET,
	"CLONE_NEWNS":               unix.CLONE_NEWNS,
	"CLONE_NEWPID":              unix.CLONE_NEWPID,
	"CLONE_NEWUSER":             unix.CLONE_NEWUSER,
	"CLONE_NEWUTS":              unix.CLONE_NEWUTS,
	"CLONE_PARENT":              unix.CLONE_PARENT,
	"CLONE_PIDFD":               unix.CLONE_PIDFD,
	"CLONE_VFORK":               unix.CLONE_VFORK,
	"CLONE_VM":                  unix.CLONE_VM,
	"CLOSE_RANGE_CLOEXEC":       unix.CLOSE_RANGE_CLOEXEC,
	"FSCONFIG_CMD_CREATE":       unix.FSCONFIG_CMD_CREATE,
	"FSCONFIG_SET_STRING":       unix.FSCONFIG_SET_STRING,
	"FSMOUNT_CLOEXEC":           unix.FSMOUNT_CLOEXEC,
	"FSOPEN_CLOEXEC":            unix.FSOPEN_CLOEXEC,
	"KEYCTL_JOIN_SESSION":       unix.KEYCTL_JOIN_SESSION_KEYRING,
	"FUTEX_CMP_REQUEUE_PRIVATE": 4 | 128,
	"MADV_DONTNEED":             unix.MADV_DONTNEED,
	"MNT_DETACH":                unix.MNT_DETACH,
	"MOUNT_ATTR_NODEV":          unix.MOUNT_ATTR_NODEV,
	"MOUNT_ATTR_NOEXEC":         unix.MOUNT_ATTR_NOEXEC,
	"MOUNT_ATTR_NOSUID":         unix.MOUNT_ATTR_NOSUID,
	"MOUNT_ATTR_RDONLY":         unix.MOUNT_ATTR_RDONLY,
	"MOVE_MOUNT_F_EMPTY_PATH":   unix.MOVE_MOUNT_F_EMPTY_PATH,
	"MOVE_MOUNT_T_EMPTY_PATH":   unix.MOVE_MOUNT_T_EMPTY_PATH,
	"MSG_CMSG_CLOEXEC":          unix.MSG_CMSG_CLOEXEC,
	"MSG_NOSIGNAL":              unix.MSG_NOSIGNAL,
	"MS_NODEV":                  unix.MS_NODEV,
	"MS_NOEXEC":                 unix.MS_NOEXEC,
	"MS_NOSUID":                 unix.MS_NOSUID,
	"MS_PRIVATE":                unix.MS_PRIVATE,
	"MS_RDONLY":                 unix.MS_RDONLY,
	"MS_REC":                    unix.MS_REC,
	"MS_SLAVE":                  unix.MS_SLAVE,
	"OPEN_TREE_CLOEXEC":         unix.OPEN_TREE_CLOEXEC,
	"OPEN_TREE_CLONE":           unix.OPEN_TREE_CLONE,
	"O_CLOEXEC":                 unix.O_CLOEXEC,
	"O_CREAT":                   unix.O_CREAT,
	"O_DIRECTORY":               unix.O_DIRECTORY,
	"O_EXCL":                    unix.O_EXCL,
	"O_NOFOLLOW":                unix.O_NOFOLLOW,
	"O_PATH":                    unix.O_PATH,
	"O_RDONLY":                  unix.O_RDONLY,
	"O_WRONLY":                  unix.O_WRONLY,
	"PR_CAPBSET_DROP":           unix.PR_CAPBSET_DROP,
	"PR_CAP_AMBIENT":            unix.PR_CAP_AMBIENT,
	"PR_CAP_AMBIENT_CLEAR_ALL":  unix.PR_CAP_AMBIENT_CLEAR_ALL,
	"PR_MDWE_REFUSE_EXEC_GAIN":  unix.PR_MDWE_REFUSE_EXEC_GAIN,
	"PR_SET_DUMPABLE":           unix.PR_SET_DUMPABLE,
	"PR_SET_MDWE":               unix.PR_SET_MDWE,
	"PR_SET_NAME":               unix.PR_SET_NAME,
	"PR_SET_NO_NEW_PRIVS":       unix.PR_SET_NO_NEW_PRIVS,
	"PR_SET_PDEATHSIG":          unix.PR_SET_PDEATHSIG,
	"PR_SET_SECUREBITS":         unix.PR_SET_SECUREBITS,
	"RLIMIT_CORE":               unix.RLIMIT_CORE,
	"RLIMIT_FSIZE":              unix.RLIMIT_FSIZE,
	"RLIMIT_MEMLOCK":            unix.RLIMIT_MEMLOCK,
	"RLIMIT_NOFILE":             unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC":              unix.RLIMIT_NPROC,
	"SECCOMP_SET_MODE_FILTER":   unix.SECCOMP_SET_MODE_FILTER,
	"SIGCHLD":                   uint64(unix.SIGCHLD),
	"SIGKILL":                   uint64(unix.SIGKILL),
	"SIG_SETMASK":               2,
	"S_IFREG":                   unix.S_IFREG,

	"LANDLOCK_RULE_PATH_BENEATH": unix.LANDLOCK_RULE_PATH_BENEATH,
}

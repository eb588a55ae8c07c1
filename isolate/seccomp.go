package isolate

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// The system call filter: moby's default profile for a container without
// capabilities, as data (seccomp_table.go), less what a program in a cell has
// no business with (removed, below), and with the conditions written here.
//
// It is compiled to a balanced tree over ranges of numbers. The kernel runs a
// filter once for every number when it is installed, so that a chain of 300
// comparisons costs about half a millisecond a start; the tree costs a sixth.
//
// Netlink is there with the host's network only. In an empty one there is nothing to
// ask, and the answers that a program does not read are memory of the kernel's that no
// group is charged for: hundreds of megabytes for a program of three.

//go:generate go run gen_seccomp.go

// A syscallEntry is one system call of an architecture and what moby's profile
// says of it.
type syscallEntry struct {
	name   string
	number uint32
	moby   mobyVerdict
}

type mobyVerdict uint8

const (
	mobyRefuses mobyVerdict = iota
	mobyAllows
	mobyConditional
)

// A verdict is a filter's answer: SECCOMP_RET_*, or the conditions of one
// system call.
type verdict struct {
	action uint32
	check  check
}

const (
	allow   = unix.SECCOMP_RET_ALLOW
	refuse  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	unknown = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	kill    = unix.SECCOMP_RET_KILL_PROCESS
)

// A check decides by the arguments.
type check uint8

const (
	checkNone check = iota
	checkClone
	checkHugeMap
	checkHugeSegment
	checkIoctl
	checkPersonality
	checkPrlimit
	checkRename
	checkSetrlimit
	checkShmat
	checkSocket
	checkSocketNetlink // and NETLINK_ROUTE
	checkSocketpair
	checkModeSecond // set-id bits of the mode that is the second argument
	checkModeThird
	checkOpen
	checkOpenat
)

var conditional = map[string]check{
	"chmod":       checkModeSecond,
	"clone":       checkClone,
	"creat":       checkModeSecond,
	"fchmod":      checkModeSecond,
	"fchmodat":    checkModeThird,
	"fchmodat2":   checkModeThird,
	"ioctl":       checkIoctl,
	"mkdir":       checkModeSecond,
	"mkdirat":     checkModeThird,
	"mknod":       checkModeSecond,
	"mknodat":     checkModeThird,
	"mmap":        checkHugeMap,
	"open":        checkOpen,
	"openat":      checkOpenat,
	"personality": checkPersonality,
	"prlimit64":   checkPrlimit,
	"renameat2":   checkRename,
	"setrlimit":   checkSetrlimit,
	"shmat":       checkShmat,
	"shmget":      checkHugeSegment,
	"socket":      checkSocket,
	"socketpair":  checkSocketpair,
}

// answeredENOSYS are calls whose absence programs handle: libraries fall back.
// With memfds and execveat a program could run what it has written; the mode of
// openat2 lies in memory, where a filter cannot look.
var answeredENOSYS = map[string]bool{
	"clone3":         true,
	"execveat":       true,
	"memfd_create":   true,
	"memfd_secret":   true,
	"openat2":        true,
	"io_uring_setup": true, "io_uring_enter": true, "io_uring_register": true,
}

// removed is what moby's profile allows and ours does not.
var removed = map[string]bool{
	"adjtimex": true, "clock_adjtime": true, "clock_adjtime64": true,
	"epoll_ctl_old": true, "epoll_wait_old": true,
	"fanotify_mark": true,
	"io_cancel":     true, "io_destroy": true, "io_getevents": true, "io_pgetevents": true, "io_setup": true, "io_submit": true,
	"listmount": true, "statmount": true,
	"modify_ldt":        true,
	"name_to_handle_at": true,
	"process_mrelease":  true,
	"process_vm_readv":  true,
	"process_vm_writev": true,
	"ptrace":            true,
	"remap_file_pages":  true,
	"vmsplice":          true,
}

func (e syscallEntry) verdict() verdict {
	switch {
	case answeredENOSYS[e.name]:
		return verdict{action: unknown}
	case removed[e.name] || e.moby == mobyRefuses:
		return verdict{action: refuse}
	case conditional[e.name] != checkNone:
		return verdict{check: conditional[e.name]}
	case e.moby == mobyConditional:
		return verdict{action: refuse} // a condition of moby's that is not written here
	}
	return verdict{action: allow}
}

// x32 calls have this bit; the architecture is the same.
const x32Bit = 0x40000000

// A verdictRange holds from first up to the next range.
type verdictRange struct {
	first uint32
	verdict
}

// ranges covers all numbers: what the table has, ENOSYS between and behind, the
// end of the process for x32. syscall(-1) is legal and answers ENOSYS.
func ranges(table []syscallEntry, network Network) []verdictRange {
	byNumber := slices.SortedFunc(slices.Values(table), func(a, b syscallEntry) int { return cmp.Compare(a.number, b.number) })
	var out []verdictRange
	add := func(first uint32, v verdict) {
		if n := len(out); n == 0 || out[n-1].verdict != v {
			out = append(out, verdictRange{first, v})
		}
	}
	next := uint32(0)
	for _, e := range byNumber {
		if e.number > next {
			add(next, verdict{action: unknown})
		}
		v := e.verdict()
		if v.check == checkSocket && network == NetworkHost {
			v.check = checkSocketNetlink
		}
		add(e.number, v)
		next = e.number + 1
	}
	add(next, verdict{action: unknown})
	add(x32Bit, verdict{action: kill})
	add(0x80000000, verdict{action: unknown})
	return out
}

// Where a filter finds things in seccomp_data, little endian: seccomp(2).
const (
	dataNumber = 0
	dataArch   = 4
)

func argLow(i uint32) uint32  { return 16 + 8*i }
func argHigh(i uint32) uint32 { return 20 + 8*i }

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func ret(action uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
}

func jump(op uint16, k uint32, ifTrue, ifFalse uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, Jt: ifTrue, Jf: ifFalse, K: k}
}

// either is: if A == k then yes, else no. Both end in returns.
func either(k uint32, yes, no []unix.SockFilter) []unix.SockFilter {
	return slices.Concat([]unix.SockFilter{jump(unix.BPF_JEQ, k, 0, uint8(len(yes)))}, yes, no)
}

// checks are the conditions; what allows compares all 64 bits, what refuses the
// 32 that the kernel looks at.
func checks(c check) []unix.SockFilter {
	yes, no := []unix.SockFilter{ret(allow)}, []unix.SockFilter{ret(refuse)}
	oneOf := func(values []uint32, otherwise []unix.SockFilter) []unix.SockFilter {
		code := otherwise
		for _, v := range slices.Backward(values) {
			code = either(v, yes, code)
		}
		return code
	}
	exactly := func(arg uint32, low []unix.SockFilter) []unix.SockFilter {
		return append([]unix.SockFilter{load(argHigh(arg))}, either(0, append([]unix.SockFilter{load(argLow(arg))}, low...), no)...)
	}
	switch c {
	case checkClone:
		// Not CLONE_NEWTIME: clone takes that bit for part of the exit signal.
		const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP
		return without(0, namespaces)
	case checkIoctl:
		return append([]unix.SockFilter{load(argLow(1))}, either(unix.TIOCSTI, no, either(tioclinux, no, yes))...)
	case checkPersonality:
		return exactly(0, oneOf([]uint32{0, 0xffffffff}, no))
	case checkPrlimit: // RLIMIT_CORE may be looked at, not set
		set := append([]unix.SockFilter{load(argHigh(2))}, either(0, append([]unix.SockFilter{load(argLow(2))}, either(0, yes, no)...), no)...)
		return append([]unix.SockFilter{load(argLow(1))}, either(unix.RLIMIT_CORE, set, yes)...)
	case checkSetrlimit:
		return append([]unix.SockFilter{load(argLow(0))}, either(unix.RLIMIT_CORE, no, yes)...)
	case checkShmat: // a segment that is written must not be executed
		return without(2, shmExec)
	case checkHugeMap: // memory.max does not count huge pages: hugetlb.rst
		return without(3, unix.MAP_HUGETLB)
	case checkHugeSegment:
		return without(2, shmHugeTLB)
	case checkRename: // it leaves a device file where the old name was
		return without(4, unix.RENAME_WHITEOUT)
	case checkSocket, checkSocketNetlink:
		internet := exactly(2, oneOf([]uint32{0, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6}, no))
		families := no
		if c == checkSocketNetlink {
			families = either(unix.AF_NETLINK, exactly(2, oneOf([]uint32{unix.NETLINK_ROUTE}, no)), no)
		}
		families = either(unix.AF_INET6, internet, families)
		families = either(unix.AF_INET, internet, families)
		return exactly(0, either(unix.AF_UNIX, yes, families))
	case checkSocketpair:
		return exactly(0, oneOf([]uint32{unix.AF_UNIX}, no))
	case checkModeSecond:
		return withoutSetID(1)
	case checkModeThird:
		return withoutSetID(2)
	case checkOpen:
		return whereCreated(1)
	case checkOpenat:
		return whereCreated(2)
	}
	panic("isolate: bug: no such check")
}

// A set-user-ID file that a program leaves in a directory of the host would run
// as the program's id outside for whoever finds it there, out of the cell. As
// systemd's RestrictSUIDSGID=, and for O_TMPFILE as well. The kernel looks at the
// low sixteen bits of a mode.
func withoutSetID(mode uint32) []unix.SockFilter { return without(mode, unix.S_ISUID|unix.S_ISGID) }

// without refuses an argument that has any of the bits, in the half that the kernel
// looks at.
func without(arg, bits uint32) []unix.SockFilter {
	return []unix.SockFilter{load(argLow(arg)), jump(unix.BPF_JSET, bits, 0, 1), ret(refuse), ret(allow)}
}

// whereCreated: only an open that may create has a mode, behind the flags.
func whereCreated(openFlags uint32) []unix.SockFilter {
	const create = unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY
	return append([]unix.SockFilter{load(argLow(openFlags)), jump(unix.BPF_JSET, create, 1, 0), ret(allow)}, withoutSetID(openFlags+1)...)
}

const (
	tioclinux = 0x541c // ioctl_console(2)
	shmExec   = 0x8000 // SHM_EXEC, shmat(2)

	shmHugeTLB = 0o4000 // SHM_HUGETLB, shmget(2)
)

// tree is a binary search over the ranges, with A = the number.
func tree(r []verdictRange) []unix.SockFilter {
	if len(r) == 1 {
		if r[0].check != checkNone {
			return checks(r[0].check)
		}
		return []unix.SockFilter{ret(r[0].action)}
	}
	mid := len(r) / 2
	below, above := tree(r[:mid]), tree(r[mid:])
	head := []unix.SockFilter{jump(unix.BPF_JGE, r[mid].first, uint8(len(below)), 0)}
	if len(below) > 255 { // conditional jumps are short, unconditional ones are not
		head = []unix.SockFilter{
			jump(unix.BPF_JGE, r[mid].first, 0, 1),
			{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(below))},
		}
	}
	return slices.Concat(head, below, above)
}

// filter is the program for an architecture; a foreign one ends the process.
func filter(auditArch uint32, table []syscallEntry, network Network) []unix.SockFilter {
	return slices.Concat([]unix.SockFilter{
		load(dataArch),
		jump(unix.BPF_JEQ, auditArch, 1, 0),
		ret(kill),
		load(dataNumber),
	}, tree(ranges(table, network)))
}

// filterFor is the filter for a GOARCH that we support.
func filterFor(arch string, network Network) ([]unix.SockFilter, error) {
	switch arch {
	case "amd64":
		return filter(unix.AUDIT_ARCH_X86_64, syscallsAMD64, network), nil
	case "arm64":
		return filter(unix.AUDIT_ARCH_AARCH64, syscallsARM64, network), nil
	}
	return nil, fmt.Errorf("no system call filter for %s", arch)
}

// Filter is the filter of a program without a network as the kernel takes it: an array of
// struct sock_filter for this architecture, for whoever wants to examine it or to
// measure something else under the same filter. seccomp(2)
func (s Seccomp) Filter() ([]byte, error) {
	if s == SeccompNone {
		return nil, nil
	}
	code, err := encodedFilter[NetworkNone]()
	return bytes.Clone(code), err
}

// hardenedFilter is the argument of seccomp(SECCOMP_SET_MODE_FILTER).
func hardenedFilter(network Network) (Arg, error) {
	code, err := encodedFilter[network]()
	if err != nil {
		return Arg{}, err
	}
	program := &block{words: []Arg{num(int64(len(code) / 8)), at(&block{bytes: code}, 0, "")}}
	return at(program, 0, fmt.Sprintf("{hardened, %d instructions}", len(code)/8)), nil
}

var encodedFilter = map[Network]func() ([]byte, error){
	NetworkNone: sync.OnceValues(func() ([]byte, error) { return encodeFilter(NetworkNone) }),
	NetworkHost: sync.OnceValues(func() ([]byte, error) { return encodeFilter(NetworkHost) }),
}

func encodeFilter(network Network) ([]byte, error) {
	f, err := filterFor(runtime.GOARCH, network)
	var b []byte
	for _, i := range f {
		b = binary.NativeEndian.AppendUint16(b, i.Code)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return b, err
}

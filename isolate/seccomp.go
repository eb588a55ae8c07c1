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
	nowhere = unix.SECCOMP_RET_ERRNO | uint32(unix.ENODEV)
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
	checkSetsockopt // where there is no network
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
	"setsockopt":  checkSetsockopt,
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
		if network == NetworkHost {
			switch v.check {
			case checkSocket:
				v.check = checkSocketNetlink
			case checkSetsockopt:
				v = verdict{action: allow}
			}
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

// An assembler lays a filter out. Each verdict is one place behind the tree, which
// all leaves share: what the kernel compiles, for each program anew, is half as long
// as with a return in each leaf.
type assembler struct {
	code   []unix.SockFilter
	jumps  []labels      // of each instruction
	at     map[label]int // where each label stands
	places map[verdict]label
	order  []verdict // of the places
	last   label
}

// A label is an instruction further on. next, the zero label, is the next one.
type label int

const next label = 0

type labels struct{ yes, no label }

func (a *assembler) label() label {
	a.last++
	return a.last
}

func (a *assembler) emit(i unix.SockFilter) {
	a.code, a.jumps = append(a.code, i), append(a.jumps, labels{})
}

func (a *assembler) load(offset uint32) {
	a.emit(unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset})
}

func (a *assembler) ret(action uint32) {
	a.emit(unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action})
}

func (a *assembler) jump(op uint16, k uint32, yes, no label) {
	a.emit(unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k})
	a.jumps[len(a.jumps)-1] = labels{yes, no}
}

func (a *assembler) is(k uint32, yes, no label) { a.jump(unix.BPF_JEQ, k, yes, no) }

// place is where the verdict is given.
func (a *assembler) place(v verdict) label {
	if l, ok := a.places[v]; ok {
		return l
	}
	l := a.label()
	a.places[v] = l
	a.order = append(a.order, v)
	return l
}

// finish resolves the jumps, which reach 255 instructions ahead: a filter that is
// too long is a mistake of ours.
func (a *assembler) finish() []unix.SockFilter {
	distance := func(from int, to label) uint8 {
		if to == next {
			return 0
		}
		d := a.at[to] - from - 1
		if d < 0 || d > 255 {
			panic(fmt.Sprintf("isolate: bug: a jump over %d instructions", d))
		}
		return uint8(d)
	}
	for i, j := range a.jumps {
		a.code[i].Jt, a.code[i].Jf = distance(i, j.yes), distance(i, j.no)
	}
	return a.code
}

// check asks for a condition; what allows compares all 64 bits, what refuses the
// 32 that the kernel looks at.
func (a *assembler) check(c check) {
	yes, no := a.place(verdict{action: allow}), a.place(verdict{action: refuse})
	oneOf := func(values ...uint32) {
		for i, v := range values {
			otherwise := next
			if i == len(values)-1 {
				otherwise = no
			}
			a.is(v, yes, otherwise)
		}
	}
	whole := func(arg uint32) {
		a.load(argHigh(arg))
		a.is(0, next, no)
		a.load(argLow(arg))
	}
	// without refuses an argument that has any of the bits, in the half that the
	// kernel looks at.
	without := func(arg, bits uint32) {
		a.load(argLow(arg))
		a.jump(unix.BPF_JSET, bits, no, yes)
	}
	// A set-user-ID file that a program leaves in a directory of the host would run
	// as the program's id outside for whoever finds it there, out of the cell. As
	// systemd's RestrictSUIDSGID=, and for O_TMPFILE as well. The kernel looks at the
	// low sixteen bits of a mode.
	withoutSetID := func(mode uint32) { without(mode, unix.S_ISUID|unix.S_ISGID) }
	// Only an open that may create has a mode, behind the flags.
	whereCreated := func(openFlags uint32) {
		const create = unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY
		a.load(argLow(openFlags))
		a.jump(unix.BPF_JSET, create, next, yes)
		withoutSetID(openFlags + 1)
	}
	switch c {
	case checkClone:
		// Not CLONE_NEWTIME: clone takes that bit for part of the exit signal.
		without(0, unix.CLONE_NEWNS|unix.CLONE_NEWUTS|unix.CLONE_NEWIPC|unix.CLONE_NEWUSER|unix.CLONE_NEWPID|unix.CLONE_NEWNET|unix.CLONE_NEWCGROUP)
	case checkIoctl:
		a.load(argLow(1))
		a.is(unix.TIOCSTI, no, next)
		a.is(tioclinux, no, yes)
	case checkPersonality:
		whole(0)
		oneOf(0, 0xffffffff)
	case checkPrlimit: // RLIMIT_CORE may be looked at, not set
		a.load(argLow(1))
		a.is(unix.RLIMIT_CORE, next, yes)
		whole(2)
		a.is(0, yes, no)
	case checkSetrlimit:
		a.load(argLow(0))
		a.is(unix.RLIMIT_CORE, no, yes)
	case checkSetsockopt:
		// A member of a multicast group is announced by the kernel, which goes on when the
		// program is dead, and counts it; an exclusive flow label changes for good how the
		// namespace answers. It would not be as it was made: see package launcher. The
		// answer is that of a machine without an interface.
		version4, either, none := a.label(), a.label(), a.place(verdict{action: nowhere})
		a.load(argLow(1))
		a.is(unix.IPPROTO_IP, version4, next)
		a.is(unix.IPPROTO_IPV6, next, yes)
		a.load(argLow(2))
		a.is(flowLabel, none, next)
		a.is(unix.IPV6_JOIN_GROUP, none, either)
		a.at[version4] = len(a.code)
		a.load(argLow(2))
		a.is(unix.IP_ADD_MEMBERSHIP, none, next)
		a.is(unix.IP_ADD_SOURCE_MEMBERSHIP, none, next)
		a.at[either] = len(a.code)
		a.is(joinGroup, none, next)
		a.is(joinSourceGroup, none, yes)
	case checkShmat: // a segment that is written must not be executed
		without(2, shmExec)
	case checkHugeMap: // memory.max does not count huge pages: hugetlb.rst
		without(3, unix.MAP_HUGETLB)
	case checkHugeSegment:
		without(2, shmHugeTLB)
	case checkRename: // it leaves a device file where the old name was
		without(4, unix.RENAME_WHITEOUT)
	case checkSocket, checkSocketNetlink:
		internet := a.label()
		whole(0)
		a.is(unix.AF_UNIX, yes, next)
		a.is(unix.AF_INET, internet, next)
		if c == checkSocketNetlink {
			a.is(unix.AF_INET6, internet, next)
			a.is(unix.AF_NETLINK, next, no)
			whole(2)
			a.is(unix.NETLINK_ROUTE, yes, no)
		} else {
			a.is(unix.AF_INET6, internet, no)
		}
		a.at[internet] = len(a.code)
		// Of another type protocol 0 is SCTP, which the kernel would load.
		known := a.label()
		a.load(argLow(1))
		a.emit(unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0xf}) // without flags
		a.is(unix.SOCK_STREAM, known, next)
		a.is(unix.SOCK_DGRAM, known, no)
		a.at[known] = len(a.code)
		whole(2)
		oneOf(0, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6)
	case checkSocketpair:
		whole(0)
		a.is(unix.AF_UNIX, yes, no)
	case checkModeSecond:
		withoutSetID(1)
	case checkModeThird:
		withoutSetID(2)
	case checkOpen:
		whereCreated(1)
	case checkOpenat:
		whereCreated(2)
	default:
		panic("isolate: bug: no such check")
	}
}

const (
	tioclinux = 0x541c // ioctl_console(2)
	shmExec   = 0x8000 // SHM_EXEC, shmat(2)

	shmHugeTLB = 0o4000 // SHM_HUGETLB, shmget(2)

	flowLabel       = 32 // IPV6_FLOWLABEL_MGR, linux/in6.h
	joinGroup       = 42 // MCAST_JOIN_GROUP, linux/in.h
	joinSourceGroup = 46 // MCAST_JOIN_SOURCE_GROUP
)

// tree is a binary search over the ranges, with A = the number.
func (a *assembler) tree(r []verdictRange) {
	mid := len(r) / 2
	below, above := r[:mid], r[mid:]
	yes, no := next, next // a subtree follows; of two the first
	if len(above) == 1 {
		yes = a.place(above[0].verdict)
	}
	if len(below) == 1 {
		no = a.place(below[0].verdict)
	}
	if yes == next && no == next {
		yes = a.label()
	}
	a.jump(unix.BPF_JGE, above[0].first, yes, no)
	if len(below) > 1 {
		a.tree(below)
	}
	if len(above) > 1 {
		if len(below) > 1 {
			a.at[yes] = len(a.code)
		}
		a.tree(above)
	}
}

// filter is the program for an architecture; a foreign one ends the process.
func filter(auditArch uint32, table []syscallEntry, network Network) []unix.SockFilter {
	a := &assembler{at: map[label]int{}, places: map[verdict]label{}}
	a.load(dataArch)
	a.is(auditArch, next, a.place(verdict{action: kill}))
	a.load(dataNumber)
	a.tree(ranges(table, network))
	for _, v := range slices.Clone(a.order) { // conditions end in returns, which are behind them
		if v.check != checkNone {
			a.at[a.places[v]] = len(a.code)
			a.check(v.check)
		}
	}
	for _, v := range a.order {
		if v.check == checkNone {
			a.at[a.places[v]] = len(a.code)
			a.ret(v.action)
		}
	}
	return a.finish()
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

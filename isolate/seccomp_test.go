package isolate

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

var testedArchitectures = []struct {
	name  string
	audit uint32
	table []syscallEntry
}{
	{"amd64", unix.AUDIT_ARCH_X86_64, syscallsAMD64},
	{"arm64", unix.AUDIT_ARCH_AARCH64, syscallsARM64},
}

// machine runs a filter as the kernel would.
func machine(t testing.TB, arch string, network Network) func(audit, number uint32, args [6]uint64) uint32 {
	t.Helper()
	code, err := filterFor(arch, network)
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]bpf.RawInstruction, len(code))
	for i, c := range code {
		raw[i] = bpf.RawInstruction{Op: c.Code, Jt: c.Jt, Jf: c.Jf, K: c.K}
	}
	program, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the filter has unknown instructions")
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return func(audit, number uint32, args [6]uint64) uint32 {
		// The package's machine reads big endian; seccomp_data is the host's.
		b := binary.BigEndian.AppendUint32(nil, number)
		b = binary.BigEndian.AppendUint32(b, audit)
		b = append(b, make([]byte, 8)...)
		for _, a := range args {
			b = binary.BigEndian.AppendUint32(b, uint32(a))
			b = binary.BigEndian.AppendUint32(b, uint32(a>>32))
		}
		verdict, err := vm.Run(b)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(verdict)
	}
}

// expected is the rule list, written for reading: the answer to one call.
func expected(table []syscallEntry, network Network, number uint32, args [6]uint64) uint32 {
	i := slices.IndexFunc(table, func(e syscallEntry) bool { return e.number == number })
	if i < 0 {
		if number >= 0x40000000 && number < 0x80000000 {
			return kill
		}
		return unknown
	}
	permit := func(ok bool) uint32 {
		if ok {
			return allow
		}
		return refuse
	}
	e := table[i]
	switch e.name {
	case "chmod", "fchmod", "creat", "mkdir", "mknod":
		return permit(args[1]&0o6000 == 0)
	case "fchmodat", "fchmodat2", "mkdirat", "mknodat":
		return permit(args[2]&0o6000 == 0)
	case "open":
		return permit(args[1]&(0o100|0o20000000) == 0 || args[2]&0o6000 == 0)
	case "openat":
		return permit(args[2]&(0o100|0o20000000) == 0 || args[3]&0o6000 == 0)
	case "clone":
		return permit(uint32(args[0])&0x7e020000 == 0)
	case "ioctl":
		return permit(uint32(args[1]) != 0x5412 && uint32(args[1]) != 0x541c)
	case "personality":
		return permit(args[0] == 0 || args[0] == 0xffffffff)
	case "prlimit64":
		return permit(uint32(args[1]) != 4 || args[2] == 0)
	case "setrlimit":
		return permit(uint32(args[0]) != 4)
	case "shmat":
		return permit(uint32(args[2])&0x8000 == 0)
	case "shmget":
		return permit(uint32(args[2])&0o4000 == 0)
	case "mmap":
		return permit(uint32(args[3])&0x40000 == 0)
	case "renameat2":
		return permit(uint32(args[4])&4 == 0)
	case "setsockopt":
		level, option := uint32(args[1]), uint32(args[2])
		if network == NetworkNone && (level == 0 && slices.Contains([]uint32{35, 39, 42, 46}, option) || level == 41 && slices.Contains([]uint32{20, 32, 42, 46}, option)) {
			return unix.SECCOMP_RET_ERRNO | uint32(unix.ENODEV)
		}
		return allow
	case "socketpair":
		return permit(args[0] == 1)
	case "socket":
		return permit(args[0] == 1 || (args[0] == 2 || args[0] == 10) && (args[1]&15 == 1 || args[1]&15 == 2) && slices.Contains([]uint64{0, 1, 6, 17, 58}, args[2]) || network == NetworkHost && args[0] == 16 && args[2] == 0)
	case "clone3", "memfd_create", "memfd_secret", "execveat", "openat2", "io_uring_setup", "io_uring_enter", "io_uring_register":
		return unknown
	}
	return permit(e.moby == mobyAllows && !removed[e.name])
}

// TestFilterAnswersAsTheRules: every number and the corners of the arguments.
func TestFilterAnswersAsTheRules(t *testing.T) {
	values := []uint64{0, 1, 2, 3, 4, 5, 6, 7, 17, 58, 59, 0x8000, 9, 10, 11, 15, 16, 17, 20, 32, 33, 35, 39, 40, 41, 42, 46, 0x5411, 0x5412, 0x5413, 0x541c, 0x541d, 0x80, 0x10000, 0x20000, 0x40000, 0x40022, 0x20008, 0x02000000, 0x10000000, 0x7e020000, 0x40000000, 0o100, 0o101, 0o200000, 0o20000000, 0o20200002, 0o777, 0o1777, 0o2000, 0o2755, 0o4000, 0o6755, 0o104755, 0xfffffffe, 0xffffffff, ^uint64(0)}
	for _, v := range slices.Clone(values) {
		values = append(values, v|1<<32)
	}
	numbers := []uint32{0x3fffffff, 0x40000000, 0x40000001, 0x400000ff, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff}
	for n := range uint32(700) {
		numbers = append(numbers, n)
	}
	for _, arch := range testedArchitectures {
		run, runHost := machine(t, arch.name, NetworkNone), machine(t, arch.name, NetworkHost)
		checked := 0
		for _, number := range numbers {
			check := func(args [6]uint64) {
				checked++
				if got, want := run(arch.audit, number, args), expected(arch.table, NetworkNone, number, args); got != want {
					t.Errorf("%s: call %d%v: %#x, want %#x", arch.name, number, args, got, want)
				}
				if got, want := runHost(arch.audit, number, args), expected(arch.table, NetworkHost, number, args); got != want {
					t.Errorf("%s, host's network: call %d%v: %#x, want %#x", arch.name, number, args, got, want)
				}
			}
			check([6]uint64{})
			if i := slices.IndexFunc(arch.table, func(e syscallEntry) bool { return e.number == number }); i < 0 || conditional[arch.table[i].name] == checkNone {
				continue
			}
			for _, a := range values {
				for _, b := range values {
					check([6]uint64{a, b, 0})
					check([6]uint64{a, 1, b})
					check([6]uint64{0, a, b})
					check([6]uint64{0, 0, a, b})
					check([6]uint64{0, 0, 0, a, b})
				}
			}
		}
		for _, foreign := range []uint32{0, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_ARM, arch.audit ^ 1, arch.audit &^ 0x40000000, 0xffffffff} {
			if got := run(foreign, 0, [6]uint64{}); got != kill {
				t.Errorf("%s: foreign architecture %#x: %#x", arch.name, foreign, got)
			}
		}
		t.Logf("%s: %d verdicts", arch.name, checked)
	}
}

// TestFilterIsTheProfileLessTheList: against the pinned module itself: every
// difference is one that this package documents.
func TestFilterIsTheProfileLessTheList(t *testing.T) {
	for _, arch := range testedArchitectures {
		profile := map[string]mobyVerdict{}
		for _, rule := range seccomp.DefaultProfile().Syscalls {
			if inc := rule.Includes; inc != nil && (len(inc.Caps) > 0 || len(inc.Arches) > 0 && !slices.Contains(inc.Arches, arch.name)) {
				continue
			}
			if exc := rule.Excludes; exc != nil && slices.Contains(exc.Arches, arch.name) {
				continue
			}
			for _, name := range rule.Names {
				switch {
				case rule.Action != specs.ActAllow:
					profile[name] = mobyRefuses
				case len(rule.Args) > 0:
					profile[name] = mobyConditional
				default:
					profile[name] = mobyAllows
				}
			}
		}
		for _, e := range arch.table {
			if e.moby != profile[e.name] {
				t.Errorf("%s: the table says %d of %s, the module %d: go generate", arch.name, e.moby, e.name, profile[e.name])
			}
			v := e.verdict()
			documented := removed[e.name] || answeredENOSYS[e.name] || conditional[e.name] != checkNone
			if allowed := v.action == allow; allowed != (e.moby == mobyAllows) && !documented {
				t.Errorf("%s: %s differs from the profile and is not on the list", arch.name, e.name)
			}
			if v.action == allow && e.moby != mobyAllows {
				t.Errorf("%s: %s is allowed here and not there", arch.name, e.name)
			}
		}
		// Names on our lists that no architecture knows are typing errors.
	}
	for name := range removed {
		known := slices.ContainsFunc(slices.Concat(syscallsAMD64, syscallsARM64), func(e syscallEntry) bool { return e.name == name })
		if !known && name != "clock_adjtime64" {
			t.Errorf("%q on the list of removed calls is no system call", name)
		}
	}
}

func TestTablesHaveTheKernelsNumbers(t *testing.T) {
	for _, want := range []struct {
		table  []syscallEntry
		name   string
		number uint32
	}{
		{syscallsAMD64, "read", 0}, {syscallsAMD64, "execve", 59}, {syscallsAMD64, "clone3", 435}, {syscallsAMD64, "newfstatat", 262},
		{syscallsARM64, "read", 63}, {syscallsARM64, "execve", 221}, {syscallsARM64, "clone3", 435}, {syscallsARM64, "newfstatat", 79},
	} {
		i := slices.IndexFunc(want.table, func(e syscallEntry) bool { return e.name == want.name })
		if i < 0 || want.table[i].number != want.number {
			t.Errorf("%s is not %d", want.name, want.number)
		}
	}
}

func TestFilterIsABalancedTree(t *testing.T) {
	for _, arch := range testedArchitectures {
		f, err := filterFor(arch.name, NetworkHost)
		if err != nil || len(f) > 360 {
			t.Errorf("%s: %d instructions, %v", arch.name, len(f), err)
		}
	}
}

func ExampleCompile() {
	host := Host{LastCap: 0, Files: tinyHost(), UID: 1000, GID: 1000}
	plan, err := Compile(Spec{}, Program{Path: "/usr/bin/true", Args: []string{"true"}}, host)
	fmt.Println(plan.Enforced[0], err)
	// Output: namespaces: USER|NS|PID|IPC|UTS|CGROUP|NET <nil>
}

// TestFilterForOthers: what is handed out is what a plan installs, and a copy.
func TestFilterForOthers(t *testing.T) {
	if b, err := SeccompNone.Filter(); b != nil || err != nil {
		t.Errorf("none: %d bytes, %v", len(b), err)
	}
	installed, err := hardenedFilter(NetworkNone)
	if err != nil {
		t.Fatal(err)
	}
	want := installed.block.words[1].block.bytes
	first, err := SeccompHardened.Filter()
	if err != nil || !slices.Equal(first, want) {
		t.Fatalf("%d bytes, %v; a plan installs %d", len(first), err, len(want))
	}
	first[0] ^= 0xff
	if again, _ := SeccompHardened.Filter(); !slices.Equal(again, want) {
		t.Error("who changes the copy changes the filter")
	}
}

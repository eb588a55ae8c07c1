package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	// containerd/cgroups writes the limit files of v2; it is the implementation
	// that container engines use.
	"github.com/containerd/cgroups/v3/cgroup2"
	"golang.org/x/sys/unix"
)

// Limits are the hard limits of one leaf. They are always in force: a zero
// field takes the value in Defaults.
type Limits struct {
	// Memory in bytes: everything that the program allocates, caches and keeps
	// in tmpfs. A program that needs more is killed. Rounded down to pages.
	Memory int64
	// CPU in cores: 0.5 is half of one core, 2 is two whole ones.
	CPU float64
	// CPUPeriod is the span over which CPU is kept, between 1 ms and 1 s.
	CPUPeriod time.Duration
	// Pids is the most processes and threads at once. One of them is init.
	Pids int64
	// KillOne lets the kernel kill one process when memory runs out, instead of
	// the whole tree (memory.oom.group).
	KillOne bool
	// IO bounds what block devices are asked to do. Nothing of it has a default.
	IO []IOLimit
}

// Defaults stand where Limits say nothing.
var Defaults = Limits{Memory: 256 << 20, CPU: 1, CPUPeriod: 100 * time.Millisecond, Pids: 64}

// The smallest limits that a program can start under, and the largest that mean
// something to a kernel.
const (
	MinMemory = 1 << 20
	MaxMemory = math.MaxInt64 / 4
	MinCPU    = 0.01
	MaxCPU    = 10000
	MinPids   = 2       // init and the program
	MaxPids   = 4 << 20 // no kernel has more
)

// WithDefaults fills zero fields, and rounds as the kernel does.
func (l Limits) WithDefaults() Limits {
	l = l.filled()
	l.Memory -= l.Memory % int64(os.Getpagesize())
	return l
}

func (l Limits) filled() Limits {
	if l.Memory == 0 {
		l.Memory = Defaults.Memory
	}
	if l.CPU == 0 {
		l.CPU = Defaults.CPU
	}
	if l.CPUPeriod == 0 {
		l.CPUPeriod = Defaults.CPUPeriod
	}
	if l.Pids == 0 {
		l.Pids = Defaults.Pids
	}
	return l
}

// Check reports every limit that is out of range; zero fields are fine.
func (l Limits) Check() error {
	l = l.filled() // not rounded: a fault is of what was written
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	switch {
	case l.Memory < MinMemory:
		fault("memory limit %d: at least %d bytes", l.Memory, int64(MinMemory))
	case l.Memory > MaxMemory:
		fault("memory limit %d: at most %d bytes", l.Memory, int64(MaxMemory))
	}
	cpu := l.CPU >= MinCPU && l.CPU <= MaxCPU // NaN is not
	if !cpu {
		fault("cpu limit %g: between %g and %d cores", l.CPU, MinCPU, MaxCPU)
	}
	period := l.CPUPeriod >= time.Millisecond && l.CPUPeriod <= time.Second
	if !period {
		fault("cpu period %v: between 1ms and 1s", l.CPUPeriod)
	}
	if cpu && period && l.quota() < time.Millisecond {
		fault("cpu limit %g over %v is %v of cpu time: the kernel's least is 1ms", l.CPU, l.CPUPeriod, l.quota())
	}
	switch {
	case l.Pids < MinPids:
		fault("pids limit %d: at least %d (init and the program)", l.Pids, MinPids)
	case l.Pids > MaxPids:
		fault("pids limit %d: at most %d", l.Pids, MaxPids)
	}
	if len(l.IO) > maxIOLimits {
		fault("%d io limits: at most %d", len(l.IO), maxIOLimits)
	}
	devices := map[string]bool{}
	for _, io := range l.IO {
		if err := io.check(); err != nil {
			faults = append(faults, err)
		}
		if devices[io.Device] {
			fault("io limit of %s: given twice", io.Device)
		}
		devices[io.Device] = true
	}
	return errors.Join(faults...)
}

func (l Limits) quota() time.Duration {
	return time.Duration(l.CPU * float64(l.CPUPeriod)).Round(time.Microsecond)
}

// A setting is a limit file of a group and what it must say: alone, or for io.max,
// which has a line for each device, in one line.
type setting struct {
	group      file
	name, want string
}

func (s setting) verify() error {
	b, err := readFile(filepath.Join(s.group.path(), s.name))
	if err != nil {
		return fmt.Errorf("reading a limit back: %w", err)
	}
	return s.compare(b)
}

func (s setting) compare(b []byte) error {
	got := strings.TrimSpace(string(b))
	if got != s.want && !(s.name == "io.max" && slices.Contains(strings.Split(got, "\n"), s.want)) {
		return fmt.Errorf("the kernel did not take the limit: %s says %q, wanted %q", s.name, got, s.want)
	}
	return nil
}

// set writes the limit and reads it back.
func (s setting) set() error {
	f, err := s.group.open(s.name, unix.O_RDWR)
	if err != nil {
		return err
	}
	defer f.close()
	if err := f.put(s.want); err != nil {
		return err
	}
	b := buffers.Get().(*[4096]byte)
	defer buffers.Put(b)
	text, err := f.content(b)
	if err != nil {
		return fmt.Errorf("reading a limit back: %w", err)
	}
	return s.compare(text)
}

// writeUnified sets the limits of the v2 group below mount.
func (l Limits) writeUnified(mount, group string, leaf file) ([]setting, error) {
	m, err := cgroup2.Load(group, cgroup2.WithMountpoint(mount))
	if err != nil {
		return nil, err
	}
	memory, noSwap := l.Memory, int64(0)
	quota, period := l.quota().Microseconds(), uint64(l.CPUPeriod.Microseconds())
	resources := &cgroup2.Resources{
		CPU:    &cgroup2.CPU{Max: cgroup2.NewCPUMax(&quota, &period)},
		Memory: &cgroup2.Memory{Max: &memory},
		Pids:   &cgroup2.Pids{Max: l.Pids},
	}
	dir := leaf.path()
	settings := []setting{
		{leaf, "memory.max", strconv.FormatInt(memory, 10)},
		{leaf, "cpu.max", fmt.Sprintf("%d %d", quota, period)},
		{leaf, "pids.max", strconv.FormatInt(l.Pids, 10)},
	}
	// A kernel built without swap has no such file, and nothing to swap to.
	if _, err := os.Stat(filepath.Join(dir, "memory.swap.max")); err == nil {
		resources.Memory.Swap = &noSwap
		settings = append(settings, setting{leaf, "memory.swap.max", "0"})
	} else if swapOn() {
		return nil, errors.New("this host swaps, and its kernel does not account swap to groups: a memory limit would not hold")
	}
	if err := m.Update(resources); err != nil {
		return nil, err
	}
	if !l.KillOne {
		// Not among containerd's resources. Linux 4.19.
		if err := os.WriteFile(filepath.Join(dir, "memory.oom.group"), []byte("1"), 0); err != nil {
			return nil, err
		}
		settings = append(settings, setting{leaf, "memory.oom.group", "1"})
	}
	io, err := writeIO(m, leaf, l.IO)
	return append(settings, io...), err
}

// socketBuffers is of TCP and UDP. In v2 memory.max holds them as well; v1 counts
// them by themselves, and only once they have a limit, above which each socket keeps
// the least that it works with.
const socketBuffers = "memory.kmem.tcp.limit_in_bytes"

// quota is v1's, of processor time in each period.
const quota = "cpu.cfs_quota_us"

// combined is the limit of memory and swap together, of kernels that account swap.
const combined = "memory.memsw.limit_in_bytes"

// legacySettings are the limits of the v1 groups. Not containerd's code writes them:
// it finds each file from the root, and offers it to the runtime's poller, and each is
// then found once more to be read back. The whole tree dies when memory runs out because
// the leaf listens: see oom.go.
func (l Limits) legacySettings(of func(controller string) file, optional []string) ([]setting, error) {
	if !slices.Contains(optional, combined) && swapOn() {
		return nil, errors.New("this host swaps, and its kernel does not account swap to memory groups (boot it with swapaccount=1): a memory limit would not hold")
	}
	memory := strconv.FormatInt(l.Memory, 10)
	settings := []setting{
		{of("memory"), "memory.limit_in_bytes", memory},
		// The period first: for a moment, the quota would be too large over another.
		{of("cpu"), "cpu.cfs_period_us", strconv.FormatInt(l.CPUPeriod.Microseconds(), 10)},
		{of("cpu"), quota, strconv.FormatInt(l.quota().Microseconds(), 10)},
		{of("pids"), "pids.max", strconv.FormatInt(l.Pids, 10)},
	}
	for _, name := range optional {
		settings = append(settings, setting{of("memory"), name, memory})
	}
	return settings, nil
}

// optionalLegacy are the limits of memory that not every kernel has.
func optionalLegacy(memory string) (names []string, err error) {
	for _, name := range []string{combined, socketBuffers} {
		switch _, err := os.Stat(filepath.Join(memory, name)); {
		case err == nil:
			names = append(names, name)
		case !errors.Is(err, os.ErrNotExist):
			return nil, err
		}
	}
	return names, nil
}

// swaps is proc(5)'s /proc/swaps. A test has another.
var swaps = "/proc/swaps"

// swapOn says whether the host has swap space.
func swapOn() bool {
	b, err := readFile(swaps)
	return err != nil || strings.Count(string(b), "\n") > 1
}

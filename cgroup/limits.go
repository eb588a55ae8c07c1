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

	// containerd/cgroups writes the limit files of both versions; it is the
	// implementation that container engines use.
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go"
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

// A setting is a limit file and what it must say: alone, or for io.max, which has
// a line for each device, in one line.
type setting struct {
	dir, file, want string
}

func (s setting) verify() error {
	b, err := readFile(filepath.Join(s.dir, s.file))
	if err != nil {
		return fmt.Errorf("reading a limit back: %w", err)
	}
	got := strings.TrimSpace(string(b))
	if got != s.want && !(s.file == "io.max" && slices.Contains(strings.Split(got, "\n"), s.want)) {
		return fmt.Errorf("the kernel did not take the limit: %s says %q, wanted %q", s.file, got, s.want)
	}
	return nil
}

// writeUnified sets the limits of the v2 group dir below mount.
func (l Limits) writeUnified(mount, group string) ([]setting, error) {
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
	dir := filepath.Join(mount, group)
	settings := []setting{
		{dir, "memory.max", strconv.FormatInt(memory, 10)},
		{dir, "cpu.max", fmt.Sprintf("%d %d", quota, period)},
		{dir, "pids.max", strconv.FormatInt(l.Pids, 10)},
	}
	// A kernel built without swap has no such file, and nothing to swap to.
	if _, err := os.Stat(filepath.Join(dir, "memory.swap.max")); err == nil {
		resources.Memory.Swap = &noSwap
		settings = append(settings, setting{dir, "memory.swap.max", "0"})
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
		settings = append(settings, setting{dir, "memory.oom.group", "1"})
	}
	io, err := writeIO(m, dir, l.IO)
	return append(settings, io...), err
}

// socketBuffers is of TCP and UDP. In v2 memory.max holds them as well; v1 counts
// them by themselves, and only once they have a limit, above which each socket keeps
// the least that it works with.
const socketBuffers = "memory.kmem.tcp.limit_in_bytes"

// writeLegacy sets the limits of the v1 groups. The whole tree dies
// when memory runs out because the leaf listens: see oom.go.
func (l Limits) writeLegacy(h map[string]hierarchy, leaf string) ([]setting, error) {
	memory := l.Memory
	quota, period := l.quota().Microseconds(), uint64(l.CPUPeriod.Microseconds())
	resources := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &memory, Swap: &memory}, // memsw is both together
		CPU:    &specs.LinuxCPU{Quota: &quota, Period: &period},
		Pids:   &specs.LinuxPids{Limit: &l.Pids},
	}
	group := func(name string) string { return filepath.Join(h[name].group, leaf) }
	dir := func(name string) string { return filepath.Join(h[name].mount, group(name)) }
	settings := []setting{
		{dir("memory"), "memory.limit_in_bytes", strconv.FormatInt(memory, 10)},
		{dir("cpu"), "cpu.cfs_quota_us", strconv.FormatInt(quota, 10)},
		{dir("cpu"), "cpu.cfs_period_us", strconv.FormatUint(period, 10)},
		{dir("pids"), "pids.max", strconv.FormatInt(l.Pids, 10)},
	}
	if _, err := os.Stat(filepath.Join(h["memory"].dir(), "memory.memsw.limit_in_bytes")); err == nil {
		settings = append(settings, setting{dir("memory"), "memory.memsw.limit_in_bytes", strconv.FormatInt(memory, 10)})
	} else if swapOn() {
		return nil, errors.New("this host swaps, and its kernel does not account swap to memory groups (boot it with swapaccount=1): a memory limit would not hold")
	} else {
		resources.Memory.Swap = nil
	}
	if _, err := os.Stat(filepath.Join(dir("memory"), socketBuffers)); err == nil {
		resources.Memory.KernelTCP = &memory
		settings = append(settings, setting{dir("memory"), socketBuffers, strconv.FormatInt(memory, 10)})
	}
	for _, c := range []struct {
		name   string
		create func(string, *specs.LinuxResources) error
	}{
		{"memory", cgroup1.NewMemory(h["memory"].root()).Create},
		{"cpu", cgroup1.NewCpu(h["cpu"].root()).Create},
		{"pids", cgroup1.NewPids(h["pids"].root()).Create},
	} {
		if err := c.create(group(c.name), resources); err != nil {
			return nil, fmt.Errorf("the %s controller: %w", c.name, err)
		}
	}
	return settings, nil
}

// swapOn says whether the host has swap space: proc(5) /proc/swaps.
func swapOn() bool {
	b, err := readFile("/proc/swaps")
	return err != nil || strings.Count(string(b), "\n") > 1
}

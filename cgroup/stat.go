package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Usage is what os-status needs: two files, read where they stand open.
type Usage struct {
	CPU    time.Duration // user and system time of every process so far
	Memory uint64        // bytes in use now, caches and tmpfs included
}

// A Stat is everything that the kernel accounts for a leaf.
type Stat struct {
	Usage
	MemoryPeak    uint64        // bytes; 0 where the kernel does not keep it (v2 before 5.19)
	OOMKills      uint64        // processes killed because memory ran out
	PidsRefused   uint64        // forks refused by the pids limit
	ThrottledTime time.Duration // spent waiting for the CPU limit
	Throttled     uint64        // periods in which the limit was reached

	// OOMs is how often memory ran out at the leaf's own limit (memory.events:
	// oom). With OOMKills and none of these it ran out above: in an ancestor, or
	// on the whole host. v1 does not count them: there we do, see oomWatch. That
	// the peak was at the limit means nothing: the page cache brings it there.
	OOMs uint64

	// What processes waited for. All zero where v2 is not mounted: v1 accounts for
	// the whole host only.
	CPUPressure, MemoryPressure, IOPressure Pressure
}

// statFiles are what a leaf is measured by.
type statFiles struct {
	legacy            bool
	memory, cpu, pids file
	accounts          file       // of CPU time
	pressure          bool       // accounts is of v2, and says what was waited for
	before            throttling // v1: of who had the group before

	usageName, usedName, peakName, eventsName string

	// What is asked for again and again stays open from the first time on: of most
	// programs nobody asks before their end.
	opened      bool
	usage, used file
	ahead       []file // see Expect
}

func unifiedFiles(group file) statFiles {
	return statFiles{memory: group, cpu: group, pids: group, accounts: group, pressure: true,
		usageName: "cpu.stat", usedName: "memory.current", peakName: "memory.peak", eventsName: "memory.events"}
}

// legacyUsage is in nanoseconds and says nothing else.
const legacyUsage = "cpuacct.usage"

// legacyFiles takes CPU time from the group of v2 where there is one.
func (l *Leaf) legacyFiles() statFiles {
	s := statFiles{legacy: true, memory: l.of("memory"), cpu: l.of("cpu"), pids: l.of("pids"),
		usedName: "memory.usage_in_bytes", peakName: "memory.max_usage_in_bytes", eventsName: oomControl}
	if l.unified != nil {
		s.accounts, s.pressure, s.usageName = l.v2(), true, "cpu.stat"
	} else {
		s.accounts, s.usageName = l.of("cpuacct"), legacyUsage
	}
	return s
}

func (s *statFiles) open() (err error) {
	if s.opened {
		return nil
	}
	if s.usage, err = s.accounts.open(s.usageName, unix.O_RDONLY); err != nil {
		return err
	}
	if s.used, err = s.memory.open(s.usedName, unix.O_RDONLY); err != nil {
		s.usage.close()
		return err
	}
	s.opened = true
	return nil
}

func (s *statFiles) close() {
	if s.opened {
		s.usage.close()
		s.used.close()
	}
	for _, f := range s.ahead {
		f.close()
	}
}

// A source is a file of the account at the end.
type source struct {
	group file
	name  string
}

const (
	pidsEvents = "pids.events"
	cpuStat    = "cpu.stat"
)

var pressures = []string{"cpu.pressure", "memory.pressure", "io.pressure"}

func (s *statFiles) sources() []source {
	all := []source{{s.memory, s.peakName}, {s.memory, s.eventsName}, {s.pids, pidsEvents}, {s.cpu, cpuStat}}
	if s.pressure {
		for _, name := range pressures {
			all = append(all, source{s.accounts, name})
		}
	}
	return all
}

// read reads a source, which may be open already.
func (s *statFiles) read(from source, b *[4096]byte) ([]byte, error) {
	for _, f := range s.ahead {
		if f.name == from.name {
			return f.content(b)
		}
	}
	return from.group.read(from.name, b)
}

// Expect opens what Stat will read: the dearer half of it, to be done when the program has
// ended and the rest of it is being taken down. What cannot be opened Stat tells. If nothing
// outlives the program by which others could go on being charged here (a socket, an
// inotify instance that it gave away), Close may keep v1 groups for the next.
func (l *Leaf) Expect(nothingOutlives bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.again = nothingOutlives
	if !l.inForce() || l.stats.ahead != nil || l.stats.open() != nil {
		return
	}
	for _, s := range l.stats.sources() {
		if f, err := s.group.open(s.name, unix.O_RDONLY); err == nil {
			l.stats.ahead = append(l.stats.ahead, f)
		}
	}
}

func (l *Leaf) inForce() bool { return !l.closed && l.ready && l.notReady == nil }

// buffers for the small files that the kernel writes.
var buffers = sync.Pool{New: func() any { return new([4096]byte) }}

// Usage reads CPU time and memory in use.
func (l *Leaf) Usage() (Usage, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := buffers.Get().(*[4096]byte)
	defer buffers.Put(b)
	return l.usageInto(b)
}

func (l *Leaf) usageInto(b *[4096]byte) (u Usage, err error) {
	if !l.inForce() {
		return u, os.ErrClosed
	}
	if err := l.stats.open(); err != nil {
		return u, err
	}
	text, err := l.stats.usage.content(b)
	if err != nil {
		return u, err
	}
	if l.stats.usageName == legacyUsage {
		ns, err := number(text)
		if err != nil {
			return u, fmt.Errorf("%s: %w", l.stats.usage.path(), err)
		}
		u.CPU = time.Duration(ns)
	} else {
		u.CPU = time.Duration(field(text, "usage_usec")) * time.Microsecond
	}
	if text, err = l.stats.used.content(b); err != nil {
		return u, err
	}
	if u.Memory, err = number(text); err != nil {
		return u, fmt.Errorf("%s: %w", l.stats.used.path(), err)
	}
	return u, nil
}

// Stat reads everything. Read it after the program's end and before Close: the
// figures go with the leaf.
func (l *Leaf) Stat() (Stat, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := buffers.Get().(*[4096]byte)
	defer buffers.Put(b)
	u, err := l.usageInto(b)
	if err != nil {
		return Stat{}, err
	}
	s := Stat{Usage: u}
	f := &l.stats
	read := func(group file, name string) []byte {
		text, e := f.read(source{group, name}, b)
		if e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
		return text
	}
	s.MemoryPeak, _ = number(read(f.memory, f.peakName)) // absent before 5.19
	events := read(f.memory, f.eventsName)
	s.OOMKills, s.OOMs = field(events, "oom_kill"), field(events, "oom")
	if f.legacy {
		s.OOMs = l.oom.own()
		if s.OOMKills == 0 && s.OOMs > 0 && !l.limits.KillOne {
			s.OOMKills = 1 // our kill was quicker than the kernel's, for the same reason
		}
	}
	s.PidsRefused = field(read(f.pids, pidsEvents), "max")
	now := throttlingOf(read(f.cpu, cpuStat))
	s.Throttled = max(now.periods, f.before.periods) - f.before.periods // less if it could not be read
	s.ThrottledTime = max(now.time, f.before.time) - f.before.time
	if f.pressure {
		for i, p := range []*Pressure{&s.CPUPressure, &s.MemoryPressure, &s.IOPressure} {
			text, e := f.read(source{f.accounts, pressures[i]}, b)
			// The kernel keeps no such account where it was built without, or is told psi=0.
			if e != nil && !errors.Is(e, os.ErrNotExist) && !errors.Is(e, unix.EOPNOTSUPP) {
				err = errors.Join(err, e)
			}
			*p = parsePressure(text)
		}
	}
	return s, err
}

// throttling is what was waited for the CPU limit.
type throttling struct {
	periods uint64
	time    time.Duration
}

func throttlingOf(cpuStat []byte) throttling {
	v1, v2 := field(cpuStat, "throttled_time"), field(cpuStat, "throttled_usec") // ns, µs
	return throttling{field(cpuStat, "nr_throttled"), time.Duration(v1) + time.Duration(v2)*time.Microsecond}
}

func number(b []byte) (uint64, error) {
	return strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64)
}

// field is the value of "name value" in a flat-keyed file, 0 if it is not there.
func field(text []byte, name string) uint64 {
	for len(text) > 0 {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte("\n"))
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok && len(rest) > 1 && rest[0] == ' ' {
			n, _ := number(rest[1:])
			return n
		}
	}
	return 0
}

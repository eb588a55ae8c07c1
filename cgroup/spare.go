package cgroup

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// spares are the v1 groups of programs that have ended, for programs to come with the
// same limits. To make three and to take down three in which somebody was is a tenth to an
// eighth of what processors spend on a start (Linux 6.18), and a memory group that was
// taken down stays with the kernel for as long as something is charged to it.
//
// Only groups are kept that nothing tells from new ones: see asNew. They get the next
// program's name, which v1 allows, and limits are written and read back as if they were
// new. The group of v2, in which a program is born and killed, always is. What an
// administrator has set in a group besides (cpu.shares, say) stays with it.
type spares struct {
	mu     sync.Mutex
	kept   []spare // the oldest first
	names  int
	closed bool
}

// A spare is a group by that name in each of a leaf's legacyPlaces.
type spare struct {
	name   string
	limits Limits
	groups []file
}

// maxSpares bounds how many wait, of some 30 KiB of the kernel's memory each, 100 on a host
// that has had thousands of file systems at once.
const maxSpares = 8

// sparePrefix begins no leaf's name.
const sparePrefix = "."

// residue is how much a program may have left charged, in bytes, or a sixty-fourth of the
// limit if that is less: what the kernel has set aside for each processor (64 pages), caches,
// what it has yet to free, and what waits in a pipe that was the program's stdout. By so much
// the next program's account, peak included, may be too high, and its limit too low.
const residue = 2 << 20

// take gives the leaf the groups of a spare with its limits, or false.
func (s *spares) take(l *Leaf) bool {
	s.mu.Lock()
	i := len(s.kept) - 1
	for i >= 0 && !reflect.DeepEqual(s.kept[i].limits, l.limits) {
		i--
	}
	if i < 0 {
		s.mu.Unlock()
		return false
	}
	found := s.kept[i]
	s.kept = slices.Delete(s.kept, i, i+1)
	s.mu.Unlock()
	places := l.legacyPlaces()
	if !rename(places, found.name, l.name) {
		found.close()
		return false
	}
	for i, place := range places {
		found.groups[i].name = filepath.Join(place, l.name)
		l.dirs = append(l.dirs, found.groups[i].name)
	}
	l.legacy = found.groups
	return true
}

// keep takes the v1 groups over from a leaf, unless it cannot or there are enough. The oldest
// spare makes room for one with other limits, which are what programs have now.
func (s *spares) keep(l *Leaf) {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := len(s.kept) == maxSpares
	if s.closed || full && reflect.DeepEqual(s.kept[0].limits, l.limits) {
		return
	}
	s.names++
	name := fmt.Sprint(sparePrefix, s.names)
	if !rename(l.legacyPlaces(), l.name, name) {
		return
	}
	if full {
		s.kept[0].close()
		removeAll(l.legacyPlaces(), s.kept[0].name)
		s.kept = slices.Delete(s.kept, 0, 1)
	}
	s.kept = append(s.kept, spare{name, l.limits, l.legacy})
	l.legacy, l.dirs = nil, l.dirs[:len(l.dirs)-l.joins]
}

// close keeps no more. Who removes the place removes the groups.
func (s *spares) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, kept := range s.kept {
		kept.close()
	}
	s.kept = nil
}

func (s spare) close() {
	for _, dir := range s.groups {
		dir.close()
	}
}

// rename renames a group in each place, or removes all of them. In v1 none is replaced.
func rename(places []string, from, to string) bool {
	for i, place := range places {
		if unix.Rename(filepath.Join(place, from), filepath.Join(place, to)) != nil {
			removeAll(places[:i], to)
			removeAll(places[i:], from)
			return false
		}
		step("group renamed")
	}
	return true
}

// removeAll removes a group in each place. One that somebody is in stays for Group.Close.
func removeAll(places []string, name string) {
	for _, place := range places {
		unix.Rmdir(filepath.Join(place, name))
	}
}

// asNew says whether nobody is in the v1 groups, what was counted in them would not be in
// the next program's account, but for a residue (or is left out of it, as is waiting for
// the CPU limit: see Stat), and nothing will be charged to them from elsewhere. Only of a
// program that was started at once and has ended: an init of another attempt may have the
// groups' files.
func (l *Leaf) asNew() bool {
	if !l.again || l.handed > 1 || l.joins == 0 || l.unified == nil || !l.inForce() {
		return false
	}
	b := buffers.Get().(*[4096]byte)
	defer buffers.Put(b)
	for _, group := range l.legacy {
		var s unix.Stat_t
		if unix.Fstat(group.fd, &s) != nil || s.Nlink != 2 { // 3: a group below
			return false
		}
		if members, err := group.read("cgroup.procs", b); err != nil || len(members) > 0 {
			return false
		}
	}
	memory, pids := l.of("memory"), l.of("pids")
	if text, err := l.stats.read(source{pids, "pids.current"}, b); err != nil || string(text) != "0\n" {
		return false // who is dying is no member, and still counts
	}
	if text, err := l.stats.read(source{pids, pidsEvents}, b); err != nil || field(text, "max") > 0 {
		return false
	}
	if text, err := l.stats.read(source{memory, oomControl}, b); err != nil || field(text, "oom_kill") > 0 || l.oom.own() > 0 {
		return false
	}
	if used, err := l.usageInto(b); err != nil || used.Memory > uint64(min(residue, l.limits.Memory/64)) {
		return false
	}
	return memory.write(l.stats.peakName, "0") == nil
}

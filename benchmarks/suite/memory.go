package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/isolate"
	"golang.org/x/sys/unix"
)

const (
	withNet    = "own network"
	withoutNet = "host's network"
	initRSS    = "init, resident"

	leafAlone  = "a leaf with no program"
	leafPlaces = leafAlone + ": kmalloc-1k, most of it places for file systems"

	bareWithNet    = "own network, without limits"
	bareWithoutNet = "host's network, without limits"
)

// kinds of memory that a process takes: the kernel's by /proc/meminfo (proc(5)),
// what its tmpfs hold, and the anonymous pages of program, init, launcher and this
// process. Not by MemFree, from which pages are missing that no one uses: each CPU
// keeps lists of them.
var kinds = []string{"Slab", "KernelStack", "PageTables", "Percpu", inTmpfs, anonymous, inHost}

const (
	anonymous = "anonymous, program and init"
	inHost    = "anonymous, host and launcher"
	inTmpfs   = "tmpfs"
)

// memory compares the machine with and without many idle processes. What this
// host process needs for them is in it.
func (s *suite) memory(table string) error {
	for range s.blocks {
		for _, c := range []struct {
			name    string
			network isolate.Network
			bare    bool
		}{{withNet, isolate.NetworkNone, false}, {withoutNet, isolate.NetworkHost, false}, {bareWithNet, isolate.NetworkNone, true}, {bareWithoutNet, isolate.NetworkHost, true}} {
			if err := s.idleProcesses(table, c.name, c.network, c.bare); err != nil {
				return err
			}
		}
		if err := s.leaves(table); err != nil {
			return err
		}
	}
	s.report.note(table, "/proc/meminfo over %d processes, each with three pipes and, where there are limits, a leaf; the program has no C library and takes next to nothing itself", s.idle)
	return nil
}

func (s *suite) idleProcesses(table, name string, network isolate.Network, bare bool) error {
	h, err := s.newHandler(func(c *handler.Config) { c.Isolation.Network, c.Unlimited = network, bare }, "idle")
	if err != nil {
		return err
	}
	defer h.Close()
	spawn := func(n int) error {
		for range n {
			if _, err := h.Spawn(s.ctx, handler.ProcessConfig{Program: s.program("idle")}, handler.Discard); err != nil {
				return err
			}
		}
		return nil
	}
	if err := spawn(1); err != nil { // what is made once
		return err
	}
	before := s.settled()
	if err := spawn(s.idle); err != nil {
		return err
	}
	after := s.settled()
	each, total := map[string]float64{}, 0.0
	for _, k := range kinds {
		each[k] = float64(after[k]-before[k]) / float64(s.idle)
		total += each[k]
	}
	s.report.add(table, name, "KiB", total)
	for _, k := range kinds {
		s.report.add(table, name+": "+k, "KiB", each[k])
	}
	for _, pid := range children(s.launcher.Pid()) {
		if len(children(pid)) > 0 { // else a forker
			s.report.add(table, initRSS, "KiB", status(pid, "VmRSS"))
		}
	}
	return nil
}

// leaves is what the control groups alone take. A memory group of v1 has a place for
// each file system that was ever mounted at the same time (mm/shrinker.c): on a machine
// that had thousands of them it is most of a leaf.
func (s *suite) leaves(table string) error {
	before, places := s.settled(), slab("kmalloc-1k")
	var err error
	for i := range s.idle {
		leaf, e := s.group.New(fmt.Sprintf("empty-%d", i), cgroup.Limits{})
		if e != nil {
			err = e
			break
		}
		defer leaf.Close()
	}
	after, total := s.settled(), 0.0
	for _, k := range kinds {
		total += float64(after[k]-before[k]) / float64(s.idle)
	}
	if err == nil {
		s.report.add(table, leafAlone, "KiB", total)
		s.report.add(table, leafPlaces, "KiB", (slab("kmalloc-1k")-places)/float64(s.idle))
	}
	return err
}

// slab is the KiB of objects in use of one of the kernel's caches: slabinfo(5).
func slab(name string) float64 {
	for line := range strings.Lines(read("/proc/slabinfo")) {
		if f := strings.Fields(line); len(f) > 3 && f[0] == name {
			objects, _ := strconv.ParseFloat(f[1], 64)
			size, _ := strconv.ParseFloat(f[3], 64)
			return objects * size / 1024
		}
	}
	return 0
}

// settled is the memory of each kind in KiB, once the kernel frees no more in the
// background (namespaces, for one): its slabs change by less than 1 % in a quarter
// of a second.
func (s *suite) settled() map[string]int {
	debug.FreeOSMemory()
	last := meminfo()
	for range 40 {
		time.Sleep(250 * time.Millisecond)
		now := meminfo()
		settled := math.Abs(float64(now["Slab"]-last["Slab"])) < float64(now["Slab"])/100
		if last = now; settled {
			break
		}
	}
	last[inHost] = int(status(os.Getpid(), "RssAnon") + status(s.launcher.Pid(), "RssAnon"))
	last[anonymous] = 0
	tmpfs := map[uint64]int{} // by device: several may share one
	for _, pid := range below(s.launcher.Pid()) {
		last[anonymous] += int(status(pid, "RssAnon"))
		for _, dir := range []string{"", "/tmp", "/dev/shm"} {
			path := fmt.Sprintf("/proc/%d/root%s", pid, dir)
			var at unix.Stat_t
			var fs unix.Statfs_t
			if unix.Stat(path, &at) == nil && unix.Statfs(path, &fs) == nil && fs.Type == unix.TMPFS_MAGIC {
				tmpfs[at.Dev] = int(fs.Blocks-fs.Bfree) * int(fs.Bsize) >> 10
			}
		}
	}
	last[inTmpfs] = 0
	for _, kib := range tmpfs {
		last[inTmpfs] += kib
	}
	return last
}

func meminfo() map[string]int {
	m := map[string]int{}
	for line := range strings.Lines(read("/proc/meminfo")) {
		if f := strings.Fields(line); len(f) > 1 {
			m[strings.TrimSuffix(f[0], ":")], _ = strconv.Atoi(f[1])
		}
	}
	return m
}

// below are the descendants of a process.
func below(pid int) (all []int) {
	for _, child := range children(pid) {
		all = append(append(all, child), below(child)...)
	}
	return all
}

func children(pid int) (pids []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		for _, text := range strings.Fields(read(task)) {
			child, _ := strconv.Atoi(text)
			pids = append(pids, child)
		}
	}
	return pids
}

// status is a field in KiB of a process's /proc/PID/status, 0 once it has ended.
func status(pid int, name string) float64 {
	kib, _, _ := strings.Cut(field(fmt.Sprintf("/proc/%d/status", pid), name), " ")
	n, _ := strconv.ParseFloat(kib, 64)
	return n
}

// watch samples the resident memory of this process and its launcher
// until stop is called, and makes a curve of it.
func (s *suite) watch(title string) (stop func() curve) {
	debug.FreeOSMemory() // what others have left
	done, finished := make(chan struct{}), make(chan curve)
	go func() {
		begin := time.Now()
		host := curve{panel: "Memory of host process and launcher", name: title}
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			host.x = append(host.x, time.Since(begin).Seconds())
			host.y = append(host.y, (status(os.Getpid(), "VmRSS")+status(s.launcher.Pid(), "VmRSS"))/1024)
			select {
			case <-done:
				finished <- host
				return
			case <-tick.C:
			}
		}
	}()
	return func() curve {
		close(done)
		c := <-finished
		s.report.curves = append(s.report.curves, c)
		return c
	}
}

package main

import "fmt"

// A gate is a promise about a figure, or about the ratio of two of one run.
type gate struct {
	what        string
	table, name string
	over        []string // the best of these is what name is compared with; none: name alone
	bound       float64
	atLeast     bool
	unit        string // of the figure
	worst       bool   // the largest value counts, not the median
}

var gates = func() []gate {
	ratio := func(what, table, name string, bound float64, over ...string) gate {
		return gate{what: what, table: table, name: name, over: over, bound: bound, unit: "×"}
	}
	figure := func(what, table, name string, bound float64, unit string) gate {
		return gate{what: what, table: table, name: name, bound: bound, unit: unit}
	}
	least := func(g gate) gate { g.atLeast = true; return g }
	worst := func(g gate) gate { g.worst = true; return g }
	list := []gate{
		ratio("start to exit / the same from C", "Start", ours, 1.35, floor),
		ratio("start to exit / bubblewrap", "Start", ours, 0.45, bwrapSame, bwrapSimple),
		ratio("… / bubblewrap with the same limits", "Start", ours, 0.45, bwrapSameLimited, bwrapSimpleLimited),
		ratio("… both without limits", "Start", unlimited, 0.45, bwrapSame, bwrapSimple),
		ratio("start to exit / nsjail", "Start", ours, 0.40, nsjail),
		ratio("… without limits / nsjail", "Start", unlimited, 0.40, nsjail),
		ratio("start to exit / crun", "Start", ours, 0.40, crun),
		ratio("… without limits / crun", "Start", unlimited, 0.40, crun),
		ratio("start to exit / runc", "Start", ours, 0.10, runc),
		ratio("… without limits / runc", "Start", unlimited, 0.10, runc),
		ratio("warm cell, until the status / bubblewrap", "Start", oursWarm, 0.25, bwrapSame, bwrapSimple),
		ratio("… without limits / bubblewrap", "Start", unlimitedWarm, 0.25, bwrapSame, bwrapSimple),
		least(ratio("starts per second, two at a time / bubblewrap with the same limits", "Throughput", ours, 2.5, bwrapSameLimited, bwrapSimpleLimited)),
		least(ratio("… both without limits", "Throughput", unlimited, 2.5, bwrapSame, bwrapSimple)),
		ratio("a host with a large heap / with none", "Heap", largeHeap, 1.1, smallHost),
		ratio("extra host mounts / none", "Mounts", manyMounts, 1.3, fewMounts),
		figure("memory of an idle process, network namespace", "Memory", withNet, 450, "KiB"),
		figure("memory of an idle process, none", "Memory", withoutNet, 200, "KiB"),
		figure("… without limits, network namespace", "Memory", bareWithNet, 450, "KiB"),
		figure("… without limits, none", "Memory", bareWithoutNet, 200, "KiB"),
		figure("init, resident", "Memory", initRSS, 64, "KiB"),
		least(ratio("raw output into a Go sink / a C read loop", "Raw", intoSink, 0.85, cLoop)),
	}
	for _, length := range []int{64, 256, 1024} {
		list = append(list, least(ratio(fmt.Sprintf("lines of %d B / bufio.Scanner", length), "Lines", linesInto(intoSink, length), 2, linesInto(scanner, length))))
	}
	toSink := least(ratio("raw into an actor that reads every byte, checks off / Go sink", "Actor", rawUnchecked, 0.6, rawSink))
	return append(list,
		least(figure("lines of 64 B into an actor, checks on", "Actor", linesChecked, 0.5, "Mlines/s")),
		least(figure("lines of 64 B into an actor, checks off", "Actor", linesUnchecked, 4, "Mlines/s")),
		toSink,
		figure("os-status", "Status", "os-status", 20, "µs"),
		worst(figure("many at once: longest stall", "Crowd", longest, 1000, "ms")),
		worst(figure("many at once: memory drift", "Crowd", memoryDrift, 1.1, "×")),
		worst(figure("many at once: lost", "Crowd", lost, 0, "lines")),
	)
}()

// A verdict is a gate with its figure. calm is the same of the best tenth of the
// samples, which a noisy machine distorts less; it decides nothing.
type verdict struct {
	gate
	got, calm float64
	measured  bool
	met       bool
}

func (r *report) verdicts() (list []verdict) {
	for _, g := range gates {
		if _, asked := r.tables[g.table]; !asked {
			continue
		}
		v := verdict{gate: g}
		good := 0.1
		if g.atLeast {
			good = 0.9
		}
		v.calm, _ = r.figure(g, good)
		middle := 0.5
		if g.worst {
			middle = 1
		}
		v.got, v.measured = r.figure(g, middle)
		v.met = v.measured && (g.atLeast && v.got >= g.bound || !g.atLeast && v.got <= g.bound)
		list = append(list, v)
	}
	return list
}

// figure is what the gate is about, of a quantile of the samples.
func (r *report) figure(g gate, p float64) (x float64, ok bool) {
	s := r.find(g.table, g.name)
	if s == nil {
		return 0, false
	}
	x = quantile(s.sorted(), p)
	if len(g.over) == 0 {
		return x, true
	}
	best := 0.0
	for _, name := range g.over {
		if s := r.find(g.table, name); s != nil {
			// The least time, or the highest rate.
			if y := quantile(s.sorted(), p); !ok || (y > best) == g.atLeast {
				best, ok = y, true
			}
		}
	}
	return x / best, ok
}

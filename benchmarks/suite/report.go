package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// A report is what a run has found, in the order in which it was found.
type report struct {
	machine []fact
	order   []string // names of the tables
	tables  map[string]*table
	curves  []curve
}

type fact struct{ name, value string }

type table struct {
	title   string
	series  []*series
	notes   []string
	configs []fact // how somebody was configured
}

// A series is the samples of one figure.
type series struct {
	name, unit string
	values     []float64
}

// A curve is a figure over time.
type curve struct {
	panel, name string
	x, y        []float64 // seconds, MiB
}

func (r *report) table(name, title string) *table {
	if t := r.tables[name]; t != nil {
		return t
	}
	if r.tables == nil {
		r.tables = map[string]*table{}
	}
	r.order = append(r.order, name)
	r.tables[name] = &table{title: title}
	return r.tables[name]
}

func (r *report) find(table, name string) *series {
	if t := r.tables[table]; t != nil {
		for _, s := range t.series {
			if s.name == name {
				return s
			}
		}
	}
	return nil
}

func (r *report) add(table, name, unit string, value float64) {
	s := r.find(table, name)
	if s == nil {
		s = &series{name: name, unit: unit}
		t := r.table(table, table)
		t.series = append(t.series, s)
	}
	s.values = append(s.values, value)
}

func (r *report) note(table, format string, args ...any) {
	t := r.table(table, table)
	if text := fmt.Sprintf(format, args...); !slices.Contains(t.notes, text) {
		t.notes = append(t.notes, text)
	}
}

// configuration notes how somebody was configured, each once, with the first
// table in which it matters.
func (r *report) configuration(table, name string, argv []string) {
	for _, t := range r.tables {
		if slices.ContainsFunc(t.configs, func(f fact) bool { return f.name == name }) {
			return
		}
	}
	t := r.table(table, table)
	t.configs = append(t.configs, fact{name, ownGroup.ReplaceAllString(strings.Join(argv, " "), "$1/…/proscenium")})
}

// ownGroup is the control group of this run, somewhere below a hierarchy.
var ownGroup = regexp.MustCompile(`(/sys/fs/cgroup/[a-z,]+)/(?:[^ ]*/)?proscenium-[0-9a-f-]+`)

func (s *series) sorted() []float64 { return slices.Sorted(slices.Values(s.values)) }

// quantile of sorted values, the nearest of them: p between 0 and 1.
func quantile(sorted []float64, p float64) float64 {
	return sorted[int(p*float64(len(sorted)-1)+0.5)]
}

func median(values []float64) float64 { return quantile(slices.Sorted(slices.Values(values)), 0.5) }

// write makes the three files, and prints the first to stdout.
func (r *report) write(dir string) (missed int, err error) {
	for _, f := range []struct {
		name  string
		write func(io.Writer)
	}{{"results.md", r.markdown}, {"results.txt", r.benchstat}, {"results.svg", r.plot}} {
		var b strings.Builder
		f.write(&b)
		if f.name == "results.md" {
			fmt.Print(b.String())
		}
		if err := os.WriteFile(filepath.Join(dir, f.name), []byte(b.String()), 0o644); err != nil {
			return 0, err
		}
	}
	for _, v := range r.verdicts() {
		if v.measured && !v.met {
			missed++
		}
	}
	return missed, nil
}

func (r *report) markdown(w io.Writer) {
	fmt.Fprint(w, "# Results\n\nWritten by hack/bench; how to read it is in README.md.\n\n| machine | |\n|---|---|\n")
	for _, f := range r.machine {
		fmt.Fprintf(w, "| %s | %s |\n", f.name, f.value)
	}
	r.gateTable(w)
	for _, name := range r.order {
		t := r.tables[name]
		fmt.Fprintf(w, "\n## %s\n\n", t.title)
		if len(t.series) > 0 {
			fmt.Fprintf(w, "| | unit | min | p10 | median | p90 | samples |\n|---|---|--:|--:|--:|--:|--:|\n")
		}
		for _, s := range t.series {
			v := s.sorted()
			fmt.Fprintf(w, "| %s | %s |", s.name, s.unit)
			for _, p := range []float64{0, 0.1, 0.5, 0.9} {
				fmt.Fprintf(w, " %s |", short(quantile(v, p)))
			}
			fmt.Fprintf(w, " %d |\n", len(v))
		}
		for i, note := range t.notes {
			if i == 0 {
				fmt.Fprintln(w)
			}
			fmt.Fprintf(w, "- %s\n", note)
		}
	}
	fmt.Fprint(w, "\n## How each was configured\n")
	for _, name := range r.order {
		for _, f := range r.tables[name].configs {
			fmt.Fprintf(w, "\n%s:\n\n    %s\n", f.name, f.value)
		}
	}
}

func (r *report) gateTable(w io.Writer) {
	list := r.verdicts()
	if len(list) == 0 {
		return
	}
	fmt.Fprint(w, "\n## Promises\n\nMedians of this run. Where there are several of a peer, the best of them counts. The last column is the same of each one's best tenth, which noise distorts less; it decides nothing.\n\n| | | measured | | best tenth |\n|---|--:|--:|---|--:|\n")
	for _, v := range list {
		sign, got, met, calm := "≤", "–", "not measured", "–"
		if v.atLeast {
			sign = "≥"
		}
		if v.measured {
			got, met, calm = short(v.got)+" "+v.unit, "NOT met", short(v.calm)+" "+v.unit
		}
		if v.met {
			met = "met"
		}
		fmt.Fprintf(w, "| %s | %s %g %s | %s | %s | %s |\n", v.what, sign, v.bound, v.unit, got, met, calm)
	}
}

// short has three digits that mean something.
func short(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.3g", x)
}

// blocks is how many lines of benchstat input one series makes at most.
const blocks = 20

// benchstat writes what benchstat reads: the format of Go's benchmarks. A line is
// the median of consecutive samples.
func (r *report) benchstat(w io.Writer) {
	for _, f := range r.machine {
		// benchstat compares only what has the same of these; the rest is remarks.
		if !slices.Contains([]string{"goos", "goarch", "cpu", "kernel"}, f.name) {
			fmt.Fprint(w, "# ")
		}
		fmt.Fprintf(w, "%s: %s\n", f.name, f.value)
	}
	fmt.Fprintln(w, "# a line is the median of consecutive samples")
	name := strings.NewReplacer(" / ", "-root-", " ", "-", ",", "", ":", "", ".", "")
	for _, table := range r.order {
		for _, s := range r.tables[table].series {
			for part := range slices.Chunk(s.values, (len(s.values)+blocks-1)/blocks) {
				value, unit := median(part), s.unit
				switch unit {
				case "ms":
					value, unit = value*1e6, "ns/op"
				case "µs":
					value, unit = value*1e3, "ns/op"
				case "×":
					unit = "ratio"
				}
				fmt.Fprintf(w, "Benchmark%s/%s %d %g %s\n", table, name.Replace(s.name), len(part), value, unit)
			}
		}
	}
}

// Command suite measures starts, output and residency of this tree beside a
// floor in C and the tools that users would otherwise take, interleaved in one
// run. hack/bench builds what it needs and runs it; ../README.md says how to read
// the result.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/reexec"
)

func main() {
	reexec.Init()
	playRole()
	programs := flag.String("programs", "", "`directory` with the built programs of ../programs and ../guests")
	out := flag.String("out", "", "`directory` for results.md, results.txt (benchstat input) and results.svg")
	quick := flag.Bool("quick", false, "fewer samples: within two minutes")
	gates := flag.Bool("gate", false, "exit with 1 if a ratio is not met")
	only := flag.String("only", "", "run the experiments whose names match the `pattern`")
	flag.Parse()
	size := full
	if *quick {
		size = quickly
	}
	pattern, err := regexp.Compile(*only)
	if err == nil {
		err = os.MkdirAll(*out, 0o755)
	}
	var missed int
	if err == nil {
		missed, err = run(*programs, *out, size, pattern)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "suite:", err)
		os.Exit(2)
	}
	if *gates && missed > 0 {
		os.Exit(1)
	}
}

// A scale is how much is measured.
type scale struct {
	name   string
	starts int           // rounds of starts, each mode once a round
	slow   int           // slow peers take part in each slow-th round
	blocks int           // repetitions of what is measured in blocks
	block  time.Duration // of starts per second
	output int64         // bytes of one flood
	lines  int64         // bytes of one flood of lines into an actor
	status int           // calls
	idle   int           // processes whose memory is measured
	crowd  int           // processes that talk at once
	talk   time.Duration // for so long
	heap   int           // bytes of the large host
	mounts int           // extra mounts of the host
	most   time.Duration // of one experiment, after which it is cut short
	whole  time.Duration // of all of them
}

var (
	full = scale{
		name: "full", starts: 600, slow: 6, blocks: 10, block: 2 * time.Second, output: 1 << 30, lines: 64 << 20,
		status: 20000, idle: 300, crowd: 1000, talk: time.Minute, heap: 1 << 30, mounts: 1000, most: 4 * time.Minute, whole: 14 * time.Minute,
	}
	quickly = scale{
		name: "quick", starts: 60, slow: 8, blocks: 3, block: 400 * time.Millisecond, output: 512 << 20, lines: 8 << 20,
		status: 2000, idle: 60, crowd: 1000, talk: 10 * time.Second, heap: 1 << 30, mounts: 1000, most: 40 * time.Second, whole: 112 * time.Second,
	}
)

// A suite is what experiments share.
type suite struct {
	scale
	ctx        context.Context // of the experiment: it bounds its time
	programs   string
	launcher   *launcher.Launcher
	group      *cgroup.Group
	report     report
	containers int // names given to crun and runc
}

// experiments, in the order in which they run. The name is that of the result's
// table and of the benchmark in benchstat's input.
var experiments = []struct {
	name, title string
	run         func(*suite, string) error
}{
	{"Start", "Start to exit of a static program", (*suite).starts},
	{"Throughput", "Starts per second, two at a time", (*suite).throughput},
	{"Heap", "Start to exit, by the host's heap", (*suite).heaps},
	{"Mounts", "Start to exit, by the host's mounts", (*suite).mountTable},
	{"Memory", "Memory of an idle process, kernel included", (*suite).memory},
	{"Raw", "Raw output", (*suite).raw},
	{"Lines", "Output by lines", (*suite).linesOfOutput},
	{"Actor", "Output into a WebAssembly actor", (*suite).actors},
	{"Status", "One os-status of a running process", (*suite).statuses},
	{"Writers", "One flood of lines, from many at once", (*suite).writers},
	{"Slow", "Memory of a host whose sink is slow", (*suite).slowSink},
	{"Crowd", "Alive and talking at once", (*suite).crowdTalks},
}

// run measures and writes the result; missed counts the ratios that are not met.
func run(programs, out string, size scale, only *regexp.Regexp) (missed int, err error) {
	if os.Geteuid() != 0 {
		return 0, fmt.Errorf("needs root, as the peers do (bubblewrap and crun would run otherwise, and differently)")
	}
	s := &suite{scale: size, programs: programs}
	if s.group, err = cgroup.Open(); err != nil {
		return 0, err
	}
	defer s.group.Close()
	if s.launcher, err = launcher.Start(launcher.Config{}); err != nil {
		return 0, err
	}
	defer s.launcher.Close()
	if err := s.writeFilter(); err != nil {
		return 0, err
	}
	begin := time.Now()
	s.report.describe(size, s.group.Layout())
	for _, e := range experiments {
		if !only.MatchString(e.name) {
			continue
		}
		s.report.table(e.name, e.title)
		at := time.Now()
		left := s.whole - at.Sub(begin)
		if left <= 0 {
			s.report.note(e.name, "left out: %v were used up, on a machine that is slow or busy", s.whole)
			continue
		}
		var cancel context.CancelFunc
		s.ctx, cancel = context.WithTimeout(context.Background(), min(s.most, left))
		err := e.run(s, e.name)
		cancel()
		if err != nil {
			s.report.note(e.name, "not measured to the end: %v", err)
		}
		fmt.Fprintf(os.Stderr, "%-10s %6.1f s\n", e.name, time.Since(at).Seconds())
	}
	s.report.machine = append(s.report.machine, fact{"load after", load()}, fact{"duration", time.Since(begin).Round(time.Second).String()})
	return s.report.write(out)
}

func (s *suite) program(name string) string { return filepath.Join(s.programs, name) }

// command is the static target, or another program, in a cell.
func (s *suite) command(spec isolate.Spec, name string, args ...string) *launcher.Cmd {
	cmd := s.launcher.Command(s.ctx, s.program(name), args...)
	cmd.Isolation = spec
	return cmd
}

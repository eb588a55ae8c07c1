package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
)

// A mode is one way of starting the static target.
type mode struct {
	name  string
	every int // takes part in each so-many-th round
	start func() (time.Duration, error)
}

// A started is one start of ours, from the request on.
type started struct {
	status time.Duration // until the exit status is with the host
	gone   time.Duration // until nothing of the program is left but its empty leaf
	leaf   string        // its directory
}

func (s *suite) start(spec isolate.Spec) (started, error) { return s.startIn(s.group, spec) }

// startIn is without limits where there is no group.
func (s *suite) startIn(group *cgroup.Group, spec isolate.Spec) (started, error) {
	cmd := s.command(spec, "true")
	begin := time.Now()
	cell, err := handler.StartCell(cmd, group, cgroup.Limits{}, handler.Budgets{})
	if err != nil {
		return started{}, err
	}
	return follow(begin, cmd, cell)
}

// warmStart is from a cell that was made ahead, outside of the time.
func (s *suite) warmStart(group *cgroup.Group) (started, error) {
	cmd := s.command(isolate.Hardened(), "true")
	cell, err := handler.PrepareCell(cmd, group, cgroup.Limits{})
	if err != nil {
		return started{}, err
	}
	time.Sleep(pause)
	begin := time.Now()
	if err := cell.Start(handler.Budgets{}); err != nil {
		return started{}, err
	}
	return follow(begin, cmd, cell)
}

// follow waits for the end of a start.
func follow(begin time.Time, cmd *launcher.Cmd, cell *handler.Cell) (x started, err error) {
	<-cmd.Process.Exited()
	x.status = time.Since(begin)
	r := cell.Wait()
	x.gone = time.Since(begin)
	if cell.Leaf != nil {
		x.leaf = cell.Leaf.Path()
	}
	if r.ExitCode != 0 {
		return x, fmt.Errorf("the target ended with %d (%s)", r.ExitCode, r.Reason)
	}
	return x, nil
}

// alone waits, outside of the time, for the removal of the leaf, so that a start
// disturbs no other. The floor does so too.
func (s *suite) alone(x started, err error) (started, error) {
	for err == nil && x.leaf != "" { // the only sign of the removal is the directory's absence
		if _, gone := os.Stat(x.leaf); gone != nil {
			break
		}
		time.Sleep(50 * time.Microsecond)
		err = s.ctx.Err()
	}
	return x, err
}

// cold is a mode of ours until all is gone. What is called status also gets a
// series of its own.
func (s *suite) cold(table, name, status string, spec isolate.Spec) mode {
	warm := false
	return mode{name, 1, func() (time.Duration, error) {
		x, err := s.alone(s.start(spec))
		if warm && status != "" && err == nil {
			s.report.add(table, status, "ms", milliseconds(x.status))
		}
		warm = true
		return x.gone, err
	}}
}

const (
	ours        = "proscenium"
	oursStatus  = "proscenium, until the status"
	oursHostNet = "proscenium, host's network"
	oursWarm    = "proscenium, warm cell, until the status"

	// As the peers are, of which none sets limits itself.
	unlimited     = "proscenium, without limits"
	unlimitedWarm = "proscenium, without limits, warm cell, until the status"

	floor       = "C floor"
	floorStatus = "C floor, until the status"
)

func (s *suite) starts(table string) error {
	modes := []mode{
		s.cold(table, ours, oursStatus, isolate.Hardened()),
		s.cold(table, oursHostNet, "", isolate.Spec{Network: isolate.NetworkHost}),
		{oursWarm, 1, func() (time.Duration, error) { x, err := s.alone(s.warmStart(s.group)); return x.status, err }},
		{unlimited, 1, func() (time.Duration, error) { x, err := s.startIn(nil, isolate.Hardened()); return x.gone, err }},
		{unlimitedWarm, 1, func() (time.Duration, error) { x, err := s.warmStart(nil); return x.status, err }},
	}
	f, err := s.startFloor(table)
	if err != nil {
		return err
	}
	defer f.close()
	warm := false
	modes = append(modes, mode{floor, 1, func() (time.Duration, error) {
		status, gone, err := f.floorStart()
		if warm {
			s.report.add(table, floorStatus, "ms", milliseconds(status))
		}
		warm = true
		return gone, err
	}})
	peers, done := s.peers(table)
	defer done()
	return s.interleave(table, append(modes, peers...), s.scale.starts)
}

// pause lets the kernel take down what the sample before has left: namespaces end
// in the background.
const pause = 3 * time.Millisecond

// interleave takes rounds samples of each mode, in a new order each round, so
// that all of them meet the same noise and each other. A mode that fails is left
// out from then on, with a note.
func (s *suite) interleave(table string, modes []mode, rounds int) error {
	failed := map[string]bool{}
	order := rand.New(rand.NewPCG(1, 2)) // the same in every run
	for round := range rounds + 1 {
		turns := order.Perm(len(modes))
		if round < 2 { // the first that counts is in the table's order
			slices.Sort(turns)
		}
		for _, i := range turns {
			m := modes[i]
			if failed[m.name] || round%m.every != 0 {
				continue
			}
			if err := s.ctx.Err(); err != nil {
				return err
			}
			time.Sleep(pause)
			took, err := m.start()
			if err != nil {
				failed[m.name] = true
				s.report.note(table, "%s: %v", m.name, err)
				continue
			}
			if round > 0 { // the first warms the caches
				s.report.add(table, m.name, "ms", milliseconds(took))
			}
		}
	}
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// throughput lets two starters go on for a block at a time, each mode in turn.
func (s *suite) throughput(table string) error {
	one := func() (time.Duration, error) { x, err := s.start(isolate.Hardened()); return x.gone, err }
	bare := func() (time.Duration, error) { x, err := s.startIn(nil, isolate.Hardened()); return x.gone, err }
	type two struct {
		name     string
		starters []func() (time.Duration, error)
	}
	modes := []two{{floor, nil}, {ours, []func() (time.Duration, error){one, one}}, {unlimited, []func() (time.Duration, error){bare, bare}}}
	for range 2 {
		f, err := s.startFloor(table)
		if err != nil {
			return err
		}
		defer f.close()
		modes[0].starters = append(modes[0].starters, func() (time.Duration, error) { _, gone, err := f.floorStart(); return gone, err })
	}
	first, done := s.peers(table)
	defer done()
	second, done := s.peers("")
	defer done()
	for _, p := range first {
		same := func(q mode) bool { return q.name == p.name }
		if i := slices.IndexFunc(second, same); i >= 0 && p.every == 1 { // the slow ones are no match
			modes = append(modes, two{p.name, []func() (time.Duration, error){p.start, second[i].start}})
		}
	}
	for range s.blocks {
		for _, m := range modes {
			if err := s.ctx.Err(); err != nil {
				return err
			}
			rate, err := s.rate(m.starters)
			if err != nil {
				s.report.note(table, "%s: %v", m.name, err)
				continue
			}
			s.report.add(table, m.name, "starts/s", rate)
		}
	}
	return nil
}

func (s *suite) rate(starters []func() (time.Duration, error)) (float64, error) {
	var wg sync.WaitGroup
	counts, errs := make([]int, len(starters)), make([]error, len(starters))
	begin := time.Now()
	for i, start := range starters {
		wg.Go(func() {
			for time.Since(begin) < s.block && errs[i] == nil {
				_, errs[i] = start()
				counts[i]++
			}
		})
	}
	wg.Wait()
	took, total := time.Since(begin), 0
	for i, n := range counts {
		if errs[i] != nil {
			return 0, errs[i]
		}
		total += n
	}
	return float64(total) / took.Seconds(), nil
}

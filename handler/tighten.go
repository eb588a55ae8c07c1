package handler

import (
	"math"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
)

// Tighter are limits of one process below those of the manifest. Zero fields are
// the manifest's.
type Tighter struct {
	Memory uint64 // bytes
	CPU    float64
	Pids   uint32
	Wall   time.Duration
}

// tighten is what holds for a process: the manifest's limits, or tighter ones. A
// looser one, and one that cannot be kept, is refused.
func (p *policy) tighten(t Tighter) (cgroup.Limits, Budgets, error) {
	l, b := p.config.Limits.WithDefaults(), p.config.Budgets
	if t == (Tighter{}) {
		return p.config.Limits, b, nil
	}
	if p.config.Unlimited && (t.Memory != 0 || t.CPU != 0 || t.Pids != 0) {
		return l, b, deny("limits", `the manifest says limits = "none": there is no control group to limit`)
	}
	switch {
	case t.Memory > uint64(l.Memory):
		return l, b, deny("limits", "memory %d is more than the manifest's %d bytes", t.Memory, l.Memory)
	case !(t.CPU >= 0 && t.CPU <= l.CPU): // NaN as well
		return l, b, deny("limits", "cpu %g is more than the manifest's %g cores, or no number", t.CPU, l.CPU)
	case int64(t.Pids) > l.Pids:
		return l, b, deny("limits", "pids %d is more than the manifest's %d", t.Pids, l.Pids)
	case t.Wall < 0 || t.Wall > math.MaxInt64/2 || b.Wall != 0 && t.Wall > b.Wall:
		return l, b, deny("limits", "a wall clock of %v is more than the manifest's %v", t.Wall, b.Wall)
	}
	if t.Memory != 0 {
		l.Memory = int64(t.Memory)
	}
	if t.CPU != 0 {
		l.CPU = t.CPU
	}
	if t.Pids != 0 {
		l.Pids = int64(t.Pids)
	}
	if t.Wall != 0 {
		b.Wall = t.Wall
	}
	if err := l.Check(); err != nil {
		return l, b, deny("limits", "%v", err)
	}
	return l, b, nil
}

// A Report is how a process ended, and what it wrote.
type Report struct {
	Result
	StdoutBytes, StderrBytes uint64 // read: line ends, and what is no JSON, included
}

// Report answers for a process of which nothing is left, for a while after its
// exit. Before, it is ErrRunning.
func (h *Handler) Report(id uint64) (Report, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, err := h.find(id)
	if err != nil {
		return Report{}, err
	}
	if !p.gone {
		return Report{}, errRunning(id)
	}
	return Report{p.result, p.streams[0].total.Load(), p.streams[1].total.Load()}, nil
}

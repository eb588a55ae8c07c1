package handler

import (
	"context"
	"io/fs"
	"os"
	"sync"

	"github.com/proscenium-dev/proscenium/launcher"
)

// A stage is a cell with its pipes, before it has a program: warm, if its init is
// there already.
type stage struct {
	cmd                   *launcher.Cmd
	cell                  *Cell // nil: cold
	cancel                context.CancelFunc
	hostID                int      // of its own, from Config.IDRange; 0: none
	stdin, stdout, stderr *os.File // our ends; stdin is nil where programs have none
}

// newStage makes the command and its pipes. After an error nothing is left.
func (h *Handler) newStage(path string) (s *stage, err error) {
	life, cancel := context.WithCancel(context.Background())
	s = &stage{cmd: h.launcher.Command(life, path), cancel: cancel}
	s.cmd.Isolation = h.policy.spec()
	defer func() {
		if err != nil {
			s.discard()
		}
	}()
	if ids := h.policy.config.IDRange; ids != (IDRange{}) {
		if s.hostID, err = hostIDs.take(ids); err != nil {
			return s, err
		}
		s.cmd.Isolation.HostUID, s.cmd.Isolation.HostGID = s.hostID, s.hostID
	}
	if s.stdout, err = s.cmd.StdoutPipe(); err != nil {
		return s, err
	}
	if s.stderr, err = s.cmd.StderrPipe(); err != nil {
		return s, err
	}
	if !h.policy.config.StdinNull {
		if s.stdin, err = s.cmd.StdinPipe(); err != nil {
			return s, err
		}
	}
	return s, nil
}

// discard ends a stage on which nothing was started, and gives back its id.
func (s *stage) discard() {
	if s.cell != nil {
		s.cell.Release()
	} else {
		s.cmd.Release()
	}
	s.cancel()
	hostIDs.release(s.hostID)
}

// start starts the program that the command now says.
func (s *stage) start(h *Handler, m *permit) (*Cell, error) {
	if s.cell != nil {
		return s.cell, s.cell.Start(m.budgets)
	}
	return StartCell(s.cmd, h.group, m.limits, m.budgets)
}

// A pool keeps warm cells of a handler's one profile. They are made again off the
// path of a start, one at a time.
type pool struct {
	mu      sync.Mutex
	stages  []*stage
	filling bool
	closed  bool
	filled  sync.WaitGroup
}

// take is a stage for the program, warm if there is one with its limits.
func (h *Handler) take(m *permit) (*stage, error) {
	h.pool.mu.Lock()
	for len(h.pool.stages) > 0 && !m.tight {
		s := h.pool.stages[0]
		h.pool.stages = h.pool.stages[1:]
		if !s.cmd.Warm() {
			s.discard()
			continue
		}
		h.pool.mu.Unlock()
		s.cmd.Path = m.path
		// What is allowed may lead elsewhere by now; then the cell is given up.
		s.cmd.Isolation = h.policy.spec()
		if s.hostID != 0 {
			s.cmd.Isolation.HostUID, s.cmd.Isolation.HostGID = s.hostID, s.hostID
		}
		return s, nil
	}
	h.pool.mu.Unlock()
	return h.newStage(m.path)
}

// fill brings the pool to its size, if nobody does already. A cell that cannot be
// made ahead is no error: the start that wants it will have it.
func (h *Handler) fill() {
	p := &h.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.filling || p.closed || len(p.stages) >= h.policy.config.Warm || len(h.policy.present()) == 0 {
		return
	}
	p.filling = true
	p.filled.Go(func() {
		for h.addWarm() {
		}
	})
}

// addWarm adds one and says whether another is wanted.
func (h *Handler) addWarm() bool {
	var s *stage
	err := error(fs.ErrNotExist)
	if programs := h.policy.present(); len(programs) > 0 { // any will do
		s, err = h.newStage(programs[0])
	}
	if err == nil {
		if s.cell, err = PrepareCell(s.cmd, h.group, h.policy.config.Limits); err != nil {
			s.discard()
		}
	}
	p := &h.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil:
		h.policy.config.Logger.Warn("no warm cell", "error", err)
		p.filling = false
	case p.closed:
		s.discard()
		p.filling = false
	default:
		p.stages = append(p.stages, s)
		p.filling = len(p.stages) < h.policy.config.Warm
	}
	return p.filling
}

// drainPool releases the warm cells; there will be no more.
func (h *Handler) drainPool() {
	p := &h.pool
	p.mu.Lock()
	p.closed = true
	stages := p.stages
	p.stages = nil
	p.mu.Unlock()
	for _, s := range stages {
		s.discard()
	}
	p.filled.Wait()
}

package handler

import (
	"sync"
	"time"
)

// coalesced are the kinds of events that an actor or a program makes as fast as it
// likes, and that change nothing.
var coalesced = map[Kind]bool{Denied: true, SpawnDenied: true, ActorRefused: true, NotJSON: true}

// maxRecords is how many events of one of those kinds are recorded in a second as
// they are.
const maxRecords = 100

// A Coalescer passes events on, of one actor. Of denials, errs of handlers and
// output that is no JSON, each kind by itself, what is beyond a hundred in a second
// is counted, and one record for each rule, or stream, follows at the end of that
// second: Event.Count says for how many events it stands.
type Coalescer struct {
	to Recorder

	mu     sync.Mutex
	since  time.Time
	passed map[Kind]int // since then
	held   map[heldKey]*Event
	order  []heldKey
	timer  *time.Timer // while something is held
}

// heldKey is what one record of several events tells apart: nothing that an actor
// chooses.
type heldKey struct {
	kind         Kind
	rule, stream string
	process      uint64
}

// NewCoalescer passes events on to a Recorder. Close it after the last.
func NewCoalescer(to Recorder) *Coalescer {
	return &Coalescer{to: to, passed: map[Kind]int{}, held: map[heldKey]*Event{}}
}

// Record implements Recorder. Events have their Time.
func (c *Coalescer) Record(e Event) {
	switch {
	case coalesced[e.Kind]:
		if c.hold(e) {
			return
		}
	case e.Kind == ActorFailed || e.Kind == ActorEnded:
		c.Close() // what happened before it comes before it
	}
	c.to.Record(e)
}

// hold says whether the event is counted instead of recorded.
func (c *Coalescer) hold(e Event) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Time.Sub(c.since) >= time.Second {
		c.flush()
		c.since = e.Time
	}
	if c.passed[e.Kind]++; c.passed[e.Kind] <= maxRecords {
		return false
	}
	key := heldKey{kind: e.Kind, rule: e.Rule, stream: e.Stream}
	if e.Kind == NotJSON {
		key.process = e.Process
	}
	h := c.held[key]
	if h == nil {
		h = &Event{Actor: e.Actor, Kind: e.Kind, Process: key.process, Rule: e.Rule, Stream: e.Stream}
		if e.Kind == NotJSON {
			h.Program = e.Program
		}
		c.held[key] = h
		c.order = append(c.order, key)
	}
	h.Count++
	h.Bytes += e.Bytes
	h.Time, h.Error = e.Time, e.Error
	if c.timer == nil {
		c.timer = time.AfterFunc(time.Second, c.Close)
	}
	return true
}

// flush records what is held; c.mu is held.
func (c *Coalescer) flush() {
	for _, key := range c.order {
		c.to.Record(*c.held[key])
	}
	clear(c.passed)
	clear(c.held)
	c.order = nil
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
}

// Close records what is held. Events may follow nevertheless.
func (c *Coalescer) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flush()
}

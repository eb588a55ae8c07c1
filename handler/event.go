package handler

import (
	"fmt"
	"strings"
	"time"
)

// An Event is one operation, a denial included. Every one goes to the Recorder:
// the audit log and the metrics are readers of this one stream. Values of
// environment variables and bytes of stdin are not in it.
//
// Denied, SpawnDenied, ActorRefused and NotJSON cost whoever causes them nothing, and
// could fill a disk: beyond a hundred of a kind in a second they are counted, and
// one event with that Count follows for each Rule or Stream (Coalescer). Nothing
// else is ever left out, and no event is without a count.
type Event struct {
	Time    time.Time `json:"time"`
	Actor   string    `json:"actor,omitempty"`
	Kind    Kind      `json:"event"`
	Process uint64    `json:"process,omitempty"` // our id, 0: none
	Program string    `json:"program,omitempty"`
	Args    []string  `json:"args,omitempty"`
	Dir     string    `json:"dir,omitempty"`
	Env     []string  `json:"env,omitempty"`  // names
	Rule    string    `json:"rule,omitempty"` // what denied
	Signal  int       `json:"signal,omitempty"`
	Bytes   int64     `json:"bytes,omitempty"`
	Stream  string    `json:"stream,omitempty"`
	Error   string    `json:"error,omitempty"`
	// Count is for how many events this one stands, the last of which has the Error;
	// 0: for itself. Bytes are those of all.
	Count uint64 `json:"count,omitempty"`

	// Of an end.
	ExitCode   *int    `json:"exit_code,omitempty"`
	Reason     Reason  `json:"reason,omitempty"`
	Wall       float64 `json:"wall_seconds,omitempty"`
	CPU        float64 `json:"cpu_seconds,omitempty"`
	MemoryPeak uint64  `json:"memory_peak_bytes,omitempty"`

	Enforced []string `json:"enforced,omitempty"` // of a start
}

// A Kind is what happened.
type Kind string

const (
	Spawned      Kind = "spawned"       // a program runs
	SpawnDenied  Kind = "spawn-denied"  // policy or a bad parameter
	SpawnFailed  Kind = "spawn-failed"  // allowed, and did not start
	StdinWritten Kind = "stdin-written" // Bytes were queued
	StdinClosed  Kind = "stdin-closed"
	StdinFailed  Kind = "stdin-failed" // the program does not read any more
	SignalSent   Kind = "signal-sent"
	KillAsked    Kind = "kill-asked"
	Denied       Kind = "denied"        // any other operation, refused
	NotJSON      Kind = "not-json"      // Bytes of output were skipped
	ReadFailed   Kind = "read-failed"   // output was lost to an error
	Ended        Kind = "ended"         // the program's end
	ActorFailed  Kind = "actor-failed"  // it takes no more events; its processes are killed
	ActorRefused Kind = "actor-refused" // a handler returned an err
	ActorStarted Kind = "actor-started"
	ActorEnded   Kind = "actor-ended"
)

// Bounds of what an event holds, in bytes: its words are an actor's.
const (
	maxEventText = 4 << 10
	maxEventList = 16 << 10
)

// Bounded is the event with long texts and lists cut, so that it fills neither
// memory nor disk.
func (e Event) Bounded() Event {
	cut := func(s string) string {
		if len(s) <= maxEventText {
			return s
		}
		return strings.ToValidUTF8(s[:maxEventText], "") + fmt.Sprintf("… (%d bytes)", len(s))
	}
	list := func(l []string) []string {
		total := 0
		var out []string
		for i, s := range l {
			if s = cut(s); total+len(s)+8 > maxEventList {
				return append(out, fmt.Sprintf("… (%d more)", len(l)-i))
			}
			total += len(s) + 8
			out = append(out, s)
		}
		return out
	}
	e.Program, e.Dir, e.Error, e.Rule = cut(e.Program), cut(e.Dir), cut(e.Error), cut(e.Rule)
	e.Args, e.Env = list(e.Args), list(e.Env)
	return e
}

// A Recorder takes every event. It must be safe for concurrent use and should be
// quick: operations wait for it. Spawned is the first of a process; Ended comes
// when the program has ended, before the last of its output is delivered.
type Recorder interface{ Record(Event) }

// Recorders passes each event to all of them.
type Recorders []Recorder

// Record implements Recorder.
func (r Recorders) Record(e Event) {
	for _, recorder := range r {
		recorder.Record(e)
	}
}

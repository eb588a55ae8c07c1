package handler

import (
	"sync"
	"testing"
	"time"
)

// list is a Recorder.
type list struct {
	mu     sync.Mutex
	events []Event
}

func (l *list) Record(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// TestCoalescer: what can be had for nothing is counted beyond a hundred a second;
// each event is in some count, and nothing else is touched.
func TestCoalescer(t *testing.T) {
	var l list
	c := NewCoalescer(&l)
	moment := time.Now()
	record := func(n int, e Event) {
		for range n {
			e.Time = moment
			c.Record(e)
		}
	}
	record(1000, Event{Kind: Denied, Rule: "os-kill", Process: 1})
	record(1000, Event{Kind: Denied, Rule: "os-signal", Process: 2, Error: "no"})
	record(99, Event{Kind: SpawnDenied, Rule: "parameters"})
	record(1000, Event{Kind: NotJSON, Process: 3, Stream: "stdout", Bytes: 2})
	record(1000, Event{Kind: StdinWritten})
	if n := len(l.events); n != 100+99+100+1000 {
		t.Errorf("%d records at first", n)
	}
	c.Close()
	moment = moment.Add(time.Second)
	record(1, Event{Kind: Denied, Rule: "os-kill"})
	counts, bytes := map[string]uint64{}, int64(0)
	for _, e := range l.events {
		counts[string(e.Kind)+e.Rule] += max(e.Count, 1)
		if e.Kind == NotJSON {
			bytes += e.Bytes
		}
		if e.Count > 0 && e.Rule == "os-signal" && (e.Process != 0 || e.Error != "no") {
			t.Errorf("of many: %+v", e)
		}
	}
	for what, want := range map[string]uint64{"deniedos-kill": 1001, "deniedos-signal": 1000, "spawn-deniedparameters": 99, "not-json": 1000, "stdin-written": 1000} {
		if counts[what] != want {
			t.Errorf("%s: %d, want %d", what, counts[what], want)
		}
	}
	if n := len(l.events); n != 100+99+100+1000+3+1 || bytes != 2000 {
		t.Errorf("%d records, %d bytes of no JSON", n, bytes)
	}
}

// TestCoalescerFollows: the counts come with the next second, and before the end of
// the actor.
func TestCoalescerFollows(t *testing.T) {
	for what, last := range map[string]Event{
		"the next second": {Kind: Denied, Time: time.Now().Add(time.Minute)}, "the end": {Kind: ActorEnded},
	} {
		var l list
		c := NewCoalescer(&l)
		for range maxRecords + 5 {
			c.Record(Event{Kind: Denied, Time: time.Now()})
		}
		c.Record(last)
		if n := len(l.events); n != maxRecords+2 || l.events[n-2].Count != 5 || l.events[n-1].Kind != last.Kind {
			t.Errorf("%s: %d records", what, n)
		}
		c.Close()
	}
}

// TestDenialsAreCoalesced: through a handler's operations.
func TestDenialsAreCoalesced(t *testing.T) {
	var l list
	h, err := New(Config{Unlimited: true, MaxProcesses: 1, MaxOutputBuffer: 1}, nil, nil, &l)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(10000) {
		h.Kill(i)
	}
	h.Close()
	total := uint64(0)
	for _, e := range l.events {
		total += max(e.Count, 1)
	}
	if n := len(l.events); total != 10000 || n > 1000 { // far less than ten seconds have passed
		t.Errorf("%d records of %d denials", n, total)
	}
}

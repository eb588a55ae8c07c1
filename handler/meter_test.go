package handler

import (
	"testing"
	"time"
)

// TestMeter: the kernel's count stands still and then moves by a tick. Looks that
// are microseconds apart must not make many cores of that.
func TestMeter(t *testing.T) {
	const ms = time.Millisecond
	start := time.Unix(1, 0)
	m := meter{at: start}
	for _, look := range []struct {
		at, cpu time.Duration
		want    float32
	}{
		{10 * time.Microsecond, 4 * ms, 0}, // too soon after the start
		{100 * ms, 50 * ms, 50},
		{100*ms + 10*time.Microsecond, 50 * ms, 50},
		{100*ms + 20*time.Microsecond, 60 * ms, 50}, // a tick
		{119 * ms, 62 * ms, 50},
		{200 * ms, 150 * ms, 100}, // since the last look that counted
		{220 * ms, 150 * ms, 0},
	} {
		if got := m.read(look.cpu, start.Add(look.at)); got != look.want {
			t.Errorf("at %v: %v percent, want %v", look.at, got, look.want)
		}
	}
}

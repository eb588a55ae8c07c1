package cgroup

import (
	"bytes"
	"strconv"
	"time"
)

// A Pressure is how much of the time processes waited for a resource: the
// kernel's pressure stall information (accounting/psi.rst, Linux 4.20).
type Pressure struct {
	Some Stall // at least one process waited
	Full Stall // every process waited that could have run
}

// A Stall is the share of the time, in percent, over the last 10, 60 and 300
// seconds, and the sum since the start.
type Stall struct {
	Avg10, Avg60, Avg300 float64
	Total                time.Duration
}

// parsePressure reads "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" and the
// same of full, which the cpu has from Linux 5.13 on.
func parsePressure(text []byte) (p Pressure) {
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) == 0 {
			continue
		}
		var s Stall
		for _, f := range fields[1:] {
			name, value, _ := bytes.Cut(f, []byte("="))
			switch n, _ := strconv.ParseFloat(string(value), 64); string(name) {
			case "avg10":
				s.Avg10 = n
			case "avg60":
				s.Avg60 = n
			case "avg300":
				s.Avg300 = n
			case "total":
				s.Total = time.Duration(n) * time.Microsecond
			}
		}
		switch string(fields[0]) {
		case "some":
			p.Some = s
		case "full":
			p.Full = s
		}
	}
	return p
}

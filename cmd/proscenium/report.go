package main

import (
	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"golang.org/x/sys/unix"
)

// A report is what --report writes.
type report struct {
	Program         string   `json:"program"`
	ExitCode        int      `json:"exit_code"`
	Signal          string   `json:"signal"` // "" or a name such as SIGKILL
	Reason          string   `json:"reason"`
	Error           string   `json:"error,omitempty"`
	WallSeconds     float64  `json:"wall_seconds"`
	CPUSeconds      float64  `json:"cpu_seconds"`
	MemoryPeakBytes uint64   `json:"memory_peak_bytes"`
	OOMKills        uint64   `json:"oom_kills"`         // processes
	PidsRefused     uint64   `json:"pids_refused"`      // forks
	Throttled       uint64   `json:"throttled_periods"` // of the CPU limit
	ThrottledTime   float64  `json:"throttled_seconds"`
	Pressure        pressure `json:"pressure_seconds"`
	Enforced        []string `json:"enforced"`
	// Annotations are those of the --oci file.
	Annotations map[string]string `json:"annotations,omitempty"`
}

// pressure is how long some processes, or all of them, waited for a resource. Zero
// with v1 controllers, or a kernel without pressure stall information.
type pressure struct {
	CPU    stall `json:"cpu"`
	Memory stall `json:"memory"`
	IO     stall `json:"io"`
}

type stall struct {
	Some float64 `json:"some"`
	Full float64 `json:"full"`
}

// tell fills in how the program ended.
func (r *report) tell(result handler.Result) {
	r.ExitCode, r.Reason = result.ExitCode, string(result.Reason)
	if result.Signal != 0 {
		r.Signal = unix.SignalName(result.Signal)
	}
	r.WallSeconds, r.CPUSeconds, r.MemoryPeakBytes = result.Wall.Seconds(), result.CPU.Seconds(), result.MemoryPeak
	s := result.Stat
	r.OOMKills, r.PidsRefused, r.Throttled, r.ThrottledTime = s.OOMKills, s.PidsRefused, s.Throttled, s.ThrottledTime.Seconds()
	seconds := func(p cgroup.Pressure) stall {
		return stall{p.Some.Total.Seconds(), p.Full.Total.Seconds()}
	}
	r.Pressure = pressure{seconds(s.CPUPressure), seconds(s.MemoryPressure), seconds(s.IOPressure)}
}

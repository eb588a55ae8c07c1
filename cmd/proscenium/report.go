package main

import (
	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"golang.org/x/sys/unix"
)

// A report is what --report writes.
type report struct {
	Program     string   `json:"program"`
	ExitCode    int      `json:"exit_code"`
	Signal      string   `json:"signal"` // "" or a name such as SIGKILL
	Reason      string   `json:"reason"`
	Error       string   `json:"error,omitempty"`
	WallSeconds float64  `json:"wall_seconds"`
	*usage               // nil: nothing has counted it, which is not 0
	Enforced    []string `json:"enforced"`
	// Annotations are those of the --oci file.
	Annotations map[string]string `json:"annotations,omitempty"`
}

// usage is what the control group has counted.
type usage struct {
	CPUSeconds      float64  `json:"cpu_seconds"`
	MemoryPeakBytes uint64   `json:"memory_peak_bytes"`
	OOMKills        uint64   `json:"oom_kills"`         // processes
	PidsRefused     uint64   `json:"pids_refused"`      // forks
	Throttled       uint64   `json:"throttled_periods"` // of the CPU limit
	ThrottledTime   float64  `json:"throttled_seconds"`
	Pressure        pressure `json:"pressure_seconds"`
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

// tell fills in how the program ended, and if a control group counted, what it used.
func (r *report) tell(result handler.Result, counted bool) {
	r.ExitCode, r.Reason, r.WallSeconds = result.ExitCode, string(result.Reason), result.Wall.Seconds()
	if result.Signal != 0 {
		r.Signal = unix.SignalName(result.Signal)
	}
	if !counted {
		return
	}
	s := result.Stat
	seconds := func(p cgroup.Pressure) stall {
		return stall{p.Some.Total.Seconds(), p.Full.Total.Seconds()}
	}
	r.usage = &usage{
		CPUSeconds: result.CPU.Seconds(), MemoryPeakBytes: result.MemoryPeak,
		OOMKills: s.OOMKills, PidsRefused: s.PidsRefused, Throttled: s.Throttled, ThrottledTime: s.ThrottledTime.Seconds(),
		Pressure: pressure{seconds(s.CPUPressure), seconds(s.MemoryPressure), seconds(s.IOPressure)},
	}
}

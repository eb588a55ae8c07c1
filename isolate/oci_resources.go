package isolate

import (
	"fmt"
	"math"
	"reflect"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// resources are what the program's control group keeps.
func (r *ociReader) resources(l *specs.LinuxResources) {
	for i, d := range take(&l.Devices) {
		all := specs.LinuxDeviceCgroup{Access: "rwm", Type: d.Type}
		if (d.Type == "" || d.Type == "a") && reflect.DeepEqual(d, all) {
			continue // nothing but the five can be opened, and none be made
		}
		r.refuse(fmt.Sprintf("linux.resources.devices[%d]", i), `a cell has null, zero, full, random and urandom, no more and no less: remove it; {"allow": false, "access": "rwm"} may stand`)
	}
	if l.Memory != nil {
		r.memory(l.Memory)
		if nothing(*l.Memory) {
			l.Memory = nil
		}
	}
	if l.CPU != nil {
		r.cpu(l.CPU)
		if nothing(*l.CPU) {
			l.CPU = nil
		}
	}
	if l.Pids != nil {
		if limit := take(&l.Pids.Limit); limit != nil {
			r.out.Resources.Pids = r.limit("linux.resources.pids.limit", *limit)
		}
		if nothing(*l.Pids) {
			l.Pids = nil
		}
	}
}

// limit refuses the ways of saying that there is none.
func (r *ociReader) limit(name string, n int64) int64 {
	if n <= 0 {
		r.refuse(name, "%d: a cell has a limit; remove it for the default", n)
	}
	return n
}

func (r *ociReader) memory(m *specs.LinuxMemory) {
	const name = "linux.resources.memory."
	limit, swap := take(&m.Limit), take(&m.Swap)
	if limit != nil {
		r.out.Resources.Memory = r.limit(name+"limit", *limit)
	}
	// Swap is memory and swap together.
	if swap != nil && (limit == nil || *swap != *limit) {
		r.refuse(name+"swap", "a cell does not swap: must be the same as limit")
	}
	if kill := m.DisableOOMKiller; kill != nil && !*kill {
		m.DisableOOMKiller = nil
	}
}

func (r *ociReader) cpu(c *specs.LinuxCPU) {
	const name = "linux.resources.cpu."
	quota, period := take(&c.Quota), take(&c.Period)
	if quota != nil {
		r.out.Resources.CPUQuota = r.microseconds(name+"quota", uint64(max(0, *quota)))
	}
	switch {
	case period == nil:
	case quota == nil:
		r.refuse(name+"period", "means nothing without quota")
	default:
		r.out.Resources.CPUPeriod = r.microseconds(name+"period", *period)
	}
}

func (r *ociReader) microseconds(name string, n uint64) time.Duration {
	if n == 0 || n > math.MaxInt64/1000 {
		r.refuse(name, "must be a number of microseconds above 0: a cell has a limit; remove it for the default")
		return 0
	}
	return time.Duration(n) * time.Microsecond
}

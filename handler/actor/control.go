package actor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/wit/canon"
)

// The extension interface process-control. What has more than 16 values does not
// come on the stack but in memory, laid out as a record: offsets by the canonical
// ABI's alignment.

const (
	spawnLimitedSize = 104 // process-config at 0, spawn-limits at 56
	limitsOffset     = 56
	reportSize       = 56 // result<exit-report, string>
)

// osSpawnLimited is os-spawn-limited: func(config: process-config, limits:
// spawn-limits) -> result<u64, string>.
func (a *Actor) osSpawnLimited(ctx context.Context, g *canon.Lowerer, s []uint64) {
	ret := uint32(s[1])
	must(g.Memory.Area(ret, 16, 8))
	flat, limits, err := liftSpawnLimited(g.Memory, uint32(s[0]))
	must(err)
	a.spawn(ctx, g, ret, flat[:], limits)
}

// liftSpawnLimited reads the parameters; those of process-config as the flat values
// that os-spawn has on the stack.
func liftSpawnLimited(m canon.Memory, ptr uint32) (flat [14]uint64, t handler.Tighter, err error) {
	if err := m.Parameters(ptr, spawnLimitedSize, 8); err != nil {
		return flat, t, err
	}
	byteAt := func(offset uint32) uint64 { v, _ := m.ReadByte(ptr + offset); return uint64(v) }
	word := func(offset uint32) uint64 { v, _ := m.ReadUint32Le(ptr + offset); return uint64(v) }
	long := func(offset uint32) uint64 { v, _ := m.ReadUint64Le(ptr + offset); return v }
	flat = [14]uint64{
		word(0), word(4), word(8), word(12),
		byteAt(16), word(20), word(24), word(28), word(32),
		word(36), byteAt(40), byteAt(41), byteAt(44), word(48),
	}
	some := func(what string, offset uint32) bool {
		v, e := m.CaseAt(what, ptr+limitsOffset+offset, 2)
		err = errors.Join(err, e)
		return v == 1
	}
	// An asked-for 0 is no limit that a program could run under: the least there is
	// says so.
	if some("memory", 0) {
		t.Memory = max(long(limitsOffset+8), 1)
	}
	if some("cpu", 16) {
		if t.CPU = float64(math.Float32frombits(uint32(word(limitsOffset + 20)))); t.CPU == 0 {
			t.CPU = math.SmallestNonzeroFloat32
		}
	}
	if some("pids", 24) {
		t.Pids = max(uint32(word(limitsOffset+28)), 1)
	}
	if some("wall-clock", 32) {
		ms := long(limitsOffset + 40)
		t.Wall = time.Duration(max(min(ms, math.MaxInt64/uint64(time.Millisecond)), 1)) * time.Millisecond
		if ms == 0 {
			t.Wall = time.Nanosecond
		}
	}
	return flat, t, err
}

// reasons are the cases of exit-reason.
var reasons = []handler.Reason{
	handler.Exited, handler.Signalled, handler.OutOfMemory, handler.TimedOut, handler.CPUTimeUsed, handler.OutputLimit, handler.Killed, handler.OutOfMemoryAbove,
}

// osReport is os-report: func(pid: u64) -> result<exit-report, string>.
func (a *Actor) osReport(ctx context.Context, g *canon.Lowerer, s []uint64) {
	ret := uint32(s[1])
	must(g.Memory.Area(ret, reportSize, 8))
	r := make(canon.Record, reportSize)
	h, err := a.processes()
	if err == nil {
		var report handler.Report
		if report, err = h.Report(s[0]); err == nil {
			err = lowerReport(r, report)
		}
	}
	answer(ctx, g, ret, r, 8, err)
}

func lowerReport(r canon.Record, report handler.Report) error {
	reason := slices.Index(reasons, report.Reason)
	if reason < 0 {
		return fmt.Errorf("bug: the interface has no reason %q", report.Reason)
	}
	r.U8(8, uint8(reason))
	if report.Signal != 0 {
		r.U8(12, 1)
		r.U32(16, uint32(report.Signal))
	}
	r.U64(24, uint64(report.CPU.Microseconds()))
	r.U64(32, report.MemoryPeak)
	r.U64(40, report.StdoutBytes)
	r.U64(48, report.StderrBytes)
	return nil
}

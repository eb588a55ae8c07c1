package main

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/handler/actor"
)

const (
	linesChecked   = "lines of 64 B, termination checks on"
	linesUnchecked = "lines of 64 B, termination checks off"
	rawChecked     = "raw, every byte read, termination checks on"
	rawUnchecked   = "raw, every byte read, termination checks off"
	rawScalar      = "raw, every byte read, termination checks off, guest without SIMD"
	rawSink        = "raw, Go sink"
)

// actors has a guest in C (../guests/drain.c) take a writer's output. A deadline
// for each call is what makes wazero check in every loop of the guest whether it
// is to end.
func (s *suite) actors(table string) error {
	for range s.blocks {
		for _, m := range []struct {
			name     string
			guest    string
			mode     handler.Mode
			deadline time.Duration
			bytes    int64
		}{
			{linesChecked, "drain", handler.LineByLine, handler.DefaultDeadline, s.lines},
			{linesUnchecked, "drain", handler.LineByLine, 0, 4 * s.lines},
			{rawChecked, "drain", handler.Raw, handler.DefaultDeadline, 4 * s.lines},
			{rawUnchecked, "drain", handler.Raw, 0, s.output},
			{rawScalar, "drain-scalar", handler.Raw, 0, s.output},
		} {
			took, err := s.drain(m.guest, m.mode, m.deadline, m.bytes)
			if err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			if m.mode == handler.Raw {
				s.report.add(table, m.name, "GB/s", float64(m.bytes)/float64(took.Nanoseconds()))
			} else {
				s.report.add(table, m.name, "Mlines/s", float64(m.bytes)/64/took.Seconds()/1e6)
			}
		}
		took, err := s.flood(handler.Raw, 64)
		if err != nil {
			return err
		}
		s.report.add(table, rawSink, "GB/s", float64(s.output)/float64(took.Nanoseconds()))
	}
	return nil
}

// drain is the time from the actor's start, with its program running, until its
// last event; the guest's own count is checked.
func (s *suite) drain(guest string, mode handler.Mode, deadline time.Duration, bytes int64) (time.Duration, error) {
	c := handler.DefaultConfig()
	c.AllowedPrograms = []string{s.program("writer")}
	c.Limits.CPU = 2
	a, err := actor.Start(s.ctx, actor.Config{
		Manifest: &handler.Manifest{
			Name: "drain", ComponentPath: s.program(guest + ".wasm"), Deadline: deadline, Memory: handler.DefaultMemory, Process: &c,
			State: text(strconv.Itoa(int(mode)), s.program("writer"), "64", strconv.FormatInt(bytes, 10)),
		},
		Launcher: s.launcher, Group: s.group,
	})
	if err != nil {
		return 0, err
	}
	defer a.Close()
	begin := time.Now()
	if err := a.Wait(s.ctx); err != nil {
		return 0, err
	}
	took := time.Since(begin)
	state, _ := a.State()
	want := uint64(bytes)
	if mode == handler.LineByLine {
		want -= want / 64 // the newlines
	}
	if len(state) != 24 || binary.LittleEndian.Uint64(state) != want {
		return 0, fmt.Errorf("the guest has seen %x, not %d bytes", state, want)
	}
	return took, nil
}

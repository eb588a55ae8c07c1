package main

import (
	"bufio"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/proscenium-dev/proscenium/handler"
)

// newHandler is a handler for some of the programs, with its defaults but for CPU
// time, of which a writer may have two cores, and the number of processes.
func (s *suite) newHandler(change func(*handler.Config), programs ...string) (*handler.Handler, error) {
	c := handler.DefaultConfig()
	for _, p := range programs {
		c.AllowedPrograms = append(c.AllowedPrograms, s.program(p))
	}
	c.MaxProcesses = 10000
	c.Limits.CPU = 2
	if change != nil {
		change(&c)
	}
	return handler.New(c, s.launcher, s.group, nil)
}

// funcSink is a sink of functions; nil ones want nothing.
type funcSink struct {
	stdout func(id uint64, data []byte)
	exit   func(id uint64, r handler.Result)
}

func (f *funcSink) HandleStdout(id uint64, data []byte) error {
	if f.stdout != nil {
		f.stdout(id, data)
	}
	return nil
}

func (f *funcSink) HandleStderr(_ uint64, data []byte) error {
	return fmt.Errorf("a program complains: %s", data)
}

func (f *funcSink) HandleExit(id uint64, r handler.Result) error {
	if f.exit != nil {
		f.exit(id, r)
	}
	return nil
}

// meter counts one process's output and takes the time from the first event to
// the last byte. Lines come without their newlines: extra is 1.
type meter struct {
	total, left, extra int64
	first, last        time.Time
	failure            string
}

func (m *meter) sink() *funcSink {
	return &funcSink{
		stdout: func(_ uint64, data []byte) {
			if m.left == m.total {
				m.first = time.Now()
			}
			if m.left -= int64(len(data)) + m.extra; m.left == 0 {
				m.last = time.Now()
			}
		},
		exit: func(_ uint64, r handler.Result) {
			if r.ExitCode != 0 || m.left != 0 {
				m.failure = fmt.Sprintf("exit code %d (%s), %d bytes too few", r.ExitCode, r.Reason, m.left)
			}
		},
	}
}

// flood is the time that a writer's output takes through a handler into a Go sink.
func (s *suite) flood(mode handler.Mode, line int) (time.Duration, error) {
	h, err := s.newHandler(nil, "writer")
	if err != nil {
		return 0, err
	}
	defer h.Close()
	m := &meter{total: s.output, left: s.output}
	if mode == handler.LineByLine {
		m.extra = 1
	}
	r := handler.ProcessConfig{Program: s.program("writer"), Args: []string{strconv.Itoa(line), strconv.FormatInt(s.output, 10)}, StdoutMode: mode}
	if _, err := h.Spawn(s.ctx, r, m.sink()); err != nil {
		return 0, err
	}
	if err := h.Wait(s.ctx); err != nil {
		return 0, err
	}
	if m.failure != "" {
		return 0, fmt.Errorf("%s", m.failure)
	}
	return m.last.Sub(m.first), nil
}

const (
	intoSink  = "Go sink"
	cLoop     = "C read loop, pipe of 1 MiB"
	cLoopKept = "C read loop, pipe as it comes"
)

// raw compares a raw stream into a Go sink with read(2) in C, without any
// isolation.
func (s *suite) raw(table string) error {
	modes := []struct {
		name string
		run  func() (time.Duration, error)
	}{
		{intoSink, func() (time.Duration, error) { return s.flood(handler.Raw, 1024) }},
		{cLoop, func() (time.Duration, error) { return s.readLoop("262144", "1048576") }},
		{cLoopKept, func() (time.Duration, error) { return s.readLoop("262144", "0") }},
	}
	for range 3 * s.blocks { // a flood is short, and its speed varies by half
		for _, m := range modes {
			took, err := m.run()
			if err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			s.report.add(table, m.name, "GB/s", float64(s.output)/float64(took.Nanoseconds()))
		}
	}
	return nil
}

func (s *suite) readLoop(buffer, pipe string) (time.Duration, error) {
	out, err := exec.Command(s.program("reader"), buffer, pipe, s.program("writer"), "1024", strconv.FormatInt(s.output, 10)).Output()
	if err != nil {
		return 0, err
	}
	var bytes, ns int64
	if _, err := fmt.Sscan(string(out), &bytes, &ns); err != nil {
		return 0, err
	}
	if bytes != s.output {
		return 0, fmt.Errorf("%d bytes", bytes)
	}
	return time.Duration(ns), nil
}

func linesInto(what string, length int) string { return fmt.Sprintf("%d B, %s", length, what) }

const scanner = "bufio.Scanner on StdoutPipe"

// linesOfOutput compares lines into a Go sink with what a Go program does without
// us, and without isolation.
func (s *suite) linesOfOutput(table string) error {
	for range s.blocks {
		for _, length := range []int{64, 256, 1024} {
			took, err := s.flood(handler.LineByLine, length)
			if err != nil {
				return err
			}
			s.addLines(table, linesInto(intoSink, length), length, took)
			if took, err = s.scan(length); err != nil {
				return err
			}
			s.addLines(table, linesInto(scanner, length), length, took)
		}
	}
	return nil
}

func (s *suite) addLines(table, name string, length int, took time.Duration) {
	s.report.add(table, name, "Mlines/s", float64(s.output)/float64(length)/took.Seconds()/1e6)
}

func (s *suite) scan(length int) (time.Duration, error) {
	cmd := exec.Command(s.program("writer"), strconv.Itoa(length), strconv.FormatInt(s.output, 10))
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	m := &meter{total: s.output, left: s.output, extra: 1}
	sink := m.sink()
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		sink.stdout(0, lines.Bytes())
	}
	if err := cmd.Wait(); err != nil || m.left != 0 {
		return 0, fmt.Errorf("%d bytes too few, %w", m.left, err)
	}
	return m.last.Sub(m.first), nil
}

// statuses is one os-status after the other of a running process.
func (s *suite) statuses(table string) error {
	h, err := s.newHandler(nil, "talker")
	if err != nil {
		return err
	}
	defer h.Close()
	id, err := h.Spawn(s.ctx, handler.ProcessConfig{Program: s.program("talker"), Args: []string{"1000000000"}}, handler.Discard)
	if err != nil {
		return err
	}
	for range s.status {
		begin := time.Now()
		if _, err := h.Status(id); err != nil {
			return err
		}
		s.report.add(table, "os-status", "µs", float64(time.Since(begin).Nanoseconds())/1e3)
	}
	return nil
}

// text is the lines of a guest's initial state.
func text(lines ...string) []byte { return []byte(strings.Join(lines, "\n")) }

package main

import (
	"bytes"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/proscenium-dev/proscenium/handler"
	"golang.org/x/sys/unix"
)

func fromWriters(n int) string {
	if n == 1 {
		return "one writer"
	}
	return fmt.Sprintf("%d writers", n)
}

// writers shares one flood of lines among more and more processes. All of them
// live before the first writes; every byte must arrive.
func (s *suite) writers(table string) error {
	for _, n := range []int{1, 10, 100, s.crowd} {
		stop := s.watch("flood from " + fromWriters(n))
		var err error
		for i := 0; i < max(1, s.blocks/3) && err == nil; i++ {
			err = s.manyWriters(table, n)
		}
		stop()
		if err != nil {
			return fmt.Errorf("%s: %w", fromWriters(n), err)
		}
	}
	return nil
}

func (s *suite) manyWriters(table string, n int) error {
	h, err := s.newHandler(nil, "writer")
	if err != nil {
		return err
	}
	defer h.Close()
	each := s.output / 4 / int64(n) / 64 * 64
	left, open := make([]int64, n+1), int64(n)
	var last time.Time
	var wrong error
	sink := &funcSink{
		stdout: func(id uint64, data []byte) {
			if left[id] -= int64(len(data)) + 1; left[id] == 0 {
				if open--; open == 0 {
					last = time.Now()
				}
			}
		},
		exit: func(id uint64, r handler.Result) {
			if r.ExitCode != 0 || left[id] != 0 {
				wrong = fmt.Errorf("writer %d: exit code %d (%s), %d bytes too few", id, r.ExitCode, r.Reason, left[id])
			}
		},
	}
	r := handler.ProcessConfig{Program: s.program("writer"), Args: []string{"64", strconv.FormatInt(each, 10), "wait"}, StdoutMode: handler.LineByLine}
	for i := range n {
		left[i+1] = each
		if _, err := h.Spawn(s.ctx, r, sink); err != nil {
			return err
		}
	}
	begin := time.Now()
	for id := range n {
		if err := h.CloseStdin(uint64(id + 1)); err != nil {
			return err
		}
	}
	if err := h.Wait(s.ctx); err != nil {
		return err
	}
	s.report.add(table, fromWriters(n), "GB/s", float64(each*int64(n))/float64(last.Sub(begin).Nanoseconds()))
	return wrong
}

const (
	slowWriters = 100
	perWriter   = "host memory per writer, at most"
)

// slowSink lets many write without end to a sink that takes its time. What waits
// for it is bounded by max_output_buffer for each process.
func (s *suite) slowSink(table string) error {
	h, err := s.newHandler(nil, "writer")
	if err != nil {
		return err
	}
	defer h.Close()
	stop := s.watch(fmt.Sprintf("slow sink, %d writers", slowWriters))
	sink := &funcSink{stdout: func(uint64, []byte) { time.Sleep(5 * time.Millisecond) }}
	r := handler.ProcessConfig{Program: s.program("writer"), Args: []string{"64", strconv.FormatInt(1<<50, 10)}}
	for range slowWriters {
		if _, err := h.Spawn(s.ctx, r, sink); err != nil {
			stop()
			return err
		}
	}
	s.sleep(s.talk / 4)
	c := stop()
	most := 0.0
	for _, y := range c.y {
		most = max(most, y)
	}
	s.report.add(table, perWriter, "KiB", (most-c.y[0])*1024/slowWriters)
	s.report.note(table, "max_output_buffer is %d KiB; a read may be %d KiB; pipes are the kernel's and not counted", handler.DefaultMaxOutputBuffer>>10, 256)
	return nil
}

// A talk is what has been heard of one talker.
type talk struct {
	next uint64    // the number of the line that must come
	at   time.Time // of the last one
	end  bool
}

const (
	talkEvery   = 100 * time.Millisecond
	alive       = "alive at once"
	heard       = "lines heard"
	lost        = "lines lost or out of order"
	longest     = "longest stall between two lines of one process"
	latest      = "longest way of a line"
	memoryDrift = "host memory, last quarter to second"
)

// crowdTalks has many processes say a line every 100 ms, checks each, and looks
// for stalls.
func (s *suite) crowdTalks(table string) error {
	h, err := s.newHandler(nil, "talker")
	if err != nil {
		return err
	}
	defer h.Close()
	talks := make([]talk, s.crowd+1)
	var counting atomic.Bool // once all of them live
	var lines, wrong int
	var stall, way time.Duration
	sink := &funcSink{
		stdout: func(id uint64, line []byte) {
			t, now := &talks[id], time.Now()
			first, second, _ := bytes.Cut(line, []byte(" "))
			if string(first) == "end" {
				t.end = string(second) == strconv.FormatUint(t.next, 10)
				return
			}
			lines++
			if string(first) != strconv.FormatUint(t.next, 10) {
				wrong++
			}
			t.next++
			if counting.Load() && !t.at.IsZero() {
				stall = max(stall, now.Sub(t.at)-talkEvery)
				if ns, err := strconv.ParseInt(string(second), 10, 64); err == nil {
					way = max(way, monotonic()-time.Duration(ns))
				}
			}
			t.at = now
		},
		exit: func(id uint64, r handler.Result) {
			if r.ExitCode != 0 || !talks[id].end {
				wrong++
			}
		},
	}
	r := handler.ProcessConfig{Program: s.program("talker"), Args: []string{strconv.FormatInt(talkEvery.Milliseconds(), 10)}, StdoutMode: handler.LineByLine}
	begin := time.Now()
	for range s.crowd {
		if _, err := h.Spawn(s.ctx, r, sink); err != nil {
			return err
		}
	}
	s.report.note(table, "%d processes were started in %.1f s, one after the other, while those before talked", s.crowd, time.Since(begin).Seconds())
	stop := s.watch(fmt.Sprintf("%d talking", s.crowd))
	s.sleep(min(s.talk/10, time.Second)) // the starts are over
	counting.Store(true)
	s.sleep(s.talk)
	counting.Store(false)
	c := stop()
	running := h.Counters().Running
	for id := range s.crowd {
		if err := h.CloseStdin(uint64(id + 1)); err != nil {
			return err
		}
	}
	if err := h.Wait(s.ctx); err != nil {
		return err
	}
	s.report.add(table, alive, "processes", float64(running))
	s.report.add(table, heard, "lines", float64(lines))
	s.report.add(table, lost, "lines", float64(wrong))
	s.report.add(table, longest, "ms", float64(stall.Microseconds())/1e3)
	s.report.add(table, latest, "ms", float64(way.Microseconds())/1e3)
	n := len(c.y)
	s.report.add(table, memoryDrift, "×", median(c.y[3*n/4:])/median(c.y[n/4:n/2]))
	return nil
}

// sleep ends early where the experiment does.
func (s *suite) sleep(d time.Duration) {
	select {
	case <-s.ctx.Done():
	case <-time.After(d):
	}
}

// monotonic is the clock that talkers read.
func monotonic() time.Duration {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return time.Duration(t.Nano())
}

//go:build wasip1

// An actor in plain Go that takes its output in batches, under limits tighter than
// the manifest's. Its state is what it saw, and the report of the end.
package main

import (
	"errors"
	"fmt"

	"github.com/proscenium-dev/proscenium/wit/guest"
	"github.com/proscenium-dev/proscenium/wit/guest/batch"
)

type actor struct{}

func init() {
	guest.Register(actor{})
	batch.Register(actor{})
}

func main() {}

func (actor) Init(state []byte, id string) ([]byte, error) {
	shell := guest.Config{Program: "/bin/sh", Args: []string{"-c", `echo a; echo; echo bc; echo d >&2; exit 3`}, Stdout: guest.Lines, Stderr: guest.Lines}
	if _, err := guest.SpawnLimited(shell, guest.Limits{Pids: 1 << 20}); err == nil {
		return nil, errors.New("more processes than the manifest's were granted")
	}
	_, err := guest.SpawnLimited(shell, guest.Limits{Memory: 16 << 20, CPU: 0.5, Pids: 8, WallClock: 30000})
	return state, err
}

func lines(state []byte, stream string, events batch.Events) ([]byte, error) {
	for e := range events {
		state = fmt.Appendf(state, "%s %s\n", stream, e)
	}
	return state, nil
}

func (actor) HandleStdoutBatch(state []byte, pid uint64, events batch.Events) ([]byte, error) {
	return lines(state, "out", events)
}

func (actor) HandleStderrBatch(state []byte, pid uint64, events batch.Events) ([]byte, error) {
	return lines(state, "err", events)
}

func (actor) HandleStdout([]byte, uint64, []byte) ([]byte, error) {
	return nil, errors.New("not in a batch")
}
func (actor) HandleStderr([]byte, uint64, []byte) ([]byte, error) {
	return nil, errors.New("not in a batch")
}

func (actor) HandleExit(state []byte, pid uint64, code int32) ([]byte, error) {
	r, err := guest.GetReport(pid)
	if r.CPUTime == 0 || r.MemoryPeak > 16<<20 {
		return nil, fmt.Errorf("report %+v", r)
	}
	return fmt.Appendf(state, "exit %d, reason %d, signal %d, %d and %d bytes", code, r.Reason, r.Signal, r.StdoutBytes, r.StderrBytes), err
}

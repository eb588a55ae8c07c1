package handler

import "slices"

// A Batch is a few events of one stream, in order: one after the other in Data,
// each ending where Ends says. It is valid until the call returns.
type Batch struct {
	Data []byte
	Ends []uint32
}

// A BatchSink takes many events in one call, of the streams that it wants so. A
// batch has what one read gave, or several that waited together, at most maxBatch bytes or one event that is longer:
// nothing waits for it to become full.
type BatchSink interface {
	Sink
	// Batches says which streams come in batches. It is asked at each spawn.
	Batches() (stdout, stderr bool)
	HandleStdoutBatch(id uint64, b Batch) error
	HandleStderrBatch(id uint64, b Batch) error
}

// maxBatch bounds a batch, in bytes and, at four bytes for the end of each, in
// empty lines.
const maxBatch = 64 << 10

// batches says how the sink takes this stream in batches, nil if it does not.
func batches(sink Sink, name string) func(uint64, Batch) error {
	b, ok := sink.(BatchSink)
	if !ok {
		return nil
	}
	stdout, stderr := b.Batches()
	switch {
	case name == "stdout" && stdout:
		return b.HandleStdoutBatch
	case name == "stderr" && stderr:
		return b.HandleStderrBatch
	}
	return nil
}

// lone is the length from which an event is a batch by itself, and not copied into one.
const lone = 16 << 10

// add takes an event into the handler's batch, which is delivered when it is full,
// before one that goes alone, and at the end of the turn.
func (s *stream) add(event []byte) error {
	b := &s.process.h.batch
	alone := len(event) >= lone
	if alone || len(b.Data)+len(event) > maxBatch || len(b.Ends) >= maxBatch/4 {
		if err := s.flush(); err != nil {
			return err
		}
	}
	if alone {
		b.Ends = append(b.Ends, uint32(len(event)))
		err := s.handleBatch(s.process.id, Batch{slices.Clip(event), b.Ends}) // behind it is what comes next
		b.Ends = b.Ends[:0]
		return err
	}
	b.Data = append(b.Data, event...)
	b.Ends = append(b.Ends, uint32(len(b.Data)))
	return nil
}

// flush delivers the batch.
func (s *stream) flush() error {
	b := &s.process.h.batch
	if len(b.Ends) == 0 {
		return nil
	}
	err := s.handleBatch(s.process.id, *b)
	b.Data, b.Ends = b.Data[:0], b.Ends[:0]
	return err
}

//go:build wasip1

// Package batch is for actors in plain Go that take their output in batches: many
// events of one read in one call. An actor that imports it registers here and with
// package guest.
package batch

import (
	"iter"
	"unsafe"

	"github.com/proscenium-dev/proscenium/wit/guest"
)

// Events are those of a batch, in order. An event is valid as long as the batch.
type Events iter.Seq[[]byte]

// An Actor takes batches. An error is one for the whole batch: the state stays as
// it was before.
type Actor interface {
	HandleStdoutBatch(state []byte, pid uint64, events Events) ([]byte, error)
	HandleStderrBatch(state []byte, pid uint64, events Events) ([]byte, error)
}

var registered Actor

// Register names the actor of this module; call it in an init function.
func Register(a Actor) { registered = a }

// events reads data and ends, which lie in this module's memory.
func events(data, dataLen, ends, count uint32) Events {
	all := guest.Bytes(data, dataLen)
	raw := guest.Bytes(ends, 4*count)
	return func(yield func([]byte) bool) {
		start := uint32(0)
		for i := range count {
			end := *(*uint32)(unsafe.Pointer(&raw[4*i]))
			if !yield(all[start:end:end]) {
				return
			}
			start = end
		}
	}
}

//go:wasmexport theater:simple/process-batch-handlers#handle-stdout-batch
func exportStdoutBatch(some, ptr, n uint32, pid uint64, data, dataLen, ends, count uint32) uint32 {
	return guest.Export(some, ptr, n, func(state []byte) ([]byte, error) {
		return registered.HandleStdoutBatch(state, pid, events(data, dataLen, ends, count))
	})
}

//go:wasmexport theater:simple/process-batch-handlers#handle-stderr-batch
func exportStderrBatch(some, ptr, n uint32, pid uint64, data, dataLen, ends, count uint32) uint32 {
	return guest.Export(some, ptr, n, func(state []byte) ([]byte, error) {
		return registered.HandleStderrBatch(state, pid, events(data, dataLen, ends, count))
	})
}

package wasm

import (
	"bytes"
	"encoding/binary"
)

// check is an empty loop: where the engine looks whether the guest's time is up.
const check = "\x03\x40\x0b"

// code returns the section with a check at the beginning of each function but
// those that are small and call nothing: without a loop they end soon.
func (r *Reader) code() []byte {
	n := r.Count()
	if n > maxFunctions {
		r.Fail("%d functions are more than %d", n, maxFunctions)
	}
	out := binary.AppendUvarint(make([]byte, 0, len(r.b)+4*n), uint64(n))
	for range n {
		if r.Err != nil {
			return nil
		}
		body := r.Take(r.Count())
		instructions, ok := r.locals(body)
		if !ok {
			return nil
		}
		if small(instructions) {
			out = binary.AppendUvarint(out, uint64(len(body)))
			out = append(out, body...)
			continue
		}
		out = binary.AppendUvarint(out, uint64(len(body)+len(check)))
		out = append(out, body[:len(body)-len(instructions)]...)
		out = append(out, check...)
		out = append(out, instructions...)
	}
	return out
}

// locals looks at the locals of a function and returns what is behind them.
func (r *Reader) locals(function []byte) (instructions []byte, ok bool) {
	body := NewReader(function)
	locals := uint64(0)
	body.Vector(func() {
		locals += uint64(body.U32())
		body.valueType()
	})
	if locals > maxLocals {
		body.Fail("a function has %d locals, more than %d", locals, maxLocals)
	}
	if len(function) > maxFunction {
		body.Fail("a function of %d bytes is longer than %d", len(function), maxFunction)
	}
	if body.Err != nil {
		r.Fail("%w", body.Err)
	}
	return body.b, body.Err == nil
}

// small says whether a function surely calls nothing, copies nothing and has few
// instructions. It may have bytes that look like a call and are none.
func small(instructions []byte) bool {
	const (
		most  = 1024
		calls = "\x10\x11\x12\x13\x14\x15" // direct, indirect, tail, by reference
		bulk  = "\xfc"
	)
	if len(instructions) > most {
		return false
	}
	for _, b := range []byte(calls + bulk) {
		if bytes.IndexByte(instructions, b) >= 0 {
			return false
		}
	}
	return true
}

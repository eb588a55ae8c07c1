package wasm

import "encoding/binary"

// check is an empty loop: where the engine looks whether the guest's time is up.
const check = "\x03\x40\x0b"

// code returns the section with a check at the beginning of each function but
// those that are small and call nothing: without a loop they end soon. One more is
// before each instruction that copies or fills memory or tables, since thousands of
// those, of all memory each, take minutes.
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
		function := r.Take(r.Count())
		instructions, ok := r.locals(function)
		if !ok {
			return nil
		}
		w := NewReader(instructions)
		b := w.walk()
		if w.Err != nil {
			r.Fail("%w", w.Err)
			return nil
		}
		if len(b.bulk) > maxBulk {
			r.Fail("a function fills and copies memory or tables in %d places, more than %d", len(b.bulk), maxBulk)
			return nil
		}
		checks := b.checks(len(instructions))
		out = binary.AppendUvarint(out, uint64(len(function)+len(check)*len(checks)))
		out = append(out, function[:len(function)-len(instructions)]...)
		from := 0
		for _, at := range checks {
			out = append(append(out, instructions[from:at]...), check...)
			from = at
		}
		out = append(out, instructions[from:]...)
	}
	return out
}

// checks says where in a function of so many bytes the engine has to look.
func (b body) checks(size int) []int {
	if size > small || b.calls {
		return append([]int{0}, b.bulk...)
	}
	return b.bulk
}

// small is how many bytes of instructions end soon, where there is no loop and no
// call.
const small = 1024

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

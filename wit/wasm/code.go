package wasm

import "encoding/binary"

// check is an empty loop: where the engine looks whether the guest's time is up.
const check = "\x03\x40\x0b"

// code returns the section with a check at the beginning of each function but
// those that are small and call nothing: without a loop they end soon. One more is
// before each instruction that copies or fills memory or tables, since thousands of
// those, of all memory each, take minutes; but not where it is a few bytes, by a
// constant.
func (b *bounder) code(r *Reader) []byte {
	n := r.Count()
	if n > maxFunctions {
		r.Fail("%d functions are more than %d", n, maxFunctions)
		return nil
	}
	out := binary.AppendUvarint(make([]byte, 0, len(r.b)+4*n), uint64(n))
	for i := range n {
		function := r.Take(r.Count())
		at, checks := b.look(r, i, function)
		if r.Err != nil {
			return nil
		}
		out = binary.AppendUvarint(out, uint64(len(function)+len(check)*len(checks)))
		from := 0
		for _, c := range checks {
			out = append(append(out, function[from:at+c]...), check...)
			from = at + c
		}
		out = append(out, function[from:]...)
	}
	return out
}

// look looks at function i: where its instructions begin, and where among them
// checks belong.
func (b *bounder) look(r *Reader, i int, function []byte) (at int, checks []int) {
	if len(function) > maxFunction {
		r.Fail("a function of %d bytes is longer than %d", len(function), maxFunction)
	}
	f := NewReader(function)
	locals := f.locals()
	if i < len(b.functions) {
		locals += uint64(b.functions[i])
	}
	if b.locals += locals; b.locals > maxAllLocals {
		r.Fail("its functions have more than %d locals", maxAllLocals)
	}
	size := len(f.b)
	body := f.walk()
	if f.Err != nil {
		r.Fail("%w", f.Err)
	}
	if body.copies > maxBulk {
		r.Fail("a function fills and copies memory or tables in %d places, more than %d", body.copies, maxBulk)
	}
	if flow := uint64(body.branches + loops*body.copies); flow*(locals+1) > maxFlow {
		r.Fail("a function of %d locals with %d blocks and branches is too much to compile", locals, flow)
	}
	return len(function) - size, body.checks(size)
}

// loops is how many blocks a fill or copy comes to, about.
const loops = 4

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

// locals reads those of a function and says how many there are.
func (r *Reader) locals() (n uint64) {
	r.Vector(func() {
		n += uint64(r.U32())
		r.valueType()
	})
	if n > maxLocals {
		r.Fail("a function has %d locals, more than %d", n, maxLocals)
	}
	return n
}

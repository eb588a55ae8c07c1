package wasm

// Opcodes that matter here.
const (
	opBlock = 0x02 + iota
	opLoop
	opIf
)

const (
	opBranch      = 0x0c
	opBranchIf    = 0x0d
	opBranchTable = 0x0e
	opMisc        = 0xfc
	opVector      = 0xfd
)

// A body is what is known of a function's instructions.
type body struct {
	copies   int   // instructions that copy or fill memory or tables
	bulk     []int // where those begin that may take long
	calls    bool
	branches int // blocks and branches; of a table each entry counts
}

// walk follows the instructions that wazero knows with the features of this host,
// and refuses others. It reads numbers as wazero does, so that both see the same
// instructions.
func (r *Reader) walk() (b body) {
	whole, few := len(r.b), false
	for len(r.b) > 0 {
		at, wasFew := whole-len(r.b), few
		few = false
		switch op := r.Byte(); {
		case op == opBlock || op == opLoop || op == opIf || op == opBranch || op == opBranchIf:
			b.branches++
			r.Skip()
		case op == opBranchTable:
			b.branches += 1 + r.labels()
		case op <= 0x01, op == 0x05, op == 0x0b, op == 0x0f, // unreachable, nop; else, end, return
			op == 0x1a, op == 0x1b, op == 0xd1, // drop, select; ref.is_null
			op >= 0x45 && op <= 0xc4: // numbers
		case op == 0x10 || op == 0x12: // call, and as a tail call
			b.calls = true
			r.Skip()
		case op == 0x11 || op == 0x13: // indirect
			b.calls = true
			r.skip(2)
		case op == 0x1c: // select with its type
			r.Vector(r.valueType)
		case op == 0x41: // i32.const
			few = r.few()
		case op >= 0x20 && op <= 0x26, op == 0x3f, op == 0x40, // variables, tables; memory.size and grow
			op == 0x42, op == 0xd0, op == 0xd2: // i64.const; ref.null, ref.func
			r.Skip()
		case op >= 0x28 && op <= 0x3e: // loads and stores
			r.skip(2)
		case op == 0x43:
			r.Take(4)
		case op == 0x44:
			r.Take(8)
		case op == opMisc:
			if !r.misc() {
				continue
			}
			if b.copies++; !wasFew {
				b.bulk = append(b.bulk, at)
			}
		case op == opVector:
			r.vector()
		default:
			r.Fail("a function has the opcode %#x, which this host does not know", op)
		}
	}
	return b
}

// few says whether a constant is not negative and less than 8192. Of so many bytes or
// elements, which is the last operand, a copy is short.
func (r *Reader) few() bool {
	before := r.b
	r.Skip()
	n := len(before) - len(r.b)
	return n > 0 && n <= 2 && before[n-1] < 0x40
}

func (r *Reader) skip(numbers int) {
	for range numbers {
		r.Skip()
	}
}

// labels skips those of a branch table.
func (r *Reader) labels() (n int) {
	r.Vector(func() { r.Skip(); n++ })
	r.Skip()
	return n
}

// misc says whether the instruction takes as long as the guest says.
func (r *Reader) misc() (bulk bool) {
	switch op := r.U32(); op {
	case 0, 1, 2, 3, 4, 5, 6, 7: // saturating conversions
	case 9, 13, 15, 16: // data.drop, elem.drop; table.grow and size
		r.Skip()
	case 8, 10, 12, 14: // init and copy
		r.skip(2)
		return true
	case 11, 17: // fill
		r.Skip()
		return true
	default:
		r.Fail("a function has the opcode 0xfc %#x, which this host does not know", op)
	}
	return false
}

// vector follows wazero, for which the number of a vector instruction is a byte: the
// second one that those from 0x80 on have is the instruction nop there.
func (r *Reader) vector() {
	switch op := r.Byte(); {
	case op <= 11, op == 92, op == 93: // loads and stores
		r.skip(2)
	case op == 12, op == 13: // v128.const, shuffle
		r.Take(16)
	case op >= 21 && op <= 34: // lanes
		r.Take(1)
	case op >= 84 && op <= 91: // loads and stores of lanes
		r.skip(2)
		r.Take(1)
	case op >= 0x80:
		if second := r.Byte(); second != 1 {
			r.Fail("a function has the opcode 0xfd %#x %#x, which this host does not know", op, second)
		}
	}
}

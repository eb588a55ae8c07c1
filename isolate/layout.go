package isolate

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// A Sequence is what one instance of init carries out: the Init calls; then a
// clone; in the child the Child calls; in the parent, once a child that shares its
// memory has passed its execve, the Parent calls. After them init waits for the
// child and reports its end, unless the last Parent call ended init itself. Without
// a clone, init reads another sequence after the Init calls, and so does a child
// that has not executed anything after its own.
//
// The first call that fails ends everything; init reports which one it was.
//
// One that serves begins again instead of waiting. What it cannot do before it is
// asked is told to who asks, and there then is no child; a request that is not
// complete, the end of file for one, ends it. See Forker.
type Sequence struct {
	Init   []*Call
	Clone  *Call // nil: none
	Child  []*Call
	Parent []*Call

	serves *Call  // the Init call that takes a request of as many bytes as it tolerates
	failed uint64 // the kind of record if a call fails

	encoded []byte // remembered
}

// Init's buffer: where it lies, how large it is, and the header at its start,
// as words of eight bytes. launcher/init_*.s is written against these numbers;
// launcher/image.go takes address and size from here.
const (
	BufferAddress = 0x480000 // in the page of the page table that has the text
	BufferSize    = 1 << 20

	// A forker's own is behind it: what it forks shares its memory, and reads its plan
	// into the first. It ends with a page, of whatever size the kernel has them.
	forkerBuffer     = BufferAddress + BufferSize
	forkerBufferSize = 64 << 10
	BuffersSize      = BufferSize + forkerBufferSize

	headSize   = 0   // bytes of the whole plan
	headFirst  = 8   // address of the first call
	headInit   = 16  // address behind the last Init call
	headChild  = 24  // … Child call
	headParent = 32  // … Parent call
	headFailed = 40  // a call has failed: init's own
	headClone  = 48  // the number of the clone; 0: none
	headServes = 56  // address of the call that takes a request; 0: none
	headRecord = 80  // of a call that fails: the kind
	headArgs   = 104 // of the clone: three
	headEnd    = 128

	callSize     = 80 // number, loads, tolerated, result, six arguments
	callLoads    = 8
	callTolerate = 16
	callResult   = 24
	callArgs     = 32
)

// A Record is what init, or what is to become one, sends to the host.
type Record struct {
	Kind  uint64
	Value uint64
	Errno uint64
}

// RecordSize is the size of an encoded Record in bytes.
const RecordSize = 24

// Kinds of records, in the order in which a good start sends them.
const (
	RecordCloned   = 4 // init exists and dies with the launcher; its pidfd comes along
	RecordTemplate = 6 // a template is made; its user and mount namespaces come along
	RecordStarted  = 3 // the program runs; its pidfd comes along
	RecordExited   = 2 // the program ended: Value is its wait status

	// A call failed: Value is its address, Errno the reason.
	RecordForkFailed     = 5
	RecordStageOneFailed = 7
	RecordSetUpFailed    = 8
	RecordProgramFailed  = 1
)

// Encode writes the record as init does.
func (r Record) Encode() []byte {
	b := make([]byte, 0, RecordSize)
	for _, w := range []uint64{r.Kind, r.Value, r.Errno} {
		b = binary.NativeEndian.AppendUint64(b, w)
	}
	return b
}

// DecodeRecord reads a record; b has RecordSize bytes.
func DecodeRecord(b []byte) (Record, error) {
	if len(b) != RecordSize {
		return Record{}, fmt.Errorf("record of %d bytes instead of %d", len(b), RecordSize)
	}
	word := func(i int) uint64 { return binary.NativeEndian.Uint64(b[8*i:]) }
	return Record{word(0), word(1), word(2)}, nil
}

// Calls are all calls in order, without the clone.
func (s *Sequence) Calls() []*Call {
	all := make([]*Call, 0, len(s.Init)+len(s.Child)+len(s.Parent))
	all = append(all, s.Init...)
	all = append(all, s.Child...)
	return append(all, s.Parent...)
}

// CallAt names the call that a record of a failure means.
func (s *Sequence) CallAt(address uint64) string {
	buffer, _ := s.buffer()
	if address == buffer {
		return s.Clone.String()
	}
	i := int64(address-buffer-headEnd) / callSize
	calls := s.Calls()
	if i < 0 || i >= int64(len(calls)) {
		return fmt.Sprintf("call at %#x", address)
	}
	return calls[i].String()
}

// String prints the sequence, a call a line, the clone between the parts.
func (s *Sequence) String() string {
	var b strings.Builder
	for _, c := range s.Init {
		fmt.Fprintln(&b, c)
	}
	if s.Clone != nil {
		fmt.Fprintln(&b, s.Clone)
	}
	for _, c := range s.Child {
		fmt.Fprintf(&b, "  child: %s\n", c)
	}
	for _, c := range s.Parent {
		fmt.Fprintln(&b, c)
	}
	return b.String()
}

// Encode lays the sequence out for init's buffer. The only error is a plan
// that is larger than the buffer (arguments and environment are in it).
func (s *Sequence) Encode() ([]byte, error) {
	if s.encoded != nil {
		return s.encoded, nil
	}
	calls := s.Calls()
	buffer, size := s.buffer()
	e := encoder{
		buffer:  buffer,
		out:     make([]byte, headEnd+callSize*len(calls), 2*callSize*len(calls)+8<<10),
		placed:  map[*block]uint64{},
		results: make(map[*Call]uint64, len(calls)),
	}
	at := func(i int) uint64 { return buffer + headEnd + uint64(i)*callSize }
	for i, c := range calls {
		e.results[c] = at(i) + callResult
	}
	for i, c := range calls {
		o := headEnd + i*callSize
		e.put(o, uint64(numbers[c.Name]))
		var loads uint64
		for j, a := range c.Args {
			if a.load {
				loads |= 1 << j
			}
			e.put(o+callArgs+8*j, e.value(a))
		}
		e.put(o+callLoads, loads)
		e.put(o+callTolerate, uint64(c.Tolerate))
	}
	e.put(headFirst, at(0))
	e.put(headInit, at(len(s.Init)))
	e.put(headChild, at(len(s.Init)+len(s.Child)))
	e.put(headParent, at(len(calls)))
	if s.Clone != nil {
		e.put(headClone, uint64(numbers[s.Clone.Name]))
		for i, a := range s.Clone.Args {
			e.put(headArgs+8*i, e.value(a))
		}
	}
	if s.serves != nil {
		e.put(headServes, e.results[s.serves]-callResult)
	}
	e.put(headRecord, s.failed)
	e.put(headSize, uint64(len(e.out)))
	if len(e.out) > size {
		return nil, fmt.Errorf("the plan, arguments and environment included, takes %d bytes; at most %d fit: %w", len(e.out), size, unix.E2BIG)
	}
	return e.out, nil
}

// buffer is where the sequence lies, and the most that it may take.
func (s *Sequence) buffer() (address uint64, size int) {
	if s.failed == RecordForkFailed { // it is a forker's
		return forkerBuffer, forkerBufferSize
	}
	return BufferAddress, BufferSize
}

type encoder struct {
	buffer  uint64
	out     []byte
	placed  map[*block]uint64 // address of each block
	results map[*Call]uint64  // address of each call's result
}

func (e *encoder) put(offset int, word uint64) {
	binary.NativeEndian.PutUint64(e.out[offset:], word)
}

func (e *encoder) value(a Arg) uint64 {
	switch {
	case a.result != nil:
		address, ok := e.results[a.result]
		if !ok {
			panic("isolate: bug: result of a call that is not in the plan: " + a.result.String())
		}
		return address
	case a.block != nil:
		return e.place(a.block) + uint64(a.offset)
	}
	return a.number
}

// place appends the block, aligned to eight bytes, and gives its address.
func (e *encoder) place(b *block) uint64 {
	if address, ok := e.placed[b]; ok {
		return address
	}
	for len(e.out)%8 != 0 {
		e.out = append(e.out, 0)
	}
	offset := len(e.out)
	address := e.buffer + uint64(offset)
	e.placed[b] = address
	e.out = append(e.out, make([]byte, b.size())...)
	copy(e.out[offset:], b.bytes)
	for i, w := range b.words {
		e.put(offset+8*i, e.value(w))
	}
	return address
}

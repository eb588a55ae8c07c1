package handler

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestBatches: whatever their lengths, events come in order and whole, a long one alone,
// and a batch is bounded.
func TestBatches(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	lengths := []int{0, 1, lone - 1, lone, maxBatch, maxBatch + 1, 1 << 20}
	for range 40_000 {
		lengths = append(lengths, 0) // a flood of empty lines
	}
	for range 2000 {
		lengths = append(lengths, rng.IntN(1<<rng.IntN(18)))
	}
	var got []int
	var seen bytes.Buffer
	s := &stream{process: &process{h: &Handler{}}}
	s.handleBatch = func(_ uint64, b Batch) error {
		if len(b.Ends) == 0 || int(b.Ends[len(b.Ends)-1]) != len(b.Data) {
			t.Fatalf("a batch of %d bytes ends at %v", len(b.Data), b.Ends)
		}
		if len(b.Ends) > maxBatch/4 || len(b.Ends) > 1 && len(b.Data) > maxBatch {
			t.Fatalf("a batch of %d events and %d bytes", len(b.Ends), len(b.Data))
		}
		from := uint32(0)
		for _, end := range b.Ends {
			n := int(end - from)
			if n >= lone && (len(b.Ends) > 1 || cap(b.Data) > n) {
				t.Fatalf("an event of %d bytes is not alone in %d", n, cap(b.Data))
			}
			got, from = append(got, n), end
		}
		seen.Write(b.Data)
		return nil
	}
	want := make([]byte, 0, 4<<20)
	for i, n := range lengths {
		event := bytes.Repeat([]byte{byte(i)}, n)
		want = append(want, event...)
		if err := s.add(append(event, "next"...)[:n]); err != nil { // of a buffer
			t.Fatal(err)
		}
	}
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, lengths) || !bytes.Equal(seen.Bytes(), want) {
		t.Fatalf("%d events of %d bytes came of %d of %d", len(got), seen.Len(), len(lengths), len(want))
	}

	refused := errors.New("refused")
	s.handleBatch = func(uint64, Batch) error { return refused }
	if err := s.add(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := s.add(make([]byte, lone)); err != refused {
		t.Fatalf("the batch before a long event failed, and the error is %v", err)
	}
	if err := s.add(make([]byte, lone)); err != refused {
		t.Fatalf("a long event failed, and the error is %v", err)
	}
}

package handler

import (
	"bytes"
	"fmt"
	"testing"
)

// BenchmarkFrame cuts 1 MiB in memory, read by read, into events: what framing
// costs where no pipe and no sink is in the way.
func BenchmarkFrame(b *testing.B) {
	const total = 1 << 20
	text := func(unit string, length int) []byte {
		line := append(bytes.Repeat([]byte(unit), length/len(unit)+1)[:length-1], '\n')
		return bytes.Repeat(line, total/length)
	}
	object := func(length int) []byte {
		line := fmt.Sprintf(`{"text":"%s","number":1.5}`, bytes.Repeat([]byte("x"), length-26))
		return bytes.Repeat([]byte(line+"\n"), total/(len(line)+1))
	}
	for _, length := range []int{64, 256, 1024, 16 << 10} {
		for _, c := range []struct {
			mode  Mode
			size  int
			input []byte
		}{
			{Raw, length, text("x", length)},
			{Chunked, length, text("x", length)},
			{LineByLine, DefaultBufferSize, text("x", length)},
			{JSON, DefaultBufferSize, object(length)},
		} {
			b.Run(fmt.Sprintf("%s/%d", c.mode, length), func(b *testing.B) {
				f := newFramer(c.mode, c.size, func(n int) { b.Fatalf("%d bytes are no JSON", n) })
				events := 0
				emit := func([]byte) error { events++; return nil }
				b.SetBytes(int64(len(c.input)))
				b.ReportAllocs()
				for b.Loop() {
					for at := 0; at < len(c.input); at += readSize {
						if err := f.write(c.input[at:min(at+readSize, len(c.input))], emit); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(events), "ns/event")
			})
		}
	}
}

package handler

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// frame cuts input into writes at the given lengths, which repeat, and returns
// the events and how many bytes were skipped.
func frame(mode Mode, size int, input []byte, cuts ...int) (events []string, skipped int) {
	f := newFramer(mode, size, func(n int) { skipped += n })
	emit := func(e []byte) error {
		events = append(events, string(e))
		return nil
	}
	for i := 0; len(input) > 0; i++ {
		n := len(input)
		if len(cuts) > 0 {
			n = min(n, max(1, cuts[i%len(cuts)]))
		}
		// A copy that is spoilt afterwards: framers must not keep what they are given.
		p := bytes.Clone(input[:n])
		f.write(p, emit)
		for j := range p {
			p[j] = '#'
		}
		if f.held() > size {
			panic(fmt.Sprintf("held %d of %d", f.held(), size))
		}
		input = input[n:]
	}
	f.close(emit)
	return events, skipped
}

func TestFrames(t *testing.T) {
	for _, test := range []struct {
		mode  Mode
		size  int
		input string
		want  []string
		bad   int
	}{
		{Raw, 4, "abcdefghij", []string{"abcd", "efgh", "ij"}, 0},
		{LineByLine, 4, "", nil, 0},
		{LineByLine, 4, "\n", []string{""}, 0},
		{LineByLine, 4, "a\n\nb", []string{"a", "", "b"}, 0},
		{LineByLine, 4, "a\r\n", []string{"a\r"}, 0},
		{LineByLine, 4, "abcd\nabcde\nabcdefgh\nx", []string{"abcd", "abcd", "e", "abcd", "efgh", "x"}, 0},
		{LineByLine, 4, "abcd", []string{"abcd"}, 0},
		{Chunked, 4, "abcdefghij", []string{"abcd", "efgh", "ij"}, 0},
		{Chunked, 5, "abcdefghij", []string{"abcde", "fghij"}, 0},
		{JSON, 99, `{"a":1}` + "\n" + `[1,2]`, []string{`{"a":1}`, `[1,2]`}, 0},
		{JSON, 99, `{"a":1}{"b":2}` + "12 13\n14", []string{`{"a":1}`, `{"b":2}`, "12", "13", "14"}, 0},
		{JSON, 99, "{\n \"a\": [\n]\n}\n", []string{"{\n \"a\": [\n]\n}"}, 0},
		{JSON, 99, "oops {\"a\":1}\n{\"b\":2}\n", []string{`{"b":2}`}, len(`oops {"a":1}`)},
		{JSON, 99, "{\"a\":\noops\n1\n", []string{"1"}, len("{\"a\":\noops")},
		{JSON, 99, "\"a\nb\"\n2", []string{"2"}, len(`"a` + `b"`)},
		{JSON, 99, "truefalse nul\n-\n01\n1", []string{"true", "false", "0", "1", "1"}, len("nul-")},
		{JSON, 99, `{"a":`, nil, len(`{"a":`)},
		{JSON, 5, "[1,2]\n[1,23] 7\n8", []string{"[1,2]", "8"}, len("[1,23] 7")},
	} {
		for _, cuts := range [][]int{nil, {1}, {2}, {3, 1}} {
			if test.mode == Raw && cuts != nil {
				continue
			}
			got, bad := frame(test.mode, test.size, []byte(test.input), cuts...)
			if !slices.Equal(got, test.want) || bad != test.bad {
				t.Errorf("%v size %d %q cut at %v:\n got %q, %d skipped\nwant %q, %d skipped", test.mode, test.size, test.input, cuts, got, bad, test.want, test.bad)
			}
		}
	}
}

// FuzzFrames: events joined again are the input, whatever the size of events
// and the cutting of the input.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("a\n\nbcd\n"), uint8(2), uint8(1), uint8(3))
	f.Add([]byte("[1,2]{\"a\":\"\\u00e9\"}\n x"), uint8(9), uint8(2), uint8(1))
	f.Fuzz(func(t *testing.T, input []byte, size8, cut1, cut2 uint8) {
		size := int(size8) + 1
		cuts := []int{int(cut1), int(cut2)}
		raw, _ := frame(Raw, size, input, cuts...)
		if strings.Join(raw, "") != string(input) {
			t.Errorf("raw: %q of %q", raw, input)
		}
		chunks, _ := frame(Chunked, size, input, cuts...)
		if strings.Join(chunks, "") != string(input) {
			t.Errorf("chunked: %q of %q", chunks, input)
		}
		for i, c := range chunks {
			if len(c) != size && i != len(chunks)-1 || len(c) == 0 {
				t.Errorf("chunk %d has %d bytes of %d", i, len(c), size)
			}
		}
		lines, _ := frame(LineByLine, size, input, cuts...)
		if want := linesOf(string(input), size); !slices.Equal(lines, want) {
			t.Errorf("lines of %q: %q, want %q", input, lines, want)
		}
		whole, bad := frame(JSON, size, input)
		cut, badCut := frame(JSON, size, input, cuts...)
		if !slices.Equal(whole, cut) || bad != badCut {
			t.Errorf("json of %q depends on the cutting %v:\n%q, %d\n%q, %d", input, cuts, whole, bad, cut, badCut)
		}
		for _, e := range whole {
			if !json.Valid([]byte(e)) {
				t.Errorf("%q is no JSON", e)
			}
		}
	})
}

// linesOf is the rule for lines, written for reading.
func linesOf(input string, size int) []string {
	var events []string
	lines := strings.Split(input, "\n")
	if last := len(lines) - 1; lines[last] == "" {
		lines = lines[:last]
	}
	for _, line := range lines {
		for len(line) > size {
			events = append(events, line[:size])
			line = line[size:]
		}
		events = append(events, line)
	}
	return events
}

// FuzzJSON: one line is an event exactly if encoding/json takes it.
func FuzzJSON(f *testing.F) {
	for _, seed := range jsonSamples {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) { checkJSON(t, text) })
}

func checkJSON(t *testing.T, text []byte) {
	t.Helper()
	events, bad := frame(JSON, 1<<20, text)
	trimmed := string(bytes.Trim(text, " \t\r\n"))
	single := len(events) == 1 && events[0] == trimmed && bad == 0
	if valid := json.Valid(text); valid != single {
		t.Errorf("%q: valid is %v, events %q, %d skipped", text, valid, events, bad)
	}
}

// jsonSamples are the corners that validators get wrong, after the parsing test
// suites: numbers, escapes, control characters, invalid UTF-8, depth.
var jsonSamples = []string{
	"", " ", "null", "nul", "nulll", "true", "True", "false", "fals",
	"0", "-0", "01", "-", "-01", "1.", ".1", "1.0", "1.e1", "1e", "1e+", "1e+1", "1E-0", "0e1", "0x1", "+1", "1e1.5", "NaN", "Infinity", "-Infinity", "1_000",
	`""`, `"a"`, `"`, `"\"`, `"\\"`, `"\u12"`, `"\u12aG"`, `"\u12aF"`, `"\x41"`, `"\a"`, "\"\x00\"", "\"\x1f\"", "\"\x7f\"", "\"a\nb\"", "\"\t\"", `"\ud800"`, `"\ud800\udc00"`, "\"\xff\xfe\"", "\"\xed\xa0\x80\"", "'a'",
	`[]`, `[ ]`, `[,]`, `[1,]`, `[1,2`, `[1 2]`, `[1,,2]`, `]`, `[]]`, `[[]`, `[1}`, `[1]x`,
	`{}`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{"a":1 "b":2}`, `{a:1}`, `{1:1}`, `{"a":1}}`, `{"a":1`, `{"a" :1 , "b":[{}]}`, `{"a":1,"a":2}`, `{,}`, `{"a"::1}`,
	"\ufeff1", "/**/1", "1 2", "\v1", "\u00a01", "[\f]", "[\"\u2028\"]",
}

func TestJSONIsAsStrictAsTheStandardLibrary(t *testing.T) {
	samples := slices.Clone(jsonSamples)
	for _, n := range []int{9999, 10000, 10001, 100000} {
		samples = append(samples, strings.Repeat("[", n)+strings.Repeat("]", n), strings.Repeat(`{"a":`, n)+"1"+strings.Repeat("}", n))
	}
	for _, s := range samples {
		checkJSON(t, []byte(s))
	}
}

func BenchmarkJSON(b *testing.B) {
	line := []byte(`{"time":"2026-11-22T10:00:00.123456Z","level":"INFO","msg":"request served","method":"GET","path":"/api/v1/items/12345?expand=true","status":200,"duration_ms":12.75,"user":{"id":981234,"roles":["reader","writer"]},"trace":"4bf92f3577b34da6a3ce929d0e0e4736","bytes":48213,"remote":"192.0.2.17:51234","agent":"Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101","ok":true,"tags":["a","b","c"],"note":"a \"quoted\" word"}` + "\n")
	input := bytes.Repeat(line, 150)
	b.Run("framer", func(b *testing.B) {
		b.SetBytes(int64(len(input)))
		f := newJSONFramer(1<<20, func(int) { b.Fatal("skipped") })
		for b.Loop() {
			f.write(input, func([]byte) error { return nil })
		}
	})
	b.Run("encoding/json.Valid", func(b *testing.B) {
		b.SetBytes(int64(len(input)))
		for b.Loop() {
			for l := range bytes.Lines(input) {
				if !json.Valid(l) {
					b.Fatal("not valid")
				}
			}
		}
	})
}

package handler

import (
	"bytes"
	"fmt"
)

// A Mode is how a stream of output becomes events.
type Mode uint8

// The modes, with the numbers of the WIT enum output-mode.
const (
	Raw Mode = iota
	LineByLine
	JSON
	Chunked
)

// String is the WIT name.
func (m Mode) String() string {
	switch m {
	case Raw:
		return "raw"
	case LineByLine:
		return "line-by-line"
	case JSON:
		return "json"
	case Chunked:
		return "chunked"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// An emit takes one event. The bytes are the framer's: valid until it returns.
type emit func(event []byte) error

// A framer cuts a stream into events. What it emits does not depend on how the
// stream was cut into writes, except in mode raw, which is about just that.
// Memory is bounded by the size that it was made with.
type framer interface {
	// write takes the next bytes. After an error of emit the framer is done for.
	write(p []byte, emit emit) error
	// close takes the end of the stream.
	close(emit emit) error
	// held is how many bytes wait for more.
	held() int
}

// newFramer makes a framer; size is the longest event in bytes, and for chunked
// the length of every event but the last. skipped is told of bytes that are no
// JSON.
func newFramer(mode Mode, size int, skipped func(n int)) framer {
	switch mode {
	case LineByLine:
		return &lineFramer{size: size}
	case JSON:
		return newJSONFramer(size, skipped)
	case Chunked:
		return &chunkFramer{size: size}
	}
	return rawFramer{size}
}

// rawFramer passes on what was read, by one read or several that waited, at most
// size bytes at a time.
type rawFramer struct{ size int }

func (f rawFramer) write(p []byte, emit emit) error {
	for len(p) > 0 {
		n := min(len(p), f.size)
		if err := emit(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func (rawFramer) close(emit) error { return nil }
func (rawFramer) held() int        { return 0 }

// chunkFramer makes events of exactly size bytes; the last may be shorter.
type chunkFramer struct {
	size    int
	partial []byte
}

func (f *chunkFramer) write(p []byte, emit emit) error {
	if len(f.partial) > 0 {
		n := min(len(p), f.size-len(f.partial))
		f.partial = append(f.partial, p[:n]...)
		p = p[n:]
		if len(f.partial) == f.size {
			if err := emit(f.partial); err != nil {
				return err
			}
			f.partial = f.partial[:0]
		}
	}
	for ; len(p) >= f.size; p = p[f.size:] {
		if err := emit(p[:f.size]); err != nil {
			return err
		}
	}
	f.partial = append(f.partial, p...)
	return nil
}

func (f *chunkFramer) close(emit emit) error {
	if len(f.partial) == 0 {
		return nil
	}
	return emit(f.partial)
}

func (f *chunkFramer) held() int { return len(f.partial) }

// lineFramer makes an event of each line, without its \n; a \r stays. Empty
// lines are events, and so is a last line without \n. A line longer than size
// comes in pieces of size bytes, the last of which may be shorter.
type lineFramer struct {
	size    int
	partial []byte // at most size bytes; more of the line makes a full one an event
}

func (f *lineFramer) write(p []byte, emit emit) error {
	for len(p) > 0 {
		line, ended := p, false
		if i := bytes.IndexByte(p, '\n'); i >= 0 {
			line, ended, p = p[:i], true, p[i+1:]
		} else {
			p = nil
		}
		if ended && len(f.partial) == 0 && len(line) <= f.size { // the usual case copies nothing
			if err := emit(line); err != nil {
				return err
			}
			continue
		}
		if err := f.piece(line, emit); err != nil {
			return err
		}
		if ended {
			if err := f.flush(emit); err != nil {
				return err
			}
		}
	}
	return nil
}

// piece takes a part of a line; what it leaves in partial is not empty unless
// the line so far is.
func (f *lineFramer) piece(line []byte, emit emit) error {
	for len(line) > 0 {
		if len(f.partial) == f.size {
			if err := f.flush(emit); err != nil {
				return err
			}
		}
		n := min(len(line), f.size-len(f.partial))
		f.partial = append(f.partial, line[:n]...)
		line = line[n:]
	}
	return nil
}

func (f *lineFramer) flush(emit emit) error {
	line := f.partial
	f.partial = f.partial[:0]
	return emit(line)
}

func (f *lineFramer) close(emit emit) error {
	if len(f.partial) == 0 {
		return nil
	}
	return f.flush(emit)
}

func (f *lineFramer) held() int { return len(f.partial) }

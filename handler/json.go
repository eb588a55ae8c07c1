package handler

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// jsonFramer finds complete JSON texts, newline-delimited or back to back, over
// as many lines as they take, and checks them as strictly as encoding/json.Valid
// does (RFC 8259 syntax, nesting up to 10 000; bytes of strings are not checked
// to be UTF-8). Bytes that are no JSON, and a text longer than size, are
// skipped up to the end of their line and reported.
//
// It is a state machine of our own, and not a library's decoder, because it
// must stop anywhere and go on in linear time: a decoder that is given part of a
// value starts over, and one that finds an error gives up its buffer. The tests
// hold it against encoding/json.
type jsonFramer struct {
	size    int
	skipped func(n int)

	state   jsonState
	nested  []byte // the open brackets
	isKey   bool   // the string is a name
	literal string // what is left of true, false or null
	value   []byte // of the text that earlier writes began
	bad     int    // bytes skipped so far
}

type jsonState uint8

const (
	jTop        jsonState = iota // between texts
	jSkip                        // to the end of the line
	jValue                       // a value must follow
	jValueOrEnd                  // after [
	jNameOrEnd                   // after {
	jName                        // after , in an object
	jColon                       //
	jAfter                       // after a value in a container
	jString                      //
	jEscape                      // after \
	jHex1                        // hex digits left after \u: 1
	jHex2                        //
	jHex3                        //
	jHex4                        //
	jMinus                       // number: after -
	jZero                        // after a leading 0
	jInt                         // in the digits
	jDot                         // after .
	jFraction                    // in the digits after .
	jExp                         // after e
	jExpSign                     // after e+
	jExpDigits                   //
	jLiteral                     //
)

// jsonDepth is the nesting that encoding/json allows.
const jsonDepth = 10000

// special is the index, from i on, of the first byte of a string that is not
// plain: a quote, a backslash or a control character; len(p) if there is none.
// Eight bytes at a time, by the usual arithmetic on a word of bytes: a byte's high
// bit is set in m if it is one of these, exactly so for the lowest such byte.
func special(p []byte, i int) int {
	const low, high = 0x0101010101010101, 0x8080808080808080
	for ; i+8 <= len(p); i += 8 {
		v := binary.LittleEndian.Uint64(p[i:])
		quote, backslash := v^(low*'"'), v^(low*'\\')
		m := ((v - low*0x20) &^ v) | ((quote - low) &^ quote) | ((backslash - low) &^ backslash)
		if m &= high; m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for ; i < len(p); i++ {
		if c := p[i]; c < 0x20 || c == '"' || c == '\\' {
			break
		}
	}
	return i
}

func newJSONFramer(size int, skipped func(n int)) *jsonFramer {
	return &jsonFramer{size: size, skipped: skipped}
}

func (f *jsonFramer) held() int { return len(f.value) }

func (f *jsonFramer) write(p []byte, emit emit) error {
	start := 0 // of the current text in p
	for i := 0; ; i++ {
		if i >= len(p) {
			if i = len(p); f.state > jSkip && f.tooLong(&i, start, i) {
				continue
			}
			break
		}
		c := p[i]
		ok, end := true, i+1 // end of the text, if it ends here
		switch f.state {
		case jTop:
			if !isSpace(c) {
				if start = i; !f.begin(c) {
					f.fail(&i, start)
				}
			}
			continue
		case jSkip:
			n := bytes.IndexByte(p[i:], '\n')
			if n < 0 {
				f.bad += len(p) - i
				i = len(p)
				continue
			}
			f.bad += n
			i += n
			f.resume()
			continue
		case jString:
			if i = special(p, i); i == len(p) {
				continue
			}
			switch end = i + 1; {
			case p[i] == '\\':
				f.state = jEscape
			case p[i] != '"':
				ok = false
			case f.isKey:
				f.state = jColon
			default:
				f.after()
			}
		case jColon:
			if c == ':' {
				f.state = jValue
			} else {
				ok = isSpace(c)
			}
		case jName, jNameOrEnd:
			switch {
			case c == '"':
				f.state, f.isKey = jString, true
			case c == '}' && f.state == jNameOrEnd:
				ok = f.closes('{')
			default:
				ok = isSpace(c)
			}
		case jAfter:
			switch c {
			case ',':
				if f.state = jValue; f.nested[len(f.nested)-1] == '{' {
					f.state = jName
				}
			case '}':
				ok = f.closes('{')
			case ']':
				ok = f.closes('[')
			default:
				ok = isSpace(c)
			}
		case jValue, jValueOrEnd:
			switch {
			case c == ']' && f.state == jValueOrEnd:
				ok = f.closes('[')
			default:
				ok = isSpace(c) || f.begin(c)
			}
		default:
			again := false
			if again, ok = f.step(c); again { // the byte behind a number is not the number's
				end = i
				i--
			}
		}
		switch {
		case !ok:
			f.fail(&i, start)
		case f.state == jTop:
			if err := f.complete(&i, p, start, end, emit); err != nil {
				return err
			}
		}
	}
	if f.state > jSkip {
		f.value = append(f.value, p[start:]...)
	}
	return nil
}

// begin enters the value that starts with c.
func (f *jsonFramer) begin(c byte) bool {
	switch {
	case c == '{', c == '[':
		if len(f.nested) == jsonDepth {
			return false
		}
		f.nested = append(f.nested, c)
		f.state = jNameOrEnd
		if c == '[' {
			f.state = jValueOrEnd
		}
	case c == '"':
		f.state, f.isKey = jString, false
	case c == '-':
		f.state = jMinus
	case c == '0':
		f.state = jZero
	case isDigit(c):
		f.state = jInt
	case c == 't':
		f.state, f.literal = jLiteral, "rue"
	case c == 'f':
		f.state, f.literal = jLiteral, "alse"
	case c == 'n':
		f.state, f.literal = jLiteral, "ull"
	default:
		return false
	}
	return true
}

// after is the state behind a complete value.
func (f *jsonFramer) after() {
	f.state = jAfter
	if len(f.nested) == 0 {
		f.state = jTop
	}
}

// step takes one byte of an escape, a literal or a number. again: the number was
// complete before it. Not ok: it cannot stand here.
func (f *jsonFramer) step(c byte) (again, ok bool) {
	switch f.state {
	case jEscape:
		switch c {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			f.state = jString
			return false, true
		}
		f.state = jHex4
		return false, c == 'u'
	case jHex1:
		f.state = jString
		return false, isHex(c)
	case jHex2, jHex3, jHex4:
		f.state--
		return false, isHex(c)
	case jLiteral:
		ok := c == f.literal[0]
		if f.literal = f.literal[1:]; f.literal == "" && ok {
			f.after()
		}
		return false, ok
	}
	return f.number(c)
}

func (f *jsonFramer) number(c byte) (again, ok bool) {
	digit := isDigit(c)
	switch f.state {
	case jMinus:
		f.state = jInt
		if c == '0' {
			f.state = jZero
		}
		return false, digit
	case jDot:
		f.state = jFraction
		return false, digit
	case jExp:
		if c == '+' || c == '-' {
			f.state = jExpSign
			return false, true
		}
		fallthrough
	case jExpSign:
		f.state = jExpDigits
		return false, digit
	}
	// These may end here.
	switch {
	case digit && f.state != jZero:
		return false, true
	case c == '.' && (f.state == jInt || f.state == jZero):
		f.state = jDot
		return false, true
	case (c == 'e' || c == 'E') && f.state != jExpDigits:
		f.state = jExp
		return false, true
	}
	f.after()
	return true, true
}

func (f *jsonFramer) closes(open byte) bool {
	if f.nested[len(f.nested)-1] != open {
		return false
	}
	f.nested = f.nested[:len(f.nested)-1]
	f.after()
	return true
}

// complete emits the text, whose part in this write is p[start:end].
func (f *jsonFramer) complete(i *int, p []byte, start, end int, emit emit) error {
	if f.tooLong(i, start, end) {
		return nil
	}
	text := p[start:end]
	if len(f.value) > 0 {
		f.value = append(f.value, text...)
		text = f.value
	}
	err := emit(text)
	f.drop()
	return err
}

// fail gives up the text that the byte at *i spoils, and skips its line from
// that byte on.
func (f *jsonFramer) fail(i *int, start int) {
	if !f.tooLong(i, start, *i) {
		f.skip(i, start, *i)
	}
}

// tooLong gives up a text that is too long, at the first byte that is too much,
// wherever the writes were cut.
func (f *jsonFramer) tooLong(i *int, start, end int) bool {
	if len(f.value)+end-start <= f.size {
		return false
	}
	f.skip(i, start, start+f.size-len(f.value))
	return true
}

// skip goes on with the byte at end, which belongs to a line to be skipped.
func (f *jsonFramer) skip(i *int, start, end int) {
	f.bad = len(f.value) + end - start
	f.state = jSkip
	f.drop()
	*i = end - 1
}

// drop forgets the current text. A large buffer is not kept for small ones.
func (f *jsonFramer) drop() {
	f.nested = f.nested[:0]
	if f.value = f.value[:0]; cap(f.value) > 64<<10 {
		f.value = nil
	}
}

func (f *jsonFramer) resume() {
	f.state = jTop
	if f.bad > 0 {
		f.skipped(f.bad)
	}
	f.bad = 0
}

// close emits a number that only the end could complete; any other text that is
// not complete is no JSON.
func (f *jsonFramer) close(emit emit) error {
	switch f.state {
	case jTop:
		return nil
	case jSkip:
	case jZero, jInt, jFraction, jExpDigits:
		if len(f.nested) == 0 {
			text := f.value
			f.value, f.state = nil, jTop
			return emit(text)
		}
		fallthrough
	default:
		f.bad = len(f.value)
	}
	f.drop()
	f.resume()
	return nil
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isHex(c byte) bool {
	return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

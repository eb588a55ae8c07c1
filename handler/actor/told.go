package actor

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// Bounds of what is told of a guest's words.
const (
	maxTold    = 4 << 10 // bytes of a failure
	maxUnknown = 50      // imports
	maxName    = 256     // bytes of a name
)

// told is an error in words that can be printed: in those of the error itself a
// guest has a say, by its names and otherwise.
type told struct {
	error
	text string
}

func (t told) Error() string { return t.text }
func (t told) Unwrap() error { return t.error }

// tell bounds an error's text and escapes what is no text. Lines are kept where
// they are the engine's or ours: of a trace, and of several errors.
func tell(err error) error {
	var lines []string
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range several.Unwrap() {
			lines = append(lines, printable(clip(e.Error(), maxTold), ""))
		}
	} else {
		text, trace, traced := strings.Cut(clip(err.Error(), maxTold), "\nwasm stack trace:")
		lines = append(lines, printable(text, ""))
		if traced {
			lines = append(lines, "wasm stack trace:"+printable(trace, "\n\t"))
		}
	}
	return told{err, clip(strings.Join(lines, "\n"), maxTold)}
}

// printable escapes what cannot be printed, but for some characters.
func printable(text, but string) string {
	if strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) && !strings.ContainsRune(but, r) }) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) || strings.ContainsRune(but, r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// quoted lists names that a guest has chosen.
func quoted(names []string) string {
	more := ""
	if len(names) > maxUnknown {
		more = fmt.Sprintf(" and %d more", len(names)-maxUnknown)
		names = names[:maxUnknown]
	}
	list := make([]string, len(names))
	for i, n := range names {
		list[i] = strconv.Quote(clip(n, maxName))
	}
	return strings.Join(list, ", ") + more
}

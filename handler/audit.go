package handler

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// An AuditLog is a Recorder that writes JSON lines, each with its number and
// the SHA-256 of the line before: a cut, an edit, a reorder and a missing file
// show (VerifyAudit). JSON escapes control characters, so that nothing in an
// event can make a line of its own.
//
// A line is one write to a file that is only appended to; the death of this
// process loses at most the line being written, and the next OpenAudit cuts such
// a half line off and says so in the chain. Lines are not synced one by one: the
// death of the machine may lose the last seconds, which then shows as a log
// without its closing line.
type AuditLog struct {
	mu      sync.Mutex
	path    string
	file    *os.File
	size    int64
	maxSize int64
	next    uint64 // number of the next line
	prev    string // hash of the last line
	err     error  // the first failure to write
}

// auditLine is an event with its place in the chain.
type auditLine struct {
	Seq  uint64 `json:"seq"`
	Prev string `json:"prev"`
	Event
}

// Events of the log itself.
const (
	AuditOpened  Kind = "audit-opened" // a process begins to write; Error says what it found
	AuditRotated Kind = "audit-rotated"
	AuditClosed  Kind = "audit-closed"
)

// Bounds of the log.
const (
	// DefaultAuditSize is the size in bytes at which a new file is begun; the
	// full one is renamed to PATH.N, N being the number of its first line.
	DefaultAuditSize = 64 << 20

	maxAuditLine = 1 << 20 // for reading
)

// genesis is what the first line of a chain follows.
var genesis = strings.Repeat("0", 2*sha256.Size)

// OpenAudit opens or begins a log. maxSize 0 is DefaultAuditSize. A file that
// another process has open is refused.
func OpenAudit(path string, maxSize int64) (*AuditLog, error) {
	if maxSize == 0 {
		maxSize = DefaultAuditSize
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	l := &AuditLog{path: path, file: f, maxSize: maxSize, next: 1, prev: genesis}
	if err := l.resume(); err != nil {
		f.Close()
		return nil, fmt.Errorf("audit log %s: %w", path, err)
	}
	return l, nil
}

// resume takes up the chain where the file ends.
func (l *AuditLog) resume() error {
	if err := unix.Flock(int(l.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another process writes it: %w", err)
	}
	last, half, size, err := lastLine(l.file)
	if err != nil {
		return err
	}
	e := Event{Kind: AuditOpened, Time: time.Now()}
	if half > 0 {
		if err := l.file.Truncate(size); err != nil {
			return err
		}
		e.Error = fmt.Sprintf("a half line of %d bytes was cut off", half)
	}
	if last != nil {
		var line auditLine
		if err := json.Unmarshal(last, &line); err != nil || line.Seq == 0 {
			return errors.New("its last line is no line of ours; move the file away")
		}
		l.next, l.prev = line.Seq+1, hash(last)
		if line.Kind != AuditClosed {
			e.Error = strings.TrimPrefix(e.Error+"; the writer before ended without closing it", "; ")
		}
	}
	l.size = size
	return l.write(e)
}

// lastLine finds the last whole line, how many bytes of a half one follow it,
// and the size without those.
func lastLine(f *os.File) (last []byte, half, size int64, err error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || end == 0 {
		return nil, 0, 0, err
	}
	tail := make([]byte, min(end, 2*maxAuditLine))
	if _, err := f.ReadAt(tail, end-int64(len(tail))); err != nil {
		return nil, 0, 0, err
	}
	i := bytes.LastIndexByte(tail, '\n')
	if i < 0 {
		if int64(len(tail)) < end {
			return nil, 0, 0, errors.New("it ends in a line longer than any of ours")
		}
		return nil, end, 0, nil
	}
	half = int64(len(tail) - i - 1)
	whole := tail[:i]
	return bytes.Clone(whole[bytes.LastIndexByte(whole, '\n')+1:]), half, end - half, nil
}

func hash(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

// Record implements Recorder. A failure to write is kept for Err and Close: an
// operation that has happened cannot be undone for it.
func (l *AuditLog) Record(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return
	}
	if l.size >= l.maxSize {
		l.keep(l.rotate())
	}
	l.keep(l.write(e))
}

func (l *AuditLog) keep(err error) {
	if l.err == nil {
		l.err = err
	}
}

// write appends one line.
func (l *AuditLog) write(e Event) error {
	line, err := json.Marshal(auditLine{Seq: l.next, Prev: l.prev, Event: e.Bounded()})
	if err != nil {
		return err
	}
	n, err := l.file.Write(append(line, '\n'))
	l.size += int64(n)
	if err != nil {
		return err
	}
	l.next++
	l.prev = hash(line)
	return nil
}

// rotate begins a new file, whose first line goes on with the chain.
func (l *AuditLog) rotate() error {
	first, err := firstSeq(l.path)
	if err != nil {
		return err
	}
	if err := l.write(Event{Kind: AuditRotated, Time: time.Now()}); err != nil {
		return err
	}
	if err := l.file.Sync(); err != nil {
		return err
	}
	if err := os.Rename(l.path, fmt.Sprintf("%s.%d", l.path, first)); err != nil {
		return err
	}
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return err
	}
	l.file.Close()
	l.file, l.size = f, 0
	return nil
}

func firstSeq(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	s := auditScanner(f)
	var line auditLine
	if !s.Scan() || json.Unmarshal(s.Bytes(), &line) != nil {
		return 0, errors.New("its first line is no line of ours")
	}
	return line.Seq, nil
}

// Close writes the closing line and syncs the file. The error is the first that
// happened.
func (l *AuditLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return l.err
	}
	l.keep(l.write(Event{Kind: AuditClosed, Time: time.Now()}))
	l.keep(l.file.Sync())
	l.keep(l.file.Close())
	l.file = nil
	return l.err
}

// An AuditError is where a log is not what was written.
type AuditError struct {
	File   string
	Line   int
	Reason string
}

func (e *AuditError) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Reason) }

// AuditSummary is what a good log holds.
type AuditSummary struct {
	Lines  uint64
	Head   string // hash of the last line: keep it elsewhere, and a later cut shows
	Closed bool   // the last line is the closing one
}

// VerifyAudit reads the files of one log, oldest first, and checks the chain.
// The error is an *AuditError for the first line that does not fit. A log that
// was cut behind a line is one without its closing line, as is one whose writer
// runs or was killed: Closed says so.
func VerifyAudit(files ...string) (AuditSummary, error) {
	s := AuditSummary{Head: genesis}
	for _, name := range files {
		if err := verifyFile(name, &s); err != nil {
			return s, err
		}
	}
	return s, nil
}

func verifyFile(name string, s *AuditSummary) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	n := 0
	wrong := func(format string, args ...any) error { return &AuditError{name, n, fmt.Sprintf(format, args...)} }
	whole := true
	scanner := auditScanner(f)
	scanner.Split(func(data []byte, end bool) (int, []byte, error) {
		advance, line, err := bufio.ScanLines(data, end)
		if end && advance > 0 && data[advance-1] != '\n' {
			whole = false
		}
		return advance, line, err
	})
	for scanner.Scan() {
		n++
		text := scanner.Bytes()
		var line auditLine
		if err := json.Unmarshal(text, &line); err != nil {
			if !whole {
				return wrong("a half line: the writer was killed, or the file was cut")
			}
			return wrong("no audit line: %v", err)
		}
		switch want := s.Lines + 1; {
		case line.Seq > want:
			return wrong("line number %d where %d belongs: %d lines before it are missing (a file?)", line.Seq, want, line.Seq-want)
		case line.Seq < want:
			return wrong("line number %d where %d belongs: repeated, or out of order", line.Seq, want)
		case line.Prev != s.Head:
			return wrong("the line before it was changed (it has the hash %.12s…, line %d says %.12s…)", s.Head, line.Seq, line.Prev)
		case !whole:
			return wrong("a line without its end: the writer was killed, or the file was cut")
		}
		s.Lines, s.Head, s.Closed = line.Seq, hash(text), line.Kind == AuditClosed
	}
	if err := scanner.Err(); err != nil {
		n++
		return wrong("%v", err)
	}
	return nil
}

func auditScanner(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), maxAuditLine)
	return s
}

// ReadAudit calls f with each event of a log, without checking the chain.
func ReadAudit(name string, f func(seq uint64, e Event)) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	s := auditScanner(file)
	for n := 1; s.Scan(); n++ {
		var line auditLine
		if err := json.Unmarshal(s.Bytes(), &line); err != nil {
			return &AuditError{name, n, err.Error()}
		}
		f(line.Seq, line.Event)
	}
	return s.Err()
}

package handler

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeAudit(t *testing.T, path string, maxSize int64, n int) {
	t.Helper()
	l, err := OpenAudit(path, maxSize)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		l.Record(Event{Kind: Spawned, Process: uint64(i + 1), Program: "/usr/bin/true", Args: []string{fmt.Sprint(i)}})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAuditChain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	writeAudit(t, path, 0, 10)
	writeAudit(t, path, 0, 5) // a second process goes on with it
	s, err := VerifyAudit(path)
	if err != nil || s.Lines != 10+5+4 || !s.Closed {
		t.Errorf("%+v, %v", s, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// TestAuditTampering: each change is found, at the line where it shows.
func TestAuditTampering(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit")
	writeAudit(t, path, 0, 8) // ten lines with opening and closing
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(good, []byte("\n"))[:10]
	swap := func(a, b int) []byte {
		l := append([][]byte(nil), lines...)
		l[a], l[b] = l[b], l[a]
		return bytes.Join(l, nil)
	}
	for name, c := range map[string]struct {
		content []byte
		line    int
		reason  string
	}{
		"edit":                {bytes.Replace(good, []byte(`"args":["3"]`), []byte(`"args":["4"]`), 1), 6, "was changed"},
		"a line taken away":   {bytes.Join(append(append([][]byte(nil), lines[:4]...), lines[5:]...), nil), 5, "missing"},
		"a line repeated":     {bytes.Join(append(append([][]byte(nil), lines[:5]...), lines[4:]...), nil), 6, "repeated"},
		"reordered":           {swap(3, 4), 4, "missing"},
		"the beginning gone":  {bytes.Join(lines[2:], nil), 1, "2 lines before it are missing"},
		"cut in a line":       {good[:len(good)-20], 10, "half line"},
		"cut off the newline": {good[:len(good)-1], 10, "without its end"},
		"not JSON":            {append(append([]byte(nil), lines[0]...), "hello\n"...), 2, "no audit line"},
	} {
		if err := os.WriteFile(path, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := VerifyAudit(path)
		var where *AuditError
		if !errors.As(err, &where) || where.Line != c.line || !strings.Contains(where.Reason, c.reason) {
			t.Errorf("%s: %v, want line %d: …%s…", name, err, c.line, c.reason)
		}
	}
	// A cut between two lines: the closing line is missing.
	if err := os.WriteFile(path, bytes.Join(lines[:7], nil), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := VerifyAudit(path); err != nil || s.Closed {
		t.Errorf("cut at the end: %+v, %v", s, err)
	}
}

// TestAuditRotation: the chain spans the files; a missing one is found.
func TestAuditRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	writeAudit(t, path, 2000, 50)
	old, err := filepath.Glob(path + ".*")
	if err != nil || len(old) < 3 {
		t.Fatalf("rotated files %v, %v", old, err)
	}
	byNumber := map[int]string{}
	var files []string
	for n := 1; n < 100; n++ {
		if name := fmt.Sprintf("%s.%d", path, n); exists(name) {
			byNumber[n] = name
			files = append(files, name)
		}
	}
	files = append(files, path)
	if s, err := VerifyAudit(files...); err != nil || !s.Closed || s.Lines < 52 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := VerifyAudit(append(files[:1:1], files[2:]...)...); err == nil || !strings.Contains(err.Error(), "a file?") {
		t.Errorf("with a file missing: %v", err)
	}
}

func exists(name string) bool { _, err := os.Stat(name); return err == nil }

// TestAuditAfterAKill: a half line is cut off, and the chain says so.
func TestAuditAfterAKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	writeAudit(t, path, 0, 3)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(b, []byte("\n"))
	if err := os.WriteFile(path, append(bytes.Join(lines[:3], nil), lines[3][:30]...), 0o600); err != nil {
		t.Fatal(err)
	}
	writeAudit(t, path, 0, 1)
	s, err := VerifyAudit(path)
	if err != nil || !s.Closed || s.Lines != 3+3 {
		t.Errorf("%+v, %v", s, err)
	}
	found := ""
	ReadAudit(path, func(seq uint64, e Event) {
		if e.Kind == AuditOpened && seq > 1 {
			found = e.Error
		}
	})
	if !strings.Contains(found, "half line of 30 bytes") || !strings.Contains(found, "without closing") {
		t.Errorf("the opening line says %q", found)
	}
}

func TestAuditIsBoundedAndOnePerLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	l, err := OpenAudit(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAudit(path, 0); err == nil {
		t.Error("a second writer was let in")
	}
	many := make([]string, 100000)
	for i := range many {
		many[i] = "x\n{\"seq\":1}\r\x1b[2J"
	}
	l.Record(Event{Kind: SpawnDenied, Program: strings.Repeat("p\n", 1<<20), Args: many, Error: strings.Repeat("\xff", 1<<20)})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || bytes.Count(b, []byte("\n")) != 3 || len(b) > 200<<10 || bytes.ContainsAny(b, "\x1b\r") {
		t.Errorf("%d lines, %d bytes, %v", bytes.Count(b, []byte("\n")), len(b), err)
	}
	if _, err := VerifyAudit(path); err != nil {
		t.Error(err)
	}
}

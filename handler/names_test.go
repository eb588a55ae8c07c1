package handler

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/proscenium-dev/proscenium/tests/testenv"
)

// copyProgram puts a copy of a program at a new path, by a rename, as packages do.
func copyProgram(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to+".new", b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(to+".new", to); err != nil {
		t.Fatal(err)
	}
}

func link(t testing.TB, to, name string) {
	t.Helper()
	os.Remove(name)
	if err := os.Symlink(to, name); err != nil {
		t.Fatal(err)
	}
}

// TestNamesOfPrograms: a program is a file, however it is spelt, and is executed
// under the name that is allowed (T-08).
func TestNamesOfPrograms(t *testing.T) {
	dir := t.TempDir()
	copyProgram(t, "/usr/bin/true", dir+"/box")
	for _, name := range []string{"ls", "sh", "awk"} {
		link(t, "box", dir+"/"+name)
	}
	link(t, dir, dir+"/dir")
	link(t, "/usr/bin/id", dir+"/other")
	for _, c := range []struct {
		allowed   []string
		requested string
		path      string // "": denied
	}{
		{[]string{"/usr/bin/cat"}, "/usr/bin/cat", "/usr/bin/cat"},
		{[]string{"/usr/bin/cat"}, "//usr/./bin//cat", "/usr/bin/cat"},
		{[]string{"/usr/bin/cat"}, "/usr/lib/../bin/cat", "/usr/bin/cat"},
		{[]string{"/usr/bin/cat"}, "/bin/cat", "/usr/bin/cat"}, // merged /usr
		{[]string{"/bin/cat"}, "/usr/bin/cat", "/bin/cat"},
		{[]string{"/usr//bin/./cat"}, "/bin/cat", "/usr/bin/cat"},
		{[]string{"/usr/bin/cat"}, "/usr/bin/id", ""},
		{[]string{dir + "/box"}, dir + "/ls", dir + "/box"},
		{[]string{dir + "/ls"}, dir + "/box", dir + "/ls"},
		{[]string{dir + "/ls"}, dir + "/dir/ls", dir + "/ls"},
		{[]string{dir + "/ls"}, dir + "/sh", dir + "/ls"}, // one file, and not as sh
		{[]string{dir + "/ls", dir + "/sh"}, dir + "/sh", dir + "/sh"},
		{[]string{dir + "/ls", dir + "/sh"}, dir + "/dir/sh", dir + "/sh"},
		{[]string{dir + "/ls", dir + "/sh"}, dir + "/awk", dir + "/ls"},
		{[]string{dir + "/other"}, "/usr/bin/id", dir + "/other"},
		{[]string{dir + "/ls"}, dir + "/other", ""},
		{[]string{dir + "/nothing"}, dir + "/nothing", ""},
	} {
		p, _, err := newPolicy(allow(c.allowed...))
		if err != nil {
			t.Fatal(err)
		}
		m, err := p.check(ProcessConfig{Program: c.requested})
		if c.path == "" && err == nil || c.path != "" && (err != nil || m.path != c.path) {
			t.Errorf("%v allowed, %s requested: %+v, %v, want %q", c.allowed, c.requested, m, err, c.path)
		}
	}
	for name, want := range map[string]string{"cat": `did you mean "/usr/bin/cat"?`, "./cat": "not an absolute path", "no-such": "not an absolute path", "": "not an absolute path"} {
		if _, _, err := newPolicy(allow(name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("allowed_programs %q: %v", name, err)
		}
	}
}

// TestAllowedProgramIsReplaced: what counts is where the name leads now.
func TestAllowedProgramIsReplaced(t *testing.T) {
	testenv.NoLeaks(t)
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	copyProgram(t, "/usr/bin/true", dir+"/one")
	copyProgram(t, "/usr/bin/false", dir+"/two")
	link(t, "one", dir+"/tool")
	sink := collect(t)
	h := newHandler(t, allow(dir+"/tool", dir+"/later"), nil)
	run := func(program string, code int) { // -1: denied
		t.Helper()
		id, err := h.Spawn(testenv.Context(t), ProcessConfig{Program: program}, sink)
		if code < 0 {
			var d *Denial
			if !errors.As(err, &d) || d.Rule != "allowed_programs" {
				t.Errorf("%s: %v", program, err)
			}
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", program, err)
		}
		wait(t, h)
		if got := sink.exits[id].ExitCode; got != code {
			t.Errorf("%s: exit code %d, want %d", program, got, code)
		}
	}
	run(dir+"/tool", 0)
	run(dir+"/one", 0)
	run(dir+"/two", -1)
	link(t, "two", dir+"/tool")
	run(dir+"/tool", 1)
	run(dir+"/two", 1)
	run(dir+"/one", -1)
	copyProgram(t, "/usr/bin/true", dir+"/two") // an upgrade
	run(dir+"/tool", 0)
	run(dir+"/later", -1)
	copyProgram(t, "/usr/bin/false", dir+"/later") // an installation
	run(dir+"/later", 1)
}

// TestPinnedPrograms: another content is not started, whatever the file's name,
// and what is on the list besides is not there either.
func TestPinnedPrograms(t *testing.T) {
	testenv.NoLeaks(t)
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	copyProgram(t, "/usr/bin/true", dir+"/tool")
	digest := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		return hex.EncodeToString(sum[:])
	}
	c := allow(dir+"/tool", "/usr/bin/true")
	c.SHA256 = map[string]string{dir + "/tool": strings.ToUpper(digest(dir + "/tool"))}
	r := &recording{}
	h := newHandler(t, c, r)
	run := func(program string, good bool) {
		t.Helper()
		_, err := h.Spawn(testenv.Context(t), ProcessConfig{Program: program}, Discard)
		var d *Denial
		if good && err != nil || !good && (!errors.As(err, &d) || d.Rule != "sha256" || !strings.Contains(d.Reason, digest("/usr/bin/true"))) {
			t.Errorf("%s: %v", program, err)
		}
		wait(t, h)
	}
	for range 2 { // the second without reading it
		run(dir+"/tool", true)
	}
	copyProgram(t, "/usr/bin/false", dir+"/tool")
	run(dir+"/tool", false)
	run("/usr/bin/true", false)
	copyProgram(t, "/usr/bin/true", dir+"/tool")
	run(dir+"/tool", true)
	// In place, without another size or inode.
	f, err := os.OpenFile(dir+"/tool", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff}, 4000); err != nil {
		t.Fatal(err)
	}
	f.Close()
	run(dir+"/tool", false)
	if last := r.events[len(r.events)-1]; last.Kind != SpawnDenied || last.Rule != "sha256" {
		t.Errorf("%+v", last)
	}
	for name, c := range map[string]Config{
		"is not in allowed_programs": {SHA256: map[string]string{"/usr/bin/id": digest("/usr/bin/true")}},
		"hexadecimal":                {AllowedPrograms: []string{"/usr/bin/id"}, SHA256: map[string]string{"/usr/bin/id": "abc"}},
	} {
		if _, _, err := newPolicy(c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want …%s…", err, name)
		}
	}
}

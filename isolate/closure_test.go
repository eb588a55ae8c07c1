package isolate

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestClosureIsTheLinkers: what programs are linked with is found without running
// anything, and is what the dynamic linker itself would load.
func TestClosureIsTheLinkers(t *testing.T) {
	host, err := ThisHost()
	if err != nil {
		t.Fatal(err)
	}
	resolved := func(name string) string {
		real, err := filepath.EvalSymlinks(name)
		if err != nil {
			t.Fatal(err)
		}
		return real
	}
	compared := 0
	for _, program := range []string{
		"apt-get", "bash", "convert", "curl", "dash", "find", "git", "gpgv", "grep", "java", "ls", "node", "openssl", "perl", "python3", "sort", "sqlite3", "systemctl", "tar",
	} {
		program = "/usr/bin/" + program
		if _, err := os.Stat(program); err != nil {
			continue
		}
		program = resolved(program)
		l := linker{files: host.Files}
		info, err := l.read(program)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(info.interp, "--list", program).Output()
		if err != nil {
			t.Fatalf("%s --list %s: %v", info.interp, program, err)
		}
		var want []string
		for line := range bytes.Lines(out) {
			// name => path (address), or path (address)
			_, after, _ := bytes.Cut(line, []byte("=> "))
			for _, text := range [][]byte{after, line} {
				if f := strings.Fields(string(text)); len(f) > 0 && filepath.IsAbs(f[0]) {
					want = append(want, resolved(f[0]))
					break
				}
			}
		}
		found, err := l.closure(program)
		if err != nil {
			t.Fatal(err)
		}
		got := found.files()
		for i := range got {
			got[i] = resolved(got[i])
		}
		slices.Sort(want)
		slices.Sort(got)
		if want, got := slices.Compact(want), slices.Compact(got); !slices.Equal(want, got) {
			t.Errorf("%s: found\n%q, the linker loads\n%q", program, got, want)
		}
		compared++
	}
	if compared < 14 {
		t.Errorf("only %d programs were compared", compared)
	}
}

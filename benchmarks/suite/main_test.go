package main

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/reexec"
	"github.com/proscenium-dev/proscenium/tests/testenv"
)

func TestMain(m *testing.M) {
	reexec.Init()
	playRole()
	os.Exit(m.Run())
}

// TestSuite runs every experiment on the smallest scale: that each can be carried
// out, and says what it has found. No figure is looked at.
func TestSuite(t *testing.T) {
	testenv.Need(t, "root", os.Geteuid() == 0, "the floor and the peers are run as root")
	for _, compiler := range []string{"gcc", "clang", "wasm-ld"} {
		_, err := exec.LookPath(compiler)
		testenv.Need(t, "clang", err == nil, "the programs are compiled with gcc, clang and lld")
	}
	dir, err := os.MkdirTemp("/opt", "proscenium-bench-test.")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.Command("../build", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	size := scale{
		name: "test", starts: 2, slow: 2, blocks: 1, block: 20 * time.Millisecond, output: 1 << 20, lines: 64 << 10,
		status: 3, idle: 2, crowd: 3, talk: 400 * time.Millisecond, heap: 1 << 20, mounts: 5, most: 20 * time.Second, whole: time.Minute,
	}
	if _, err := run(dir, dir, size, regexp.MustCompile("")); err != nil {
		t.Fatal(err)
	}
	results, err := os.ReadFile(dir + "/results.md")
	if err != nil {
		t.Fatal(err)
	}
	if i := bytes.Index(results, []byte("not measured to the end")); i >= 0 {
		t.Errorf("%.200s", results[i:])
	}
	// What is there whatever is installed: each promise but those about peers and
	// warm cells has a figure.
	for line := range strings.Lines(string(results)) {
		peer := regexp.MustCompile("bubblewrap|nsjail|crun|runc").MatchString(line)
		if strings.Contains(line, "not measured") && !peer {
			t.Error(line)
		}
	}
	text, err := os.ReadFile(dir + "/results.txt")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`^(Benchmark\S+/\S+ \d+ \S+ \S+|(goos|goarch|cpu|kernel): .*|# .*)\n$`)
	for l := range strings.Lines(string(text)) {
		if !line.MatchString(l) {
			t.Errorf("not in benchstat's format: %q", l)
		}
	}
}

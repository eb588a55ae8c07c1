package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/proscenium-dev/proscenium/tests/testenv"
)

// TestReadmeExample builds and runs the program in the README.
func TestReadmeExample(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	testenv.Need(t, "source", err == nil, "the module's source is not here")
	block := regexp.MustCompile("(?s)```go\n(.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("the README has no Go example")
	}
	dir := testDir(t)
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, block[1], 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", dir+"/example", source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.Command(dir + "/example").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "uid=1000") || !strings.Contains(string(out), "<nil>") {
		t.Errorf("it says %q, %v", out, err)
	}
}

package tests

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/proscenium-dev/proscenium/tests/testenv"
)

// TestSecurityPage: every test that SECURITY.md names exists, every class of
// attack has one, and every attack is on the page.
func TestSecurityPage(t *testing.T) {
	page, err := os.ReadFile("../SECURITY.md")
	testenv.Need(t, "source", err == nil, "the module's source is not here")
	var exist []string
	err = filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		b, err := os.ReadFile(name)
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(b, -1) {
			exist = append(exist, string(m[1]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(string(page), -1)
	if len(named) < 50 {
		t.Errorf("only %d tests are named", len(named))
	}
	for _, m := range named {
		if !slices.Contains(exist, m[1]) {
			t.Errorf("SECURITY.md names %s, which does not exist", m[1])
		}
	}
	for n := 1; n <= 27; n++ {
		class := fmt.Sprintf(`(?m)^\| .*T-%02d.*\| .*Test\w+`, n)
		if !regexp.MustCompile(class).Match(page) {
			t.Errorf("class T-%02d has no test on the page", n)
		}
	}
	attack := regexp.MustCompile(`^TestT\d\d`)
	for _, name := range exist {
		if attack.MatchString(name) && !strings.Contains(string(page), name) {
			t.Errorf("%s is not on the page", name)
		}
	}
	for line := range strings.Lines(string(page)) { // of the profile's table
		if cells := strings.Split(line, "|"); len(cells) == 5 && !strings.Contains(cells[3], "`Test") && !strings.Contains(cells[3], "---") && !strings.Contains(cells[3], "shown by") {
			t.Errorf("a line without a test: %s", line)
		}
	}
}

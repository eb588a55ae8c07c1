package handler

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// A program is an entry of allowed_programs. What it allows is the file that its
// name leads to at the moment of a spawn: a package may replace it.
type program struct {
	name string
	args []*regexp.Regexp // nil: anything
}

// program finds the allowed program that the requested path leads to: the same
// file, by device and inode, whatever links are on the way. It is then executed
// under the name that is allowed, and not under the requested one, by which a
// program that is many (busybox) chooses what it does.
func (p *policy) program(r ProcessConfig) (*program, error) {
	asked, err := os.Stat(r.Program)
	best, rank := -1, 0
	for i, q := range p.programs {
		info, statErr := os.Stat(q.name)
		if err != nil || statErr != nil || !os.SameFile(asked, info) {
			continue
		}
		n := 1
		switch {
		case q.name == filepath.Clean(r.Program):
			n = 3
		case filepath.Base(q.name) == filepath.Base(r.Program):
			n = 2
		}
		if n > rank {
			best, rank = i, n
		}
	}
	if best < 0 {
		// The same words whether or not it exists: an actor has no business
		// knowing the host's files.
		return nil, deny("allowed_programs", "%s is not allowed", r.Program)
	}
	q := &p.programs[best]
	for _, a := range r.Args {
		if q.args != nil && !slices.ContainsFunc(q.args, func(re *regexp.Regexp) bool { return re.MatchString(a) }) {
			return nil, deny("args_allowed", "argument %q of %s is not allowed", a, q.name)
		}
	}
	return q, nil
}

// pathOf says where a bare name is found, for an error.
func pathOf(name string) string {
	if strings.Contains(name, "/") {
		return ""
	}
	for _, dir := range []string{"/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin"} {
		if full := filepath.Join(dir, name); name != "" {
			if info, err := os.Stat(full); err == nil && info.Mode().IsRegular() {
				return fmt.Sprintf(": did you mean %q?", full)
			}
		}
	}
	return ""
}

// present are the allowed programs that this host has now. Others cannot be
// reached.
func (p *policy) present() (names []string) {
	for _, q := range p.programs {
		if _, err := os.Stat(q.name); err == nil {
			names = append(names, q.name)
		}
	}
	return names
}

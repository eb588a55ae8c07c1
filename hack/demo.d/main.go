//go:build wasip1

// The actor of hack/demo: an inventory of a machine's documentation, taken with
// ordinary programs. It shows processes that run at once, in line and raw mode,
// a pipeline in which the exit of one starts the next, a program fed through its
// stdin, and one that wants more memory than it is allowed.
package main

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/proscenium-dev/proscenium/wit/guest"
)

const root = "/usr/share/doc"

func init() { guest.Register(inventory{&state{Job: map[uint64]string{}, Kinds: map[string]int64{}}}) }
func main() {}

// What is gathered stays in memory, where an event costs little; the state that
// the host keeps is the report, once there is one. (An actor that is to go on
// after a failure puts all it needs into its state.)
type state struct {
	Job map[uint64]string // pid → what it does

	Files, Bytes int64
	Kinds        map[string]int64 // extension → bytes
	Largest      []file           // ten, largest first
	Copyrights   string           // paths, raw
	Digests      string           // of the copyright files
	Counted      []string         // lines of uniq -c
	Hungry       string           // how the hungry one ended
	Failures     []string

	Report string
}

type file struct {
	Size int64
	Name string
}

type inventory struct{ *state }

func (s inventory) Init(_ []byte, id string) ([]byte, error) {
	guest.Log("I am " + id + ". Three programs at once:")
	// One: every file with its size, a line each.
	s.start("measure", guest.Config{Program: "/usr/bin/find", Args: []string{root, "-type", "f", "-printf", `%s %p\n`}, Stdout: guest.Lines, Stderr: guest.Lines})
	// Two: the copyright files, raw; a pipeline goes on from there.
	s.start("copyrights", guest.Config{Program: "/usr/bin/find", Args: []string{root, "-name", "copyright", "-type", "f"}, Stdout: guest.Raw, Stderr: guest.Lines})
	// Three: keeps in memory what has no end, and dies of its limit.
	s.start("hungry", guest.Config{Program: "/usr/bin/tail", Args: []string{"/dev/zero"}, Stderr: guest.Lines})
	return s.result()
}

func (s *state) start(job string, c guest.Config) uint64 {
	pid, err := guest.Spawn(c)
	if err != nil {
		s.Failures = append(s.Failures, job+": "+err.Error())
		guest.Log("cannot start " + job + ": " + err.Error())
		return 0
	}
	guest.Log(fmt.Sprintf("  #%d %-10s %s %s", pid, job, c.Program, short(c.Args)))
	s.Job[pid] = job
	return pid
}

func short(args []string) string {
	text := strings.Join(args, " ")
	if len(text) > 60 {
		return fmt.Sprintf("%s… (%d arguments)", text[:50], len(args))
	}
	return text
}

func (s inventory) HandleStdout(_ []byte, pid uint64, data []byte) ([]byte, error) {
	switch s.Job[pid] {
	case "measure":
		s.measure(string(data))
		if s.Files%1000 == 1 {
			s.progress()
		}
	case "copyrights":
		s.Copyrights += string(data)
	case "digest":
		s.Digests += string(data)
	case "count":
		s.Counted = append(s.Counted, string(data))
	}
	return s.result()
}

func (s *state) measure(line string) {
	size, name, _ := strings.Cut(line, " ")
	n, _ := strconv.ParseInt(size, 10, 64)
	s.Files++
	s.Bytes += n
	kind := strings.TrimPrefix(path.Ext(name), ".")
	if kind == "" || len(kind) > 6 {
		kind = path.Base(name)
		if len(kind) > 16 {
			kind = "(other)"
		}
	}
	s.Kinds[kind] += n
	if len(s.Largest) < 10 || n > s.Largest[9].Size {
		s.Largest = append(s.Largest, file{n, name})
		slices.SortFunc(s.Largest, func(a, b file) int { return cmp.Compare(b.Size, a.Size) })
		s.Largest = s.Largest[:min(len(s.Largest), 10)]
	}
}

// progress says what runs, and what it uses.
func (s *state) progress() {
	var parts []string
	for _, pid := range sorted(s.Job) {
		if st, err := guest.GetStatus(pid); err == nil && st.Running {
			parts = append(parts, fmt.Sprintf("#%d %s cpu %.0f %%, %s", pid, s.Job[pid], st.CPU, human(int64(st.Memory))))
		}
	}
	guest.Log(fmt.Sprintf("%6d files, %s | %s", s.Files, human(s.Bytes), strings.Join(parts, " | ")))
}

func (s inventory) HandleStderr(_ []byte, pid uint64, data []byte) ([]byte, error) {
	guest.Log(fmt.Sprintf("#%d %s says: %s", pid, s.Job[pid], data))
	return s.result()
}

func (s inventory) HandleExit(_ []byte, pid uint64, code int32) ([]byte, error) {
	job := s.Job[pid]
	delete(s.Job, pid)
	guest.Log(fmt.Sprintf("#%d %s has ended with %d", pid, job, code))
	switch job {
	case "hungry":
		s.Hungry = fmt.Sprintf("tail /dev/zero ended with exit code %d", code)
		if code == 137 {
			s.Hungry += " (128 + SIGKILL): the kernel killed it at its memory limit"
		}
	case "copyrights": // the next of the pipeline, with what it found
		s.start("digest", guest.Config{Program: "/usr/bin/sha256sum", Args: strings.Fields(s.Copyrights), Stdout: guest.Raw, Stderr: guest.Lines})
	case "digest": // and the next, which reads its stdin
		var digests []string
		for line := range strings.Lines(s.Digests) {
			digests = append(digests, line[:min(len(line), 64)])
		}
		slices.Sort(digests)
		pid := s.start("count", guest.Config{Program: "/usr/bin/uniq", Args: []string{"-c"}, Stdout: guest.Lines, Stderr: guest.Lines})
		input := []byte(strings.Join(digests, "\n") + "\n")
		if n, err := guest.WriteStdin(pid, input); err != nil || n < len(input) {
			s.Failures = append(s.Failures, fmt.Sprintf("stdin took %d of %d bytes: %v", n, len(input), err))
		}
		if err := guest.CloseStdin(pid); err != nil {
			s.Failures = append(s.Failures, err.Error())
		}
	}
	if code != 0 && job != "hungry" {
		s.Failures = append(s.Failures, fmt.Sprintf("%s ended with %d", job, code))
	}
	if len(s.Job) == 0 {
		s.Report = s.report()
	}
	return s.result()
}

func (s *state) report() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d files below %s hold %s.\n\nBy kind:\n", s.Files, root, human(s.Bytes))
	kinds := make([]file, 0, len(s.Kinds))
	for k, n := range s.Kinds {
		kinds = append(kinds, file{n, k})
	}
	slices.SortFunc(kinds, func(a, b file) int { return cmp.Or(cmp.Compare(b.Size, a.Size), strings.Compare(a.Name, b.Name)) })
	for _, k := range kinds[:min(8, len(kinds))] {
		fmt.Fprintf(&b, "  %10s  %4.1f %%  %s\n", human(k.Size), 100*float64(k.Size)/float64(max(s.Bytes, 1)), k.Name)
	}
	b.WriteString("\nLargest:\n")
	for _, f := range s.Largest[:min(5, len(s.Largest))] {
		fmt.Fprintf(&b, "  %10s  %s\n", human(f.Size), strings.TrimPrefix(f.Name, root+"/"))
	}
	packages := len(strings.Fields(s.Copyrights))
	most := 0
	for _, line := range s.Counted {
		n, _ := strconv.Atoi(strings.Fields(line)[0])
		most = max(most, n)
	}
	fmt.Fprintf(&b, "\n%d packages have a copyright file; %d of the files are different.\nThe one that most packages share stands there %d times.\n", packages, len(s.Counted), most)
	fmt.Fprintf(&b, "\n%s.\n", s.Hungry)
	for _, f := range s.Failures {
		fmt.Fprintf(&b, "FAILED: %s\n", f)
	}
	return b.String()
}

func sorted(m map[uint64]string) []uint64 {
	var pids []uint64
	for pid := range m {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return pids
}

func human(n int64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

func (s *state) result() ([]byte, error) { return []byte(s.Report), nil }

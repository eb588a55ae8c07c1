package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// describe notes when and where a run was made.
func (r *report) describe(size scale, layout string) {
	add := func(name, format string, args ...any) {
		r.machine = append(r.machine, fact{name, fmt.Sprintf(format, args...)})
	}
	var u unix.Utsname
	unix.Uname(&u)
	add("date", "%s", time.Now().UTC().Format("2006-01-02 15:04 MST"))
	add("run", "%s", size.name)
	add("commit", "%s", revision())
	add("goos", "%s", runtime.GOOS)
	add("goarch", "%s", runtime.GOARCH)
	add("go", "%s", strings.TrimPrefix(runtime.Version(), "go"))
	add("kernel", "%s", unix.ByteSliceToString(u.Release[:]))
	add("cpu", "%s", field("/proc/cpuinfo", "model name"))
	add("cpus", "%d", runtime.NumCPU())
	add("memory", "%s", field("/proc/meminfo", "MemTotal"))
	add("cgroups", "%s", layout)
	add("system", "%s", strings.Trim(field("/etc/os-release", "PRETTY_NAME"), `"`))
	add("load before", "%s", load())
}

// load is the average of the last minute.
func load() string {
	minute, _, _ := strings.Cut(read("/proc/loadavg"), " ")
	return minute
}

func read(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// field is what stands behind a name and a colon or an equals sign.
func field(path, name string) string {
	for line := range strings.Lines(read(path)) {
		if i := strings.IndexAny(line, ":="); i >= 0 && strings.TrimSpace(line[:i]) == name {
			return strings.TrimSpace(line[i+1:])
		}
	}
	return "unknown"
}

// revision is the commit of the tree in which this runs.
func revision() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty=, with changes", "--abbrev=12").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

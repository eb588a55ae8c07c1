package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
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
	load, _, _ := strings.Cut(read("/proc/loadavg"), " ")
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
	add("load before", "%s", load)
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

// revision is the commit that this program was built from.
func revision() string {
	revision, changed := "unknown", ""
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = ", with changes"
		}
	}
	return revision + changed
}

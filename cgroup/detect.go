package cgroup

import (
	"bufio"
	"bytes"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// layout is what this host has mounted, with the group that this process is in.
type layout struct {
	unified *hierarchy           // cgroup2, if it is mounted
	legacy  map[string]hierarchy // v1, by controller; empty if v2 has them all
}

// detect reads /proc/self/mountinfo and /proc/self/cgroup: cgroups(7).
func detect() (layout, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return layout{}, err
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return layout{}, err
	}
	l := parseLayout(mounts, groups)
	if l.unified != nil {
		h := outOfSupervisor(*l.unified)
		l.unified = &h
		available, err := os.ReadFile(filepath.Join(h.dir(), "cgroup.controllers"))
		if err != nil {
			return layout{}, &LayoutError{Where: h.dir(), Remedy: remedyMount, Err: err}
		}
		if missing := without(required, strings.Fields(string(available))); len(missing) == 0 {
			l.legacy = nil
			return l, nil
		} else if len(l.legacy) == 0 {
			return layout{}, &LayoutError{Where: h.dir(), Missing: missing, Remedy: remedyDelegate}
		}
	}
	needs := requiredLegacy
	if l.unified != nil { // which counts the time of processors itself
		needs = without(needs, []string{"cpuacct"})
		delete(l.legacy, "cpuacct")
	}
	missing := without(needs, slices.Collect(maps.Keys(l.legacy)))
	if len(missing) > 0 {
		return layout{}, &LayoutError{Where: "/sys/fs/cgroup", Missing: missing, Remedy: remedyMount}
	}
	return l, nil
}

func without(list, drop []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(drop, s) })
}

// outOfSupervisor steps out of a supervisor leaf of ours: a process that another
// instance started makes its groups beside that instance's.
func outOfSupervisor(h hierarchy) hierarchy {
	instance := path.Dir(h.group)
	if path.Base(h.group) == supervisor && strings.HasPrefix(path.Base(instance), namePrefix) {
		h.group = path.Dir(instance)
	}
	return h
}

// parseLayout combines mount points with the groups that this process is in.
func parseLayout(mounts, groups []byte) layout {
	own := map[string]string{} // controller, "" for v2 → our group
	for line := range bytes.Lines(groups) {
		// hierarchy-ID:controller-list:path
		parts := strings.SplitN(strings.TrimSpace(string(line)), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for c := range strings.SplitSeq(parts[1], ",") {
			own[c] = parts[2]
		}
	}
	l := layout{legacy: map[string]hierarchy{}}
	s := bufio.NewScanner(bytes.NewReader(mounts))
	for s.Scan() {
		// 36 35 98:0 /root /mount/point options … - type source superoptions
		left, right, ok := strings.Cut(s.Text(), " - ")
		before, after := strings.Fields(left), strings.Fields(right)
		if !ok || len(before) < 5 || len(after) < 3 {
			continue
		}
		root, mount := unescape(before[3]), unescape(before[4])
		switch after[0] {
		case "cgroup2":
			if group, ok := below(root, own[""]); ok && l.unified == nil {
				l.unified = &hierarchy{mount: mount, group: group}
			}
		case "cgroup":
			for c := range strings.SplitSeq(after[2], ",") {
				group, known := own[c]
				group, ok := below(root, group)
				if known && ok && slices.Contains(requiredLegacy, c) {
					l.legacy[c] = hierarchy{mount: mount, group: group}
				}
			}
		}
	}
	return l
}

// below maps a group to its path below the mount point, which shows root.
func below(root, group string) (string, bool) {
	if root == "/" || root == group {
		if root == group {
			return "/", group != ""
		}
		return group, group != ""
	}
	rest, ok := strings.CutPrefix(group, root+"/")
	return "/" + rest, ok
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

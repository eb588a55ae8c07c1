package isolate

import (
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
)

// TestSwapMapsEveryID: to itself, but for the two.
func TestSwapMapsEveryID(t *testing.T) {
	for _, ids := range [][2]int{{1001, 65534}, {65534, 1001}, {1, 2}, {2, 1}, {0, maxID}, {0, 1}, {maxID - 1, maxID}, {7, 7}} {
		text := swap(ids[0], ids[1])
		next := 0
		for line := range strings.Lines(text) {
			var from, to, count int
			if _, err := fmt.Sscan(line, &from, &to, &count); err != nil || count < 1 || from != next {
				t.Errorf("%v: line %q after %d: %v", ids, line, next, err)
			}
			next = from + count
			for i, id := range ids {
				if id >= from && id < next && to+id-from != ids[1-i] {
					t.Errorf("%v: %d becomes %d", ids, id, to+id-from)
				}
			}
			if from != to && (count != 1 || from != ids[0] && from != ids[1]) {
				t.Errorf("%v: line %q maps others", ids, line)
			}
		}
		if next != maxID+1 {
			t.Errorf("%v: ids up to %d are mapped", ids, next)
		}
	}
}

// TestNobodyIsMadeRoot by a map: neither root's files nor its group's.
func TestNobodyIsMadeRoot(t *testing.T) {
	for _, c := range []struct {
		owner, group uint32
		want         IDMap
	}{
		{0, 0, IDMap{}},
		{0, 1002, IDMap{}},
		{65534, 0, IDMap{}},
		{1001, 1002, IDMap{1001, 1002, 65534, 65534}},
		{1001, 0, IDMap{1001, 65534, 65534, 65534}},
	} {
		files := tinyHost()
		files["srv/data"] = &fstest.MapFile{Mode: fs.ModeDir | 0o755, Sys: &syscall.Stat_t{Uid: c.owner, Gid: c.group}}
		for mount, want := range map[Mount]IDMap{RW("/srv/data"): c.want, RO("/srv/data"): {}} {
			plan, err := Compile(Spec{Mounts: []Mount{mount}}, Program{Path: "/usr/bin/true", Args: []string{"true"}}, Host{Privileged: true, Files: files})
			if err != nil {
				t.Fatal(err)
			}
			var got IDMap
			for _, tree := range plan.Trees {
				if tree.Path == "/srv/data" {
					got = tree.Map
				}
			}
			if got != want {
				t.Errorf("%v of %d:%d: %+v, want %+v", mount, c.owner, c.group, got, want)
			}
		}
	}
}

// TestAnOwnersProgramIsNotWritten: in a mount a program acts as the mount's
// owner, so that another name there of an executable of his is writable.
func TestAnOwnersProgramIsNotWritten(t *testing.T) {
	files := tinyHost()
	files["usr/bin/own"] = &fstest.MapFile{Data: staticELF(), Mode: 0o755, Sys: &syscall.Stat_t{Uid: 1001, Nlink: 2}}
	program := Program{Path: "/usr/bin/own", Args: []string{"own"}}
	host := Host{Privileged: true, Files: files}
	roots := &fstest.MapFile{Data: staticELF(), Mode: 0o755, Sys: &syscall.Stat_t{Nlink: 2}} // perl is one; nobody acts as root
	files["usr/bin/id"], files["srv/roots"] = roots, &fstest.MapFile{Mode: fs.ModeDir | 0o777, Sys: &syscall.Stat_t{}}
	if _, err := Compile(Spec{Mounts: []Mount{RW("/srv/roots")}}, Program{Path: "/usr/bin/id", Args: []string{"id"}}, host); err != nil {
		t.Error(err)
	}
	for owner, refused := range map[uint32]bool{1001: true, 1003: false} {
		files["srv/data"] = &fstest.MapFile{Mode: fs.ModeDir | 0o755, Sys: &syscall.Stat_t{Uid: owner}}
		_, err := Compile(Spec{Mounts: []Mount{RW("/srv/data")}}, program, host)
		if (err != nil) != refused {
			t.Errorf("a mount of %d: %v", owner, err)
		}
	}
}

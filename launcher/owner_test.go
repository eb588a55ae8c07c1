package launcher_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/tests/testenv"
)

// TestOwnerOfWrites: what a program writes belongs to the owner of the mount, or
// to the program's id; where it could write nothing it does not start.
func TestOwnerOfWrites(t *testing.T) {
	testenv.Need(t, "root", os.Geteuid() == 0, "only root gives programs another id")
	testenv.NoLeaks(t)
	l, err := launcher.Start(launcher.Config{}) // its id maps go with it
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := func(uid, gid int, mode os.FileMode) string {
		d := t.TempDir()
		for _, err := range []error{os.WriteFile(d+"/of-root", nil, 0o666), os.Chmod(d+"/of-root", 0o666), os.Chown(d, uid, gid), os.Chmod(d, mode)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return d
	}
	for name, c := range map[string]struct {
		dir      string
		uid, gid uint32 // of what is written
		enforced string
		none     string // why nothing is written
		mapped   bool
	}{
		"an ordinary user's":          {dir: dir(1234, 1235, 0o700), uid: 1234, gid: 1235, enforced: "owned by uid 1234, whose it is", mapped: true},
		"a user's, group root":        {dir: dir(1234, 0, 0o700), uid: 1234, gid: 65534, enforced: "owned by uid 1234, whose it is", mapped: true},
		"a user's, open to all":       {dir: dir(1234, 1235, 0o777), uid: 1234, gid: 1235, enforced: "owned by uid 1234, whose it is", mapped: true},
		"root's, open to all":         {dir: dir(0, 0, 0o777|os.ModeSticky), uid: 65534, gid: 65534, enforced: "owned by uid 65534"},
		"root's, open to its group":   {dir: dir(0, 65534, 0o770), uid: 65534, gid: 65534, enforced: "owned by uid 65534"},
		"the program's own":           {dir: dir(65534, 1235, 0o700), uid: 65534, gid: 65534, enforced: "owned by uid 65534"},
		"root's":                      {dir: dir(0, 0, 0o755), none: "may not write there"},
		"root's, writable, no search": {dir: dir(0, 0, 0o776), none: "may not write there"},
		"the program's, read-only":    {dir: dir(65534, 0, 0o577), none: "may not write there"},
		"the group's, read-only":      {dir: dir(0, 65534, 0o757), none: "may not write there"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := l.Command(testenv.Context(t), "/usr/bin/cp", "/dev/null", c.dir+"/made")
			cmd.Isolation.Mounts = []isolate.Mount{isolate.RW(c.dir)}
			out, err := cmd.CombinedOutput()
			if c.mapped {
				needIDMap(t, cmd)
			}
			if c.none != "" {
				said := slices.ContainsFunc(cmd.Plan.Enforced, func(s string) bool { return strings.Contains(s, c.none) && strings.Contains(s, c.dir) })
				if err == nil || !strings.Contains(string(out), "Permission denied") || !said {
					t.Errorf("%v: %s%q, want …%s…", err, out, cmd.Plan.Enforced, c.none)
				}
				return
			}
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			said := slices.ContainsFunc(cmd.Plan.Enforced, func(s string) bool { return strings.HasSuffix(s, c.enforced) && strings.Contains(s, c.dir) })
			if c.mapped && !said {
				testenv.Need(t, "idmap", false, "the file system of "+filepath.Dir(c.dir)+" takes no idmapped mount")
			}
			if !said {
				t.Errorf("%q does not say …%s", cmd.Plan.Enforced, c.enforced)
			}
			for file, want := range map[string][2]uint32{"/made": {c.uid, c.gid}, "/of-root": {0, 0}} {
				info, err := os.Stat(c.dir + file)
				if err != nil {
					t.Fatal(err)
				}
				if s := info.Sys().(*syscall.Stat_t); s.Uid != want[0] || s.Gid != want[1] {
					t.Errorf("%s belongs to %d:%d, want %v", file, s.Uid, s.Gid, want)
				}
			}
			cmd = l.Command(testenv.Context(t), "/usr/bin/tee", c.dir+"/of-root")
			cmd.Isolation.Mounts = []isolate.Mount{isolate.RW(c.dir)}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("writing what everybody may write: %v: %s", err, out)
			}
		})
	}
}

// needIDMap skips where a start says that its file system takes no idmapped mount.
func needIDMap(t *testing.T, cmd *launcher.Cmd) {
	t.Helper()
	if cmd.Plan == nil {
		return
	}
	for _, s := range cmd.Plan.Enforced {
		testenv.Need(t, "idmap", !strings.Contains(s, "MOUNT_ATTR_IDMAP"), s)
	}
}

// TestOwnerOfWritesInATemplate: as without one, and a change of owner is noticed.
func TestOwnerOfWritesInATemplate(t *testing.T) {
	testenv.Need(t, "root", os.Geteuid() == 0, "only root gives programs another id")
	testenv.NoLeaks(t)
	l, err := launcher.Start(launcher.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir, err := os.MkdirTemp("/var/tmp", "proscenium-test-") // what lies in /tmp has no template
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(dir+"/empty", nil, 0o666); err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir+"/empty", 0o666)
	if err := os.WriteFile(dir+"/empty", nil, 0o666); err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir+"/empty", 0o666)
	for _, owner := range [][2]int{{1234, 1235}, {1236, 1235}, {1236, 1237}} {
		if err := os.Chown(dir, owner[0], owner[1]); err != nil {
			t.Fatal(err)
		}
		// Two specs that see the same, so that the template of the owner before is
		// still there. From the second start on there is a template.
		for _, programs := range [][]string{{"/usr/bin/cp", "/usr/bin/touch"}, {"/usr/bin/touch", "/usr/bin/cp"}} {
			for start := range 3 {
				cmd := l.Command(testenv.Context(t), programs[0], dir+"/empty", dir+"/made")
				cmd.Isolation = isolate.Spec{Allow: programs, Mounts: []isolate.Mount{isolate.RW(dir)}}
				out, err := cmd.CombinedOutput()
				needIDMap(t, cmd)
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				l.AwaitTemplates()
				if start == 2 && !cmd.Plan.InTemplate {
					t.Error("the third start is not in a template")
				}
				if last := cmd.Plan.Enforced[len(cmd.Plan.Enforced)-1]; !strings.Contains(last, "whose it is") {
					t.Errorf("template %v: %q", cmd.Plan.InTemplate, last)
				}
				info, err := os.Stat(dir + "/made")
				if err != nil {
					t.Fatal(err)
				}
				if s := info.Sys().(*syscall.Stat_t); int(s.Uid) != owner[0] || int(s.Gid) != owner[1] {
					t.Errorf("template %v: it belongs to %d:%d, want %v", cmd.Plan.InTemplate, s.Uid, s.Gid, owner)
				}
				os.Remove(dir + "/made")
			}
		}
	}
}

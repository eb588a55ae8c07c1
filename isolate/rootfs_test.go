package isolate

import (
	"crypto/sha256"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// TestRootRefuses: what would lead out of a root, or make what is written
// executable, has no plan.
func TestRootRefuses(t *testing.T) {
	const root = "/srv/bundle/rootfs"
	for name, c := range map[string]struct {
		spec    Spec
		program string
		text    string // "" is accepted
	}{
		"a program":                         {Spec{}, "/bin/tool", ""},
		"by a link":                         {Spec{}, "/usr/bin/sh", ""},
		"a program outside":                 {Spec{}, "/usr/bin/outside", "not exist"},
		"by a link that climbs":             {Spec{}, "/escape/outside", "not exist"},
		"by a path that climbs":             {Spec{}, "/../../../usr/bin/outside", "not exist"},
		"a directory":                       {Spec{}, "/usr", "permission"},
		"not executable":                    {Spec{}, "/etc/hosts", "permission"},
		"what /tmp hides":                   {Spec{}, "/tmp/hidden", "lies in the mount /tmp"},
		"what a mount hides":                {Spec{Mounts: []Mount{bindMount{path: "/usr", source: "/srv/bundle/data"}}}, "/bin/tool", "lies in the mount /usr"},
		"a view as well":                    {Spec{View: ViewSystem}, "/bin/tool", "mean nothing"},
		"allowed programs as well":          {Spec{Allow: []string{"/bin/tool"}}, "/bin/tool", "mean nothing"},
		"the root, writable":                {Spec{Mounts: []Mount{bindMount{path: "/w", source: root, writable: true}}}, "/bin/tool", "must not be executed"},
		"around the root, writable":         {Spec{Mounts: []Mount{bindMount{path: "/w", source: "/srv", writable: true}}}, "/bin/tool", "must not be executed"},
		"in the root, writable":             {Spec{Mounts: []Mount{bindMount{path: "/w", source: root + "/usr/bin", writable: true}}}, "/bin/tool", "must not be executed"},
		"in the root, by a link":            {Spec{Mounts: []Mount{bindMount{path: "/w", source: "/srv/to-bin", writable: true}}}, "/bin/tool", "must not be executed"},
		"in the root, on itself":            {Spec{Mounts: []Mount{bindMount{path: "/var/mail", source: root + "/var/mail", writable: true}}}, "/bin/tool", ""},
		"in the root, read-only":            {Spec{Mounts: []Mount{bindMount{path: "/w", source: root + "/usr/bin"}}}, "/bin/tool", ""},
		"a place that is not there":         {Spec{Mounts: []Mount{Tmpfs("/var/none", 1)}}, "/bin/tool", "make it there"},
		"a place by a link":                 {Spec{Mounts: []Mount{Tmpfs("/var/run", 1)}}, "/bin/tool", ""},
		"two by a link":                     {Spec{Mounts: []Mount{Tmpfs("/var/run", 1), Tmpfs("/run", 1)}}, "/bin/tool", "already"},
		"a link into the profile":           {Spec{Mounts: []Mount{Tmpfs("/to-proc/x", 1)}}, "/bin/tool", "belongs to the profile"},
		"in a tmpfs":                        {Spec{Mounts: []Mount{Tmpfs("/run", 1), bindMount{path: "/run/a/b", source: "/srv/bundle/data"}}}, "/bin/tool", ""},
		"in a mount like it":                {Spec{Mounts: []Mount{bindMount{path: "/w", source: "/srv/bundle/data", writable: true}, bindMount{path: "/w/file", source: "/srv/data", writable: true}}}, "/bin/tool", ""},
		"in a tmpfs in the root":            {Spec{Mounts: []Mount{Tmpfs("/var/cache", 1), bindMount{path: "/var/cache/x", source: "/srv/bundle/data"}}}, "/bin/tool", "at the top level"},
		"a device":                          {Spec{Mounts: []Mount{bindMount{path: "/d", source: "/srv/device"}}}, "/bin/tool", "is a device"},
		"a proc of the host":                {Spec{Mounts: []Mount{bindMount{path: "/d", source: "/proc/1"}}}, "/bin/tool", "belongs to the profile"},
		"an entry that is a fifo":           {Spec{Root: "/srv/odd"}, "/bin/tool", "neither file"},
		"a root that is a link to the root": {Spec{Root: "/srv/slash"}, "/bin/tool", "cannot be shown"},
		"a root in proc":                    {Spec{Root: "/proc/1"}, "/bin/tool", "belongs to the profile"},
		"a root that is too full":           {Spec{Root: "/srv/full"}, "/bin/tool", "entries"},
	} {
		t.Run(name, func(t *testing.T) {
			host := ociHost()
			files := host.Files.(fstest.MapFS)
			link := func(name, to string) {
				files[name] = &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink | 0o777}
			}
			link("srv/slash", "/")
			link("srv/to-bin", "bundle/rootfs/usr/bin")
			link("srv/bundle/rootfs/to-proc", "/proc")
			files["srv/bundle/rootfs/proc/x/y"] = &fstest.MapFile{Mode: 0o444}
			files["srv/device"] = &fstest.MapFile{Mode: fs.ModeDevice | 0o666}
			files["srv/odd/fifo"] = &fstest.MapFile{Mode: fs.ModeNamedPipe | 0o666}
			files["proc/1/status"] = &fstest.MapFile{Mode: 0o444}
			for i := range maxRootEntries + 1 {
				files["srv/full/"+strings.Repeat("x", i+1)] = &fstest.MapFile{Mode: 0o444}
			}
			if c.spec.Root == "" {
				c.spec.Root = root
			}
			plan, err := Compile(c.spec, Program{Path: c.program, Args: []string{"x"}}, host)
			if c.text == "" && err != nil || c.text != "" && (err == nil || !strings.Contains(err.Error(), c.text)) {
				t.Errorf("want %q, got %v", c.text, err)
			}
			for _, m := range c.spec.Mounts {
				if b, ok := m.(bindMount); ok && err == nil && !slices.ContainsFunc(plan.Trees, func(t Tree) bool { return t.Path == b.source }) {
					t.Errorf("%s is not mounted", b.source)
				}
			}
		})
	}
}

// TestTemplateOfABind: a template with what is mounted below a bind is not one
// without.
func TestTemplateOfABind(t *testing.T) {
	base := t.TempDir()
	for _, dir := range []string{"/rootfs/bin", "/data"} {
		if err := os.MkdirAll(base+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(base+"/rootfs/bin/tool", staticELF(), 0o755); err != nil {
		t.Fatal(err)
	}
	key := func(flat bool) [sha256.Size]byte {
		host, err := ThisHost()
		if err != nil {
			t.Fatal(err)
		}
		host.Privileged = true
		p, err := Prepare(Spec{Root: base + "/rootfs", Mounts: []Mount{bindMount{path: "/w", source: base + "/data", flat: flat}}}, host)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := p.Template()
		if err != nil {
			t.Fatal(err)
		}
		k, err := plan.Key()
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if key(true) == key(false) {
		t.Error("both have the same key")
	}
}

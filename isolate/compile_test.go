package isolate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files anew")

// tinyHost is a file system with a static program, a dynamic one's data, a
// script and the usual links.
func tinyHost() fstest.MapFS {
	elf := &fstest.MapFile{Data: staticELF(), Mode: 0o755}
	dev := func() *fstest.MapFile { return &fstest.MapFile{Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666} }
	link := func(to string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink | 0o777}
	}
	return fstest.MapFS{
		"usr/bin/true":         elf,
		"usr/bin/id":           elf,
		"usr/bin/mawk":         elf,
		"usr/bin/awk":          link("/etc/alternatives/awk"),
		"etc/alternatives/awk": link("/usr/bin/mawk"),
		"usr/bin/tool":         {Data: []byte("#!/usr/bin/mawk -f\n"), Mode: 0o755},
		"usr/bin/text":         {Data: []byte("no program\n"), Mode: 0o755},
		"usr/bin/plain":        {Data: staticELF(), Mode: 0o644},
		"bin":                  link("usr/bin"),
		"etc/ld.so.cache":      {Mode: 0o644},
		"srv/data":             {Mode: fs.ModeDir | 0o755, Sys: &syscall.Stat_t{Uid: 1001, Gid: 1002}},
		"srv/data/file":        {Mode: 0o644},
		"srv/link":             link("data"),
		"dev/null":             dev(), "dev/zero": dev(), "dev/full": dev(), "dev/random": dev(), "dev/urandom": dev(),
		"loop/a": link("b"), "loop/b": link("a"),
	}
}

// staticELF is the least that debug/elf takes for an executable.
func staticELF() []byte {
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01")
	b.Write(make([]byte, 9))
	for _, v := range []any{uint16(2), uint16(62), uint32(1), uint64(0x400000), uint64(0), uint64(0), uint32(0), uint16(64), uint16(56), uint16(0), uint16(64), uint16(0), uint16(0)} {
		binary.Write(&b, binary.LittleEndian, v)
	}
	return b.Bytes()
}

// TestGoldenPlans: whole plans, for reading. -update writes them anew.
func TestGoldenPlans(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the plans that are kept have amd64's libraries and filter")
	}
	root := Host{Privileged: true, LastCap: 24, Landlock: 7, Files: tinyHost()}
	user := Host{UID: 1234, GID: 1235, LastCap: 24, Files: tinyHost()}
	true_ := Program{Path: "/usr/bin/true", Args: []string{"true"}}
	for name, c := range map[string]struct {
		host    Host
		spec    Spec
		program Program
	}{
		"hardened-root": {root, Spec{}, true_},
		"hardened-user": {user, Spec{}, true_},
		"system":        {user, System(), true_},
		"all": {root, Spec{
			Allow: []string{"/bin/awk"}, Network: NetworkHost, Hostname: "cell", UID: 7, GID: 8, HostUID: 70000, HostGID: 80000, NoJIT: true, Seccomp: SeccompNone,
			Mounts: []Mount{RW("/srv/link"), RO("/usr/bin/id"), Tmpfs("/scratch", 1<<20)}, TmpSize: 1 << 20,
		}, Program{Path: "/usr/bin/tool", Args: []string{"tool", "a b"}, Env: []string{"SECRET=never printed"}, Dir: "/srv/data"}},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "all" {
				c.spec.Allow = append(c.spec.Allow, "/usr/bin/mawk")
			}
			plan, err := Compile(c.spec, c.program, c.host)
			if err != nil {
				t.Fatal(err)
			}
			got := plan.String() + "enforced: " + strings.Join(plan.Enforced, "\nenforced: ") + "\n"
			if strings.Contains(got, "never printed") {
				t.Error("a value of the environment is in the printed plan")
			}
			golden := "testdata/" + name + ".plan"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil || got != string(want) {
				t.Errorf("%s differs (%v); look at the difference after go test ./isolate -update", golden, err)
			}
			if _, err := plan.StageOne.Encode(); err != nil {
				t.Error(err)
			}
			checkEncoding(t, &plan.SetUp)
			checkEncoding(t, &plan.Program)
		})
	}
}

// TestNothingIsOpenWhenTheProgramIsTold: whoever the host is and whatever its kernel has, init's
// set-up ends with 0 to 3 open and Landlock's ruleset. A working directory could be any other.
func TestNothingIsOpenWhenTheProgramIsTold(t *testing.T) {
	opens := []string{"fsmount", "fsopen", "landlock_create_ruleset", "open_tree", "openat", "openat2", "pidfd_open", "recvmsg"}
	opensNone := []string{"capset", "chdir", "clone", "close_range", "execve", "fchdir", "fsconfig", "fstat", "futex", "keyctl", "landlock_add_rule", "landlock_restrict_self", "mkdirat", "mknodat",
		"mount", "mount_setattr", "move_mount", "pivot_root", "prctl", "prlimit64", "rt_sigprocmask", "seccomp", "sethostname", "setsid", "symlinkat", "umask", "umount2", "unshare", "write"}
	for _, host := range []Host{
		{Privileged: true, LastCap: 24, Files: tinyHost()}, {Privileged: true, LastCap: 24, Landlock: 7, Files: tinyHost()},
		{UID: 1234, GID: 1235, LastCap: 24, Files: tinyHost()}, {UID: 1234, GID: 1235, LastCap: 24, Landlock: 7, Files: tinyHost()},
	} {
		for _, spec := range []Spec{{}, System(), {Seccomp: SeccompNone, Network: NetworkHost, Mounts: []Mount{RO("/srv/data"), Tmpfs("/scratch", 1<<20)}}} {
			for _, given := range []Given{{}, {Groups: 3}, {Template: true}, {Groups: 3, Template: true}} {
				profile, err := Prepare(spec.Allowing("/usr/bin/true"), host)
				if err != nil {
					t.Fatal(err)
				}
				plan, err := profile.Plan(Program{Path: "/usr/bin/true", Args: []string{"true"}}, given)
				if err != nil {
					t.Fatal(err)
				}
				open := 1000 // whatever there was
				for _, c := range plan.SetUp.Init {
					switch {
					case c.String() == "close_range(4, 4294967295, 0)":
						open = 0
					case c.Name == "close":
						open--
					case slices.Contains(opens, c.Name):
						open++
					case !slices.Contains(opensNone, c.Name):
						t.Errorf("does %s open something?", c)
					}
				}
				ruleset := 0
				if host.Landlock > 0 {
					ruleset = 1
				}
				if open != ruleset {
					t.Errorf("%+v, %+v: %d descriptors are open after\n%s", host, given, open, &plan.SetUp)
				}
				for _, c := range plan.Program.Child {
					if !slices.Contains(opensNone, c.Name) {
						t.Errorf("does %s open something?", c)
					}
				}
			}
		}
	}
}

// checkEncoding reads an encoded sequence as init does: every pointer leads into
// the buffer, and calls lie where CallAt looks for them.
func checkEncoding(t *testing.T, s *Sequence) {
	t.Helper()
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	word := func(o int) uint64 { return binary.NativeEndian.Uint64(b[o:]) }
	calls := s.Calls()
	if word(headSize) != uint64(len(b)) || word(headParent) != BufferAddress+headEnd+uint64(len(calls))*callSize {
		t.Errorf("header: size %d of %d, end %#x", word(headSize), len(b), word(headParent))
	}
	for i, c := range calls {
		o := headEnd + i*callSize
		if word(o) != uint64(numbers[c.Name]) {
			t.Errorf("call %d has number %d, want %s", i, word(o), c.Name)
		}
		if got := s.CallAt(uint64(BufferAddress + o)); got != c.String() {
			t.Errorf("CallAt(%d) is %s, want %s", i, got, c)
		}
		for j, a := range c.Args {
			v := word(o + callArgs + 8*j)
			pointer := a.block != nil || a.result != nil
			if inside := v >= BufferAddress && v < BufferAddress+uint64(len(b)); pointer && !inside {
				t.Errorf("%s: argument %d is %#x, outside of the buffer", c, j, v)
			}
			if load := word(o+callLoads)>>j&1 == 1; load != a.load {
				t.Errorf("%s: argument %d: load is %v", c, j, load)
			}
		}
	}
}

func TestBadSpecs(t *testing.T) {
	host := Host{Files: tinyHost(), UID: 1000, GID: 1000}
	good := Program{Path: "/usr/bin/true", Args: []string{"true"}}
	with := func(change func(*Program)) Program {
		p := good
		change(&p)
		return p
	}
	for _, c := range []struct {
		name    string
		spec    Spec
		program Program
		text    string
		is      error
	}{
		{"relative program", Spec{}, with(func(p *Program) { p.Path = "true" }), "not an absolute path", nil},
		{"empty program", Spec{}, with(func(p *Program) { p.Path = "" }), "not an absolute path", nil},
		{"NUL in program", Spec{}, with(func(p *Program) { p.Path = "/a\x00" }), "NUL", nil},
		{"NUL in argument", Spec{}, with(func(p *Program) { p.Args = []string{"a", "b\x00"} }), "argument 1 contains a NUL", nil},
		{"no argv[0]", Spec{}, with(func(p *Program) { p.Args = nil }), "argv[0]", nil},
		{"environment without =", Spec{}, with(func(p *Program) { p.Env = []string{"A"} }), "NAME=value", nil},
		{"environment without name", Spec{}, with(func(p *Program) { p.Env = []string{"=1"} }), "NAME=value", nil},
		{"relative directory", Spec{}, with(func(p *Program) { p.Dir = "x" }), "working directory", nil},
		{"long path", Spec{}, with(func(p *Program) { p.Path = "/" + strings.Repeat("x", 5000) }), "", unix.ENAMETOOLONG},
		{"no such program", Spec{}, with(func(p *Program) { p.Path = "/usr/bin/none" }), "/usr/bin/none", fs.ErrNotExist},
		{"links in a circle", Spec{}, with(func(p *Program) { p.Path = "/loop/a" }), "", unix.ELOOP},
		{"not executable", Spec{}, with(func(p *Program) { p.Path = "/usr/bin/plain" }), "", fs.ErrPermission},
		{"no program at all", Spec{}, with(func(p *Program) { p.Path = "/usr/bin/text" }), "", unix.ENOEXEC},
		{"script without its interpreter", Spec{}, with(func(p *Program) { p.Path = "/usr/bin/tool" }), "its interpreter /usr/bin/mawk is a program as well", fs.ErrPermission},
		{"mount of the root", Spec{Mounts: []Mount{RW("/")}}, good, "root of the host", nil},
		{"mount in proc", Spec{Mounts: []Mount{RO("/proc/1")}}, good, "belongs to the profile", nil},
		{"mount that is not there", Spec{Mounts: []Mount{RO("/nowhere")}}, good, "/nowhere", fs.ErrNotExist},
		{"relative mount", Spec{Mounts: []Mount{RW("x")}}, good, "not an absolute path", nil},
		{"mount nil", Spec{Mounts: []Mount{nil}}, good, "nil", nil},
		{"tmpfs of nothing", Spec{Mounts: []Mount{Tmpfs("/x", 0)}}, good, "size", nil},
		{"uid", Spec{UID: -1}, good, "UID", nil},
		{"need that is not there", Spec{Needs: []string{"/usr/lib/none*"}}, good, "need /usr/lib/none*", fs.ErrNotExist},
		{"relative need", Spec{Needs: []string{"lib"}}, good, "not an absolute path", nil},
		{"bad pattern", Spec{Needs: []string{"/usr/[]"}}, good, "need /usr/[]", path.ErrBadPattern},
		{"need of a device", Spec{Needs: []string{"/dev/null"}}, good, "belongs to the profile", nil},
		{"pin that is none", Spec{SHA256: map[string]string{"/usr/bin/true": "ab"}}, good, "64 hexadecimal digits", nil},
		{"pin of another program", Spec{SHA256: map[string]string{"/usr/bin/id": strings.Repeat("0", 64)}}, good, "is no allowed program", nil},
		{"another content", Spec{SHA256: map[string]string{"/bin/true": strings.Repeat("0", 64)}}, good, "/bin/true has SHA-256 ", nil},
		{"another id, without being root", Spec{HostUID: 70000, HostGID: 1000}, good, "run the host as root", unix.EPERM},
		{"another group, without being root", Spec{HostGID: 70000}, good, "one id, 1000:1000", unix.EPERM},
		{"hostname", Spec{Hostname: strings.Repeat("h", 65)}, good, "hostname", nil},
		{"read-only and writable", Spec{Mounts: []Mount{RO("/srv/data"), RW("/srv/data/")}}, Program{Path: "/usr/bin/true"}, "both read-only and writable", nil},
		{"no such network", Spec{Network: 7}, Program{Path: "/usr/bin/true"}, "there is no network 7", nil},
		{"two faults", Spec{UID: -1}, with(func(p *Program) { p.Path = "true" }), "UID", nil},
		{"two faults, the other", Spec{UID: -1}, with(func(p *Program) { p.Path = "true" }), "not an absolute path", nil},
	} {
		_, err := Compile(c.spec, c.program, host)
		if err == nil || !strings.Contains(err.Error(), c.text) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && strings.Contains(err.Error(), "bug") {
			t.Errorf("%s: a user's mistake is called a bug: %v", c.name, err)
		}
	}
}

// elfWith is a 64-bit ELF file of a type, with interpreters.
func elfWith(kind uint16, interpreters ...string) []byte {
	const header, segment = 64, 56
	machine := uint16(62)
	if runtime.GOARCH == "arm64" {
		machine = 183
	}
	var b, names bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01")
	b.Write(make([]byte, 9))
	for _, v := range []any{kind, machine, uint32(1), uint64(0x400000), uint64(header), uint64(0), uint32(0), uint16(header), uint16(segment), uint16(len(interpreters)), uint16(64), uint16(0), uint16(0)} {
		binary.Write(&b, binary.LittleEndian, v)
	}
	at := uint64(header + segment*len(interpreters))
	for _, name := range interpreters {
		offset, n := at+uint64(names.Len()), uint64(len(name)+1)
		for _, v := range []any{uint32(3), uint32(4), offset, offset, offset, n, n, uint64(1)} {
			binary.Write(&b, binary.LittleEndian, v)
		}
		names.WriteString(name + "\x00")
	}
	return append(b.Bytes(), names.Bytes()...)
}

// TestAProgramDoesNotChooseItsView: what an ELF file says of itself makes its
// dynamic linker visible and nothing else.
func TestAProgramDoesNotChooseItsView(t *testing.T) {
	const executable, shared = 2, 3
	files := tinyHost()
	add := func(name string, data []byte) { files[name] = &fstest.MapFile{Data: data, Mode: 0o755} }
	add("lib64/ld.so", elfWith(shared))
	add("usr/bin/static", elfWith(executable))
	add("usr/bin/pie", elfWith(shared, "/lib64/ld.so"))
	add("etc/secret", []byte("secret"))
	add("lib64/not-a-linker", elfWith(shared, "/lib64/ld.so"))
	host := Host{Files: files, UID: 1000, GID: 1000}
	for name, c := range map[string]struct {
		interpreters []string
		is           error
	}{
		"a linker":           {[]string{"/lib64/ld.so"}, nil},
		"a text":             {[]string{"/etc/secret"}, unix.ENOEXEC},
		"a directory":        {[]string{"/etc"}, unix.ENOEXEC},
		"proc":               {[]string{"/proc"}, unix.ENOEXEC},
		"another program":    {[]string{"/usr/bin/static"}, unix.ENOEXEC},
		"another, as PIE":    {[]string{"/lib64/not-a-linker"}, unix.ENOEXEC},
		"two, the last good": {[]string{"/etc/secret", "/lib64/ld.so"}, unix.ENOEXEC},
		"a device":           {[]string{"/dev/null"}, unix.ENOEXEC},
		"relative":           {[]string{"ld.so"}, unix.ENOEXEC},
	} {
		add("usr/bin/evil", elfWith(executable, c.interpreters...))
		plan, err := Compile(Spec{}, Program{Path: "/usr/bin/evil", Args: []string{"evil"}}, host)
		if c.is == nil {
			if err != nil || !strings.Contains(plan.String(), "/lib64/ld.so") {
				t.Errorf("%s: %v", name, err)
			}
		} else if !errors.Is(err, c.is) {
			t.Errorf("%s: %v, want %v", name, err, c.is)
		}
	}
}

// TestMountsFollowNoLinkIntoTheProfile, nor put a program where it can be written.
func TestMountsThatAreRefused(t *testing.T) {
	files := tinyHost()
	files["srv/proc"] = &fstest.MapFile{Data: []byte("/proc"), Mode: fs.ModeSymlink | 0o777}
	files["proc/1/status"] = &fstest.MapFile{Mode: 0o444}
	files["srv/data/link"] = &fstest.MapFile{Data: []byte("/usr/bin/true"), Mode: fs.ModeSymlink | 0o777}
	files["srv/data/dir"] = &fstest.MapFile{Data: []byte("/usr/bin"), Mode: fs.ModeSymlink | 0o777}
	files["srv/data/tool"] = &fstest.MapFile{Data: staticELF(), Mode: 0o755}
	host := Host{Files: files, UID: 1000, GID: 1000}
	for text, c := range map[string]struct {
		mount   Mount
		program string
	}{
		"belongs to the profile":           {RO("/srv/proc"), "/usr/bin/true"},
		"lies in /srv/data":                {RW("/srv/data"), "/srv/data/tool"},
		"belongs to the profile ":          {RO("/srv/proc/1"), "/usr/bin/true"},
		"what can be written must not be ": {RW("/usr"), "/usr/bin/true"},
		"/srv/data/link decides what is":   {RW("/srv/data"), "/srv/data/link"},
		"/srv/data/dir decides what is":    {RW("/srv/data"), "/srv/data/dir/true"},
	} {
		_, err := Compile(Spec{Mounts: []Mount{c.mount}}, Program{Path: c.program, Args: []string{"x"}}, host)
		if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(text)) {
			t.Errorf("%v: %v, want …%s…", c.mount, err, text)
		}
	}
}

// TestNeeds: data, in which libraries and nothing else can be loaded; no program
// is made of a library.
func TestNeeds(t *testing.T) {
	const executable, shared = 2, 3
	files := tinyHost()
	add := func(name string, data []byte) { files[name] = &fstest.MapFile{Data: data, Mode: 0o755} }
	add("usr/lib/foo/plugin.so", elfWith(shared))
	add("usr/lib/foo/deep/module", elfWith(shared)) // by content, not by name
	add("usr/lib/foo/helper", elfWith(executable))
	add("usr/lib/foo/script.so", []byte("#!/usr/bin/mawk\n"))
	add("usr/lib/foo/text", []byte("text"))
	add("usr/lib/bar.so.1", elfWith(shared))
	plan, err := Compile(Spec{Needs: []string{"/usr/lib/foo", "/usr/lib/b*.so.*"}}, Program{Path: "/usr/bin/true", Args: []string{"true"}}, Host{Privileged: true, Landlock: 7, Files: files})
	if err != nil {
		t.Fatal(err)
	}
	rights := map[string]string{}
	text := plan.String()
	for i, tree := range plan.Trees {
		_, call, _ := strings.Cut(text, fmt.Sprintf("mount_setattr(<tree %d>, \"\", AT_EMPTY_PATH|AT_RECURSIVE, {attr_set=", i))
		rights[tree.Path], _, _ = strings.Cut(call, ",")
	}
	const data, library = "MOUNT_ATTR_NOSUID|MOUNT_ATTR_RDONLY|MOUNT_ATTR_NODEV|MOUNT_ATTR_NOEXEC", "MOUNT_ATTR_NOSUID|MOUNT_ATTR_RDONLY|MOUNT_ATTR_NODEV"
	for name, want := range map[string]string{
		"/usr/lib/foo": data, "/usr/lib/foo/plugin.so": library, "/usr/lib/foo/deep/module": library, "/usr/lib/bar.so.1": library,
		"/usr/lib/foo/helper": "", "/usr/lib/foo/script.so": "", "/usr/lib/foo/text": "", "/usr/bin/true": library,
	} {
		if rights[name] != want {
			t.Errorf("%s: %q, want %q", name, rights[name], want)
		}
	}
	if strings.Contains(text, `openat(AT_FDCWD, "/usr/lib/foo`) || !strings.Contains(text, `openat(AT_FDCWD, "/usr/bin/true", O_PATH`) {
		t.Error("a library may be executed, or the program may not")
	}
}

// FuzzLinkerCache: whatever the file holds, parsing ends and gives absolute paths.
func FuzzLinkerCache(f *testing.F) {
	if b, err := os.ReadFile("/etc/ld.so.cache"); err == nil {
		f.Add(b[:min(len(b), 4096)])
	}
	f.Add([]byte("glibc-ld.so.cache1.1\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, names := range parseLinkerCache(b) {
			for _, n := range names {
				if !strings.HasPrefix(n, "/") {
					t.Errorf("%q", n)
				}
			}
		}
	})
}

// TestLinksInMounts: a link of root's is followed, one that a program may have
// made, or that lies where a program may rename, is not.
func TestLinksInMounts(t *testing.T) {
	files := tinyHost()
	link := func(to string, uid uint32) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink | 0o777, Sys: &syscall.Stat_t{Uid: uid}}
	}
	dir := func(mode fs.FileMode, uid uint32) *fstest.MapFile {
		return &fstest.MapFile{Mode: fs.ModeDir | mode, Sys: &syscall.Stat_t{Uid: uid}}
	}
	files["m/roots"], files["m/roots/link"] = dir(0o755, 0), link("/srv/data", 0)
	files["m/roots/others"] = link("/srv/data", 65534)
	files["m/sticky"], files["m/sticky/link"] = dir(fs.ModeSticky|0o777, 0), link("/srv/data", 0)
	files["m/open"], files["m/open/link"] = dir(0o777, 0), link("/srv/data", 0)
	files["m/others"], files["m/others/link"] = dir(0o755, 1000), link("/srv/data", 0)
	files["m/others/roots"], files["m/others/roots/link"] = dir(0o755, 0), link("/srv/data", 0)
	files["m/roots/out"] = link("/m/others/link", 0)
	for _, host := range []Host{{Files: files, UID: 1000, GID: 1000}, {Files: files, Privileged: true}} {
		for name, follow := range map[string]bool{
			"/m/roots/link": true, "/m/roots/../roots/link/file": true, "/m/sticky/link": true,
			"/m/roots/others": false, "/m/open/link": false, "/m/others/link": false, "/m/others/roots/link": false, "/m/roots/out": false,
		} {
			for _, m := range []Mount{RO(name), RW(name)} {
				_, err := Compile(Spec{Mounts: []Mount{m}}, Program{Path: "/usr/bin/true", Args: []string{"true"}}, host)
				if follow && err != nil || !follow && (!errors.Is(err, unix.ELOOP) || !strings.Contains(err.Error(), "name what it leads to")) {
					t.Errorf("%v: %v", m, err)
				}
			}
			_, err := Prepare(Spec{Root: name}, host)
			if refused := errors.Is(err, unix.ELOOP); refused == follow {
				t.Errorf("the root %s: %v", name, err)
			}
		}
	}
}

// TestWhoHandsNothingOut: who could hand out what holds a network namespace has one of its own.
func TestWhoHandsNothingOut(t *testing.T) {
	files := tinyHost()
	files["run/socket"] = &fstest.MapFile{Mode: fs.ModeSocket | 0o666}
	files["usr/share/job"] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	for what, c := range map[string]struct {
		spec Spec
		want bool
	}{
		"hardened":                 {Spec{}, true},
		"all of /usr":              {Spec{View: ViewSystem}, true},
		"a file":                   {Spec{Mounts: []Mount{RO("/srv/data/file")}}, true},
		"a directory in memory":    {Spec{Mounts: []Mount{Tmpfs("/job", 4096)}}, true},
		"a directory":              {Spec{Mounts: []Mount{RO("/srv/data")}}, false},
		"a socket":                 {Spec{Mounts: []Mount{RO("/run/socket")}}, false},
		"a writable one of /usr's": {Spec{Mounts: []Mount{RW("/usr/share/job")}}, false},
		"a root":                   {Spec{Root: "/srv"}, false},
		"no filter":                {Spec{Seccomp: SeccompNone}, false},
		"the host's network":       {Spec{Network: NetworkHost}, false},
	} {
		for _, host := range []Host{{Privileged: true, Files: files}, {Files: files, UID: 1000, GID: 1000}} {
			program := "/usr/bin/true"
			if c.spec.Root != "" {
				program, files["srv/true"] = "/true", files["usr/bin/true"]
			}
			plan, err := Compile(c.spec, Program{Path: program, Args: []string{"true"}}, host)
			if err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			if want := c.want && host.Privileged; plan.NothingOutlives != want {
				t.Errorf("%s, root %v: %v", what, host.Privileged, plan.NothingOutlives)
			}
		}
	}
}

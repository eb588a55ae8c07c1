package isolate

import (
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// ociHost has a bundle in /srv/bundle.
func ociHost() Host {
	files := tinyHost()
	link := func(to string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink | 0o777}
	}
	for _, name := range []string{"hosts", "passwd", "group", "hostname"} {
		files["srv/bundle/rootfs/etc/"+name] = &fstest.MapFile{Mode: 0o644}
		files["var/lib/containers/storage/c1/userdata/"+name] = &fstest.MapFile{Mode: 0o644}
	}
	for name, f := range map[string]*fstest.MapFile{
		"rootfs/usr/bin/tool":    {Data: staticELF(), Mode: 0o755},
		"rootfs/usr/bin/busybox": {Data: staticELF(), Mode: 0o755},
		"rootfs/usr/bin/sh":      link("/bin/busybox"),
		"rootfs/bin":             link("usr/bin"),
		"rootfs/run/old":         {Mode: 0o644},
		"rootfs/var/run":         link("/run"),
		"rootfs/var/cache/x":     {Mode: 0o644},
		"rootfs/var/mail/x":      {Mode: 0o644},
		"rootfs/var/tmp/x":       {Mode: 0o644},
		"rootfs/escape":          link("../../../../usr/bin"),
		"rootfs/tmp/hidden":      {Data: staticELF(), Mode: 0o755},
		"data/file":              {Mode: 0o644},
		"data/tool":              {Data: staticELF(), Mode: 0o755},
	} {
		files["srv/bundle/"+name] = f
	}
	files["usr/bin/outside"] = &fstest.MapFile{Data: staticELF(), Mode: 0o755}
	files["usr/share/doc/x"] = &fstest.MapFile{Mode: 0o644}
	return Host{Privileged: true, LastCap: 24, Files: files}
}

const ociBundle = "/srv/bundle"

func accepted(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/oci/accepted.json")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOCIIsCarriedOut(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the plan that is kept has amd64's libraries and filter")
	}
	got, err := FromOCI(accepted(t), ociBundle, ociHost())
	if err != nil {
		t.Fatal(err)
	}
	want := &OCI{
		Spec: Spec{
			Root: "/srv/bundle/rootfs", Hostname: "stage", UID: 1234, GID: 1235, HostUID: 70000, HostGID: 80000,
			Rlimits: Rlimits{OpenFiles: 100, Processes: 50, FileSize: 1 << 20},
			Mounts: []Mount{
				tmpfsMount{"/dev/shm", 64 << 20, 0o1777},
				tmpfsMount{"/run", 1 << 20, 0o700},
				bindMount{path: "/run/data/file", source: "/srv/bundle/data/file"},
				tmpfsMount{"/var/cache", 4096, 0},
				bindMount{path: "/var/mail", source: "/srv/bundle/data", flat: true},
				bindMount{path: "/job", source: "/srv/bundle/data", writable: true},
			},
		},
		Program:     Program{Path: "/bin/tool", Args: []string{"tool", "-v", ""}, Env: []string{"PATH=relative::/nowhere:/bin", "A=b=c"}, Dir: "/job"},
		Resources:   Resources{Memory: 64 << 20, CPUQuota: 50 * time.Millisecond, CPUPeriod: 200 * time.Millisecond, Pids: 20},
		Annotations: map[string]string{"org.example.who": "me"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	plan, err := Compile(got.Spec, got.Program, ociHost())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/oci/accepted.plan", plan.String()+"enforced: "+strings.Join(plan.Enforced, "\nenforced: ")+"\n")
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(name); err != nil || got != string(want) {
		t.Errorf("%s differs (%v); look at the difference after go test ./isolate -update:\n%s", name, err, got)
	}
}

// TestOCIOfOthers: what engines write parses, and is refused by name.
func TestOCIOfOthers(t *testing.T) {
	names, _ := filepath.Glob("testdata/oci/*.json")
	if len(names) < 5 {
		t.Fatalf("only %d files", len(names))
	}
	for _, name := range names {
		if filepath.Base(name) == "accepted.json" {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, err = FromOCI(b, ociBundle, ociHost())
		if err == nil {
			t.Errorf("%s is accepted", name)
			continue
		}
		golden(t, strings.TrimSuffix(name, ".json")+".refused", err.Error()+"\n")
	}
}

// TestOCIRefuses: changes to the accepted file, each with the name and a word of
// its refusal.
func TestOCIRefuses(t *testing.T) {
	for _, c := range []struct{ old, new, path, text string }{
		{`"hostname": "stage"`, `"hostName": "stage"`, "hostName", "unknown"},
		{`"args": [`, `"Args": [`, "process.Args", "unknown"},
		{`"cwd": "/job"`, `"cwd": "/job", "cwd": "/job"`, "process.cwd", "twice"},
		{`"org.example.who": "me"`, `"x": "1", "x": "2"`, `annotations["x"]`, "twice"},
		{`"terminal": false`, `"terminal": null`, "process.terminal", "null"},
		{`["tool", "-v", ""]`, `["tool", null]`, "process.args[1]", "null"},
		{`"A=b=c"`, `"A=\ud800"`, "process.env[1]", "UTF-8"},
		{`"A=b=c"`, `"A"`, "process.env[1]", "NAME=value"},
		{`["tool", "-v", ""]`, `[]`, "process.args", "no program"},
		{`["tool", "-v", ""]`, `["a\u0000"]`, "process.args[0]", "NUL"},
		{`:/bin"`, `:/sbin"`, "process.args[0]", "PATH"},
		{`"uid": 1234`, `"uid": -1`, "process.user.uid", "does not fit"},
		{`"args": [`, `"args": "tool", "x": [`, "process.args", "does not fit"},
		{`"uid": 1234`, `"uid": 0`, "process.user.uid", "root"},
		{`"umask": 18`, `"umask": 0`, "process.user.umask", "022"},
		{`[1235]`, `[1235, 4]`, "process.user.additionalGids[1]", "one group"},
		{`"bounding": []`, `"bounding": ["CAP_KILL"]`, "process.capabilities", "none"},
		{`"RLIMIT_NPROC"`, `"RLIMIT_NOFILE"`, "process.rlimits[1].type", "twice"},
		{`"RLIMIT_NPROC"`, `"RLIMIT_CPU"`, "process.rlimits[1].type", "RLIMIT_CPU"},
		{`"soft": 100`, `"soft": 10`, "process.rlimits[0].soft", "same as hard"},
		{`"hard": 65536`, `"hard": 65537`, "process.rlimits[4].soft", "same"},
		{`"noNewPrivileges": true`, `"noNewPrivileges": false`, "process.noNewPrivileges", "true"},
		{`"readonly": true`, `"readonly": false`, "root.readonly", "executed"},
		{`"path": "rootfs"`, `"path": "/"`, "root.path", "cannot be shown"},
		{`"path": "rootfs"`, `"path": "none"`, "root.path", "not exist"},
		{`"path": "rootfs"`, `"path": "data/file"`, "root.path", "not a directory"},
		{`"path": "rootfs"`, `"path": "/proc/1/root"`, "root.path", ""},
		{`"options": ["nosuid", "noexec", "nodev"]`, `"options": ["rw"]`, "mounts[0].options[0]", "rw"},
		{`"mode=755", "size=65536k"`, `"mode=777"`, "mounts[1].options[2]", "mode=777"},
		{`"source": "shm"`, `"source": "x"`, "mounts[2].source", "means nothing"},
		{`"noexec", "size=1m"`, `"size=1m"`, "mounts[3].options", "noexec"},
		{`"noexec", "size=1m"`, `"noexec", "exec", "size=1m"`, "mounts[3].options[1]", "exec"},
		{`"noexec", "size=1m"`, `"noexec"`, "mounts[3].options", "size="},
		{`"size=1m"`, `"size=1m", "size=2m"`, "mounts[3].options[2]", "twice"},
		{`"size=1m"`, `"size=50%"`, "mounts[3].options[1]", "50%"},
		{`"size=1m"`, `"size=0"`, "mounts[3].options[1]", "0"},
		{`"size=1m"`, `"size=99999999999g"`, "mounts[3].options[1]", "size"},
		{`"mode=0700"`, `"mode=4777"`, "mounts[3].options[2]", "4777"},
		{`"rbind", "ro"`, `"rbind", "shared", "ro"`, "mounts[4].options[1]", "shared"},
		{`"rbind", "ro"`, `"rbind", "rw", "ro"`, "mounts[4].options", "ro and rw"},
		{`"rbind", "ro"`, `"rbind", "suid", "ro"`, "mounts[4].options[1]", "suid"},
		{`"data/file", `, `"data/none", `, "mounts[4].source", "not exist"},
		{`"source": "data/file"`, `"source": "/dev/null"`, "mounts[4].source", "belongs"},
		{`"source": "data/file"`, `"source": "/"`, "mounts[4].source", "root of the host"},
		{`"destination": "/var/cache"`, `"destination": "/var/none"`, "mounts[5].destination", "make it there"},
		{`"destination": "/var/cache"`, `"destination": "/sys/x"`, "mounts[5].destination", "belongs"},
		{`"destination": "/var/cache"`, `"destination": "/var/run"`, "mounts[5].destination", "already"},
		{`"destination": "/var/mail"`, `"destination": "/var"`, "mounts[6].destination", "hide"},
		{`"destination": "/var/mail"`, `"destination": "/proc"`, "mounts[6].destination", "belongs"},
		{`"type": "proc"`, `"type": "sysfs"`, "mounts[0].type", "sysfs"},
		{`"destination": "/dev/shm"`, `"destination": "/dev"`, "mounts[2].destination", "already"},
		{`"destination": "/var/mail"`, `"destination": "var/mail"`, "mounts[6].destination", "absolute"},
		{`"destination": "/job", "type": "none"`, `"destination": "/job", "type": "overlay"`, "mounts[7].type", "overlay"},
		{`"destination": "/job", "type": "none"`, `"destination": "/job", "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]`, "mounts[7].uidMappings[0].size", "not carried out"},
		{`{"type": "pid"}`, `{"type": "pid", "path": "/proc/1/ns/pid"}`, "linux.namespaces[0].path", "joins none"},
		{`{"type": "pid"}`, `{"type": "time"}`, "linux.namespaces[0].type", "time"},
		{`{"type": "pid"}`, `{"type": "uts"}`, "linux.namespaces[3].type", "twice"},
		{`{"type": "user"}, `, ``, "linux.namespaces", "no user"},
		{`"hostID": 70000`, `"hostID": 0`, "linux.uidMappings[0].hostID", "root"},
		{`"containerID": 1235`, `"containerID": 1`, "linux.gidMappings[0].containerID", "1235"},
		{`"hostID": 70000, "size": 1`, `"hostID": 70000, "size": 2`, "linux.uidMappings[0].size", "one id"},
		{`"/proc/acpi"`, `"/proc/1"`, "linux.maskedPaths[0]", "/proc/1"},
		{`"/proc/acpi"`, `"/proc/self/maps"`, "linux.maskedPaths[0]", "self"},
		{`"/proc/acpi"`, `"/proc/x/../self/maps"`, "linux.maskedPaths[0]", "self"},
		{`"/proc/acpi"`, `"/proc"`, "linux.maskedPaths[0]", "not carried out"},
		{`"/proc/acpi"`, `"/etc"`, "linux.maskedPaths[0]", "not carried out"},
		{`"/proc/sys"`, `"/job/x"`, "linux.readonlyPaths[0]", "the mount /job"},
		{`"/proc/sys"`, `"/job"`, "linux.readonlyPaths[0]", "the mount /job"},
		{`"/proc/sys"`, `"/var/mail/x"`, "linux.readonlyPaths[0]", "the mount /var/mail"},
		{`"/proc/sys"`, `"/nowhere/../dev"`, "linux.readonlyPaths[0]", "the mount /dev/shm"},
		{`"/proc/sys"`, `"/var/run/x"`, "linux.readonlyPaths[0]", "the mount /run"},
		{`"/proc/sys"`, `"/"`, "linux.readonlyPaths[0]", "around it"},
		{`"swap": 67108864`, `"swap": 67108865`, "linux.resources.memory.swap", "same as limit"},
		{`"limit": 67108864`, `"limit": -1`, "linux.resources.memory.limit", "-1"},
		{`"disableOOMKiller": false`, `"disableOOMKiller": true`, "linux.resources.memory.disableOOMKiller", ""},
		{`"quota": 50000, `, ``, "linux.resources.cpu.period", "without quota"},
		{`"quota": 50000`, `"quota": -1`, "linux.resources.cpu.quota", "above 0"},
		{`"quota": 50000`, `"quota": 50000, "shares": 0`, "linux.resources.cpu.shares", "not carried out"},
		{`{"limit": 20}`, `{"limit": 0}`, "linux.resources.pids.limit", "0"},
		{`"allow": false`, `"allow": true`, "linux.resources.devices[0]", "null, zero"},
		{`"rprivate",`, `"rshared",`, "linux.rootfsPropagation", ""},
		{`"annotations"`, `"hooks": {}, "annotations"`, "hooks", "remove"},
		{`"annotations"`, `"windows": {}, "annotations"`, "windows", "platform"},
		{`"linux": {`, `"linux": {"sysctl": {"a.b": "1"},`, `linux.sysctl["a.b"]`, "not carried out"},
		{`"linux": {`, `"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},`, `linux.seccomp`, "hardened"},
		{`"linux": {`, `"linux": {"intelRdt": {"closID": "x"},`, `linux.intelRdt.closID`, "not carried out"},
		{`"ociVersion": "1.2.0"`, `"ociVersion": "2.0.0"`, "ociVersion", "2.0.0"},
	} {
		b := strings.Replace(string(accepted(t)), c.old, c.new, 1)
		if b == string(accepted(t)) {
			t.Errorf("%s is not in the file", c.old)
		}
		_, err := FromOCI([]byte(b), ociBundle, ociHost())
		if !refused(err, c.path, c.text) {
			t.Errorf("%s: want %s: …%s…, got %v", c.new, c.path, c.text, err)
		}
	}
}

// refused says whether the error names path, alone or with what holds it.
func refused(err error, path, text string) bool {
	if err == nil {
		return false
	}
	for line := range strings.Lines(err.Error()) {
		if rest, ok := strings.CutPrefix(line, path+": "); ok && strings.Contains(rest, text) {
			return true
		}
	}
	return false
}

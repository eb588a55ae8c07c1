package cgroup

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLayoutOfAHybridHost, from captured files.
func TestParseLayout(t *testing.T) {
	const pure = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	l := parseLayout([]byte(pure), []byte("0::/user.slice/user-1000.slice/app.slice/x.service\n"))
	if l.unified == nil || l.unified.dir() != "/sys/fs/cgroup/user.slice/user-1000.slice/app.slice/x.service" || len(l.legacy) != 0 {
		t.Errorf("%+v", l)
	}
	// A container without a control group namespace: the mount shows a subtree.
	const contained = "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
	l = parseLayout([]byte(contained), []byte("0::/docker/abc/job\n"))
	if l.unified == nil || l.unified.dir() != "/sys/fs/cgroup/job" {
		t.Errorf("%+v", l.unified)
	}
	l = parseLayout([]byte(contained), []byte("0::/docker/abc\n"))
	if l.unified == nil || l.unified.dir() != "/sys/fs/cgroup" {
		t.Errorf("%+v", l.unified)
	}
	// A mount that shows somebody else's subtree is of no use.
	if l = parseLayout([]byte(contained), []byte("0::/docker/abcdef\n")); l.unified != nil {
		t.Errorf("%+v", l.unified)
	}
	odd := strings.Replace(pure, "/sys/fs/cgroup", `/mnt/a\040b\134c`, 1)
	if l = parseLayout([]byte(odd), []byte("0::/\n")); l.unified == nil || l.unified.mount != `/mnt/a b\c` {
		t.Errorf("%+v", l.unified)
	}
	for _, junk := range []string{"", "\n", "1 2 3\n", "a - b\n", strings.Repeat("x ", 100) + "- cgroup2\n"} {
		if l = parseLayout([]byte(junk), []byte(junk)); l.unified != nil || len(l.legacy) != 0 {
			t.Errorf("%q: %+v", junk, l)
		}
	}
}

func TestOutOfSupervisor(t *testing.T) {
	for group, want := range map[string]string{
		"/a/proscenium-0-9-8-1-2/supervisor": "/a",
		"/proscenium-0-9-8-1-2/supervisor":   "/",
		"/a/supervisor":                      "/a/supervisor",
		"/a/proscenium-0-9-8-1-2/1-sort":     "/a/proscenium-0-9-8-1-2/1-sort",
		"/":                                  "/",
	} {
		if h := outOfSupervisor(hierarchy{group: group}); h.group != want {
			t.Errorf("%s: %s, want %s", group, h.group, want)
		}
	}
}

func TestOnlyTheDeadAreAbandoned(t *testing.T) {
	mine, err := instanceName(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(mine, "-")
	named := func(parts ...string) string { return namePrefix + strings.Join(parts, "-") }
	for name, want := range map[string]bool{
		mine: false,
		// Another boot, another start of a process with this id: that one is dead.
		named("00000000", parts[2], parts[3], parts[4], parts[5]): true,
		named("00000000", "1", "1", parts[4], parts[5]):           true,
		named(parts[1], parts[2], parts[3], parts[4], "1"):        true,
		named(parts[1], parts[2], parts[3], "4194300", "1"):       true,
		// In another pid namespace the id may be a living process's, and in another
		// time namespace the start another number.
		named(parts[1], "1", parts[3], "4194300", "1"): false,
		named(parts[1], parts[2], "1", parts[4], "1"):  false,
		"proscenium":                false,
		"proscenium-":               false,
		"proscenium-a-b-c-d-e":      false,
		"proscenium-a-1-1-0-1":      false,
		"proscenium-a-1-1--5-1":     false,
		"someone-else-1-2-3-4":      false,
		"proscenium-a-1-1-1-1-more": false,
		"proscenium-a-4194300-1":    false,
		"supervisor":                false,
	} {
		if got := abandoned(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

// TestTheLivingElsewhere: who sees this process's start as another number, or does
// not see this process at all, does not take it for dead.
func TestTheLivingElsewhere(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("namespaces with another clock, and mounts of /proc, are root's to make")
	}
	name, err := instanceName(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	clock := exec.Command("unshare", "--time", "--boottime", "100000", "--fork", self)
	hidden := exec.Command("unshare", "--mount", "sh", "-c", `mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$0"`, self)
	for what, cmd := range map[string]*exec.Cmd{"another clock": clock, "hidepid": hidden} {
		cmd.Env = append(os.Environ(), judgeVariable+"="+name)
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "false\n" {
			t.Errorf("%s: abandoned: %s, %v", what, out, err)
		}
	}
}

func TestLimitsCheck(t *testing.T) {
	if err := (Limits{}).Check(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for text, l := range map[string]Limits{
		"memory limit": {Memory: 4096},
		// What was written, not what it would be rounded to; the bound that it breaks,
		// and nothing that only follows from that.
		"memory limit 1: at least 1048576 bytes":                     {Memory: 1},
		"memory limit 5000: at least":                                {Memory: 5000},
		"memory limit 9223372036854775807: at most 2305843009213693": {Memory: math.MaxInt64},
		"cpu limit NaN: between 0.01 and 10000 cores":                {CPU: math.NaN()},
		"cpu limit 1e+30: between":                                   {CPU: 1e30},
		"pids limit 5000000: at most 4194304":                        {Pids: 5e6},
		"cpu limit":                                                  {CPU: -1},
		"cpu limit 1e+":                                              {CPU: 1e9},
		"cpu period":                                                 {CPUPeriod: time.Minute},
		"least is 1ms":                                               {CPU: 0.01, CPUPeriod: time.Millisecond},
		"pids limit":                                                 {Pids: 1},
		"no rate":                                                    {IO: []IOLimit{{Device: "/dev/vda"}}},
		"negative":                                                   {IO: []IOLimit{{Device: "8:0", Read: -1}}},
		"absolute path":                                              {IO: []IOLimit{{Device: "vda", Read: 1}}},
		"given twice":                                                {IO: []IOLimit{{Device: "8:0", Read: 1}, {Device: "8:0", Write: 1}}},
		"at most 64":                                                 {IO: make([]IOLimit, 65)},
	} {
		if err := l.Check(); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%+v: %v, want …%s…", l, err, text)
		} else if l.IO == nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: one fault is said as several: %v", l, err)
		}
	}
}

// TestSwapThatNobodyCounts: on a v1 host that swaps, a memory limit holds only where
// the kernel accounts swap to groups.
func TestSwapThatNobodyCounts(t *testing.T) {
	defer func(path string) { swaps = path }(swaps)
	swaps = filepath.Join(t.TempDir(), "swaps")
	const none = "Filename Type Size Used Priority\n"
	for text, swapping := range map[string]bool{none: false, none + "/dev/vdb partition 1024 0 -2\n": true} {
		if err := os.WriteFile(swaps, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l := Limits{}.WithDefaults()
		if _, err := l.legacySettings(func(string) file { return file{} }, []string{combined}); err != nil {
			t.Errorf("%q, accounted: %v", text, err)
		}
		if _, err := l.legacySettings(func(string) file { return file{} }, nil); (err != nil) != swapping {
			t.Errorf("%q, not accounted: %v", text, err)
		}
	}
}

func TestField(t *testing.T) {
	text := []byte("usage_usec 12\nuser_usec 7\nusage 3\nbad x\nlast 9")
	for name, want := range map[string]uint64{"usage_usec": 12, "user_usec": 7, "usage": 3, "bad": 0, "last": 9, "none": 0, "usa": 0} {
		if got := field(text, name); got != want {
			t.Errorf("%s = %d, want %d", name, got, want)
		}
	}
}

// TestBadNames: a leaf's name is a name.
func TestBadNames(t *testing.T) {
	g, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	for _, name := range []string{"", "a/b", "..", ".", "a\x00", "a\nb", "cgroup.procs", "supervisor", strings.Repeat("x", 300)} {
		if l, err := g.New(name, Limits{}); err == nil {
			l.Close()
			t.Errorf("%q was taken", name)
		}
	}
	l, err := g.New("twice", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := g.New("twice", Limits{}); err == nil {
		t.Error("a leaf was used again")
	}
}

// TestNoCgroupKill: before Linux 5.14, and in v1, a group has no such file. Then
// each member is killed, and nobody that only was one.
func TestNoCgroupKill(t *testing.T) {
	dir := t.TempDir()
	unified, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unified.Close()
	member := exec.Command("/usr/bin/sleep", "1000")
	if err := member.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Appendf(nil, "%d\n0\n4194304\n", member.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (&Leaf{unified: unified, path: dir}).Kill(); err != nil {
		t.Errorf("%v", err)
		member.Process.Kill()
	}
	if err := member.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the member: %v", err)
	}
}

func TestParsePressure(t *testing.T) {
	const text = "some avg10=1.50 avg60=0.25 avg300=100.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
	want := Pressure{Stall{1.5, 0.25, 100, 1234 * time.Microsecond}, Stall{Total: 7 * time.Microsecond}}
	if got := parsePressure([]byte(text)); got != want {
		t.Errorf("%+v", got)
	}
	// Before Linux 5.13 the cpu has no second line.
	if got := parsePressure([]byte("some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n")); got != (Pressure{Some: Stall{Total: 5 * time.Microsecond}}) {
		t.Errorf("%+v", got)
	}
	for _, junk := range []string{"", "\n", "some", "full x=y =\n", "other total=1"} {
		if got := parsePressure([]byte(junk)); got != (Pressure{}) {
			t.Errorf("%q: %+v", junk, got)
		}
	}
}

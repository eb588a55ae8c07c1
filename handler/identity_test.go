package handler

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

func TestIDsAsTheyAreWritten(t *testing.T) {
	for text, want := range map[string][2]int{
		"1": {1, 1}, "1234": {1234, 1234}, "1234:5": {1234, 5}, "4294967294": {4294967294, 4294967294},
		"": {}, "0": {}, "0:5": {}, "5:0": {}, "5:": {}, ":5": {}, "-1": {}, "+1": {}, "1:2:3": {}, "nobody": {}, "4294967295": {}, "99999999999": {}, "0x10": {}, " 5": {},
	} {
		uid, gid, err := ParseRunAs(text)
		if uid != want[0] || gid != want[1] || (err == nil) != (want[0] != 0) {
			t.Errorf("run_as %q: %d:%d, %v", text, uid, gid, err)
		}
	}
	for text, want := range map[string]IDRange{
		"5-9": {5, 9}, "5-5": {5, 5}, "5:2": {5, 6}, "5:1": {5, 5}, "1-4294967294": {1, 4294967294}, "4294967294:1": {4294967294, 4294967294},
		"": {}, "5": {}, "0-9": {}, "9-5": {}, "5:0": {}, "0:5": {}, "4294967294:2": {}, "5-": {}, "-5": {}, "1-2-3": {}, "1-2:3": {}, "a-b": {},
	} {
		r, err := ParseIDRange(text)
		if r != want || (err == nil) != (want != IDRange{}) {
			t.Errorf("id_range %q: %v, %v", text, r, err)
		}
	}
}

func TestWhoHasIDs(t *testing.T) {
	etc := fstest.MapFS{
		"passwd": {Data: []byte("root:x:0:0::/:\nann:x:1000:1000::/:\nbad\nworse:x:x:\n")},
		"subuid": {Data: []byte("ann:100000:65536\nbob:200000:1\n")},
	}
	for r, want := range map[IDRange]string{
		{1, 999}: "", {1000, 1000}: "ann in /etc/passwd", {999, 2000}: "ann in /etc/passwd", {2000, 99999}: "", {165535, 165600}: "ann in /etc/subuid", {165536, 199999}: "",
		{90000, 300000}: "ann in /etc/subuid, bob in /etc/subuid",
	} {
		if got := strings.Join(holders(etc, r), ", "); got != want {
			t.Errorf("%v: %q, want %q", r, got, want)
		}
	}
}

// TestIDsAreNeverShared: not within a process, nor between two.
func TestIDsAreNeverShared(t *testing.T) {
	file := t.TempDir() + "/ids"
	ledger := func() *idLedger {
		f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return &idLedger{file: f, inUse: map[int]bool{}, next: map[IDRange]int{}}
	}
	one, other := ledger(), ledger()
	take := func(l *idLedger, r IDRange, want int) {
		t.Helper()
		id, err := l.take(r)
		var d *Denial
		if id != want || (want == 0) != (errors.As(err, &d) && d.Rule == "id_range") {
			t.Errorf("%v: %d, %v, want %d", r, id, err, want)
		}
	}
	r := IDRange{10, 12}
	take(one, r, 10)
	take(other, r, 11)
	take(one, IDRange{11, 13}, 12)
	take(one, r, 0)
	take(other, r, 0)
	one.release(10)
	other.release(11)
	take(one, r, 11) // not the one that was free last
	take(one, r, 10)
	one.file.Close() // as at its death
	take(other, r, 12)
}

func TestEachProgramHasAnIDOfItsOwn(t *testing.T) {
	testenv.Need(t, "root", os.Geteuid() == 0, "only root gives programs another id")
	script := t.TempDir() + "/script"
	if err := os.WriteFile(script, []byte("#!/nonexistent\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := allow("/usr/bin/sleep", script)
	c.IDRange = IDRange{70001, 70003}
	if err := hostIDs.open(); err != nil { // it stays open
		t.Fatal(err)
	}
	testenv.NoLeaks(t)
	h := newHandler(t, c, nil)
	sink, ended := collect(t), make(chan uint64, 4)
	sink.onExit = func(id uint64) { ended <- id }
	spawn := func() (uint64, error) {
		return h.Spawn(testenv.Context(t), ProcessConfig{Program: "/usr/bin/sleep", Args: []string{"1000"}}, sink)
	}
	var last uint64
	seen := map[string]bool{}
	for range 3 {
		id, err := spawn()
		if err != nil {
			t.Fatal(err)
		}
		last = id
		cell := h.processes[id].cell
		pid, err := cell.Pid()
		if err != nil {
			t.Fatal(err)
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(status)) {
			if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
				seen[strings.Fields(ids)[0]] = true
			}
		}
		if !slices.ContainsFunc(cell.Enforced, func(s string) bool { return strings.Contains(s, "uid 1000 inside, 7000") }) {
			t.Errorf("%q", cell.Enforced)
		}
	}
	if !seen["70001"] || !seen["70002"] || !seen["70003"] {
		t.Errorf("ids %v", seen)
	}
	var d *Denial
	if _, err := spawn(); !errors.As(err, &d) || d.Rule != "id_range" {
		t.Errorf("a fourth: %v", err)
	}
	h.Kill(last)
	<-ended
	for range 3 { // each of which gives its id back
		if _, err := h.Spawn(testenv.Context(t), ProcessConfig{Program: script}, sink); err == nil || errors.As(err, &d) {
			t.Errorf("a start that cannot succeed: %v", err)
		}
	}
	if _, err := spawn(); err != nil {
		t.Errorf("after the end of one: %v", err)
	}
}

// TestIDsAreRoots: an ordinary user has none to give, and is told.
func TestIDsAreRoots(t *testing.T) {
	testenv.Need(t, "user", os.Geteuid() != 0, "root may give programs any id")
	for _, c := range []Config{{IDRange: IDRange{70001, 70003}}, func() (c Config) { c.Isolation.HostUID, c.Isolation.HostGID = 70001, 70001; return c }()} {
		c.Unlimited = true
		if _, err := New(c, testenv.Launcher(t), nil, nil); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "run the host as root") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

package tests

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

// Out of the cell by way of its set-up: who can write where a mount comes from,
// or goes to, exchanges directories and links while programs are being started.

var racingStarts = flag.Int("starts", 0, "starts in each race of T-05 and T-07, of which there are twelve, seven of them for an ordinary user's host too; 0: 12, with -short 2")

func starts() int {
	switch {
	case *racingStarts > 0:
		return *racingStarts
	case testing.Short():
		return 2
	}
	return 12
}

// ownRoot is the kernel's link to the root of whoever looks.
const ownRoot = "/proc/self/root"

func init() {
	attacks["scribble"] = attackScribble
	testenv.Role("racing host", func() {
		var s scene
		var n int
		json.Unmarshal([]byte(os.Args[1]), &s)
		fmt.Sscan(os.Args[2], &n)
		l, err := launcher.Start(launcher.Config{})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		self, _ := os.Executable()
		json.NewEncoder(os.Stdout).Encode(manyStarts(l, self, s, n))
	})
}

const secret = "what no program may read"

// attackScribble writes and reads wherever its view lets it.
func attackScribble(h *hostile, dirs []string) {
	h.Tried++
	for _, dir := range dirs {
		os.WriteFile(filepath.Join(dir, "mark"), []byte("x"), 0o666)
		os.WriteFile(filepath.Join(dir, "secret"), []byte("x"), 0o666)
		for _, name := range []string{dir, filepath.Join(dir, "secret")} {
			b, _ := os.ReadFile(name)
			h.holds(!strings.Contains(string(b), secret), "%s was read", name)
		}
	}
}

// A raceResult is what became of many starts.
type raceResult struct {
	Ran, Refused int
	GaveWay      []string
	Untyped      map[string]int // refused without naming what
}

func manyStarts(l *launcher.Launcher, self string, s scene, n int) raceResult {
	r := raceResult{Untyped: map[string]int{}}
	for range n {
		out, err := s.command(context.Background(), l, self).Output()
		var setup *launcher.SetupError
		var path *fs.PathError
		var h hostile
		switch {
		case err == nil && json.Unmarshal(out, &h) == nil:
			r.Ran++
			r.GaveWay = append(r.GaveWay, h.GaveWay...)
		case errors.As(err, &setup) || errors.As(err, &path):
			r.Refused++
		default:
			r.Untyped[fmt.Sprint(err)]++
		}
	}
	return r
}

// T-05, CVE-2025-31133 and CVE-2025-52565; T-07, CVE-2021-30465, CVE-2024-45310 and
// CVE-2026-87766: whatever is exchanged, and when, nothing outside is written or
// read. Each start runs, or is refused with the path or the call at fault.
func TestT05AndT07RacingRenamers(t *testing.T) {
	for name, race := range map[string]func(base string) (s scene, one, other string){
		// What is shown is a directory, or a link out.
		"source": func(base string) (scene, string, string) {
			work := base + "/shared/job"
			return scene{Args: []string{work}, RW: []string{work}}, work, base + "/shared/link"
		},
		"parent of a source": func(base string) (scene, string, string) {
			work := base + "/shared/parent/job"
			return scene{Args: []string{work}, RW: []string{work}}, base + "/shared/parent", base + "/shared/link"
		},
		"file": func(base string) (scene, string, string) {
			file := base + "/shared/file"
			return scene{Args: []string{file}, RO: []string{file}}, file, base + "/shared/file-link"
		},
		// Where it is mounted lies in a directory that is shown, which the
		// other program can write.
		"parent of a target": func(base string) (scene, string, string) {
			conf := base + "/shared/parent/conf"
			return scene{Args: []string{conf}, RW: []string{base + "/shared"}, RO: []string{conf}}, base + "/shared/parent", base + "/shared/link"
		},
		"target": func(base string) (scene, string, string) {
			work := base + "/shared/parent/job"
			return scene{Args: []string{work}, RW: []string{base + "/shared", work}}, work, base + "/shared/proc-link"
		},
		"two directories": func(base string) (scene, string, string) {
			work := base + "/shared/parent/job"
			return scene{Args: []string{work}, RW: []string{base + "/shared", work}}, base + "/shared/parent", base + "/shared/other"
		},
		"working directory": func(base string) (scene, string, string) {
			work := base + "/shared/parent/job"
			return scene{Args: []string{"."}, Dir: work, RW: []string{base + "/shared"}}, base + "/shared/parent", base + "/shared/link"
		},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			owners := []int{os.Geteuid()}
			if os.Geteuid() == 0 {
				owners = append(owners, user)
			}
			for _, owner := range owners {
				base := racecourse(t, owner)
				s, one, other := race(base)
				s.Attack = "scribble"
				before := snapshot(t, base+"/outside")
				stop := exchange(t, one, other)
				var r raceResult
				if owner == os.Geteuid() {
					r = manyStarts(testenv.Launcher(t), testenv.Self(t), s, starts())
				} else {
					text, _ := json.Marshal(s)
					out, err := outside(t, user, "racing host", string(text), itoa(starts())).Output()
					if err := errors.Join(err, json.Unmarshal(out, &r)); err != nil {
						t.Fatal(err)
					}
				}
				exchanges := stop()
				if after := snapshot(t, base+"/outside"); after != before {
					t.Errorf("outside has changed, host of uid %d:\n%s\nbefore:\n%s", owner, after, before)
				}
				if len(r.GaveWay) > 0 || len(r.Untyped) > 0 {
					t.Errorf("host of uid %d: gave way %d times: %.500q; refused without a name: %.500v", owner, len(r.GaveWay), r.GaveWay, r.Untyped)
				}
				t.Logf("host of uid %d: %d ran, %d refused, %d exchanges", owner, r.Ran, r.Refused, exchanges)
				if r.Ran+r.Refused != starts() || exchanges < 10*starts() {
					t.Errorf("host of uid %d: that was no race", owner)
				}
			}
		})
	}
}

// T-05 with the program's own root file system, CVE-2026-41579: what lies in it is
// exchanged for links out, and its /dev is one to begin with.
func TestT05RacingRoot(t *testing.T) {
	for name, pair := range map[string][2]string{
		"entry":              {"rootfs/etc", "rootfs/secret"},
		"parent of a target": {"rootfs/var", "rootfs/secret"},
		"upwards":            {"rootfs/var", "rootfs/up"},
		"source":             {"data", "data-link"},
		"the root":           {"rootfs", "rootfs-link"},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			base := bundle(t)
			writeFile(t, base+"/secret/secret", secret)
			writeFile(t, base+"/rootfs/var/job/file", "x")
			writeFile(t, base+"/secret/job/secret", secret)
			for name, to := range map[string]string{"rootfs/dev": "/proc/sys/kernel", "data-link": base + "/secret", "rootfs-link": base + "/secret"} {
				if err := os.Symlink(to, filepath.Join(base, name)); err != nil {
					t.Fatal(err)
				}
			}
			filepath.WalkDir(base, func(name string, d fs.DirEntry, err error) error {
				if d.Type()&fs.ModeSymlink == 0 && !strings.HasPrefix(name, base+"/rootfs/bin") && !strings.HasPrefix(name, base+"/rootfs/lib") {
					os.Chmod(name, 0o777)
				}
				return nil
			})
			s := scene{
				Attack: "scribble", Args: []string{"/etc", "/var", "/var/job", "/secret", "/up", "/dev", "/var/run", base + "/data", base + "/secret"},
				Program: "/bin/probe", Root: base + "/rootfs", RW: []string{base + "/data"},
			}
			before := snapshot(t, base+"/secret")
			stop := exchange(t, filepath.Join(base, pair[0]), filepath.Join(base, pair[1]))
			r := manyStarts(testenv.Launcher(t), s.Program, s, starts())
			exchanges := stop()
			if after := snapshot(t, base+"/secret"); after != before {
				t.Errorf("outside has changed:\n%s\nbefore:\n%s", after, before)
			}
			if len(r.GaveWay) > 0 || len(r.Untyped) > 0 {
				t.Errorf("gave way %d times: %.500q; refused without a name: %.500v", len(r.GaveWay), r.GaveWay, r.Untyped)
			}
			t.Logf("%d ran, %d refused, %d exchanges", r.Ran, r.Refused, exchanges)
		})
	}
}

// racecourse is a directory with what is shared, and what lies outside of it.
func racecourse(t *testing.T, owner int) string {
	t.Helper()
	base := testDir(t)
	os.Chmod(base, 0o777)
	for _, dir := range []string{"outside/job", "outside/conf", "outside/secret.d", "shared/job", "shared/parent/job", "shared/parent/conf", "shared/other/job", "shared/other/conf"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{
		"outside/secret": secret, "outside/job/secret": secret, "outside/conf/secret": secret, "shared/file": "public", "shared/parent/conf/file": "public",
	} {
		if err := os.WriteFile(filepath.Join(base, name), []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"shared/link": base + "/outside", "shared/file-link": "../outside/secret", "shared/proc-link": ownRoot + "/etc"} {
		if err := os.Symlink(to, filepath.Join(base, name)); err != nil {
			t.Fatal(err)
		}
	}
	// Nothing but the set-up itself may be what keeps the program out.
	filepath.WalkDir(base, func(name string, d fs.DirEntry, err error) error {
		mode := fs.FileMode(0o666)
		if d.IsDir() {
			mode = 0o777
		}
		if d.Type()&fs.ModeSymlink == 0 {
			os.Chmod(name, mode)
		}
		return os.Lchown(name, owner, owner)
	})
	return base
}

// exchange swaps two names until it is stopped, which tells how often.
func exchange(t *testing.T, one, other string) (stop func() int) {
	quit, done := make(chan bool), make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-quit:
				done <- n
				return
			default:
				// Busy while it is a mount point in a start's own namespace.
				if err := unix.Renameat2(unix.AT_FDCWD, one, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE); err != nil && err != unix.EBUSY {
					t.Error(err)
				}
			}
		}
	}()
	return func() int {
		quit <- true
		return <-done
	}
}

// snapshot is everything about the files below dir that a program could change.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		s := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&all, "%s %v %d:%d %d links %d bytes %v", name, info.Mode(), s.Uid, s.Gid, s.Nlink, s.Size, s.Mtim)
		if d.Type().IsRegular() {
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			fmt.Fprintf(&all, " %x", sha256.Sum256(b))
		}
		all.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// T-08: what the defences against links must leave working. Links that an
// administrator made, merged directories, alternatives, certificates by a link,
// a parent that can be entered and not listed.
func TestT08LinksOfTheAdministratorWork(t *testing.T) {
	testenv.NoLeaks(t)
	base := testDir(t)
	if err := os.MkdirAll(base+"/real/closed/data", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(base+"/real/closed/data/file", []byte("content\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	os.Chmod(base+"/real/closed", 0o711)
	run := func(spec isolate.Spec, program string, args ...string) string {
		t.Helper()
		cmd := testenv.Launcher(t).Command(testenv.Context(t), program, args...)
		cmd.Isolation = spec
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s %q: %v: %s", program, args, err, out)
		}
		return string(out)
	}
	mounted := func(m ...isolate.Mount) isolate.Spec { return isolate.Spec{Mounts: m} }
	if got := run(mounted(isolate.RO(base+"/real/closed/data")), "/usr/bin/cat", base+"/real/closed/data/file"); got != "content\n" {
		t.Errorf("below a closed directory: %q", got)
	}
	for _, cat := range []string{"/bin/cat", "/usr/bin/cat", "/usr//bin/../bin/cat"} { // usr-merge
		run(isolate.Spec{}, cat, "/dev/null")
	}
	if _, err := os.Stat("/etc/ssl/certs/ca-certificates.crt"); err == nil {
		if got := run(isolate.Spec{}, "/usr/bin/head", "-n1", "/etc/ssl/certs/ca-certificates.crt"); !strings.Contains(got, "CERTIFICATE") {
			t.Errorf("certificates: %q", got)
		}
	}
	if real, err := filepath.EvalSymlinks("/usr/bin/awk"); err == nil && real != "/usr/bin/awk" { // alternatives
		if got := run(isolate.Spec{}, "/usr/bin/awk", "BEGIN { print 6 * 7 }"); got != "42\n" {
			t.Errorf("awk: %q", got)
		}
	}
	if os.Geteuid() != 0 {
		return // only an administrator makes an administrator's links
	}
	if err := os.Symlink("real/closed", base+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(base+"/link/data", base+"/absolute"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{base + "/link/data", base + "/absolute"} {
		if got := run(mounted(isolate.RO(name)), "/usr/bin/cat", name+"/file"); got != "content\n" {
			t.Errorf("by way of %s: %q", name, got)
		}
	}
	if got := run(mounted(isolate.RO("/var/run")), "/usr/bin/readlink", "/var/run"); got == "" {
		t.Error("/var/run is no link inside")
	}
}

package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

func init() { testenv.Role("directories", directoriesRole) }

// ways lead from a descriptor to a directory. With -short the first is tried, of fewer, which
// are still more than a set-up has open.
var ways = []string{"/..", "", "/../../../../../../.."}

type directoriesResult struct {
	Entered []string // directories in which a program started
	Tried   int
	Error   string
}

// directoriesRole is a host that starts programs in what its init may have open: cold, and
// from a warm cell. What it shows below /tmp keeps it from ever using a template.
func directoriesRole() {
	var r directoriesResult
	err := func() error {
		var h hole
		if err := json.Unmarshal([]byte(os.Args[1]), &h); err != nil {
			return err
		}
		if len(h.Calls) > 0 {
			if err := h.install(); err != nil {
				return err
			}
		}
		l, err := launcher.Start(launcher.Config{})
		if err != nil {
			return err
		}
		defer l.Close()
		try := func(dir string, warm bool, mounts ...isolate.Mount) error {
			cmd := l.Command(context.Background(), "/usr/bin/pwd")
			cmd.Isolation.Mounts = mounts
			if warm {
				if err := cmd.Prepare(); err != nil {
					return err
				}
			}
			cmd.Dir = dir
			err := cmd.Run()
			r.Tried++
			var setup *launcher.SetupError
			var exit *launcher.ExitError
			switch {
			case err == nil, errors.As(err, &exit):
				r.Entered = append(r.Entered, dir)
			case !errors.As(err, &setup) || setup.Call != fmt.Sprintf("chdir(%q)", dir):
				return err // of something else
			}
			return nil
		}
		var descriptors, few int
		if _, err := fmt.Sscan(os.Args[3], &descriptors, &few); err != nil {
			return err
		}
		for fd := range descriptors {
			for _, up := range ways[:few] {
				dir := fmt.Sprintf("/proc/self/fd/%d%s", fd, up)
				if err := errors.Join(try(dir, false, isolate.RO(os.Args[2])), try(dir, fd%2 == 0)); err != nil {
					return err
				}
			}
		}
		return nil
	}()
	if err != nil {
		r.Error = err.Error()
	}
	json.NewEncoder(os.Stdout).Encode(r)
}

// TestNoDescriptorIsADirectory: whatever init has open while it makes a cell, a program never
// begins there (T-03): of root's host and an ordinary user's, with Landlock and on a kernel
// without, with a template and without.
func TestNoDescriptorIsADirectory(t *testing.T) {
	testenv.NoLeaks(t)
	descriptors, few := 70, len(ways)
	if testing.Short() {
		descriptors, few = 40, 1
	}
	users := []int{os.Geteuid()}
	if os.Geteuid() == 0 {
		users = append(users, user)
	}
	for kernel, h := range map[string]hole{"this kernel": {}, "no Landlock": {Calls: []int{unix.SYS_LANDLOCK_CREATE_RULESET}, Errno: unix.ENOSYS}} {
		for _, uid := range users {
			text, err := json.Marshal(h)
			if err != nil {
				t.Fatal(err)
			}
			var r directoriesResult
			out, err := outside(t, uint32(uid), "directories", string(text), testDir(t), fmt.Sprint(descriptors, " ", few)).Output()
			if err := errors.Join(err, json.Unmarshal(out, &r)); err != nil || r.Error != "" {
				t.Fatalf("%s, uid %d: %v, %s", kernel, uid, err, r.Error)
			}
			if len(r.Entered) > 0 || r.Tried != 2*few*descriptors {
				t.Errorf("%s, uid %d: of %d, entered %q", kernel, uid, r.Tried, r.Entered)
			}
		}
	}
}

package tests

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

func init() { testenv.Role("pins", pinsRole) }

const (
	goodScript = "#!/bin/sh\necho good\n"
	evilScript = "#!/bin/sh\necho evil\n"
	pinStarts  = 150 // with -short a third
)

// pinsRole is a host in whose directory a program is replaced: once, while another
// profile has a template with the old one; then all the time.
func pinsRole() {
	dir := os.Args[1]
	tool, other := filepath.Join(dir, "tool"), filepath.Join(dir, "other")
	must := func(err error) {
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	}
	l, err := launcher.Start(launcher.Config{})
	must(err)
	defer l.Close()
	digest := sha256.Sum256([]byte(goodScript))
	loose := isolate.Spec{Allow: []string{"/bin/sh", tool}}
	pinned := loose
	pinned.SHA256 = map[string]string{tool: hex.EncodeToString(digest[:])}
	start := func(spec isolate.Spec) (string, *launcher.Cmd) {
		cmd := l.Command(context.Background(), tool)
		cmd.Isolation = spec
		out, err := cmd.Output()
		if err != nil {
			return "", cmd
		}
		return strings.TrimSpace(string(out)), cmd
	}

	must(os.WriteFile(tool, []byte(evilScript), 0o755))
	for inTemplate := false; !inTemplate; {
		said, cmd := start(loose)
		if said != "evil" {
			must(fmt.Errorf("the program says %q", said))
		}
		inTemplate = cmd.Plan.InTemplate
	}
	must(os.WriteFile(other, []byte(goodScript), 0o755))
	must(os.Rename(other, tool))
	for inTemplate := false; !inTemplate; {
		said, cmd := start(pinned)
		if said != "good" {
			must(fmt.Errorf("pinned, and another profile's template has the one before: it says %q", said))
		}
		inTemplate = cmd.Plan.InTemplate
	}

	must(os.WriteFile(other, []byte(evilScript), 0o755))
	quit, done := make(chan bool), make(chan error)
	go func() {
		for {
			select {
			case <-quit:
				done <- nil
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, tool, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE); err != nil {
				<-quit
				done <- err
				return
			}
			for range 3000 { // about as long as a start looks at files
				os.Getppid()
			}
		}
	}()
	ran := 0
	starts, err := strconv.Atoi(os.Args[2])
	must(err)
	for range starts {
		switch said, _ := start(pinned); said {
		case "good":
			ran++
		case "evil":
			must(fmt.Errorf("an unpinned program ran, after %d pinned ones", ran))
		}
	}
	quit <- true
	must(<-done)
	fmt.Println("ran", ran)
}

// TestPinsHold: what is executed is what was examined, also for an ordinary user's
// host, whose init finds the files again by name.
func TestPinsHold(t *testing.T) {
	testenv.NoLeaks(t)
	starts := pinStarts
	if testing.Short() {
		starts /= 3
	}
	hosts := []uint32{uint32(os.Getuid())}
	if os.Getuid() == 0 {
		hosts = append(hosts, user)
	}
	for _, uid := range hosts {
		t.Run(fmt.Sprintf("uid %d", uid), func(t *testing.T) {
			// Not below /tmp, for which there is no template.
			dir, err := os.MkdirTemp("/var/tmp", "proscenium-test-*")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, int(uid), -1)); err != nil {
				t.Fatal(err)
			}
			out, err := outside(t, uid, "pins", dir, itoa(starts)).Output()
			var ran int
			if _, scan := fmt.Sscanf(string(out), "ran %d", &ran); err != nil || scan != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if ran == 0 {
				t.Error("no start found the pinned program")
			}
		})
	}
}

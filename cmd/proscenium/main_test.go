package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/proscenium-dev/proscenium/cgroup"

	// testscript: each promise of the command line as a short script.
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"proscenium": func() { os.Exit(Main(os.Args[1:])) }})
}

// buildInventory builds the actor of the demo and gives its directory.
func buildInventory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-ldflags=-s -w", "-o", filepath.Join(dir, "inventory.wasm"), "../../hack/demo.d")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	manifest, err := os.ReadFile("../../hack/demo.d/inventory.toml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "inventory.toml"), manifest, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestScripts(t *testing.T) {
	inventory := buildInventory(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("INVENTORY", inventory)
			// Programs run as another user, who must be able to enter.
			if err := os.Chmod(e.WorkDir, 0o755); err != nil {
				return err
			}
			for name, code := range map[string]string{"empty.wasm": "\x00asm\x01\x00\x00\x00", "component.wasm": "\x00asm\x0d\x00\x01\x00"} {
				if err := os.WriteFile(filepath.Join(e.WorkDir, name), []byte(code), 0o644); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": status},
	})
}

// status runs a command and expects its exit status: status 127 proscenium …
func status(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if err != nil || neg {
		ts.Fatalf("usage: status N command args…")
	}
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == want, err == nil && want == 0:
	default:
		ts.Fatalf("want exit status %d, got %v", want, err)
	}
}

func TestParseIO(t *testing.T) {
	got, err := parseIO("/dev/vda,read=10M,write-ops=7")
	if want := (cgroup.IOLimit{Device: "/dev/vda", Read: 10 << 20, WriteOps: 7}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{"", "/dev/vda", "/dev/vda,", "/dev/vda,read", "/dev/vda,read=", "/dev/vda,read=0", "/dev/vda,read-ops=1K", "/dev/vda,write=-1", "/dev/vda,read=1,read=2", "/dev/vda,speed=1"} {
		if l, err := parseIO(text); err == nil {
			t.Errorf("%q is taken: %+v", text, l)
		}
	}
}

package launcher

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/proscenium-dev/proscenium/reexec"
)

func TestMain(m *testing.M) {
	reexec.Init()
	os.Exit(m.Run())
}

func start(t testing.TB) *Launcher {
	t.Helper()
	l, err := Start(Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestOutput(t *testing.T) {
	l := start(t)
	out, err := l.Command(context.Background(), "/usr/bin/echo", "hello").Output()
	if err != nil || string(out) != "hello\n" {
		t.Fatalf("echo: %q, %v", out, err)
	}
}

func TestExitStatus(t *testing.T) {
	l := start(t)
	cmd := l.Command(context.Background(), "/usr/bin/ls", "/nonexistent")
	out, err := cmd.CombinedOutput()
	var exit *ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !exit.Reported() {
		t.Fatalf("ls of nothing: %v, want exit status 2", err)
	}
	if !strings.Contains(string(out), "No such file") {
		t.Errorf("stderr: %q", out)
	}
}

func TestKill(t *testing.T) {
	l := start(t)
	cmd := l.Command(context.Background(), "/usr/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if state := cmd.Process.Wait(); state.Signal() != syscall.SIGTERM || state.ExitCode() != -1 {
		t.Errorf("after SIGTERM: %v", state)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal after the end: %v, want %v", err, os.ErrProcessDone)
	}
}

// Package benchmarks measures what a start, a status and output cost, each as a
// ladder of named alternatives. README.md says how to run it and what to
// compare.
package benchmarks

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"testing"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/tests/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const target = "/usr/bin/true"

// BenchmarkStart is from the request until nothing of the program is left.
func BenchmarkStart(b *testing.B) {
	cell := func(spec isolate.Spec, limited bool) func(*testing.B) {
		return func(b *testing.B) {
			group := testenv.Group(b)
			if !limited {
				group = nil
			}
			for b.Loop() {
				cmd := testenv.Launcher(b).Command(context.Background(), target)
				cmd.Isolation = spec
				c, err := handler.StartCell(cmd, group, cgroup.Limits{}, handler.Budgets{})
				if err != nil {
					b.Fatal(err)
				}
				if r := c.Wait(); r.ExitCode != 0 {
					b.Fatal(r)
				}
			}
		}
	}
	peer := func(args ...string) func(*testing.B) {
		return func(b *testing.B) {
			if _, err := exec.LookPath(args[0]); err != nil {
				b.Skip(args[0], "is not installed")
			}
			for b.Loop() {
				if err := exec.Command(args[0], args[1:]...).Run(); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	b.Run("os-exec", peer(target))
	b.Run("cell/no-limits", cell(isolate.Hardened(), false))
	b.Run("cell/host-network", cell(isolate.Spec{Network: isolate.NetworkHost}, true))
	b.Run("cell/no-filter", cell(isolate.Spec{Seccomp: isolate.SeccompNone}, true))
	b.Run("cell/system", cell(isolate.System(), true))
	b.Run("cell/hardened", cell(isolate.Hardened(), true))
	// The same namespaces; no limits, filter, capability sets or per-file view.
	b.Run("bwrap", peer("bwrap", "--unshare-all", "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
		"--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--", target))
}

// BenchmarkStatus is one os-status of a running program.
func BenchmarkStatus(b *testing.B) {
	c := handler.DefaultConfig()
	c.AllowedPrograms = []string{"/usr/bin/sleep"}
	h, err := handler.New(c, testenv.Launcher(b), testenv.Group(b), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	id, err := h.Spawn(context.Background(), handler.ProcessConfig{Program: "/usr/bin/sleep", Args: []string{"1000"}}, handler.Discard)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Status(id); err != nil {
			b.Fatal(err)
		}
	}
}

const outputBytes = 256 << 20

// BenchmarkOutput is 256 MiB of a program's output into a Go sink.
func BenchmarkOutput(b *testing.B) {
	for _, line := range []int{64, 256, 1024} {
		text := fmt.Sprintf("%0*d", line-1, 0)
		b.Run(fmt.Sprintf("lines-%d/handler", line), func(b *testing.B) { output(b, handler.LineByLine, text) })
		b.Run(fmt.Sprintf("lines-%d/bufio.Scanner", line), func(b *testing.B) {
			b.SetBytes(outputBytes)
			for b.Loop() {
				scan(b, text)
			}
		})
	}
	b.Run("raw/handler", func(b *testing.B) { output(b, handler.Raw, fmt.Sprintf("%0*d", 1023, 0)) })
}

// output measures `yes TEXT` until the budget of output ends it.
func output(b *testing.B, mode handler.Mode, text string) {
	b.SetBytes(outputBytes)
	c := handler.DefaultConfig()
	c.AllowedPrograms = []string{"/usr/bin/yes"}
	c.Limits.CPU = 2
	c.Budgets.Output = outputBytes
	h, err := handler.New(c, testenv.Launcher(b), testenv.Group(b), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	for b.Loop() {
		if _, err := h.Spawn(context.Background(), handler.ProcessConfig{Program: "/usr/bin/yes", Args: []string{text}, StdoutMode: mode}, handler.Discard); err != nil {
			b.Fatal(err)
		}
		if err := h.Wait(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	if n := h.Counters().StdoutBytes; n < outputBytes {
		b.Fatalf("%d bytes", n)
	}
}

// scan is what a Go program does without us.
func scan(b *testing.B, text string) {
	cmd := exec.Command("/usr/bin/yes", text)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	for s := bufio.NewScanner(io.LimitReader(pipe, outputBytes)); s.Scan(); {
	}
	cmd.Process.Kill()
	cmd.Wait()
}

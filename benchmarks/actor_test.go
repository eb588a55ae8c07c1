package benchmarks

import (
	"bytes"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/handler/actor"
	"github.com/proscenium-dev/proscenium/tests/testenv"
)

// programs builds programs/ and guests/ and returns their directory.
func programs(b *testing.B) (dir string) {
	b.Helper()
	for _, compiler := range []string{"gcc", "clang", "wasm-ld"} {
		_, err := exec.LookPath(compiler)
		testenv.Need(b, "clang", err == nil, "the programs are compiled with gcc, clang and lld")
	}
	dir = b.TempDir()
	if text, err := exec.Command("./build", dir).CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, text)
	}
	return dir
}

// BenchmarkGuest is one event into a guest in C, by the size of the event, with
// and without a deadline: it is what makes the guest's code ask, in each loop,
// whether it is to end.
func BenchmarkGuest(b *testing.B) {
	dir, c := programs(b), handler.DefaultConfig()
	c.AllowedPrograms = []string{dir + "/true"}
	for _, deadline := range []time.Duration{0, handler.DefaultDeadline} {
		checks := map[bool]string{false: "checks-off", true: "checks-on"}[deadline > 0]
		for _, size := range []int{64, 4 << 10, 64 << 10} {
			b.Run(fmt.Sprintf("%s/%d", checks, size), func(b *testing.B) {
				a, err := actor.Start(b.Context(), actor.Config{
					Manifest: &handler.Manifest{
						Name: "drain", ComponentPath: dir + "/drain.wasm", Deadline: deadline, Memory: handler.DefaultMemory, Process: &c,
						State: []byte("0\n" + dir + "/true"),
					},
					Launcher: testenv.Launcher(b), Group: testenv.Group(b),
				})
				if err != nil {
					b.Fatal(err)
				}
				defer a.Close()
				if err := a.Wait(b.Context()); err != nil {
					b.Fatal(err)
				}
				event := bytes.Repeat([]byte("x"), size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if err := a.HandleStdout(1, event); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

package actor

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestTry(t *testing.T) {
	files, _ := filepath.Glob("/tmp/h/A/guests/out/" + os.Getenv("G"))
	var want []byte
	for i := range 256 {
		want = append(want, byte(i))
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			b, _ := os.ReadFile(f)
			s := newStage(t, b, "/usr/bin/cat")
			s.manifest.State = []byte("x")
			s.manifest.Memory = 256 << 20
			begin := time.Now()
			a, err := s.start(t)
			t.Log(time.Since(begin))
			if err != nil {
				t.Fatalf("%.1000v\n%s", err, s.logged())
			}
			if err := a.Wait(t.Context()); err != nil {
				t.Fatal(err, s.logged())
			}
			st, ok := a.State()
			t.Logf("%q %v %v\n%s", st[:min(len(st), 50)], ok, bytes.Equal(st, want), s.logged())
		})
	}
}

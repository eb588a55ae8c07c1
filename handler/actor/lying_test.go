package actor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

func init() { testenv.Role("load", loadRole) }

// loadRole loads the module on stdin, with room for 4 GiB more than it has: what
// the Go runtime cannot allocate is the end of the process.
func loadRole() {
	code, _ := io.ReadAll(os.Stdin)
	statm, _ := os.ReadFile("/proc/self/statm")
	var pages uint64
	fmt.Sscan(string(statm), &pages)
	room := pages*uint64(os.Getpagesize()) + 4<<30
	unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: room, Max: room})
	a := &Actor{recorder: handler.NewCoalescer(&chain{}), chain: &chain{}, manifest: &handler.Manifest{Memory: 16 << 20, Deadline: 10 * time.Second}, logger: slog.New(slog.DiscardHandler)}
	err := a.load(context.Background(), code)
	if err == nil {
		err = a.init(context.Background())
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Printf("%d MiB\n%v\n", m.TotalAlloc>>20, err)
}

// TestLyingModules: a few bytes that claim to have very much behind them, and
// tables, which are not in the guest's memory, do not take the host's.
func TestLyingModules(t *testing.T) {
	const lots = "\xff\xff\xff\xff\x0f"
	vector := func(id string, before string) string {
		return id + string(uleb(len(before)+5)) + before + lots
	}
	const function = "\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00"
	for what, sections := range map[string]string{
		"types":          vector("\x01", ""),
		"parameters":     vector("\x01", "\x01\x60"),
		"results":        vector("\x01", "\x01\x60\x00"),
		"imports":        vector("\x02", ""),
		"name of import": vector("\x02", "\x01"),
		"functions":      vector("\x03", ""),
		"tables":         vector("\x04", ""),
		"globals":        vector("\x06", ""),
		"exports":        vector("\x07", ""),
		"name of export": vector("\x07", "\x01"),
		"elements":       vector("\x09", ""),
		"of an element":  vector("\x09", "\x01\x00\x41\x00\x0b"),
		"code":           vector("\x0a", ""),
		"size of a body": function + vector("\x0a", "\x01"),
		"locals":         function + "\x0a\x0b\x01\x09\x01" + lots + "\x7f\x00\x0b",
		"many locals":    function + "\x0a\x0a\x01\x08\x01\x80\x80\x80\x40\x7f\x0b", // 2^27
		"data":           vector("\x0b", ""),
		"of a datum":     vector("\x0b", "\x01\x01"),
		"function names": vector("\x00", "\x04name\x01\x05"),
		"local names":    vector("\x00", "\x04name\x02\x05"),
	} {
		t.Run(what, func(t *testing.T) { loadElsewhere(t, []byte("\x00asm\x01\x00\x00\x00"+sections), "") })
	}
	for what, c := range map[string]struct{ table, code []byte }{
		"a large table":           {tableType(1<<24, 0), nil},
		"a table that grows":      {tableType(1, 0), tableGrow},
		"a table of a large most": {tableType(1, 1<<26), tableGrow},
	} {
		t.Run(what, func(t *testing.T) {
			m := good()
			m.table, m.start = c.table, c.code != nil
			m.exports = append([]field{{name: "begin", code: c.code}}, m.exports...)
			loadElsewhere(t, m.encode(), "\nwasm error") // of begin; init traps as well, but that is in the error
		})
	}
}

func tableType(least, most int) []byte {
	if most == 0 {
		return append([]byte{0x70, 0}, uleb(least)...)
	}
	return append(append([]byte{0x70, 1}, uleb(least)...), uleb(most)...)
}

// tableGrow traps if the table grows by 2^24: 128 MiB of the host.
var tableGrow = []byte("\x00" + // no locals
	"\xd0\x70" + "\x41\x80\x80\x80\x08" + "\xfc\x0f\x00" + // table.grow 0 (ref.null func) (i32.const 1<<24)
	"\x41\x7f" + "\x47" + "\x04\x40" + "\x00" + "\x0b" + "\x0b") // if not -1, unreachable

// loadElsewhere loads a module in another process, which must survive it.
func loadElsewhere(t *testing.T, code []byte, unwanted string) {
	t.Helper()
	cmd := exec.Command(testenv.Self(t))
	cmd.Env = append(os.Environ(), testenv.RoleEnv("load"), "GORACE=atexit_sleep_ms=0")
	cmd.Stdin = bytes.NewReader(code)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%d bytes end the host: %v: %.120s", len(code), err, stderr.String())
	}
	var took int
	fmt.Sscan(string(out), &took)
	if took > 64 || strings.HasSuffix(string(out), "<nil>\n") || unwanted != "" && strings.Contains(string(out), unwanted) {
		t.Errorf("%d bytes take %s", len(code), out)
	}
}

// TestCompileBomb: 50 KiB of nested loops over as many locals as a module may have for
// them take seconds to compile; the actor does not wait for longer than it may, and
// the host is told why.
func TestCompileBomb(t *testing.T) {
	before := maxCompile
	maxCompile = 300 * time.Millisecond
	t.Cleanup(func() { maxCompile = before })
	const depth = 1 << 12
	bomb := []byte("\x01" + string(uleb(6000)) + "\x7f" + // locals
		strings.Repeat("\x03\x40\x20\x05\x21\x09", depth) + strings.Repeat("\x20\x09\x0d\x00\x0b", depth) + "\x00\x0b")
	s := newStage(t, change(func(m *module) { m.exports[0].code = bomb }), "/usr/bin/true")
	if _, err := s.start(t); !errors.Is(err, errCompile) {
		t.Error(err)
	}
}

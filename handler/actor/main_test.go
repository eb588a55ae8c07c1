package actor

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/tests/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// builds are the guests that this process has built, by command line.
var builds sync.Map

// build runs a compiler that writes to the path at the end of its arguments, once
// per process, and returns what it made.
func build(t testing.TB, env []string, command ...string) []byte {
	t.Helper()
	once, _ := builds.LoadOrStore(strings.Join(command, " "), sync.OnceValues(func() ([]byte, error) {
		out := filepath.Join(t.TempDir(), "actor.wasm")
		cmd := exec.Command(command[0], append(command[1:], "-o", out)...)
		cmd.Env = append(os.Environ(), env...)
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", cmd, err, text)
		}
		return os.ReadFile(out)
	}))
	module, err := once.(func() ([]byte, error))()
	if err != nil {
		t.Fatal(err)
	}
	return module
}

// asComponents makes cGuest return the component that hack/guests made of the
// actor.
var asComponents bool

// cGuest is an actor of testdata, compiled.
func cGuest(t testing.TB, source string, flags ...string) []byte {
	t.Helper()
	if asComponents && len(flags) == 0 {
		return componentGuest(t, "c-"+strings.TrimSuffix(source, ".c"))
	}
	needClang(t)
	command := []string{"clang", "--target=wasm32", "-O2", "-mbulk-memory", "-ffreestanding", "-nostdlib", "-Wall", "-Wextra", "-Werror",
		"-Wno-unused-parameter", "-Wl,--no-entry", "-I../../wit/guest", "testdata/" + source}
	command = append(command, flags...)
	if slices.Contains(flags, "-DTHEATER_CM32P2") {
		// Only lld 16 and later can name the memory.
		return renameMemory(t, build(t, nil, command...), "cm32p2_memory")
	}
	return build(t, nil, command...)
}

// componentGuest is one that hack/guests made, in the directory that PROSCENIUM_GUESTS
// names.
func componentGuest(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("PROSCENIUM_GUESTS")
	testenv.Need(t, "components", dir != "", "components are made by hack/guests: PROSCENIUM_GUESTS=$(hack/guests) go test …")
	code, err := os.ReadFile(filepath.Join(dir, name+".wasm"))
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func needClang(t testing.TB) {
	t.Helper()
	_, compiler := exec.LookPath("clang")
	_, linker := exec.LookPath("wasm-ld")
	ok := compiler == nil && linker == nil
	const sentence = "actors in C are compiled with clang and wasm-ld, of the Debian packages clang and lld"
	testenv.Need(t, "clang", ok, sentence)
}

// recording is a handler.Recorder for tests.
type recording struct {
	mu     sync.Mutex
	events []handler.Event
}

func (r *recording) Record(e handler.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recording) all(k handler.Kind) (events []handler.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Kind == k {
			events = append(events, e)
		}
	}
	return events
}

// A stage is what an actor runs on: change it before start.
type stage struct {
	manifest *handler.Manifest
	cache    string // Config.Cache
	recorder recording
	log      bytes.Buffer
	logMu    sync.Mutex
}

// Write takes the log.
func (s *stage) Write(p []byte) (int, error) {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	return s.log.Write(p)
}

func (s *stage) logged() string {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	return s.log.String()
}

// newStage is a manifest for a module that may run the given programs.
func newStage(t testing.TB, module []byte, programs ...string) *stage {
	t.Helper()
	path := filepath.Join(t.TempDir(), "actor.wasm")
	if err := os.WriteFile(path, module, 0o666); err != nil {
		t.Fatal(err)
	}
	var quoted []string
	for _, p := range programs {
		quoted = append(quoted, fmt.Sprintf("%q", p))
	}
	text := fmt.Sprintf(`
		name = "tested"
		component_path = %q
		[[handlers]]
		type = "process"
		config = { allowed_programs = [%s], read_only_paths = ["/usr/share"], limits = { memory = "64M", wall = "1m" } }`,
		path, strings.Join(quoted, ", "))
	m, err := handler.ParseManifest([]byte(text), "/")
	if err != nil {
		t.Fatal(err)
	}
	return &stage{manifest: m, cache: NoCache}
}

func (s *stage) start(t testing.TB) (*Actor, error) {
	t.Helper()
	a, err := Start(testenv.Context(t), Config{
		Manifest: s.manifest, Launcher: testenv.Launcher(t), Group: testenv.Group(t),
		Recorder: &s.recorder, Cache: s.cache, Logger: slog.New(slog.NewTextHandler(s, nil)),
	})
	if err == nil {
		t.Cleanup(func() { a.Close() })
	}
	return a, err
}

// play runs the actor to its end and returns its final state.
func (s *stage) play(t testing.TB) (state []byte, ok bool) {
	t.Helper()
	a, err := s.start(t)
	if err == nil {
		err = a.Wait(testenv.Context(t))
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, s.logged())
	}
	return a.State()
}

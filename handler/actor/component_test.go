package actor

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/tests/testenv"
)

// componentStage is newStage for a component of hack/guests. Compiled modules are
// kept beside it.
func componentStage(t testing.TB, name string, programs ...string) *stage {
	t.Helper()
	s := newStage(t, componentGuest(t, name), programs...)
	if strings.Contains(name, "js-") { // compiling takes a while
		s.cache = filepath.Join(os.Getenv("PROSCENIUM_GUESTS"), "compiled")
		s.manifest.Deadline = time.Minute
	}
	return s
}

// TestEchoOfComponents: every byte value goes through cat, whatever tool made the
// component.
func TestEchoOfComponents(t *testing.T) {
	testenv.NoLeaks(t)
	var want []byte
	for i := range 256 {
		want = append(want, byte(i))
	}
	for _, name := range []string{"c-echo", "js-echo", "js-echo-default", "qjs-echo", "qjs-echo-wasi"} {
		t.Run(name, func(t *testing.T) {
			s := componentStage(t, name, "/usr/bin/cat")
			if state, ok := s.play(t); !ok || !bytes.Equal(state, want) {
				t.Errorf("%q\n%s", state, s.logged())
			}
			if n := len(s.recorder.all(handler.Ended)); n != 1 {
				t.Errorf("%d programs have ended", n)
			}
			if strings.Contains(name, "js") && !strings.Contains(s.logged(), `level=INFO msg="I am tested"`) {
				t.Errorf("log: %s", s.logged())
			}
		})
	}
}

// TestAsyncComponent: what this host cannot do is said when it is loaded.
func TestAsyncComponent(t *testing.T) {
	testenv.NoLeaks(t)
	_, err := componentStage(t, "qjs-echo-async").start(t)
	if err == nil || !strings.Contains(err.Error(), "this host does not know async components; build without async") {
		t.Error(err)
	}
}

// TestWorlds: the types that the loader knows are those of the WIT package as the
// real tools read it. What is inside is unreachable.
func TestWorlds(t *testing.T) {
	testenv.NoLeaks(t)
	for _, world := range []string{"process-actor", "plain-actor", "controlled-actor"} {
		if _, err := componentStage(t, "world-"+world).start(t); err == nil || !strings.Contains(err.Error(), "unreachable") {
			t.Errorf("%s: %v", world, err)
		}
	}
}

// TestAsComponents: the actors in C do as components what they do as core
// modules, the hostile one too.
func TestAsComponents(t *testing.T) {
	componentGuest(t, "c-echo") // skips all of it where there are none
	asComponents = true
	t.Cleanup(func() { asComponents = false })
	for name, test := range map[string]func(*testing.T){
		"Modes": TestModes, "Pipeline": TestPipeline, "Status": TestStatus, "Signals": TestSignalsAndKills, "State": TestStateRoundTrip,
		"InitError": TestInitError, "NoProcessHandler": TestNoProcessHandler, "Chain": TestLogAndChain, "ChainIsBounded": TestChainIsBounded,
		"WASI": TestWASIGivesNothing, "Hostile": TestHostileGuests,
	} {
		t.Run(name, test)
	}
}

// TestHostileComponents: what only a component can do wrong.
func TestHostileComponents(t *testing.T) {
	testenv.NoLeaks(t)
	for name, want := range map[string]outcome{
		"nothing":                 fine,
		"start-loops":             deadline,
		"tail-calls":              deadline,
		"two-to-the-hundred":      deadline,
		"memories":                fine,
		"refused-import":          engine("wasi:http/types@0.2 shout was called, but this host has nothing behind it"),
		"own-resource":            engine("resource.drop of the guest was called, but this host does not carry out resources but its own"),
		"across-components":       engine("f was called, but this host does not carry out calls from one component to another"),
		"realloc-of-three":        engine(`the core function "realloc" is not of the type that realloc must have`),
		"init-of-four":            engine(`the core function "init" is not of the type that init must have`),
		"import-of-another-type":  engine("signature mismatch"),
		"log-into-another-memory": fine,
	} {
		t.Run(name, func(t *testing.T) {
			s := componentStage(t, "hostile-"+name)
			s.manifest.Memory = 16 << 20
			if want == deadline {
				s.manifest.Deadline = 300 * time.Millisecond
			}
			_, err := s.start(t)
			(hostileCase{want: want}).judge(t, err)
			if n := len(s.recorder.all(handler.ActorFailed)); (n == 1) != (want != fine) {
				t.Errorf("%d failures were recorded", n)
			}
			if strings.HasPrefix(name, "log-") && !strings.Contains(s.logged(), "the other memory") {
				t.Errorf("log: %s", s.logged())
			}
		})
	}
}

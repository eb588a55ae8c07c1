package tests

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/proscenium-dev/proscenium/tests/testenv"
)

const module = "github.com/proscenium-dev/proscenium"

// mayImport is the table of who may import whom: ours, then third parties' by
// prefix. Arrows go downwards only.
var mayImport = map[string]struct{ ours, theirs []string }{
	"reexec":           {nil, []string{"golang.org/x/sys/unix"}},
	"isolate":          {nil, []string{"golang.org/x/sys/unix", "github.com/opencontainers/runtime-spec"}},
	"cgroup":           {nil, []string{"github.com/containerd/cgroups/v3", "golang.org/x/sys/unix"}},
	"launcher":         {[]string{"isolate", "reexec"}, []string{"golang.org/x/sys/unix"}},
	"wit":              {nil, nil},
	"wit/wasm":         {nil, nil},
	"wit/component":    {[]string{"wit/canon", "wit/wasm"}, []string{"github.com/tetratelabs/wazero"}},
	"wit/linear":       {nil, []string{"github.com/tetratelabs/wazero/experimental", "golang.org/x/sys/unix"}},
	"wit/wasi":         {[]string{"wit/canon", "wit/component"}, []string{"github.com/tetratelabs/wazero"}},
	"wit/canon":        {nil, []string{"github.com/tetratelabs/wazero/api"}},
	"handler":          {[]string{"launcher", "isolate", "cgroup"}, []string{"github.com/pelletier/go-toml/v2", "github.com/docker/go-units", "golang.org/x/sys/unix"}},
	"handler/actor":    {[]string{"handler", "wit", "wit/canon", "wit/wasm", "wit/component", "wit/linear", "wit/wasi", "launcher", "cgroup"}, []string{"github.com/tetratelabs/wazero", "golang.org/x/sys/unix"}},
	"metrics":          {[]string{"handler"}, []string{"github.com/prometheus/client_golang"}},
	"cmd/proscenium":   {[]string{"reexec", "isolate", "cgroup", "launcher", "handler", "handler/actor", "metrics"}, []string{"github.com/spf13/cobra", "github.com/prometheus/client_golang", "golang.org/x/sys/unix"}},
	"tests/testenv":    {[]string{"reexec", "isolate", "cgroup", "launcher", "handler"}, []string{"golang.org/x/sys/unix"}},
	"tests":            {nil, nil},
	"hack/demo.d":      {[]string{"wit/guest"}, nil},
	"wit/guest":        {nil, nil},
	"wit/guest/batch":  {[]string{"wit/guest"}, nil},
	"benchmarks":       {[]string{"reexec", "isolate", "cgroup", "launcher", "handler", "handler/actor"}, []string{"golang.org/x/sys/unix"}},
	"benchmarks/suite": {[]string{"reexec", "isolate", "cgroup", "launcher", "handler", "handler/actor"}, []string{"golang.org/x/sys/unix"}},
}

func TestImports(t *testing.T) {
	_, err := os.Stat("../go.mod")
	testenv.Need(t, "source", err == nil, "the module's source is not here")
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for d := json.NewDecoder(strings.NewReader(string(out))); ; seen++ {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		checkImports(t, strings.TrimPrefix(p.ImportPath, module+"/"), p.Imports)
	}
	if seen < 8 {
		t.Errorf("only %d packages were looked at", seen)
	}
}

func checkImports(t *testing.T, pkg string, imports []string) {
	allowed, ok := mayImport[pkg]
	if !ok {
		t.Errorf("package %s is not in the table: which room is it?", pkg)
		return
	}
	for _, i := range imports {
		first, _, _ := strings.Cut(i, "/")
		ours, isOurs := strings.CutPrefix(i, module+"/")
		switch {
		case isOurs && !slices.Contains(allowed.ours, ours):
			t.Errorf("%s must not import %s", pkg, ours)
		case !isOurs && strings.Contains(first, ".") && !slices.ContainsFunc(allowed.theirs, func(p string) bool { return i == p || strings.HasPrefix(i, p+"/") }):
			t.Errorf("%s must not import %s", pkg, path.Clean(i))
		}
	}
}

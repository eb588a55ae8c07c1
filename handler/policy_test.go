package handler

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDenials: what is refused before anything starts, with its rule and text.
func TestDenials(t *testing.T) {
	dir := t.TempDir()
	real := filepath.Join(dir, "real")
	for _, d := range []string{real, dir + "/realevil", real + "/sub"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"/out": dir, "/id": "/usr/bin/id", "/cat": "/usr/bin/cat"} {
		if err := os.Symlink(to, real+name); err != nil {
			t.Fatal(err)
		}
	}
	c := allow("/usr/bin/cat", "/usr/bin/echo", "/no/such/program")
	c.AllowedPaths = []string{real, "/no/such/path"}
	c.ArgsAllowed = map[string][]string{"/usr/bin/echo": {"-n", "[a-z]+"}}
	c.Env = EnvPolicy{Deny: []string{"HOME"}, Set: map[string]string{"TZ": "UTC"}}
	p, missing, err := newPolicy(c)
	if err != nil || len(missing) != 2 {
		t.Fatal(missing, err)
	}
	size := func(n uint32) *uint32 { return &n }
	cat := func(change func(*ProcessConfig)) ProcessConfig {
		r := ProcessConfig{Program: "/usr/bin/cat"}
		change(&r)
		return r
	}
	env := func(name, value string) ProcessConfig {
		return cat(func(r *ProcessConfig) { r.Env = []EnvVar{{name, value}} })
	}
	for _, test := range []struct {
		name    string
		request ProcessConfig
		rule    string
		text    string
	}{
		{"empty program", ProcessConfig{}, "parameters", "the program is empty"},
		{"relative program", ProcessConfig{Program: "cat"}, "parameters", "not an absolute path"},
		{"relative with a slash", ProcessConfig{Program: "./cat"}, "parameters", "not an absolute path"},
		{"NUL in program", ProcessConfig{Program: "/usr/bin/cat\x00"}, "parameters", "NUL"},
		{"NUL in argument", cat(func(r *ProcessConfig) { r.Args = []string{"a", "\x00"} }), "parameters", "argument 1"},
		{"NUL in directory", cat(func(r *ProcessConfig) { r.Cwd = "/\x00" }), "parameters", "NUL"},
		{"too many arguments", cat(func(r *ProcessConfig) { r.Args = make([]string, 5000) }), "parameters", "more than 4096"},
		{"too many variables", cat(func(r *ProcessConfig) { r.Env = make([]EnvVar, 2000) }), "parameters", "more than 1024"},
		{"too large", cat(func(r *ProcessConfig) { r.Args = []string{strings.Repeat("x", 1<<20)} }), "parameters", "more than 524288"},
		{"empty name", env("", "x"), "parameters", "is empty"},
		{"= in name", env("A=B", "x"), "parameters", "contains ="},
		{"NUL in value", env("A", "\x00"), "parameters", "NUL"},
		{"name twice", cat(func(r *ProcessConfig) { r.Env = []EnvVar{{"A", ""}, {"A", ""}} }), "parameters", "twice"},
		{"loader variable", env("LD_PRELOAD", "x"), "env", "LD_PRELOAD"},
		{"another", env("GCONV_PATH", "x"), "env", "GCONV_PATH"},
		{"denied variable", env("HOME", "/"), "env.deny", "HOME"},
		{"fixed variable", env("TZ", "x"), "env.set", "TZ"},
		{"no such mode", cat(func(r *ProcessConfig) { r.StdoutMode = 4 }), "parameters", "output mode"},
		{"not allowed", ProcessConfig{Program: "/usr/bin/id"}, "allowed_programs", "/usr/bin/id is not allowed"},
		{"link to what is not allowed", ProcessConfig{Program: real + "/id"}, "allowed_programs", "not allowed"},
		{"by way of ..", ProcessConfig{Program: "/usr/bin/../bin/id"}, "allowed_programs", "not allowed"},
		{"not there", ProcessConfig{Program: "/no/such/program"}, "allowed_programs", "not allowed"},
		{"a directory", ProcessConfig{Program: "/usr/bin"}, "allowed_programs", "not allowed"},
		{"argument", ProcessConfig{Program: "/usr/bin/echo", Args: []string{"abc", "-e"}}, "args_allowed", `"-e"`},
		{"part of an argument", ProcessConfig{Program: "/usr/bin/echo", Args: []string{"abc\nX"}}, "args_allowed", ""},
		{"directory", cat(func(r *ProcessConfig) { r.Cwd = "/etc" }), "allowed_paths", "/etc"},
		{"relative directory", cat(func(r *ProcessConfig) { r.Cwd = "." }), "allowed_paths", "absolute"},
		{"prefix of a name", cat(func(r *ProcessConfig) { r.Cwd = real + "evil" }), "allowed_paths", "evil"},
		{"link out", cat(func(r *ProcessConfig) { r.Cwd = real + "/out" }), "allowed_paths", "/out"},
		{"..", cat(func(r *ProcessConfig) { r.Cwd = real + "/.." }), "allowed_paths", ".."},
		{"above", cat(func(r *ProcessConfig) { r.Cwd = dir }), "allowed_paths", dir},
		{"/proc", cat(func(r *ProcessConfig) { r.Cwd = "/proc/self/root" + real }), "allowed_paths", "in /proc"},
		{"/proc by ..", cat(func(r *ProcessConfig) { r.Cwd = "/usr/../proc/self/root" + real }), "allowed_paths", "in /proc"},
		{"a file", cat(func(r *ProcessConfig) { r.Cwd = "/etc/passwd" }), "allowed_paths", "passwd"},
		{"buffer too large", cat(func(r *ProcessConfig) { r.BufferSize = 2 << 20 }), "max_output_buffer", "buffer-size 2097152"},
		{"chunk 0", cat(func(r *ProcessConfig) { r.StdoutMode, r.ChunkSize = Chunked, size(0) }), "parameters", "chunk-size 0"},
		{"chunk too large", cat(func(r *ProcessConfig) { r.StderrMode, r.ChunkSize = Chunked, size(1<<32-1) }), "max_output_buffer", "chunk-size"},
	} {
		_, err := p.check(test.request)
		var d *Denial
		if !errors.As(err, &d) || d.Rule != test.rule || !strings.Contains(d.Reason, test.text) {
			t.Errorf("%s: %v, want %s: …%s…", test.name, err, test.rule, test.text)
		}
	}
	for name, r := range map[string]ProcessConfig{
		"a link to it":         {Program: real + "/cat"},
		"merged /bin":          {Program: "/bin/cat"},
		"the allowed path":     cat(func(r *ProcessConfig) { r.Cwd = real }),
		"below it":             cat(func(r *ProcessConfig) { r.Cwd = real + "/sub" }),
		"arguments":            {Program: "/usr/bin/echo", Args: []string{"-n", "abc"}},
		"chunk 0 but raw":      cat(func(r *ProcessConfig) { r.ChunkSize = size(0) }),
		"an ordinary variable": env("LANG", "C"),
	} {
		m, err := p.check(r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !strings.HasPrefix(m.path, "/usr/bin/") || m.env[len(m.env)-1] != "TZ=UTC" {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

// TestNothingIsAllowedUnlessNamed, and a denial is recorded with its rule.
func TestNothingIsAllowedUnlessNamed(t *testing.T) {
	r := &recording{}
	h := newHandler(t, DefaultConfig(), r)
	_, err := h.Spawn(context.Background(), ProcessConfig{Program: "/usr/bin/true"}, Discard)
	var d *Denial
	if !errors.As(err, &d) || d.Rule != "allowed_programs" {
		t.Errorf("%v", err)
	}
	if len(r.events) != 1 || r.events[0].Kind != SpawnDenied || r.events[0].Rule != "allowed_programs" || r.events[0].Program != "/usr/bin/true" {
		t.Errorf("%+v", r.events)
	}
	wait(t, h)
}

func TestNewNeedsLimitsOrTheWord(t *testing.T) {
	if _, err := New(DefaultConfig(), nil, nil, nil); err == nil || !strings.Contains(err.Error(), `limits = "none"`) {
		t.Errorf("%v", err)
	}
}

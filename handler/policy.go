package handler

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/isolate"
)

// Bounds of what an actor may ask for in one spawn.
const (
	maxArgs       = 4096
	maxEnv        = 1024
	maxParameters = 512 << 10 // bytes of arguments and environment together
	maxFrame      = 16 << 20  // buffer-size and chunk-size, whatever the manifest says
)

// DefaultBufferSize is what buffer-size 0 means.
const DefaultBufferSize = 64 << 10

// A ProcessConfig is what an actor asks for: the WIT record process-config.
type ProcessConfig struct {
	Program    string   // absolute
	Args       []string // without argv[0]
	Cwd        string   // "": the root of the cell
	Env        []EnvVar
	BufferSize uint32 // bytes; 0: DefaultBufferSize
	StdoutMode Mode
	StderrMode Mode
	ChunkSize  *uint32 // bytes, for chunked; nil: BufferSize
	Limits     Tighter // than the manifest's
}

// An EnvVar is one variable of the program's environment.
type EnvVar struct{ Name, Value string }

// A Denial is a spawn that was refused before anything started, with the rule
// that refused it.
type Denial struct {
	Rule   string // the manifest's key, or "parameters"
	Reason string
}

func (d *Denial) Error() string { return d.Rule + ": " + d.Reason }

func deny(rule, format string, args ...any) error {
	return &Denial{rule, fmt.Sprintf(format, args...)}
}

// policy is a Config, checked.
type policy struct {
	config   Config
	programs []program
	paths    []string // that are shown, resolved
	mounts   []isolate.Mount
}

// newPolicy resolves what the configuration names. A program or path that does
// not exist cannot be reached; missing names them, for the log.
func newPolicy(c Config) (p *policy, missing []string, err error) {
	p = &policy{config: c}
	var faults []error
	for _, name := range c.AllowedPrograms {
		if !filepath.IsAbs(name) {
			faults = append(faults, fmt.Errorf("allowed_programs: %q is not an absolute path%s", name, pathOf(name)))
			continue
		}
		if _, err := os.Stat(name); err != nil {
			missing = append(missing, name)
		}
		p.programs = append(p.programs, program{name: filepath.Clean(name)})
	}
	for _, name := range c.Needs {
		if !filepath.IsAbs(name) {
			faults = append(faults, fmt.Errorf("needs: %q is not an absolute path", name))
		}
	}
	for name, digest := range c.SHA256 {
		if !slices.Contains(c.AllowedPrograms, name) {
			faults = append(faults, fmt.Errorf("sha256: %q is not in allowed_programs", name))
		}
		if b, err := hex.DecodeString(digest); err != nil || len(b) != sha256.Size {
			faults = append(faults, fmt.Errorf("sha256: %s: %q is not %d hexadecimal digits", name, digest, 2*sha256.Size))
		}
	}
	for _, list := range []struct {
		key   string
		names []string
		mount func(string) isolate.Mount
	}{{"allowed_paths", c.AllowedPaths, isolate.RW}, {"read_only_paths", c.ReadOnlyPaths, isolate.RO}} {
		for _, name := range list.names {
			if !filepath.IsAbs(name) {
				faults = append(faults, fmt.Errorf("%s: %q is not an absolute path", list.key, name))
				continue
			}
			real, _, err := resolve(name)
			if err != nil {
				missing = append(missing, name)
				continue
			}
			p.paths = append(p.paths, real)
			p.mounts = append(p.mounts, list.mount(name))
		}
	}
	for name, patterns := range c.ArgsAllowed {
		i := slices.IndexFunc(p.programs, func(q program) bool { return q.name == filepath.Clean(name) })
		if i < 0 {
			faults = append(faults, fmt.Errorf("args_allowed: %q is not in allowed_programs", name))
			continue
		}
		p.programs[i].args = []*regexp.Regexp{}
		for _, pattern := range patterns {
			r, err := regexp.Compile(`^(?:` + pattern + `)$`)
			if err != nil {
				faults = append(faults, fmt.Errorf("args_allowed: %s: %w", name, err))
				continue
			}
			p.programs[i].args = append(p.programs[i].args, r)
		}
	}
	return p, missing, errors.Join(faults...)
}

func resolve(name string) (string, fs.FileInfo, error) {
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		return "", nil, err
	}
	info, err := os.Stat(real)
	return real, info, err
}

// A permit is a request that policy has let through.
type permit struct {
	path       string   // of the program, as it is allowed
	env        []string // NAME=value
	stdoutSize int      // of events
	stderrSize int

	limits  cgroup.Limits
	budgets Budgets
	tight   bool // they are not the manifest's
}

// check decides on a request; the error is a *Denial.
func (p *policy) check(r ProcessConfig) (*permit, error) {
	if err := checkParameters(r); err != nil {
		return nil, err
	}
	allowed, err := p.program(r)
	if err != nil {
		return nil, err
	}
	m := &permit{path: allowed.name, tight: r.Limits != Tighter{}}
	if err := p.checkDir(r.Cwd); err != nil {
		return nil, err
	}
	if m.limits, m.budgets, err = p.tighten(r.Limits); err != nil {
		return nil, err
	}
	if m.env, err = p.environment(r.Env); err != nil {
		return nil, err
	}
	size, err := p.eventSize("buffer-size", r.BufferSize, DefaultBufferSize)
	if err != nil {
		return nil, err
	}
	chunk := size
	if r.ChunkSize != nil && (r.StdoutMode == Chunked || r.StderrMode == Chunked) {
		if *r.ChunkSize == 0 {
			return nil, deny("parameters", "chunk-size 0 makes no progress")
		}
		if chunk, err = p.eventSize("chunk-size", *r.ChunkSize, 0); err != nil {
			return nil, err
		}
	}
	for _, s := range []struct {
		mode Mode
		size *int
	}{{r.StdoutMode, &m.stdoutSize}, {r.StderrMode, &m.stderrSize}} {
		switch s.mode {
		case Chunked:
			*s.size = chunk
		case JSON: // a text is whole or it is none
			*s.size = int(p.config.MaxOutputBuffer)
		default:
			*s.size = size
		}
	}
	return m, nil
}

func checkParameters(r ProcessConfig) error {
	nul := func(s string) bool { return strings.ContainsRune(s, 0) }
	switch {
	case r.Program == "":
		return deny("parameters", "the program is empty")
	case nul(r.Program):
		return deny("parameters", "the program %q contains a NUL byte", r.Program)
	case !filepath.IsAbs(r.Program):
		return deny("parameters", "the program %q is not an absolute path", r.Program)
	case len(r.Args) > maxArgs:
		return deny("parameters", "%d arguments are more than %d", len(r.Args), maxArgs)
	case len(r.Env) > maxEnv:
		return deny("parameters", "%d environment variables are more than %d", len(r.Env), maxEnv)
	case nul(r.Cwd):
		return deny("parameters", "the working directory contains a NUL byte")
	case r.StdoutMode > Chunked || r.StderrMode > Chunked:
		return deny("parameters", "no such output mode")
	}
	total := len(r.Program)
	for i, a := range r.Args {
		if nul(a) {
			return deny("parameters", "argument %d contains a NUL byte", i)
		}
		total += len(a) + 1
	}
	names := map[string]bool{}
	for i, e := range r.Env {
		switch {
		case e.Name == "":
			return deny("parameters", "the name of environment variable %d is empty", i)
		case strings.Contains(e.Name, "="):
			return deny("parameters", "the name %q of an environment variable contains =", e.Name)
		case nul(e.Name) || nul(e.Value):
			return deny("parameters", "environment variable %q contains a NUL byte", e.Name)
		case names[e.Name]:
			return deny("parameters", "environment variable %q is given twice", e.Name)
		}
		names[e.Name] = true
		total += len(e.Name) + len(e.Value) + 2
	}
	if total > maxParameters {
		return deny("parameters", "arguments and environment of %d bytes are more than %d", total, maxParameters)
	}
	return nil
}

func (p *policy) eventSize(name string, asked uint32, otherwise int64) (int, error) {
	size := int64(asked)
	if size == 0 {
		size = min(otherwise, p.config.MaxOutputBuffer)
	}
	if size > p.config.MaxOutputBuffer || size > maxFrame {
		return 0, deny("max_output_buffer", "%s %d is more than %d", name, size, min(p.config.MaxOutputBuffer, maxFrame))
	}
	return int(size), nil
}

// checkDir takes a working directory that is, by its real path, an allowed path
// or lies in one.
func (p *policy) checkDir(dir string) error {
	if dir == "" {
		return nil
	}
	if !filepath.IsAbs(dir) {
		return deny("allowed_paths", "the working directory %q is not an absolute path", dir)
	}
	if clean := filepath.Clean(dir); clean == "/proc" || strings.HasPrefix(clean, "/proc/") {
		return deny("allowed_paths", "the working directory %s is in /proc, where the program finds other things than the host", dir)
	}
	real, info, err := resolve(dir)
	if err == nil && info.IsDir() {
		for _, allowed := range p.paths {
			if real == allowed || strings.HasPrefix(real, strings.TrimSuffix(allowed, "/")+"/") {
				return nil
			}
		}
	}
	return deny("allowed_paths", "the working directory %s is not in an allowed path", dir)
}

// A loaderVariable changes which code a program runs, and is never an actor's to
// set: ld.so(8), what glibc unsets for set-user-ID programs, and what interpreters
// load before their script. Nor is it the manifest's (env.set).
func loaderVariable(name string) bool {
	return strings.HasPrefix(name, "LD_") || strings.HasPrefix(name, "GIT_CONFIG") || slices.Contains([]string{
		"GCONV_PATH", "GETCONF_DIR", "GLIBC_TUNABLES", "HOSTALIASES", "LOCALDOMAIN", "LOCPATH", "MALLOC_TRACE",
		"NIS_PATH", "NLSPATH", "RESOLV_HOST_CONF", "RES_OPTIONS", "BASH_ENV", "ENV", "SHELLOPTS", "PS4",
		"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PERL5LIB", "PERLLIB", "PERL5OPT", "PERL5DB", "RUBYLIB", "RUBYOPT",
		"NODE_OPTIONS", "NODE_PATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH", "OPENSSL_CONF", "OPENSSL_MODULES",
		"GIT_SSH", "GIT_SSH_COMMAND", "GIT_EXEC_PATH", "GIT_EXTERNAL_DIFF", "GIT_PAGER", "GIT_EDITOR", "GIT_ASKPASS", "GIT_TEMPLATE_DIR", "GIT_PROXY_COMMAND",
	}, name)
}

// environment is what the program gets: the request's variables that the
// manifest lets through, then the manifest's own.
func (p *policy) environment(asked []EnvVar) ([]string, error) {
	c := p.config.Env
	var env []string
	for _, e := range asked {
		switch {
		case loaderVariable(e.Name):
			return nil, deny("env", "%s changes which code runs and cannot be set", e.Name)
		case slices.Contains(c.Deny, e.Name):
			return nil, deny("env.deny", "%s is denied", e.Name)
		case c.Allow != nil && !slices.Contains(c.Allow, e.Name):
			return nil, deny("env.allow", "%s is not allowed", e.Name)
		}
		if _, fixed := c.Set[e.Name]; fixed {
			return nil, deny("env.set", "%s is set by the manifest", e.Name)
		}
		env = append(env, e.Name+"="+e.Value)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Set)) {
		env = append(env, name+"="+c.Set[name])
	}
	return env, nil
}

// spec is the isolation of every process of this actor.
func (p *policy) spec() isolate.Spec {
	s := p.config.Isolation
	s.Needs = append(slices.Clone(s.Needs), p.config.Needs...)
	s.Allow = p.present()
	for name, digest := range p.config.SHA256 {
		if slices.Contains(s.Allow, filepath.Clean(name)) {
			if s.SHA256 == nil {
				s.SHA256 = map[string]string{}
			}
			s.SHA256[filepath.Clean(name)] = digest
		}
	}
	s.Mounts = append(slices.Clone(s.Mounts), p.mounts...)
	return s
}

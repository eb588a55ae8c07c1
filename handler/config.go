package handler

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	// go-units: sizes as container tools read them, no dependencies.
	"github.com/docker/go-units"
	// go-toml: unknown keys with line and column, TOML 1.1's inline tables over
	// several lines, no dependencies.
	"github.com/pelletier/go-toml/v2"
	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/isolate"
)

// A Config is what one actor may do with processes: the `config` of its
// manifest's handler of type "process", checked.
type Config struct {
	Actor           string       // whose events they are
	Logger          *slog.Logger // nil: silent
	MaxProcesses    int          // alive at once
	MaxOutputBuffer int64        // bytes of output that wait for the actor, per process
	AllowedPrograms []string
	AllowedPaths    []string            // shown, writable
	ReadOnlyPaths   []string            // shown, read-only
	Needs           []string            // shown to the programs as isolate.Spec.Needs
	SHA256          map[string]string   // program → pinned digest, as isolate.Spec.SHA256
	ArgsAllowed     map[string][]string // program → patterns, one of which each argument matches whole
	Env             EnvPolicy
	StdinNull       bool          // programs read end of file at once
	Unlimited       bool          // limits = "none": no control group
	Limits          cgroup.Limits // of each process
	Budgets         Budgets       // of each process
	IDRange         IDRange       // an id of its own on the host for each process; else Isolation says which
	Isolation       isolate.Spec  // of each process, without programs and paths
	After           uint64        // ids begin behind this one: an actor that is started again goes on
	Warm            int           // cells kept ready, each with some 300 KiB of the kernel's memory; 0: none
}

// An EnvPolicy says which variables an actor may set.
type EnvPolicy struct {
	Allow []string          `toml:"allow"` // nil: any that is not denied and changes no code (LD_*, PYTHONPATH, …)
	Deny  []string          `toml:"deny"`
	Set   map[string]string `toml:"set"` // always set, and not by the actor
}

// Defaults of a Config.
const (
	DefaultMaxProcesses    = 10
	DefaultMaxOutputBuffer = 1 << 20

	maxMaxProcesses    = 100000
	maxWarm            = 1000
	maxMaxOutputBuffer = 1 << 30
)

// DefaultConfig allows no program.
func DefaultConfig() Config {
	return Config{MaxProcesses: DefaultMaxProcesses, MaxOutputBuffer: DefaultMaxOutputBuffer}
}

// A Manifest is an actor's manifest, checked, with its paths made absolute.
type Manifest struct {
	Name          string
	ComponentPath string
	State         []byte        // initial; nil: none
	Deadline      time.Duration // of one call; 0: none, by explicit word
	Memory        int64         // bytes that the guest may have
	Restart       Restart
	Process       *Config // nil: the actor has no handler of type "process"
}

// A Restart says what follows a failure of the actor.
type Restart string

const (
	RestartNever     Restart = "never" // the default
	RestartOnFailure Restart = "on-failure"
)

// Defaults of a Manifest.
const (
	DefaultDeadline = 10 * time.Second
	DefaultMemory   = 256 << 20

	maxManifest = 1 << 20
	maxState    = 64 << 20
)

// The manifest as it is written.
type manifestFile struct {
	Name          string        `toml:"name"`
	ComponentPath string        `toml:"component_path"`
	InitState     string        `toml:"init_state"`
	InitialState  *string       `toml:"initial_state"`
	Deadline      *duration     `toml:"deadline"`
	Memory        *memorySize   `toml:"memory"`
	Restart       Restart       `toml:"restart"`
	Handlers      []handlerFile `toml:"handlers"`
}

type handlerFile struct {
	Type   string     `toml:"type"`
	Config configFile `toml:"config"`
}

type configFile struct {
	MaxProcesses    *int64              `toml:"max_processes"`
	MaxOutputBuffer *int64              `toml:"max_output_buffer"`
	AllowedPrograms []string            `toml:"allowed_programs"`
	AllowedPaths    []string            `toml:"allowed_paths"`
	ReadOnlyPaths   []string            `toml:"read_only_paths"`
	Needs           []string            `toml:"needs"`
	SHA256          map[string]string   `toml:"sha256"`
	ArgsAllowed     map[string][]string `toml:"args_allowed"`
	Env             EnvPolicy           `toml:"env"`
	Stdin           string              `toml:"stdin"`
	Profile         string              `toml:"profile"`
	Network         string              `toml:"network"`
	NoJIT           bool                `toml:"no_jit"`
	Warm            int64               `toml:"warm"`
	RunAs           *string             `toml:"run_as"`
	IDRange         *string             `toml:"id_range"`
	Limits          limitsFile          `toml:"limits"`
}

// limitsFile is a table, or the word "none".
type limitsFile struct {
	none      bool
	Memory    *memorySize `toml:"memory"`
	CPU       *float64    `toml:"cpu"`
	CPUPeriod *duration   `toml:"cpu_period"`
	Pids      *int64      `toml:"pids"`
	Wall      *duration   `toml:"wall"`
	CPUTime   *duration   `toml:"cpu_time"`
	Grace     *duration   `toml:"grace"`
	Output    *memorySize `toml:"output"`
	KillOne   bool        `toml:"kill_one"`
	IO        []ioFile    `toml:"io"`
}

// ioFile is an io limit; a rate that is left out is none.
type ioFile struct {
	Device   string     `toml:"device"`
	Read     memorySize `toml:"read"`
	Write    memorySize `toml:"write"`
	ReadOps  int64      `toml:"read_ops"`
	WriteOps int64      `toml:"write_ops"`
}

// duration is a string such as "10s"; "none" is 0.
type duration struct{ time.Duration }

func (d *duration) UnmarshalText(b []byte) (err error) {
	if string(b) == "none" {
		d.Duration = 0
		return nil
	}
	if d.Duration, err = time.ParseDuration(string(b)); err == nil && d.Duration <= 0 {
		err = fmt.Errorf("%q is not a time span such as \"10s\", or \"none\"", b)
	}
	return err
}

// memorySize is a string such as "64M"; powers of 1024, as docker reads it.
type memorySize struct{ bytes int64 }

func (m *memorySize) UnmarshalText(b []byte) (err error) {
	m.bytes, err = ParseSize(string(b))
	return err
}

const maxSize = 1 << 50

// ParseSize reads a size such as 64M, 1.5GiB or 4096 as docker does, in powers
// of 1024. (go-units overflows silently on absurd values, hence the bound.)
func ParseSize(text string) (int64, error) {
	n, err := units.RAMInBytes(text)
	switch {
	case err != nil, n == 0:
		return 0, fmt.Errorf("%q is not a size such as 64M or 1.5GiB", text)
	case n < 0, n > maxSize: // a minus sign is an error already
		return 0, fmt.Errorf("%q is more than 1P, the most that a size can be", text)
	}
	return n, nil
}

// LoadManifest reads and checks a manifest. Errors name line and column.
func LoadManifest(path string) (*Manifest, error) {
	b, err := readBounded(path, maxManifest)
	if err != nil {
		return nil, err
	}
	m, err := ParseManifest(b, filepath.Dir(path))
	if err != nil {
		return nil, inFile(path, err)
	}
	return m, nil
}

// inFile puts the file's name before each fault.
func inFile(path string, err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var faults []error
		for _, e := range joined.Unwrap() {
			faults = append(faults, inFile(path, e))
		}
		return errors.Join(faults...)
	}
	return fmt.Errorf("%s:%w", path, err)
}

func readBounded(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s: %d bytes are more than %d", path, info.Size(), limit)
	}
	return os.ReadFile(path)
}

// ParseManifest is LoadManifest on bytes; relative paths are below dir. Its
// errors begin with the position, where there is one.
func ParseManifest(b []byte, dir string) (*Manifest, error) {
	b = bytes.TrimPrefix(b, []byte("\ufeff"))
	if err := checkKeys(b, reflect.TypeFor[manifestFile]()); err != nil {
		return nil, err
	}
	none, b, err := takeNoLimits(b)
	if err != nil {
		return nil, err
	}
	var file manifestFile
	if err := toml.Unmarshal(b, &file); err != nil {
		return nil, tomlError(err)
	}
	for i := range file.Handlers {
		file.Handlers[i].Config.Limits.none = none[i]
	}
	m, err := file.manifest(dir)
	if err != nil {
		return nil, fmt.Errorf(" %w", err)
	}
	return m, nil
}

// tomlError puts the position in front.
func tomlError(err error) error {
	var d *toml.DecodeError
	if errors.As(err, &d) {
		line, column := d.Position()
		text := strings.TrimPrefix(d.Error(), "toml: ")
		// The library names the Go types; a manifest's author knows none.
		if key := strings.Join(d.Key(), "."); strings.Contains(text, "into") && key != "" {
			text = key + " has a value of the wrong type"
		}
		return fmt.Errorf("%d:%d: %s", line, column, text)
	}
	return fmt.Errorf(" %w", err)
}

func (f *manifestFile) manifest(dir string) (*Manifest, error) {
	m := &Manifest{Name: f.Name, Deadline: DefaultDeadline, Memory: DefaultMemory}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if f.Name == "" {
		fault("name is missing")
	}
	if len(f.Name) > 256 || strings.ContainsFunc(f.Name, func(r rune) bool { return r < ' ' }) {
		fault("name: at most 256 bytes, no control characters")
	}
	absolute := func(p string) string {
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		return p
	}
	if f.ComponentPath == "" {
		fault("component_path is missing")
	} else {
		m.ComponentPath = absolute(f.ComponentPath)
	}
	switch {
	case f.InitState != "" && f.InitialState != nil:
		fault("init_state and initial_state exclude each other")
	case f.InitState != "":
		state, err := readBounded(absolute(f.InitState), maxState)
		if err != nil {
			fault("init_state: %w", err)
		}
		m.State = state
	case f.InitialState != nil:
		m.State = []byte(*f.InitialState)
	}
	if f.Deadline != nil {
		m.Deadline = f.Deadline.Duration
	}
	if f.Memory != nil {
		m.Memory = f.Memory.bytes
	}
	switch m.Restart = f.Restart; m.Restart {
	case "":
		m.Restart = RestartNever
	case RestartNever, RestartOnFailure:
	default:
		fault(`restart %q: "never" or "on-failure"`, f.Restart)
	}
	if m.Memory < 64<<10 || m.Memory > 4<<30 {
		fault("memory: between 64K and 4G")
	}
	for _, h := range f.Handlers {
		switch {
		case h.Type == "runtime":
			if !reflect.DeepEqual(h.Config, configFile{}) {
				fault("a handler of type runtime has nothing to configure: leave its config out")
			}
		case h.Type != "process":
			fault("handler type %q: this host has process and runtime", h.Type)
		case m.Process != nil:
			fault("two handlers of type process")
		default:
			c, err := h.Config.config()
			if err != nil {
				faults = append(faults, err)
			}
			m.Process = &c
		}
	}
	return m, errors.Join(faults...)
}

func (f *configFile) config() (Config, error) {
	c := DefaultConfig()
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if n := f.MaxProcesses; n != nil {
		if *n < 0 || *n > maxMaxProcesses {
			fault("max_processes %d is not between 0 and %d", *n, maxMaxProcesses)
		}
		c.MaxProcesses = int(*n)
	}
	if n := f.MaxOutputBuffer; n != nil {
		if *n < 1 || *n > maxMaxOutputBuffer {
			fault("max_output_buffer %d is not between 1 and %d bytes", *n, maxMaxOutputBuffer)
		}
		c.MaxOutputBuffer = *n
	}
	c.AllowedPrograms, c.AllowedPaths, c.ReadOnlyPaths = f.AllowedPrograms, f.AllowedPaths, f.ReadOnlyPaths
	c.ArgsAllowed, c.Env, c.Needs, c.SHA256 = f.ArgsAllowed, f.Env, f.Needs, f.SHA256
	for name := range c.Env.Set {
		if name == "" || strings.ContainsAny(name, "=\x00") || loaderVariable(name) {
			fault("env.set: %q has no name, or changes which code runs, and cannot be set", name)
		}
	}
	switch f.Stdin {
	case "", "pipe":
	case "null":
		c.StdinNull = true
	default:
		fault(`stdin %q: "pipe" or "null"`, f.Stdin)
	}
	switch f.Profile {
	case "", "hardened":
	case "system":
		c.Isolation = isolate.System()
	default:
		fault(`profile %q: "hardened" or "system"`, f.Profile)
	}
	switch f.Network {
	case "", "none":
	case "host":
		c.Isolation.Network = isolate.NetworkHost
	default:
		fault(`network %q: "none" or "host"`, f.Network)
	}
	c.Isolation.NoJIT = f.NoJIT
	if f.Warm < 0 || f.Warm > maxWarm {
		fault("warm %d is not between 0 and %d", f.Warm, maxWarm)
	}
	c.Warm = int(f.Warm)
	if f.RunAs != nil {
		var err error
		if c.Isolation.HostUID, c.Isolation.HostGID, err = ParseRunAs(*f.RunAs); err != nil {
			fault("run_as %w", err)
		}
	}
	if f.IDRange != nil {
		var err error
		if c.IDRange, err = ParseIDRange(*f.IDRange); err != nil {
			fault("id_range %w", err)
		}
		if f.RunAs != nil {
			fault("run_as and id_range exclude each other")
		}
	}
	c.Unlimited = f.Limits.none
	c.Limits, c.Budgets = f.Limits.limits()
	if err := c.Limits.Check(); err != nil {
		fault("limits: %w", err)
	}
	return c, errors.Join(faults...)
}

func (f *limitsFile) limits() (cgroup.Limits, Budgets) {
	l := cgroup.Limits{KillOne: f.KillOne}
	b := Budgets{}
	if f.Memory != nil {
		l.Memory = f.Memory.bytes
	}
	if f.CPU != nil {
		l.CPU = *f.CPU
		if l.CPU == 0 {
			l.CPU = -1 // written down, it is a mistake and not the default
		}
	}
	if f.Pids != nil {
		l.Pids = *f.Pids
		if l.Pids == 0 {
			l.Pids = -1
		}
	}
	for _, io := range f.IO {
		l.IO = append(l.IO, cgroup.IOLimit{Device: io.Device, Read: io.Read.bytes, Write: io.Write.bytes, ReadOps: io.ReadOps, WriteOps: io.WriteOps})
	}
	if f.Output != nil {
		b.Output = f.Output.bytes
	}
	for _, d := range []struct {
		from *duration
		to   *time.Duration
	}{{f.CPUPeriod, &l.CPUPeriod}, {f.Wall, &b.Wall}, {f.CPUTime, &b.CPU}, {f.Grace, &b.Grace}} {
		if d.from != nil {
			*d.to = d.from.Duration
		}
	}
	return l, b
}

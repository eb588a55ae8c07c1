package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/spf13/cobra"
)

// A request is what exec and plan are asked for: by flags and arguments, or by
// a container's configuration.
type request struct {
	spec        isolate.Spec
	program     isolate.Program
	limits      cgroup.Limits
	annotations map[string]string
}

// request returns a failure with the exit status that it means.
func (f *programFlags) request(args []string) (request, error) {
	if f.oci != "" {
		return f.ociRequest()
	}
	program, err := find(args[0])
	if err != nil {
		return request{}, failure{err, exitNotFound}
	}
	r := request{program: isolate.Program{Path: program, Args: args, Env: f.env, Dir: f.dir}}
	var specErr, limitErr error
	r.spec, specErr = f.spec()
	r.limits, limitErr = f.cgroupLimits()
	if err := errors.Join(specErr, limitErr); err != nil {
		return request{}, failure{err, exitFailed}
	}
	return r, nil
}

// ociFields are where a configuration says what these flags say.
var ociFields = []struct{ flag, field string }{
	{"profile", "root"}, {"allow", "root"}, {"need", "root"}, {"run-as", "linux.uidMappings"}, {"ro", "mounts"}, {"rw", "mounts"}, {"dir", "process.cwd"}, {"env", "process.env"}, {"net", "linux.namespaces"},
}

func registerOCI(cmd *cobra.Command, f *programFlags) {
	cmd.Flags().StringVar(&f.oci, "oci", "", "run what this config.json of the OCI runtime specification says")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if f.oci == "" {
			return cobra.MinimumNArgs(1)(cmd, args)
		}
		if len(args) > 0 {
			return fmt.Errorf("--oci: the program is the file's process.args, and not %q", args)
		}
		return nil
	}
}

func (f *programFlags) ociRequest() (request, error) {
	config, err := f.readOCI()
	var program *fs.PathError
	switch {
	case errors.As(err, &program) && program.Op == "exec":
		return request{}, failure{err, exitNotFound}
	case err != nil:
		return request{}, failure{err, exitFailed}
	}
	var faults []error
	for _, o := range ociFields {
		if f.changed(o.flag) {
			faults = append(faults, fmt.Errorf("--%s: with --oci the file's %s says it", o.flag, o.field))
		}
	}
	config.Spec.NoJIT = f.noJIT
	r := request{spec: config.Spec, program: config.Program, annotations: config.Annotations}
	if r.limits, err = f.cgroupLimits(); err == nil {
		err = f.ociLimits(&r.limits, config.Resources)
	}
	if err := errors.Join(append(faults, err)...); err != nil {
		return request{}, failure{err, exitFailed}
	}
	return r, nil
}

func (f *programFlags) readOCI() (*isolate.OCI, error) {
	host, err := isolate.ThisHost()
	if err != nil {
		return nil, err
	}
	name, err := filepath.Abs(f.oci)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("--oci: %w", err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, isolate.MaxOCI+1))
	if err != nil {
		return nil, fmt.Errorf("--oci: %w", err)
	}
	config, err := isolate.FromOCI(b, filepath.Dir(name), host)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be carried out:\n%w", f.oci, err)
	}
	return config, nil
}

// ociLimits replaces the limits that the file has. One said twice is refused,
// and so is leaving out what the file asks for.
func (f *programFlags) ociLimits(limits *cgroup.Limits, r isolate.Resources) error {
	var faults []error
	for _, l := range []struct {
		flag, field string
		said        bool
		set         func()
	}{
		{"memory", "memory.limit", r.Memory > 0, func() { limits.Memory = r.Memory }},
		{"pids", "pids.limit", r.Pids > 0, func() { limits.Pids = r.Pids }},
		{"cpu", "cpu.quota", r.CPUQuota > 0, func() {
			limits.CPUPeriod = r.CPUPeriod
			limits.CPU = float64(r.CPUQuota) / float64(limits.WithDefaults().CPUPeriod)
		}},
		{"cpu-period", "cpu.quota", r.CPUQuota > 0, func() {}}, // it is of that
	} {
		switch {
		case !l.said:
		case f.changed(l.flag):
			faults = append(faults, fmt.Errorf("--%s: the file has linux.resources.%s; say it once", l.flag, l.field))
		case f.limits == "none":
			faults = append(faults, fmt.Errorf("--limits none: the file asks for linux.resources.%s; remove one of the two", l.field))
		default:
			l.set()
		}
	}
	return errors.Join(append(faults, limits.Check())...)
}

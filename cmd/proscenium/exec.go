package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// Exit statuses that are not the program's, as env(1) and timeout(1) have them.
const (
	exitFailed        = 125
	exitNotExecutable = 126
	exitNotFound      = 127
)

// programFlags are what exec and plan share.
type programFlags struct {
	oci                       string
	memory, profile, net, dir string
	cpu                       float64
	pids                      int64
	timeout                   time.Duration
	cpuTime                   time.Duration
	allow, need, ro, rw, env  []string
	limits, runAs             string
	io                        []string
	cpuPeriod                 time.Duration
	killOne                   bool
	noJIT                     bool

	changed func(flag string) bool // whether the command line has it
}

func (f *programFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	f.changed = flags.Changed
	registerOCI(cmd, f)
	flags.SetInterspersed(false) // what follows the program is the program's
	flags.StringVar(&f.memory, "memory", "256M", "memory limit; more kills the program")
	flags.Float64Var(&f.cpu, "cpu", cgroup.Defaults.CPU, "CPU limit in cores: 0.5 is half of one")
	flags.DurationVar(&f.cpuPeriod, "cpu-period", cgroup.Defaults.CPUPeriod, "span over which --cpu is kept, 1ms to 1s: shorter is smoother, longer lets bursts pass")
	flags.BoolVar(&f.killOne, "oom-kill-one", false, "when memory runs out, kill one process and not the whole tree")
	flags.Int64Var(&f.pids, "pids", cgroup.Defaults.Pids, "most processes and threads at once, init included")
	flags.StringArrayVar(&f.io, "io", nil, "limit of a disk: /dev/vda,read=10M,write=5M,read-ops=100,write-ops=50, any of them a second (repeatable)")
	flags.DurationVar(&f.timeout, "timeout", 0, "wall-clock limit: SIGTERM, and a kill 2s later (0: none)")
	flags.DurationVar(&f.cpuTime, "cpu-time", 0, "budget of processor time, all processes together (0: none)")
	flags.StringVar(&f.profile, "profile", "hardened", "hardened: only allowed programs exist; system: all of /usr")
	flags.StringArrayVar(&f.allow, "allow", nil, "another program that may be started (repeatable)")
	flags.StringArrayVar(&f.need, "need", nil, "a file, directory or pattern that programs load from (repeatable)")
	flags.StringArrayVar(&f.ro, "ro", nil, "show a file or directory, read-only (repeatable)")
	flags.StringArrayVar(&f.rw, "rw", nil, "show a file or directory, writable, nothing in it executable (repeatable)")
	flags.StringVar(&f.dir, "dir", "", "working directory inside (default /)")
	flags.StringArrayVar(&f.env, "env", nil, "NAME=value for the program, which inherits nothing (repeatable)")
	flags.StringVar(&f.net, "net", "none", "none: an empty network; host: the host's")
	flags.StringVar(&f.limits, "limits", "enforced", "none: run without memory, CPU and process limits, and say so in the report")
	flags.StringVar(&f.runAs, "run-as", "", "UID[:GID] that the program has on the host, where that is root's to choose (default 65534)")
	flags.BoolVar(&f.noJIT, "no-jit", false, "refuse executable anonymous memory, from Linux 6.3 on (breaks node, java and grep -P)")
}

// find is the program's path: as given if it has a slash, else looked for in
// PATH.
func find(name string) (string, error) {
	if strings.Contains(name, "/") {
		return filepath.Abs(name)
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		full := filepath.Join(dir, name)
		if info, err := os.Stat(full); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 && filepath.IsAbs(full) {
			return full, nil
		}
	}
	return "", &fs.PathError{Op: "find", Path: name, Err: fs.ErrNotExist}
}

func (f *programFlags) spec() (isolate.Spec, error) {
	var spec isolate.Spec
	var faults []error
	switch f.profile {
	case "hardened":
	case "system":
		spec = isolate.System()
	default:
		faults = append(faults, fmt.Errorf("--profile %q: hardened or system", f.profile))
	}
	switch f.net {
	case "none":
	case "host":
		spec.Network = isolate.NetworkHost
	default:
		faults = append(faults, fmt.Errorf("--net %q: none or host", f.net))
	}
	for _, name := range f.allow {
		p, err := find(name)
		if err != nil {
			faults = append(faults, fmt.Errorf("--allow %s: %w", name, err))
		}
		spec.Allow = append(spec.Allow, p)
	}
	for flag, list := range map[string][]string{"--ro": f.ro, "--rw": f.rw} {
		for _, name := range list {
			abs, err := filepath.Abs(name)
			if err != nil {
				faults = append(faults, fmt.Errorf("%s %s: %w", flag, name, err))
				continue
			}
			mount := isolate.RO(abs)
			if flag == "--rw" {
				mount = isolate.RW(abs)
			}
			spec.Mounts = append(spec.Mounts, mount)
		}
	}
	spec.Needs = f.need
	spec.NoJIT = f.noJIT
	if f.runAs != "" {
		var err error
		if spec.HostUID, spec.HostGID, err = handler.ParseRunAs(f.runAs); err != nil {
			faults = append(faults, fmt.Errorf("--run-as: %w", err))
		}
	}
	return spec, errors.Join(faults...)
}

func (f *programFlags) cgroupLimits() (cgroup.Limits, error) {
	memory, err := handler.ParseSize(f.memory)
	if err != nil {
		err = fmt.Errorf("--memory: %w", err)
	}
	limits := cgroup.Limits{Memory: memory, CPU: f.cpu, CPUPeriod: f.cpuPeriod, Pids: f.pids, KillOne: f.killOne}
	for _, text := range f.io {
		io, ioErr := parseIO(text)
		if ioErr != nil {
			ioErr = fmt.Errorf("--io %s: %w", text, ioErr)
		}
		limits.IO, err = append(limits.IO, io), errors.Join(err, ioErr)
	}
	if f.cpu == 0 || f.pids == 0 {
		err = errors.Join(err, errors.New("--cpu and --pids: 0 is no limit; use --limits none to run without"))
	}
	if f.cpuPeriod == 0 { // which the limits would take for the default
		err = errors.Join(err, errors.New("--cpu-period 0s: between 1ms and 1s"))
	}
	if f.limits != "enforced" && f.limits != "none" {
		err = errors.Join(err, fmt.Errorf("--limits %q: enforced or none", f.limits))
	}
	if f.limits == "none" {
		err = errors.Join(err, f.unkept())
	}
	if f.timeout < 0 || f.cpuTime < 0 {
		err = errors.Join(err, errors.New("--timeout and --cpu-time cannot be negative"))
	}
	return limits, errors.Join(err, limits.Check())
}

// groupFlags are those that only a control group can keep.
var groupFlags = []string{"memory", "oom-kill-one", "cpu", "cpu-period", "pids", "io", "cpu-time"}

// unkept names the limits that were asked for together with --limits none. None of
// them would hold, and whoever wrote it down would believe that it does.
func (f *programFlags) unkept() error {
	var faults []error
	for _, flag := range groupFlags {
		if f.changed(flag) {
			faults = append(faults, fmt.Errorf("--limits none and --%s: without a control group nothing keeps it; remove one of the two", flag))
		}
	}
	return errors.Join(faults...)
}

// An execution is what exec does, from the command line to the exit status.
type execution struct {
	flags  programFlags
	report string
}

func execCommand() *cobra.Command {
	var e execution
	cmd := &cobra.Command{
		Use:   "exec [flags] -- PROGRAM [ARGS…] | exec [flags] --oci FILE",
		Short: "Run one program isolated and limited, its stdio passed through",
		Long: `exec runs one program as an actor's would be run: in namespaces of its own, inside
limits, seeing only what it needs. Its exit status is ours; 128+n when signal n
ended it, 125 when we failed before it started or could not write the report, 126
when it is not executable, 127 when it is not found.

The program inherits no environment and no descriptor but 0, 1 and 2.

--oci takes the program, its root file system, mounts, identity and limits from a
config.json of the OCI runtime specification (runc spec makes one). Its root is
shown read-only, what is mounted in it writable is not executable. Whatever the
file says that is not carried out is refused by name, never ignored. Limits that
it does not have come from the flags.`,
		Example: `  # What is in the cell? Only the program and what it needs.
  proscenium exec --allow /usr/bin/id -- /usr/bin/find /usr/bin

  # A directory to work in, ten seconds, 64 MiB, half a core:
  proscenium exec --memory 64M --cpu 0.5 --timeout 10s --rw ./data --dir "$PWD/data" -- sort -o out in

  # What a container's configuration asks for; what of it cannot be, is named:
  proscenium exec --oci bundle/config.json --timeout 10s

  # A shell with the system's tools, and a report of how it ended:
  proscenium exec --profile system --report - -- sh -c 'id; ls /'`,
		RunE: func(cmd *cobra.Command, args []string) error { return e.run(args) },
	}
	e.flags.register(cmd)
	cmd.Flags().StringVar(&e.report, "report", "", "write a JSON report of the end to this file; - is standard error")
	return cmd
}

func (e *execution) run(args []string) error {
	out, err := openOutput(e.report)
	if err != nil {
		return failure{fmt.Errorf("--report: %w", err), exitFailed}
	}
	r := report{Enforced: []string{}}
	code, err := e.execute(args, &r)
	if err != nil {
		r.Reason, r.Error, r.ExitCode = string(handler.FailedToStart), err.Error(), code
	}
	b, _ := json.MarshalIndent(r, "", "  ")
	if werr := out.finish(append(b, '\n')); werr != nil && err == nil {
		err, code = fmt.Errorf("writing the report: %w", werr), exitFailed
	}
	if err != nil {
		return failure{err, code}
	}
	if code != 0 {
		return exitCode(code)
	}
	return nil
}

// execute returns the exit status; with an error, the one that it means.
func (e *execution) execute(args []string, r *report) (int, error) {
	if len(args) > 0 {
		r.Program = args[0]
	}
	request, err := e.flags.request(args)
	if err != nil {
		var f failure
		errors.As(err, &f)
		return f.code, f.err
	}
	r.Program, r.Annotations = request.program.Args[0], request.annotations
	var group *cgroup.Group
	if e.flags.limits == "enforced" {
		if group, err = cgroup.Open(); err != nil {
			return exitFailed, err
		}
		defer group.Close()
	}
	l, err := launcher.Start(launcher.Config{})
	if err != nil {
		return exitFailed, err
	}
	defer l.Close()

	// Before the start, so that no signal is lost: until the program runs they
	// end the start, then they are the program's.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	var running atomic.Pointer[handler.Cell]
	go func() {
		for s := range signals {
			if cell := running.Load(); cell != nil {
				cell.Signal(s.(syscall.Signal))
			} else {
				cancel()
			}
		}
	}()

	program := request.program
	cmd := l.Command(ctx, program.Path)
	cmd.Args, cmd.Env, cmd.Dir, cmd.Isolation = program.Args, program.Env, program.Dir, request.spec
	stdio, err := connect(cmd)
	if err != nil {
		return exitFailed, err
	}
	cell, err := handler.StartCell(cmd, group, request.limits, handler.Budgets{Wall: e.flags.timeout, CPU: e.flags.cpuTime})
	if err != nil {
		return startFailure(request, err), err
	}
	running.Store(cell)
	stdio.start()
	result := cell.Wait()
	if err := stdio.finish(); err != nil {
		fmt.Fprintln(os.Stderr, "proscenium:", err)
	}
	r.Enforced = cell.Enforced
	r.tell(result, cell.Leaf != nil)
	return result.ExitCode, nil
}

// startFailure is the exit status of a start that failed: 126 and 127 are about
// the program itself, 125 is about us.
func startFailure(r request, err error) int {
	var path *fs.PathError
	var setup *launcher.SetupError
	refused := errors.As(err, &path) && path.Op == "exec"
	if r.spec.Root != "" { // the program is not the host's to look at
		switch {
		case refused && errors.Is(err, fs.ErrNotExist):
			return exitNotFound
		case refused, errors.As(err, &setup) && strings.HasPrefix(setup.Call, "execve("):
			return exitNotExecutable
		}
		return exitFailed
	}
	info, statErr := os.Stat(r.program.Path)
	switch {
	case errors.Is(statErr, fs.ErrNotExist):
		return exitNotFound
	case statErr != nil, !info.Mode().IsRegular(), info.Mode()&0o111 == 0, errors.Is(err, unix.ENOEXEC):
		return exitNotExecutable
	case refused, errors.As(err, &setup) && strings.HasPrefix(setup.Call, "execve("):
		return exitNotExecutable
	}
	return exitFailed
}

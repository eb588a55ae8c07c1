package isolate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"regexp"
	"strings"
	"time"

	// The types of the OCI runtime specification, as container engines write it.
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// OCI is what a container's configuration asks for, in our terms.
type OCI struct {
	Spec    Spec
	Program Program
	// Resources are for the program's control group.
	Resources Resources
	// Annotations are the file's. They ask for nothing; a report repeats them.
	Annotations map[string]string
}

// Resources are limits that a control group keeps; 0 where nothing is said.
type Resources struct {
	Memory    int64         // bytes; no swap besides
	CPUQuota  time.Duration // of processor time in each CPUPeriod
	CPUPeriod time.Duration // 100 ms where 0 and there is a quota
	Pids      int64         // processes and threads, init included
}

// MaxOCI bounds a configuration, in bytes. Engines write about 20 KiB.
const MaxOCI = 1 << 20

// FromOCI reads a config.json of the OCI runtime specification (version 1.0 to
// that of the specs-go module). bundle is the directory, absolute, from which
// its relative paths count. It reads the host's files to find mount points and
// the program, and changes nothing.
//
// A subset is carried out. Whatever else a file says is refused by its name
// (linux.namespaces[3].path), all of it in one error, keys that the
// specification does not have included; nothing is ignored. Where the profile
// is stricter than what the file asks for, the file is satisfied; where the
// file asks for something that a cell lacks, it is refused.
//
//	ociVersion        1.0 and later
//	process           args, env, cwd; args[0] without a slash is looked for in the PATH of env
//	 .user            uid and gid, not 0; umask 022; additionalGids only gid itself
//	 .noNewPrivileges must be true
//	 .capabilities    must be empty
//	 .rlimits         soft = hard: RLIMIT_NOFILE, NPROC, FSIZE; CORE 0 (1 byte is set, which
//	                  dumps as little) and MEMLOCK 65536, which they always are
//	root              path: Spec.Root. readonly must be true
//	hostname          as it is
//	mounts            in the order of the file, none over another. The place is in the root already, or
//	                  nothing of its path is, or it lies in another mount
//	 proc on /proc    read-only, subset=pid, hidepid: only the program's own processes are in it
//	 tmpfs on /dev    is the profile's own: five devices and shm, nothing can be made in it; its size is not used
//	 tmpfs            size is needed; mode (01777). Must say noexec
//	 bind, rbind      ro or rw, of files and directories. Must say noexec. What is mounted below the
//	                  source comes along with rbind only; an ordinary user's host cannot leave it out
//	                  devices and set-user-ID mean nothing in any mount, said (nodev, nosuid) or not
//	                  propagation is private, which may be said
//	linux.namespaces  pid, ipc, uts, mount, user, cgroup, each without a path; no network is the host's
//	 .uidMappings,    one id: containerID is the user's, hostID not 0 and, for an ordinary user's host, its own;
//	 .gidMappings     without them Spec.HostUID's default
//	 .maskedPaths     in /proc (but not of processes) and /sys: not there
//	 .readonlyPaths   wherever nothing is writable
//	 .resources       memory limit, swap the same or not said; cpu quota and period; pids limit;
//	                  devices {"allow": false, "access": "rwm"}
//	 .rootfsPropagation  private
//	annotations       handed on
//
// A cell has /proc, /dev with its devices and shm, and /tmp, whether or not the
// file says so, and the hardened system call filter: linux.seccomp is refused.
func FromOCI(config []byte, bundle string, host Host) (*OCI, error) {
	if len(config) > MaxOCI {
		return nil, fmt.Errorf("a configuration of %d bytes: at most %d: %w", len(config), MaxOCI, unix.EFBIG)
	}
	r := ociReader{bundle: bundle, host: host}
	var mistyped *json.UnmarshalTypeError
	if err := json.Unmarshal(config, &r.config); errors.As(err, &mistyped) {
		r.refuse(mistyped.Field, "is a JSON %s, which does not fit: want %s", mistyped.Value, mistyped.Type)
	} else if err != nil {
		return nil, err
	}
	r.keys(json.NewDecoder(bytes.NewReader(config)))
	r.version()
	r.process()
	r.root()
	r.mounts()
	r.linux()
	r.out.Annotations = take(&r.config.Annotations)
	r.rest(reflect.ValueOf(r.config), "")
	if len(r.faults) > 0 {
		return nil, errors.Join(r.faults...)
	}
	if err := r.findProgram(); err != nil {
		return nil, err
	}
	return &r.out, errors.Join(r.out.Spec.check(), checkPath("program", r.out.Program.Path), r.out.Program.check())
}

// An ociReader takes out of the configuration what is carried out. What is left
// in it at the end is refused.
type ociReader struct {
	config specs.Spec
	bundle string
	host   Host
	view   *view // of the root; nil where there is none
	out    OCI
	faults []error
}

// refuse says why the field at a JSON path is not carried out.
func (r *ociReader) refuse(path, format string, args ...any) {
	if path == "" {
		path = "the configuration"
	}
	r.faults = append(r.faults, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
}

// take takes a field out of the configuration.
func take[T any](p *T) T {
	var zero T
	value := *p
	*p = zero
	return value
}

// semver is a version with what may follow it: semver.org, 2.0.0.
var semver = regexp.MustCompile(`^\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?$`)

func (r *ociReader) version() {
	var major, minor, patch int
	v := take(&r.config.Version)
	n, _ := fmt.Sscanf(v, "%d.%d.%d", &major, &minor, &patch)
	if n == 3 && !semver.MatchString(v) {
		n = 0
	}
	if n != 3 || major != specs.VersionMajor || minor < 0 || minor > specs.VersionMinor {
		r.refuse("ociVersion", "%q is not between %d.0.0 and %s", v, specs.VersionMajor, specs.Version)
	}
	r.out.Spec.Hostname = take(&r.config.Hostname)
}

func (r *ociReader) root() {
	root := r.config.Root
	if root == nil {
		r.refuse("root", "missing: it names the directory that the program sees as its file system")
		return
	}
	r.config.Root = nil
	if !root.Readonly {
		r.refuse("root.readonly", "must be true: what can be written must not be executed; mount a tmpfs or a directory where the program writes")
	}
	dir := r.inBundle(root.Path)
	view, err := newRootView(r.host, dir)
	switch {
	case root.Path == "":
		r.refuse("root.path", "missing")
	case err != nil:
		r.refuse("root.path", "%v", err)
	default:
		r.view, r.out.Spec.Root = view, view.base
	}
}

// inBundle is a path of the host that may be relative to the bundle.
func (r *ociReader) inBundle(name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(r.bundle, name)
}

// findProgram looks for args[0] in the root, as execvp(3) does.
func (r *ociReader) findProgram() error {
	p := &r.out.Program
	name := p.Args[0]
	if strings.Contains(name, "/") {
		p.Path = path.Join(p.Dir, name)
		if path.IsAbs(name) {
			p.Path = path.Clean(name)
		}
		return nil
	}
	for _, dir := range strings.Split(environment(p.Env, "PATH"), ":") {
		if !path.IsAbs(dir) {
			continue
		}
		full := path.Join(dir, name)
		real, err := r.view.resolve(full)
		if err != nil {
			continue
		}
		if info, err := r.view.files.Lstat(r.view.outside(real)); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			p.Path = full
			return nil
		}
	}
	return fmt.Errorf("process.args[0]: not in the PATH of process.env in the root: %w", &fs.PathError{Op: "exec", Path: name, Err: fs.ErrNotExist})
}

// environment is the value of a variable: the last one, as getenv in a shell.
func environment(env []string, name string) (value string) {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			value = v
		}
	}
	return value
}

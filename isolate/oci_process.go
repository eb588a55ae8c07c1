package isolate

import (
	"fmt"
	"math"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// process is what a configuration says of the program itself.
func (r *ociReader) process() {
	p := r.config.Process
	if p == nil {
		r.refuse("process", "missing: it says what to run")
		return
	}
	program := &r.out.Program
	program.Args, program.Env, program.Dir = take(&p.Args), take(&p.Env), take(&p.Cwd)
	if len(program.Args) == 0 || program.Args[0] == "" {
		r.refuse("process.args", "names no program")
	}
	for i, a := range program.Args {
		if strings.ContainsRune(a, 0) {
			r.refuse(fmt.Sprintf("process.args[%d]", i), "contains a NUL byte")
		}
	}
	for i, e := range program.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" || strings.ContainsRune(e, 0) {
			r.refuse(fmt.Sprintf("process.env[%d]", i), "is not NAME=value without NUL")
		}
	}
	if !path.IsAbs(program.Dir) {
		r.refuse("process.cwd", "%q is not an absolute path", program.Dir)
	}
	if !take(&p.NoNewPrivileges) {
		r.refuse("process.noNewPrivileges", "must be true: it always is in force")
	}
	if c := p.Capabilities; c != nil && len(c.Bounding)+len(c.Effective)+len(c.Inheritable)+len(c.Permitted)+len(c.Ambient) == 0 {
		p.Capabilities = nil
	}
	r.user(&p.User)
	r.rlimits(take(&p.Rlimits))
	if nothing(*p) {
		r.config.Process = nil
	}
}

func (r *ociReader) user(u *specs.User) {
	id := func(name string, id uint32) int {
		if id == 0 || id > maxID {
			r.refuse("process.user."+name, "must be between 1 and %d: nothing runs as root, not even inside", uint32(maxID))
		}
		return int(id)
	}
	spec := &r.out.Spec
	gid := u.GID
	spec.UID, spec.GID = id("uid", take(&u.UID)), id("gid", take(&u.GID))
	if u.Umask != nil && *u.Umask == 0o022 {
		u.Umask = nil
	}
	for i, g := range take(&u.AdditionalGids) {
		if g != gid {
			r.refuse(fmt.Sprintf("process.user.additionalGids[%d]", i), "not carried out: a cell has one group, process.user.gid; remove it")
		}
	}
}

func (r *ociReader) rlimits(list []specs.POSIXRlimit) {
	l := &r.out.Spec.Rlimits
	carried := map[string]*uint64{"RLIMIT_NOFILE": &l.OpenFiles, "RLIMIT_NPROC": &l.Processes, "RLIMIT_FSIZE": &l.FileSize}
	// What limits() sets always. A core limit of 1 byte dumps as little as 0.
	fixed := map[string]uint64{"RLIMIT_CORE": 0, "RLIMIT_MEMLOCK": lockedMemory}
	seen := map[string]bool{}
	for i, limit := range list {
		name := fmt.Sprintf("process.rlimits[%d]", i)
		field, settable := carried[limit.Type]
		always, known := fixed[limit.Type]
		switch {
		case !settable && !known:
			r.refuse(name+".type", "%q is not carried out: only RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_FSIZE, RLIMIT_CORE and RLIMIT_MEMLOCK", limit.Type)
		case seen[limit.Type]:
			r.refuse(name+".type", "%s is there twice", limit.Type)
		case limit.Soft != limit.Hard:
			r.refuse(name+".soft", "%d must be the same as hard: a program may raise a soft limit", limit.Soft)
		case known && limit.Hard != always:
			r.refuse(name+".hard", "%s is always %d", limit.Type, always)
		case settable && (limit.Hard == 0 || limit.Hard == math.MaxUint64):
			r.refuse(name+".hard", "must be a number above 0, and a limit")
		case settable:
			*field = limit.Hard
		}
		seen[limit.Type] = true
	}
}

package isolate

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// linux is what a configuration says of the cell: namespaces, ids, paths and
// resources.
func (r *ociReader) linux() {
	l := r.config.Linux
	if l == nil {
		r.refuse("linux", "missing: it names the namespaces")
		return
	}
	r.namespaces(take(&l.Namespaces))
	spec := &r.out.Spec
	spec.HostUID = r.mapping("linux.uidMappings", take(&l.UIDMappings), spec.UID, r.host.UID)
	spec.HostGID = r.mapping("linux.gidMappings", take(&l.GIDMappings), spec.GID, r.host.GID)
	r.maskedPaths(take(&l.MaskedPaths))
	r.readonlyPaths(take(&l.ReadonlyPaths))
	if l.Resources != nil {
		r.resources(l.Resources)
		if nothing(*l.Resources) {
			l.Resources = nil
		}
	}
	if p := l.RootfsPropagation; p == "private" || p == "rprivate" {
		l.RootfsPropagation = ""
	}
	if nothing(*l) {
		r.config.Linux = nil
	}
}

func (r *ociReader) namespaces(list []specs.LinuxNamespace) {
	always := []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace, specs.UserNamespace, specs.CgroupNamespace}
	seen := map[specs.LinuxNamespaceType]bool{}
	for i, n := range list {
		name := fmt.Sprintf("linux.namespaces[%d]", i)
		if n.Type != specs.NetworkNamespace && !slices.Contains(always, n.Type) {
			r.refuse(name+".type", "%q is not carried out: remove it", n.Type)
		}
		if seen[n.Type] {
			r.refuse(name+".type", "%s is there twice", n.Type)
		}
		if n.Path != "" {
			r.refuse(name+".path", "a cell's namespaces are new, it joins none: remove it")
		}
		seen[n.Type] = true
	}
	for _, t := range always {
		if !seen[t] {
			r.refuse("linux.namespaces", `no %s namespace: a cell always has its own; add {"type": %q}`, t, t)
		}
	}
	if !seen[specs.NetworkNamespace] {
		r.out.Spec.Network = NetworkHost
	}
}

// mapping is the id outside; 0, which is Spec's default, where nothing is said.
func (r *ociReader) mapping(name string, list []specs.LinuxIDMapping, inside, own int) int {
	if len(list) == 0 {
		return 0
	}
	m := list[0]
	name += "[0]"
	if len(list) > 1 {
		r.refuse(strings.Replace(name, "[0]", "[1]", 1), "a cell has one id: remove it")
	}
	if m.Size != 1 {
		r.refuse(name+".size", "a cell has one id: must be 1")
	}
	if int(m.ContainerID) != inside {
		r.refuse(name+".containerID", "must be that of process.user, %d", inside)
	}
	switch {
	case !r.host.Privileged && int(m.HostID) != own:
		r.refuse(name+".hostID", "an ordinary user's programs have the user's own id: must be %d", own)
	case m.HostID == 0 || m.HostID > maxID:
		r.refuse(name+".hostID", "must be between 1 and %d: nothing runs as the host's root", uint32(maxID))
	}
	return int(m.HostID)
}

// maskedPaths: in /proc there are only processes, and there is no /sys.
func (r *ociReader) maskedPaths(list []string) {
	for i, p := range list {
		entry, inProc := strings.CutPrefix(path.Clean(p), "/proc/")
		entry, _, _ = strings.Cut(entry, "/")
		ofProcess := entry == "self" || entry == "thread-self" || entry != "" && strings.Trim(entry, "0123456789") == ""
		if (!inProc || ofProcess) && !within(p, "/sys") {
			r.refuse(fmt.Sprintf("linux.maskedPaths[%d]", i), "%q is not carried out: only what a cell's /proc and /sys lack anyway; mount an empty tmpfs over it, or leave it out of the root", p)
		}
	}
}

// readonlyPaths: everything is read-only but what is mounted writable.
func (r *ociReader) readonlyPaths(list []string) {
	mounts := append([]Mount{Tmpfs("/tmp", 1), Tmpfs("/dev/shm", 1)}, r.out.Spec.Mounts...)
	for i, p := range list {
		name := fmt.Sprintf("linux.readonlyPaths[%d]", i)
		if !path.IsAbs(p) || strings.ContainsRune(p, 0) {
			r.refuse(name, "%q is not an absolute path", p)
			continue
		}
		names := []string{path.Clean(p)}
		if r.view != nil && !within(names[0], "/proc") && !within(names[0], "/sys") {
			w, err := r.view.follow(p)
			if err != nil {
				r.refuse(name, "%v", err)
				continue
			}
			names = append(names, path.Join(w.real, path.Join(w.rest...)))
		}
		for _, m := range mounts {
			to := m.target()
			b, isBind := m.(bindMount)
			writable := !isBind || b.writable
			if slices.ContainsFunc(names, func(n string) bool {
				return n != to && within(n, to) || writable && within(to, n)
			}) {
				r.refuse(name, "%s lies in the mount %s, or around it: mount what must be read-only with ro", p, to)
			}
		}
	}
}

// within says whether p is dir or lies in it.
func within(p, dir string) bool {
	p = path.Clean(p)
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}

package isolate

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A directory of the host as the program's file system. The root stays our own
// tmpfs: each entry of the directory is mounted or, a symbolic link, made in
// it. So nothing is ever written into the directory, mount points at the top
// level need not exist in it, and a link in it leads where it leads inside:
// the kernel meets it only after pivot_root, and resolve starts again at base.

// ofProfile are the entries of a root that are the profile's own.
var ofProfile = []string{"/dev", "/proc", "/sys", "/tmp"}

// maxRootEntries bounds what is mounted one by one.
const maxRootEntries = 256

// newRootView is the view of a directory as the root, still empty.
func newRootView(host Host, dir string) (*view, error) {
	v := newView(host.Files)
	real, err := v.resolveAsNamed(dir)
	if err != nil {
		return nil, err
	}
	if err := checkTarget(real); err != nil {
		return nil, err
	}
	v = newView(host.Files)
	v.base = real
	info, err := v.files.Lstat(v.outside("/"))
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: dir, Err: unix.ENOTDIR}
	}
	return v, err
}

// fillRoot shows all of the root, with the mounts in it.
func (p *Profile) fillRoot() error {
	v, err := newRootView(p.host, p.spec.Root)
	if err != nil {
		return fmt.Errorf("root %s: %w", p.spec.Root, err)
	}
	p.view = v
	if err := p.rootMounts(); err != nil {
		return err
	}
	entries, err := readRoot(v)
	if err != nil {
		return fmt.Errorf("root %s: %w", p.spec.Root, err)
	}
	for _, e := range entries {
		if err := p.rootEntry("/" + e.Name()); err != nil {
			return fmt.Errorf("root %s: %w", p.spec.Root, err)
		}
	}
	return errors.Join(p.nested(), v.aliases())
}

func readRoot(v *view) ([]fs.DirEntry, error) {
	f, err := v.files.Open(v.outside("/"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	dir, ok := f.(fs.ReadDirFile)
	if !ok {
		return nil, unix.ENOTDIR
	}
	entries, err := dir.ReadDir(maxRootEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(entries) > maxRootEntries {
		return nil, fmt.Errorf("more than %d entries: it is not the root of a file system", maxRootEntries)
	}
	return entries, nil
}

// rootEntry shows one entry of the root, unless something else stands there.
func (p *Profile) rootEntry(name string) error {
	v := p.view
	_, mounted := v.binds[name]
	if mounted || slices.Contains(ofProfile, name) || slices.ContainsFunc(p.spec.Mounts, func(m Mount) bool { return m.target() == name }) {
		return nil
	}
	info, err := v.files.Lstat(v.outside(name))
	if err != nil {
		return err
	}
	switch info.Mode().Type() {
	case 0, fs.ModeDir:
		v.binds[name] = bind{path: name, source: path.Join(v.base, name), info: info, exec: true}
	case fs.ModeSymlink:
		v.links[name], err = v.files.ReadLink(v.outside(name))
	default:
		err = fmt.Errorf("%s is neither file nor directory nor link: remove it", name)
	}
	return err
}

// rootMounts finds where in the root each mount belongs.
func (p *Profile) rootMounts() error {
	p.spec.Mounts = slices.Clone(p.spec.Mounts)
	slices.SortStableFunc(p.spec.Mounts, func(a, b Mount) int { return strings.Compare(path.Clean(a.target()), path.Clean(b.target())) })
	places := places{p.view, map[string]string{}}
	for i, m := range p.spec.Mounts {
		target, err := places.add(m.target())
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.target(), err)
		}
		switch m := m.(type) {
		case tmpfsMount:
			m.path = target
			p.spec.Mounts[i] = m
		case bindMount:
			b, err := hostFile(p.host, m)
			if err != nil {
				return fmt.Errorf("mount %s: %w", m.path, err)
			}
			m.path, b.path = target, target
			p.spec.Mounts[i], p.view.binds[target] = m, b
		}
	}
	return nil
}

// hostFile is what a bind shows.
func hostFile(host Host, m bindMount) (bind, error) {
	if m.source == "" {
		m.source = m.path
	}
	b, err := newView(host.Files).show(m.source, bind{writable: m.writable, flat: m.flat, asNamed: true})
	if err == nil && b.info.Mode()&fs.ModeDevice != 0 {
		err = fmt.Errorf("%s is a device: a cell has none but null, zero, full, random and urandom", b.source)
	}
	return b, err
}

// rootProgram checks the program itself; what it needs is there or is not.
func (p *Profile) rootProgram(name string) error {
	refuse := func(err error) error { return &fs.PathError{Op: "exec", Path: name, Err: err} }
	real, err := p.view.resolve(name)
	if err != nil {
		return refuse(fmt.Errorf("in the root %s: %w", p.view.base, err))
	}
	hidden := slices.Clone(ofProfile)
	for _, m := range p.spec.Mounts {
		hidden = append(hidden, m.target())
	}
	for _, dir := range hidden {
		if real == dir || strings.HasPrefix(real, dir+"/") {
			return refuse(fmt.Errorf("it lies in the mount %s, and only the root itself can be executed: %w", dir, unix.EACCES))
		}
	}
	info, err := p.view.files.Lstat(p.view.outside(real))
	if err == nil && (!info.Mode().IsRegular() || info.Mode()&0o111 == 0) {
		err = unix.EACCES
	}
	if err != nil {
		return refuse(err)
	}
	return nil
}

// nested refuses what would have to be mounted in a tmpfs that is itself
// mounted late, because it lies in a directory of the root.
func (p *Profile) nested() error {
	for _, t := range p.tmpfs() {
		if _, inside := p.view.below(t.path); !inside {
			continue
		}
		for _, m := range p.spec.Mounts {
			if strings.HasPrefix(m.target(), t.path+"/") {
				return fmt.Errorf("mount %s: it lies in the tmpfs %s, which lies in a directory of the root: only one at the top level can hold mounts", m.target(), t.path)
			}
		}
	}
	return nil
}

// aliases refuses a writable mount of what can be executed under another path:
// the same directory of the host, one in it, or one around it.
func (v *view) aliases() error {
	for _, x := range v.binds {
		for _, w := range v.binds {
			if !x.exec || !w.writable {
				continue
			}
			rest, inside := strings.CutPrefix(w.source+"/", x.source+"/")
			around := strings.HasPrefix(x.source+"/", w.source+"/")
			// Mounted on itself it is hidden where it could be executed.
			if around || inside && w.path != path.Join(x.path, rest) {
				return fmt.Errorf("mount %s: %s is writable and can be executed as %s: what can be written must not be executed", w.path, w.source, x.path)
			}
		}
	}
	return nil
}

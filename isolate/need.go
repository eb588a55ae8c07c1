package isolate

import (
	"errors"
	"io/fs"
	"strings"
)

// needed shows what somebody has said that the programs need: as data, in which
// the shared objects, bound one by one, can be mapped executable.
func (v *view) needed(pattern string) error {
	matches, err := fs.Glob(v.files, strings.Trim(pattern, "/"))
	if err != nil {
		return err
	}
	if len(matches) == 0 {
		return fs.ErrNotExist
	}
	for _, m := range matches {
		b, err := v.show("/"+m, bind{})
		if err != nil {
			return err
		}
		if err := v.loadable(b.path); err != nil {
			return err
		}
	}
	return nil
}

// loadable shows the shared objects below a resolved path, and what they are
// linked with. One that is broken, or lacks a library, could not be loaded
// outside either.
func (v *view) loadable(dir string) error {
	return fs.WalkDir(v.files, dir[1:], func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrPermission) {
			return fs.SkipDir // the program will not be able to read it either
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name = "/" + name
		if info, err := v.linker.read(name); err != nil || !info.shared || info.program {
			return nil
		}
		found, err := v.linker.closure(name)
		if err != nil {
			return nil
		}
		for _, f := range append(found.files(), name) {
			if _, err := v.show(f, bind{exec: true}); err != nil {
				return err
			}
		}
		return nil
	})
}

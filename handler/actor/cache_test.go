package actor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// loadsWith starts an actor with a directory for compiled modules.
func loadsWith(t *testing.T, cache string) (logged string, err error) {
	t.Helper()
	s := newStage(t, change(func(m *module) {
		for i := range m.exports { // init returns 1024, where there is an ok
			m.exports[i].code = []byte("\x00\x41\x80\x08\x0b")
		}
		m.imports = nil                                               // their order is by chance
		m.exports[len(m.exports)-1].code = []byte("\x00\x41\x00\x0b") // cabi_realloc
	}), "/usr/bin/true")
	s.cache = cache
	_, err = s.start(t)
	return s.logged(), err
}

func files(t *testing.T, dir string) (list []string) {
	t.Helper()
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			list = append(list, path)
		}
		return err
	})
	return list
}

// TestCache: a module is compiled once, and what is kept is the user's alone.
func TestCache(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	for range 2 {
		if _, err := loadsWith(t, dir); err != nil {
			t.Fatal(err)
		}
	}
	kept := files(t, dir)
	if len(kept) != 1 {
		t.Errorf("%q are kept", kept)
	}
	for _, path := range append(kept, dir, filepath.Dir(dir)) {
		if i, err := os.Lstat(path); err != nil || i.Mode()&0o077 != 0 {
			t.Errorf("%s: %v, %v", path, i.Mode(), err)
		}
	}
	if _, err := loadsWith(t, NoCache); err != nil || len(files(t, dir)) != 1 {
		t.Error(err)
	}
}

// TestCacheOfOthers: code is not taken from where others can put it.
func TestCacheOfOthers(t *testing.T) {
	for what, c := range map[string]struct {
		spoil func(dir string) error
		want  string
		below bool // what the directory holds is private all the same
	}{
		"writable":       {func(dir string) error { return os.Chmod(dir, 0o777) }, "is writable for others", false},
		"writable group": {func(dir string) error { return os.Chmod(dir, 0o770) }, "is writable for others", false},
		"sticky":         {func(dir string) error { return os.Chmod(dir, 0o777|os.ModeSticky) }, "is writable for others", true},
		"above writable": {func(dir string) error { return os.Chmod(filepath.Dir(dir), 0o777) }, "is writable for others", false},
		"a file":         {func(dir string) error { os.Remove(dir); return os.WriteFile(dir, nil, 0o600) }, "is not a directory", false},
		"inside":         {func(dir string) error { os.Mkdir(dir+"/wazero-x", 0o700); return os.Chmod(dir+"/wazero-x", 0o777) }, "is writable for others", true},
		"linked": {func(dir string) error {
			other := filepath.Dir(dir) + "/other"
			os.Mkdir(other, 0o700)
			os.Remove(dir)
			return errors.Join(os.Chmod(other, 0o777), os.Symlink(other, dir))
		}, "is writable for others", false},
		"of another": {func(dir string) error {
			if os.Geteuid() != 0 {
				return os.Chmod(dir, 0o777)
			}
			return unix.Chown(dir, 65534, 65534)
		}, ", and compiled modules are run", false},
	} {
		t.Run(what, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "cache")
			if err := errors.Join(os.Mkdir(dir, 0o700), c.spoil(dir)); err != nil {
				t.Fatal(err)
			}
			if _, err := loadsWith(t, dir); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			// The default directory is an offer: without it there is a warning.
			t.Setenv("XDG_CACHE_HOME", dir)
			if logged, err := loadsWith(t, ""); err != nil || strings.Contains(logged, "compiled modules are not kept") == c.below {
				t.Errorf("%v, log: %s", err, logged)
			}
		})
	}
}

// TestDefaultCache is in the user's cache directory.
func TestDefaultCache(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", dir)
	if _, err := loadsWith(t, ""); err != nil {
		t.Fatal(err)
	}
	if kept := files(t, filepath.Join(dir, "proscenium", "wazero")); len(kept) != 1 {
		t.Errorf("%q are kept", kept)
	}
}

// TestBrokenCache: whatever is wrong with what is kept, the actor starts, and the
// log says with what directory.
func TestBrokenCache(t *testing.T) {
	for what, spoil := range map[string]func(entry string) error{
		"a flipped bit": func(entry string) error {
			b, err := os.ReadFile(entry)
			b[len(b)/2] ^= 1
			return errors.Join(err, os.WriteFile(entry, b, 0o600))
		},
		"cut short":   func(entry string) error { return os.Truncate(entry, 40) },
		"empty":       func(entry string) error { return os.Truncate(entry, 0) },
		"a directory": func(entry string) error { return errors.Join(os.Remove(entry), os.Mkdir(entry, 0o700)) },
		"not writable": func(entry string) error { // nobody can make a file in /proc
			dir := filepath.Dir(entry)
			return errors.Join(os.RemoveAll(dir), os.Symlink("/proc/self", dir))
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "cache")
			if logged, err := loadsWith(t, dir); err != nil || strings.Contains(logged, "is not used") {
				t.Fatal(err, logged)
			}
			kept := files(t, dir)
			if len(kept) != 1 {
				t.Fatalf("%q are kept", kept)
			}
			if err := spoil(kept[0]); err != nil {
				t.Fatal(err)
			}
			if logged, err := loadsWith(t, dir); err != nil || !strings.Contains(logged, dir) {
				t.Errorf("%v, log: %s", err, logged)
			}
		})
	}
}

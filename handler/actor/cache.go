package actor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tetratelabs/wazero"
	"golang.org/x/sys/unix"
)

// NoCache as Config.Cache is no directory of compiled modules.
const NoCache = "none"

// openCache opens the directory in which compiled modules are kept, by what they
// were compiled from and for.
func (a *Actor) openCache(config string) error {
	if config == NoCache {
		return nil
	}
	dir, err := config, error(nil)
	if config == "" {
		if dir, err = os.UserCacheDir(); err == nil {
			dir = filepath.Join(dir, "proscenium", "wazero")
		}
	}
	if err == nil {
		a.cache, err = privateCache(dir)
		a.cacheDir = dir
	}
	switch {
	case err == nil:
		return nil
	case config == "":
		a.logger.Warn("compiled modules are not kept", "error", err)
		return nil
	}
	return fmt.Errorf("the directory of compiled modules: %w", err)
}

// privateCache is a cache in a directory. What is in it is run: it must be the
// user's own and closed to others, and so must everything above, where others
// could put another one in its place.
func privateCache(dir string) (wazero.CompilationCache, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	above := dir
	for os.IsNotExist(lstat(above)) {
		above = filepath.Dir(above)
	}
	if above, err = filepath.EvalSymlinks(above); err != nil {
		return nil, err
	}
	if err := private(above, above != dir); err != nil { // before anything is made there
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	cache, err := wazero.NewCompilationCacheWithDir(dir)
	if err != nil {
		return nil, err
	}
	inside, _ := filepath.Glob(filepath.Join(dir, "wazero-*")) // one for each version
	for _, d := range append(inside, dir) {                    // again: it is there now
		if d, err = filepath.EvalSymlinks(d); err == nil {
			err = private(d, false)
		}
		if err != nil {
			cache.Close(context.Background())
			return nil, err
		}
	}
	return cache, nil
}

func lstat(path string) error {
	_, err := os.Lstat(path)
	return err
}

// private says why others could change what is in a directory, or exchange it.
// above is for one that holds the directory: it may be root's, or sticky.
func private(dir string, above bool) error {
	for at := dir; ; at, above = filepath.Dir(at), true {
		var s unix.Stat_t
		if err := unix.Lstat(at, &s); err != nil {
			return &os.PathError{Op: "lstat", Path: at, Err: err}
		}
		switch {
		case s.Mode&unix.S_IFMT != unix.S_IFDIR:
			return fmt.Errorf("%s is not a directory", at)
		case int(s.Uid) != os.Geteuid() && !(above && s.Uid == 0):
			return fmt.Errorf("%s belongs to user %d, and compiled modules are run: give another directory", at, s.Uid)
		case s.Mode&0o022 != 0 && !(above && s.Mode&unix.S_ISVTX != 0):
			return fmt.Errorf("%s is writable for others (mode %#o), and compiled modules are run: chmod go-w", at, s.Mode&0o7777)
		}
		if at == "/" {
			return nil
		}
	}
}

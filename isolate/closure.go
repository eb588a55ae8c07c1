package isolate

import (
	"io/fs"
	"sync"
	"syscall"
)

// A closureCache remembers what programs are linked with. Reading the ELF files
// anew takes a millisecond of each start; looking whether they have changed
// takes some microseconds.
type closureCache struct {
	mu      sync.Mutex
	entries map[string]closureEntry
}

type closureEntry struct {
	closure []string
	stamps  map[string]stamp // of every file that the answer depends on
}

// A stamp tells one version of a file from another.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// maxClosures bounds the cache; beyond it everything is forgotten.
const maxClosures = 1000

// of is the closure of the program at the resolved path.
func (c *closureCache) of(l *linker, program string) ([]string, error) {
	if c == nil {
		return l.closure(program)
	}
	c.mu.Lock()
	e, ok := c.entries[program]
	c.mu.Unlock()
	if ok && e.fresh(l.files) {
		return e.closure, nil
	}
	// The stamps first: a file that changes in the meantime makes them stale.
	before := stamps(l.files, []string{program, "/etc/ld.so.cache"})
	closure, err := l.closure(program)
	if err != nil {
		return nil, err
	}
	e = closureEntry{closure, before}
	for name, s := range stamps(l.files, closure) {
		e.stamps[name] = s
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil || len(c.entries) >= maxClosures {
		c.entries = map[string]closureEntry{}
	}
	c.entries[program] = e
	return closure, nil
}

func (e closureEntry) fresh(files fs.StatFS) bool {
	for name, s := range e.stamps {
		if stampOf(files, name) != s {
			return false
		}
	}
	return true
}

func stamps(files fs.StatFS, names []string) map[string]stamp {
	m := map[string]stamp{}
	for _, name := range names {
		m[name] = stampOf(files, name)
	}
	return m
}

// stampOf is zero for a file that is not there.
func stampOf(files fs.StatFS, name string) stamp {
	info, err := files.Stat(name[1:])
	if err != nil {
		return stamp{}
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}
	}
	return stamp{uint64(s.Dev), s.Ino, s.Size, s.Mtim, s.Ctim}
}

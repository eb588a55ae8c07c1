package cgroup

import (
	"errors"
	"io/fs"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A ceiling is one limit of one group above the leaves. Its files stay open: it
// may change, and is looked at with each start.
type ceiling struct {
	resource string // memory, cpu, pids
	dir      string
	files    []file
}

// resources are those that a group above can hold tighter than a leaf does, by
// the files that say so in v2 and in v1 (where each is of one controller).
var resources = []struct {
	name            string
	unified, legacy []string
}{
	{"memory", []string{"memory.max"}, []string{"memory.limit_in_bytes"}},
	{"cpu", []string{"cpu.max"}, []string{"cpu.cfs_quota_us", "cpu.cfs_period_us"}},
	{"pids", []string{"pids.max"}, []string{"pids.max"}},
}

// openCeilings opens the limit files of every group from this process's up to
// the mount point. What is above that (a container's own group, seen from
// inside) cannot be seen.
func (g *Group) openCeilings() error {
	for _, r := range resources {
		h, files := g.unified, r.unified
		if len(g.legacy) > 0 {
			l := g.legacy[r.name]
			h, files = &l, r.legacy
		}
		for group := filepath.Dir(h.group); ; group = filepath.Dir(group) {
			c := ceiling{resource: r.name, dir: filepath.Join(h.mount, group)}
			err := c.open(files)
			if err == nil {
				g.ceilings = append(g.ceilings, c)
			} else if !errors.Is(err, fs.ErrNotExist) { // the root group has none
				return err
			}
			if group == "/" {
				break
			}
		}
	}
	return nil
}

func (c *ceiling) open(files []string) error {
	for _, name := range files {
		f, err := openFile(filepath.Join(c.dir, name), unix.O_RDONLY)
		if err != nil {
			c.close()
			return err
		}
		c.files = append(c.files, f)
	}
	return nil
}

func (c *ceiling) close() {
	for _, f := range c.files {
		f.close()
	}
}

// value is the limit, in bytes, cores or processes; false where there is none.
func (c *ceiling) value() (float64, bool) {
	b := buffers.Get().(*[4096]byte)
	defer buffers.Put(b)
	var numbers []float64
	for _, f := range c.files {
		text, err := f.content(b)
		if err != nil {
			return 0, false // the group is gone, and we are not in it any more
		}
		for word := range strings.FieldsSeq(string(text)) {
			n, err := strconv.ParseFloat(word, 64)
			if err != nil || n < 0 {
				return 0, false // "max", "max PERIOD" and, in v1, "-1" are no limit
			}
			numbers = append(numbers, n)
		}
	}
	switch len(numbers) {
	case 1: // without a limit v1 has one for memory that is larger than any
		return numbers[0], true
	case 2:
		return numbers[0] / numbers[1], true
	}
	return 0, false
}

// above says where a group above holds less of a resource than is asked for.
func (g *Group) above(resource string, asked float64) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var dir string
	for _, c := range g.ceilings {
		if c.resource != resource || g.closed {
			continue
		}
		if n, ok := c.value(); ok && n < asked {
			asked, dir = n, c.dir
		}
	}
	if dir == "" {
		return ""
	}
	return "; an ancestor (" + dir + ") holds " + strconv.FormatFloat(math.Round(asked*1000)/1000, 'f', -1, 64)
}

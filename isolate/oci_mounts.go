package isolate

import (
	"fmt"
	"math"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// mounts takes the mounts that are carried out, and those that are the
// profile's own anyway.
func (r *ociReader) mounts() {
	places := places{r.view, map[string]string{}}
	for i, mount := range take(&r.config.Mounts) {
		m := ociMount{r, fmt.Sprintf("mounts[%d]", i), mount}
		if !path.IsAbs(m.Destination) || strings.ContainsRune(m.Destination, 0) {
			r.refuse(m.name+".destination", "%q is not an absolute path", m.Destination)
			continue
		}
		m.Destination = path.Clean(m.Destination)
		m.read(places)
	}
}

// An ociMount is one entry of mounts, under its name.
type ociMount struct {
	*ociReader
	name string
	specs.Mount
}

func (m *ociMount) read(places places) {
	to, kind := m.Destination, take(&m.Type)
	isBind := slices.ContainsFunc(m.Options, func(o string) bool { return o == "bind" || o == "rbind" })
	switch {
	case isBind && (kind == "" || kind == "none" || kind == "bind"):
		b := m.bind()
		if b.path = m.place(places, checkTarget(to)); b.path != "" {
			m.out.Spec.Mounts = append(m.out.Spec.Mounts, b)
		}
	case isBind:
		m.refuse(m.name+".type", "%q with the option bind: say bind", kind)
	case kind == "proc" && to == "/proc":
		m.place(places, nil)
		m.source("proc")
		m.options(harmless, "noexec", "ro", "hidepid=invisible", "hidepid=2", "subset=pid")
	case kind == "tmpfs" && to == "/dev":
		m.place(places, nil)
		m.source("tmpfs")
		m.options(harmless, "noexec", "ro", "strictatime", "mode=755", "mode=0755", "size=")
	case kind == "tmpfs":
		t := m.tmpfs()
		var err error
		if to != "/dev/shm" { // the profile's own, of another size
			err = checkTarget(to)
		}
		if t.path = m.place(places, err); t.path != "" {
			m.out.Spec.Mounts = append(m.out.Spec.Mounts, t)
		}
	case kind == "bind":
		m.refuse(m.name+".options", "must have bind or rbind")
	case kind == "proc":
		m.refuse(m.name+".destination", "proc is carried out on /proc only")
	default:
		m.refuse(m.name+".type", "%q on %s is not carried out: a cell has none; remove the entry", kind, to)
	}
	m.Destination, m.Source, m.Options = "", "", nil
	m.rest(reflect.ValueOf(m.Mount), m.name) // its id mappings
}

// place finds the mount's place in the root, "" if it has none; refused says why.
func (m *ociMount) place(places places, refused error) (real string) {
	if refused == nil && m.view != nil { // without a root, that is what is said
		real, refused = places.add(m.Destination)
	}
	if refused != nil {
		m.refuse(m.name+".destination", "%v", refused)
	}
	return real
}

// harmless are in force in every mount, or change nothing.
var harmless = []string{"nosuid", "nodev", "private", "rprivate"}

// options refuses each option that is in neither list. One that ends in "=" has
// a value.
func (m *ociMount) options(lists []string, more ...string) {
	for i, o := range m.Options {
		name, _, valued := strings.Cut(o, "=")
		known := func(k string) bool { return k == o || valued && k == name+"=" }
		if !slices.ContainsFunc(lists, known) && !slices.ContainsFunc(more, known) {
			m.refuse(fmt.Sprintf("%s.options[%d]", m.name, i), "%q is not carried out on %s", o, m.Destination)
		}
		if slices.Contains(m.Options[:i], o) || valued && slices.ContainsFunc(m.Options[:i], func(e string) bool { return strings.HasPrefix(e, name+"=") }) {
			m.refuse(fmt.Sprintf("%s.options[%d]", m.name, i), "%q is there twice", name)
		}
	}
}

func (m *ociMount) source(allowed ...string) {
	if m.Source != "" && !slices.Contains(allowed, m.Source) {
		m.refuse(m.name+".source", "%q means nothing here: say %q", m.Source, allowed[0])
	}
}

func (m *ociMount) has(option string) bool { return slices.Contains(m.Options, option) }

func (m *ociMount) noexec() {
	if !m.has("noexec") && !m.has("rnoexec") {
		m.refuse(m.name+".options", "must have noexec: only the root can be executed")
	}
}

func (m *ociMount) bind() bindMount {
	m.options(harmless, "bind", "rbind", "ro", "rro", "rw", "noexec", "rnoexec", "rnosuid", "rnodev")
	m.noexec()
	readOnly := m.has("ro") || m.has("rro")
	if readOnly && m.has("rw") {
		m.refuse(m.name+".options", "has ro and rw")
	}
	b := bindMount{source: m.inBundle(m.Source), writable: !readOnly, flat: !m.has("rbind")}
	if m.Source == "" {
		m.refuse(m.name+".source", "missing")
	} else if _, err := hostFile(m.host, b); err != nil {
		m.refuse(m.name+".source", "%v", err)
	}
	return b
}

func (m *ociMount) tmpfs() tmpfsMount {
	m.source("tmpfs", "shm")
	m.options(harmless, "noexec", "rw", "size=", "mode=")
	m.noexec()
	var t tmpfsMount
	for i, o := range m.Options {
		name, value, _ := strings.Cut(o, "=")
		var err error
		switch name {
		case "size":
			t.size, err = tmpfsSize(value)
		case "mode":
			var mode uint64
			if mode, err = strconv.ParseUint(value, 8, 32); err == nil && (mode == 0 || mode > 0o1777) {
				err = fmt.Errorf("%s is not between 1 and 1777", value)
			}
			t.mode = uint32(mode)
		}
		if err != nil {
			m.refuse(fmt.Sprintf("%s.options[%d]", m.name, i), "%v", err)
		}
	}
	if !slices.ContainsFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "size=") }) {
		m.refuse(m.name+".options", "must have size=: a tmpfs without bound would be half of the host's memory")
	}
	return t
}

// tmpfsSize reads a size as tmpfs(5) does, percentages of the memory excepted.
func tmpfsSize(value string) (int64, error) {
	digits := strings.TrimRight(value, "kKmMgG")
	unit := int64(1)
	if suffix := value[len(digits):]; len(suffix) == 1 {
		unit = 1 << (10 * (1 + strings.Index("kmg", strings.ToLower(suffix))))
	} else if suffix != "" {
		digits = ""
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > math.MaxInt64/unit || n*unit > maxTmpSize {
		return 0, fmt.Errorf("size %q is not a number of bytes (k, m, g) between 1 and %d", value, int64(maxTmpSize))
	}
	return n * unit, nil
}

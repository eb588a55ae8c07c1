package isolate

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// linker finds what the dynamic linker would load, without running anything:
// ld.so(8). Paths are absolute.
type linker struct {
	files fileSystem
	cache map[string][]string // soname → paths, from ld.so.cache
	// What was read: the objects of a directory share most of their libraries.
	binaries map[string]readResult
}

type readResult struct {
	info *binaryInfo
	err  error
}

// binaryInfo is what matters of an ELF file.
type binaryInfo struct {
	machine elf.Machine
	shared  bool     // ET_DYN
	program bool     // by what it says of itself, a program and no library
	interp  string   // "" for a static program
	needed  []string // DT_NEEDED
	runpath []string // DT_RUNPATH, else DT_RPATH, with $ORIGIN replaced
}

var errNotELF = errors.New("not an ELF file")

// openAbs opens an absolute path for reading.
func openAbs(files fs.FS, name string) (fs.File, error) {
	return files.Open(strings.TrimPrefix(path.Clean(name), "/"))
}

func (l *linker) read(name string) (*binaryInfo, error) {
	r, ok := l.binaries[name]
	if !ok {
		r.info, r.err = l.parse(name)
		if l.binaries == nil {
			l.binaries = map[string]readResult{}
		}
		l.binaries[name] = r
	}
	return r.info, r.err
}

func (l *linker) parse(name string) (*binaryInfo, error) {
	f, err := openAbs(l.files, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// What an ELF file names may be anything: a fifo would keep us waiting.
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", name, errNotELF)
	}
	r, ok := f.(io.ReaderAt)
	if !ok {
		return nil, fmt.Errorf("%s: cannot be read at an offset", name)
	}
	var magic [4]byte
	if _, err := r.ReadAt(magic[:], 0); err != nil || string(magic[:]) != elf.ELFMAG {
		return nil, fmt.Errorf("%s: %w", name, errNotELF)
	}
	e, err := elf.NewFile(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	info := &binaryInfo{machine: e.Machine, shared: e.Type == elf.ET_DYN}
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP {
			if info.interp != "" {
				return nil, fmt.Errorf("%s: more than one PT_INTERP: %w", name, unix.ENOEXEC)
			}
			b := make([]byte, min(p.Filesz, 4096))
			if _, err := p.ReadAt(b, 0); err != nil {
				return nil, fmt.Errorf("%s: reading PT_INTERP: %w", name, err)
			}
			info.interp = string(bytes.TrimRight(b, "\x00"))
		}
	}
	// Files without a dynamic section have neither.
	info.needed, _ = e.DynString(elf.DT_NEEDED)
	// libc.so.6 has an interpreter as well, but it also has a name.
	soname, _ := e.DynString(elf.DT_SONAME)
	flags, _ := e.DynValue(elf.DT_FLAGS_1)
	info.program = info.interp != "" && len(soname) == 0 || len(flags) > 0 && elf.DynFlag1(flags[0])&elf.DF_1_PIE != 0
	runpath, _ := e.DynString(elf.DT_RUNPATH)
	if len(runpath) == 0 {
		runpath, _ = e.DynString(elf.DT_RPATH)
	}
	origin := path.Dir(name)
	for _, list := range runpath {
		for dir := range strings.SplitSeq(list, ":") {
			dir = strings.ReplaceAll(dir, "${ORIGIN}", origin)
			dir = strings.ReplaceAll(dir, "$ORIGIN", origin)
			if path.IsAbs(dir) {
				info.runpath = append(info.runpath, path.Clean(dir))
			}
		}
	}
	return info, nil
}

// A closure is what an ELF file is linked with, directly or not: nothing for a
// static program.
type closure struct {
	interp    string // the dynamic linker; "" for a library
	libraries []string
}

// files are all of them, the dynamic linker first.
func (c closure) files() []string {
	if c.interp == "" {
		return c.libraries
	}
	return append([]string{c.interp}, c.libraries...)
}

// closure finds what program, a resolved path, is linked with.
func (l *linker) closure(program string) (closure, error) {
	root, err := l.read(program)
	if err != nil {
		return closure{}, err
	}
	var found closure
	if root.interp != "" {
		// The file says what its interpreter is. It gets a dynamic linker, and
		// not whatever else it would like to see.
		interp, err := l.read(root.interp)
		if err != nil {
			// Not errNotELF, which would make a script of the program.
			return closure{}, fmt.Errorf("%s: its interpreter: %v: %w", program, err, unix.ENOEXEC)
		}
		if !interp.shared || interp.program || interp.interp != "" || interp.machine != root.machine {
			return closure{}, fmt.Errorf("%s: its interpreter %s is no dynamic linker: %w", program, root.interp, unix.ENOEXEC)
		}
		found.interp = root.interp
	}
	seen := map[string]bool{}
	type need struct {
		soname string
		by     *binaryInfo
		byName string
	}
	var queue []need
	push := func(b *binaryInfo, name string) {
		for _, n := range b.needed {
			queue = append(queue, need{n, b, name})
		}
	}
	push(root, program)
	for len(queue) > 0 {
		n := queue[0]
		queue = queue[1:]
		// The interpreter is there already, under the name that it is needed by.
		if seen[n.soname] || path.Base(root.interp) == n.soname {
			continue
		}
		seen[n.soname] = true
		name, info, err := l.find(n.soname, root, n.by)
		if err != nil {
			return closure{}, fmt.Errorf("%s needs the library %s: %w", n.byName, n.soname, err)
		}
		found.libraries = append(found.libraries, name)
		push(info, name)
	}
	return found, nil
}

// find looks for a library where ld.so does: the needing file's own path, the
// program's, the cache, the default directories. A file for another machine, or
// one that is no library, is passed over.
func (l *linker) find(soname string, root, by *binaryInfo) (string, *binaryInfo, error) {
	if strings.Contains(soname, "/") {
		return "", nil, fmt.Errorf("a library must be named, not be a path: %w", unix.ENOEXEC)
	}
	var candidates []string
	for _, dir := range slices.Concat(by.runpath, root.runpath) {
		candidates = append(candidates, path.Join(dir, soname))
	}
	candidates = append(candidates, l.cached()[soname]...)
	for _, dir := range defaultLibraryDirs(root.machine) {
		candidates = append(candidates, path.Join(dir, soname))
	}
	for _, c := range candidates {
		// A program is not made visible by being called a library.
		if info, err := l.read(c); err == nil && info.machine == root.machine && info.shared && !info.program {
			return c, info, nil
		}
	}
	return "", nil, fs.ErrNotExist
}

func defaultLibraryDirs(m elf.Machine) []string {
	dirs := []string{"/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"}
	if t := triplets[m]; t != "" {
		dirs = append([]string{"/lib/" + t, "/usr/lib/" + t}, dirs...)
	}
	return dirs
}

// triplets name Debian's directories for an architecture.
var triplets = map[elf.Machine]string{elf.EM_X86_64: "x86_64-linux-gnu", elf.EM_AARCH64: "aarch64-linux-gnu"}

func triplet() string {
	if runtime.GOARCH == "arm64" {
		return triplets[elf.EM_AARCH64]
	}
	return triplets[elf.EM_X86_64]
}

func (l *linker) cached() map[string][]string {
	if l.cache == nil {
		l.cache = map[string][]string{}
		if b, err := fs.ReadFile(l.files, "etc/ld.so.cache"); err == nil {
			l.cache = parseLinkerCache(b)
		}
	}
	return l.cache
}

// parseLinkerCache reads glibc's ld.so.cache, format "glibc-ld.so.cache1.1"
// (dl-cache.h). Anything else gives an empty map: the default directories are
// searched then.
func parseLinkerCache(b []byte) map[string][]string {
	const magic = "glibc-ld.so.cache1.1"
	const headerSize, entrySize = 48, 24
	cache := map[string][]string{}
	start := bytes.Index(b, []byte(magic)) // an old-format cache may stand in front
	if start < 0 || len(b)-start < headerSize {
		return cache
	}
	b = b[start:]
	count := int(binary.NativeEndian.Uint32(b[len(magic):]))
	if count < 0 || count > (len(b)-headerSize)/entrySize {
		return cache
	}
	text := func(offset uint32) (string, bool) {
		if uint64(offset) >= uint64(len(b)) {
			return "", false
		}
		s, _, ok := bytes.Cut(b[offset:], []byte{0})
		return string(s), ok
	}
	for i := range count {
		e := b[headerSize+i*entrySize:]
		soname, ok1 := text(binary.NativeEndian.Uint32(e[4:]))
		name, ok2 := text(binary.NativeEndian.Uint32(e[8:]))
		if ok1 && ok2 && path.IsAbs(name) {
			cache[soname] = append(cache[soname], name)
		}
	}
	return cache
}

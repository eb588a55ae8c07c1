package isolate

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// fileSystem is what a view is built from: the host's files, or a test's.
type fileSystem interface {
	fs.StatFS
	fs.ReadLinkFS
}

// A bind is one file or directory of the host that becomes visible.
type bind struct {
	path     string // inside, resolved: no symbolic link in it
	source   string // on the host, resolved: the same path unless there is a root
	info     fs.FileInfo
	writable bool
	exec     bool // may be mapped executable
	run      bool // may be executed, or holds what may
	device   bool
	flat     bool // without what is mounted below it
	asNamed  bool // by nobody's links but root's: a mount of the spec
}

// A view collects what a program will see. Nothing in it is decided twice: a
// path that is shown already keeps the wider right.
type view struct {
	files  fileSystem
	base   string // the directory of the host that is the root inside; "" is the host's own
	linker linker
	binds  map[string]bind
	links  map[string]string // path of a symbolic link → its text
	texts  map[string]string // generated files
	dirs   map[string]bool   // directories that must exist

	deciding []string // links by which programs are found
}

func newView(files fileSystem) *view {
	return &view{
		files:  files,
		linker: linker{files: files},
		binds:  map[string]bind{},
		links:  map[string]string{},
		texts:  map[string]string{},
		dirs:   map[string]bool{},
	}
}

// outside is a path inside as package fs names it on the host.
func (v *view) outside(name string) string { return path.Join(v.base, name)[1:] }

// resolve follows the symbolic links in name and keeps each, so that the name
// works inside as it does outside.
func (v *view) resolve(name string) (string, error) {
	w, err := v.follow(name)
	if err == nil && w.rest != nil {
		err = &fs.PathError{Op: "lstat", Path: w.real, Err: fs.ErrNotExist}
	}
	return w.real, err
}

// resolveAsNamed is resolve for what a spec names, and a program must not redirect.
func (v *view) resolveAsNamed(name string) (string, error) {
	w, err := v.follow(name)
	if err == nil && w.doubtful != "" {
		err = &fs.PathError{Op: "mount", Path: name, Err: fmt.Errorf(
			"%s is a symbolic link that a program may have made (it, or a directory above it, is not root's alone): name what it leads to: %w", w.doubtful, unix.ELOOP)}
	}
	if err == nil && w.rest != nil {
		err = &fs.PathError{Op: "lstat", Path: w.real, Err: fs.ErrNotExist}
	}
	return w.real, err
}

// A walk is where a name leads.
type walk struct {
	real string   // without links; the first part that does not exist
	rest []string // behind it; nil where all of it exists
	// doubtful is the first link on the way which a program can have made, or can
	// exchange for something else while a start is under way: one that is not
	// root's, or that lies below a directory where others may rename.
	doubtful string
	links    []string // all of them
}

// follow is resolve for a name that need not exist.
func (v *view) follow(name string) (w walk, err error) {
	const maxLinks = 40 // as the kernel: path_resolution(7)
	rest := strings.Split(strings.Trim(path.Clean(name), "/"), "/")
	roots := true
	w.real = "/"
	for followed := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		if part == "" || part == "." {
			continue
		}
		if part == ".." {
			w.real = path.Dir(w.real)
			continue
		}
		next := path.Join(w.real, part)
		if next == "/proc" || next == "/sys" {
			// /proc/self is this process here and another one inside
			// (CVE-2019-5736 began with a script of /proc/self/exe).
			return walk{}, &fs.PathError{Op: "resolve", Path: name, Err: fmt.Errorf("it leads through %s, which inside belongs to the profile", next)}
		}
		info, err := v.files.Lstat(v.outside(next))
		if errors.Is(err, fs.ErrNotExist) {
			w.real, w.rest = next, append([]string{}, rest...)
			return w, nil
		}
		if err != nil {
			return walk{}, &fs.PathError{Op: "lstat", Path: next, Err: errors.Unwrap(err)}
		}
		roots = roots && ofRoot(info)
		if info.Mode()&fs.ModeSymlink == 0 {
			w.real = next
			continue
		}
		if followed++; followed > maxLinks {
			return walk{}, &fs.PathError{Op: "resolve", Path: name, Err: unix.ELOOP}
		}
		text, err := v.files.ReadLink(v.outside(next))
		if err != nil {
			return walk{}, err
		}
		if !roots && w.doubtful == "" {
			w.doubtful = next
		}
		v.links[next] = text
		w.links = append(w.links, next)
		if path.IsAbs(text) {
			w.real = "/"
		}
		rest = append(strings.Split(strings.Trim(text, "/"), "/"), rest...)
	}
	return w, nil
}

// ofRoot says that nobody but root decides what lies under this name, or in this
// directory: a link is root's own, and so is a directory in which others cannot
// write, or at least (with the sticky bit) not rename what is not theirs.
func ofRoot(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true // a file system without owners
	}
	open := info.IsDir() && info.Mode()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0
	return s.Uid == 0 && !open
}

// show makes a file or directory of the host visible.
func (v *view) show(name string, want bind) (bind, error) {
	find := v.resolve
	if want.asNamed {
		find = v.resolveAsNamed
	}
	real, err := find(name)
	if err != nil {
		return bind{}, err
	}
	if !want.device {
		if err := checkTarget(real); err != nil { // wherever the links led
			return bind{}, err
		}
	}
	want.path, want.source = real, real
	if want.info, err = v.files.Lstat(real[1:]); err != nil {
		return bind{}, err
	}
	if old, ok := v.binds[real]; ok {
		want.writable = want.writable || old.writable
		want.exec = (want.exec || old.exec) && !want.writable
		want.run = (want.run || old.run) && want.exec
	}
	v.binds[real] = want
	return want, nil
}

// showIfThere is show for data that a host may lack.
func (v *view) showIfThere(name string, want bind) error {
	if _, err := v.show(name, want); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// program shows a program with its closure and what its kind needs.
func (v *view) program(name string) error {
	w, err := v.follow(name)
	if err != nil {
		return err
	}
	v.deciding = append(v.deciding, w.links...)
	b, err := v.show(name, bind{exec: true, run: true})
	if err != nil {
		return err
	}
	if !b.info.Mode().IsRegular() {
		return &fs.PathError{Op: "exec", Path: name, Err: unix.EACCES}
	}
	if b.info.Mode()&0o111 == 0 {
		return &fs.PathError{Op: "exec", Path: name, Err: unix.EACCES}
	}
	if err := v.library(b.path); err != nil {
		if !errors.Is(err, errNotELF) {
			return err
		}
		return nil // a script, perhaps: runnable asks when it is the one to run
	}
	return v.kind(b.path)
}

// library shows what the ELF file at the resolved path is linked with.
func (v *view) library(name string) error {
	found, err := v.linker.closure(name)
	if err != nil {
		return err
	}
	for _, c := range found.files() {
		b, err := v.show(c, bind{exec: true, run: c == found.interp})
		if err == nil && !b.info.Mode().IsRegular() {
			err = unix.ENOEXEC
		}
		if err != nil {
			return fmt.Errorf("%s needs %s: %w", name, c, err)
		}
	}
	return nil
}

// writeXorExecute refuses an executable file that the program could write, or
// replace, by way of a writable mount: below one, or under another name of the
// same file there. outside is the program's id on the host; maps is a host that lets
// it act as a mount's owner.
func (v *view) writeXorExecute(outside int, maps bool) error {
	for _, link := range v.deciding {
		if in, inside := v.below(link); inside && in.writable {
			return fmt.Errorf("the link %s decides what is executed and lies in %s, which is writable: what can be written must not be executed", link, in.path)
		}
	}
	for _, b := range v.binds {
		if !b.exec {
			continue
		}
		if in, inside := v.below(b.path); inside && in.writable {
			return fmt.Errorf("%s can be executed and lies in %s, which is writable: what can be written must not be executed", b.path, in.path)
		}
		if err := v.aliased(b); err != nil {
			return err
		}
		s, ok := b.info.Sys().(*syscall.Stat_t)
		if !ok || s.Nlink < 2 || !b.info.Mode().IsRegular() {
			continue
		}
		for _, w := range v.binds {
			if !w.writable {
				continue
			}
			ws, ok := w.info.Sys().(*syscall.Stat_t)
			writes := int(s.Uid) == outside || maps && s.Uid == ws.Uid && s.Uid != 0 || b.info.Mode()&0o022 != 0 // in w a program acts as its owner
			if ok && writes && ws.Dev == s.Dev {
				return fmt.Errorf("%s can be executed, has %d names and could be written by another one in %s: what can be written must not be executed", b.path, s.Nlink, w.path)
			}
		}
	}
	return nil
}

// aliased refuses a file that can be executed if it, or a directory that it lies in,
// is also mounted writable by another path of the host: a bind mount of it there.
func (v *view) aliased(b bind) error {
	for _, w := range v.binds {
		if !w.writable {
			continue
		}
		for dir, info := b.source, b.info; ; {
			if sameFile(info, w.info) && dir != w.source {
				return fmt.Errorf("%s can be executed and lies in %s, which is %s as well, and that is writable: what can be written must not be executed", b.path, dir, w.source)
			}
			if dir == "/" || dir == v.base {
				break
			}
			dir = path.Dir(dir)
			var err error
			if info, err = v.files.Lstat(strings.TrimPrefix(dir, "/")); dir == "/" || err != nil {
				break // the root is nobody's writable mount; what is gone is seen by the start
			}
		}
	}
	return nil
}

// sameFile is os.SameFile, and false for files of which nothing is known.
func sameFile(a, b fs.FileInfo) bool {
	s, ok := a.Sys().(*syscall.Stat_t)
	t, also := b.Sys().(*syscall.Stat_t)
	return ok && also && s.Ino != 0 && s.Dev == t.Dev && s.Ino == t.Ino
}

// runnable checks the program itself, once everything that is allowed is shown:
// the interpreter of a script must be a program that is allowed.
func (v *view) runnable(name string) error { return v.runnableWithin(name, maxInterpreters) }

// maxInterpreters is how often an interpreter may be a script itself: execve(2).
const maxInterpreters = 4

func (v *view) runnableWithin(name string, depth int) error {
	real, err := v.resolve(name)
	if err != nil {
		return err
	}
	if _, err := v.linker.read(real); !errors.Is(err, errNotELF) {
		return err
	}
	interpreter, err := v.interpreter(real)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	target, err := v.resolve(interpreter)
	if err != nil {
		return fmt.Errorf("%s is a script and its interpreter %q cannot be shown: %w", name, interpreter, err)
	}
	if b, ok := v.binds[target]; !ok || !b.exec {
		return &fs.PathError{Op: "exec", Path: name, Err: fmt.Errorf(
			"it is a script: its interpreter %s is a program as well and must be allowed: %w", interpreter, unix.EACCES)}
	}
	if depth == 0 {
		return &fs.PathError{Op: "exec", Path: name, Err: unix.ELOOP}
	}
	return v.runnableWithin(interpreter, depth-1)
}

// interpreter reads the #! line, as execve(2) does.
func (v *view) interpreter(real string) (string, error) {
	f, err := openAbs(v.files, real)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 256)
	n, _ := f.Read(head)
	line, _, _ := bytes.Cut(head[:n], []byte("\n"))
	rest, ok := bytes.CutPrefix(line, []byte("#!"))
	// Of white space the kernel knows two, and not the carriage return.
	name := bytes.TrimLeft(rest, " \t")
	if end := bytes.IndexAny(name, " \t\x00"); end >= 0 {
		name = name[:end]
	}
	if !ok || !path.IsAbs(string(name)) {
		return "", fmt.Errorf("neither an ELF file nor a script with an interpreter: %w", unix.ENOEXEC)
	}
	return string(name), nil
}

// kinds is what programs open beyond what they are linked with, by the name of
// the resolved program. Shared objects in directories bring their closure.
var kinds = []struct {
	program *regexp.Regexp
	needs   []string // $1 is the program's submatch
}{
	{regexp.MustCompile(`^/usr(?:/local)?/bin/python(\d\.\d+)$`), []string{"/usr/lib/python$1", "/usr/lib/python3/dist-packages", "/usr/local/lib/python$1"}},
	{regexp.MustCompile(`^/usr/bin/perl(?:5[.\d]*)?$`), []string{"/etc/perl", "/usr/share/perl", "/usr/share/perl5", "/usr/lib/*/perl", "/usr/lib/*/perl5", "/usr/lib/*/perl-base", "/usr/local/share/perl", "/usr/local/lib/*/perl"}},
	{regexp.MustCompile(`^(/usr/lib/jvm/[^/]+)/bin/java$`), []string{"$1/lib", "$1/conf", "$1/release", "/etc/java-*"}},
	{regexp.MustCompile(`^/usr/bin/(?:curl|openssl|git|wget|node|nodejs|ssh)$`), []string{"/etc/ssl/openssl.cnf", "/usr/lib/ssl", "/etc/gitconfig"}},
	// Debian's node has some of its own modules outside of the program.
	{regexp.MustCompile(`^/usr/bin/(?:node|nodejs)$`), []string{"/usr/share/nodejs/acorn", "/usr/share/nodejs/acorn-walk", "/usr/share/nodejs/cjs-module-lexer", "/usr/share/nodejs/undici"}},
	{regexp.MustCompile(`^/usr/bin/iconv$`), []string{"/usr/lib/*/gconv"}},
	{regexp.MustCompile(`^/usr/bin/(?:convert|magick|identify|mogrify)[-.\w]*$`), []string{"/etc/ImageMagick-*", "/usr/lib/*/ImageMagick-*", "/usr/share/ImageMagick-*", "/etc/fonts", "/usr/share/fonts"}},
}

func (v *view) kind(real string) error {
	for _, k := range kinds {
		m := k.program.FindStringSubmatch(real)
		if m == nil {
			continue
		}
		for _, need := range k.needs {
			if len(m) > 1 {
				need = strings.ReplaceAll(need, "$1", m[1])
			}
			if err := v.need(need); err != nil {
				return fmt.Errorf("%s needs %s: %w", real, need, err)
			}
		}
	}
	return nil
}

// need shows every file or directory that matches, with the libraries of the
// shared objects in it.
func (v *view) need(pattern string) error {
	matches, err := fs.Glob(v.files, strings.TrimPrefix(pattern, "/"))
	if err != nil {
		return err
	}
	for _, m := range matches {
		b, err := v.show("/"+m, bind{exec: true})
		if err != nil {
			return err
		}
		if err := v.objects(b.path); err != nil {
			return err
		}
	}
	return nil
}

// objects shows the libraries of the shared objects below a resolved path. One
// that is broken, or lacks a library, could not be loaded outside either. A
// program that lies there (a JVM has helpers in its library) is seen, and is not
// executed unless it is allowed like any other.
func (v *view) objects(dir string) error {
	return fs.WalkDir(v.files, dir[1:], func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrPermission) {
			return fs.SkipDir // the program will not be able to read it either
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if !strings.Contains(path.Base(name), ".so") {
			return v.dormant("/"+name, d)
		}
		found, err := v.linker.closure("/" + name)
		if err != nil {
			return nil
		}
		for _, c := range found.files() {
			if _, err := v.show(c, bind{exec: true}); err != nil {
				return err
			}
		}
		return nil
	})
}

// dormant takes the right to be executed from an ELF program.
func (v *view) dormant(name string, d fs.DirEntry) error {
	switch path.Ext(name) {
	case ".py", ".pyc", ".pm": // thousands, and never one
		return nil
	}
	info, err := d.Info()
	if err != nil || info.Mode()&0o111 == 0 {
		return nil // gone, or not to be executed as it is
	}
	if b, err := v.linker.read(name); err != nil || b.shared && !b.program {
		return nil // a script, whose interpreter must be allowed, or a library
	}
	_, err = v.show(name, bind{})
	return err
}

// data that programs of every kind open: locale, character sets, time zones,
// certificates. Generated accounts, because the host's name people.
func (v *view) data(uid, gid int, network Network) error {
	optional := []string{
		"/etc/ld.so.cache",
		"/usr/lib/locale/C.utf8",
		"/usr/lib/" + triplet() + "/gconv/gconv-modules.cache",
		"/usr/lib64/gconv/gconv-modules.cache",
		"/usr/share/zoneinfo",
		"/etc/localtime",
		"/etc/ssl/certs/ca-certificates.crt",
	}
	if network == NetworkHost {
		optional = append(optional, "/etc/resolv.conf", "/etc/hosts", "/etc/services", "/etc/gai.conf", "/etc/host.conf")
	} else {
		v.texts["/etc/hosts"] = "127.0.0.1\tlocalhost\n::1\tlocalhost\n"
	}
	for _, name := range optional {
		if err := v.showIfThere(name, bind{}); err != nil {
			return err
		}
	}
	v.texts["/etc/passwd"] = fmt.Sprintf("program:x:%d:%d:program:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", uid, gid)
	v.texts["/etc/group"] = fmt.Sprintf("program:x:%d:\nnogroup:x:65534:\n", gid)
	v.texts["/etc/nsswitch.conf"] = "passwd: files\ngroup: files\nhosts: files dns\n"
	return nil
}

// mergedLinks are the names of merged directories (usr-merge): programs are
// asked for by them, ELF interpreters as well.
func (v *view) mergedLinks() {
	for _, name := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		if text, err := v.files.ReadLink(name); err == nil {
			v.links["/"+name] = text
		}
	}
}

// system shows all of /usr and what points out of it.
func (v *view) system() error {
	if _, err := v.show("/usr", bind{exec: true, run: true}); err != nil {
		return err
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		info, err := v.files.Lstat(name)
		if err == nil && info.IsDir() {
			if _, err := v.show("/"+name, bind{exec: true, run: true}); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{"/etc/alternatives", "/etc/ssl", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/perl", "/etc/fonts", "/etc/mime.types", "/etc/gitconfig"} {
		if err := v.showIfThere(name, bind{exec: true}); err != nil {
			return err
		}
	}
	for _, pattern := range []string{"/etc/java-*", "/etc/ImageMagick-*"} {
		if err := v.need(pattern); err != nil {
			return err
		}
	}
	return nil
}

// below says whether name lies in a directory that is bound, and which.
func (v *view) below(name string) (bind, bool) {
	for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
		if b, ok := v.binds[dir]; ok && b.info.IsDir() {
			return b, true
		}
	}
	return bind{}, false
}

// ordered drops what a bound directory shows already, with the same rights, and
// sorts the rest so that a directory stands before what is mounted in it.
func (v *view) ordered() []bind {
	var list []bind
	for _, b := range v.binds {
		if in, ok := v.below(b.path); ok && in.writable == b.writable && in.exec == b.exec && !in.flat && b.source == path.Join(in.source, b.path[len(in.path):]) {
			continue
		}
		list = append(list, b)
	}
	slices.SortFunc(list, func(a, b bind) int { return strings.Compare(a.path, b.path) })
	return list
}

// mayHaveSockets says whether a socket of somebody's may be among what is shown, to which
// a program can connect though it is read-only: whether a directory is that is not the
// system's.
func (v *view) mayHaveSockets() bool {
	for _, b := range v.binds {
		source := b.source + "/"
		systems := strings.HasPrefix(source, "/usr/") || strings.HasPrefix(source, "/etc/")
		if !b.device && !b.info.Mode().IsRegular() && !(b.info.IsDir() && systems && !b.writable) {
			return true
		}
	}
	return false
}

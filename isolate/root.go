package isolate

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The file system of a cell: a new tmpfs with mount points, generated files and
// links, on which the view is mounted, made the root.

// root builds the file system on a new tmpfs and makes it the root.
func (c *compiler) root() {
	v := c.view
	binds := v.ordered()
	c.add(sys("mount", null, str("/"), null, flags("MS_SLAVE|MS_REC"), null))
	c.receiveTrees(binds)

	root := c.newTmpfs([][2]string{{"mode", "0755"}, {"size", "1m"}, {"nr_inodes", "4096"}})
	// Any place will do: it is over the old root, which goes away.
	c.add(sys("move_mount", resultOf(root), str(""), flags("AT_FDCWD"), str("/"), flags("MOVE_MOUNT_F_EMPTY_PATH")))
	c.add(sys("fchdir", resultOf(root)))

	// In two steps: what lies in /tmp needs /tmp to be there.
	s := c.skeleton(binds)
	c.make(s, func(name string) bool { return !c.inTmpfs(name) })
	if c.asTemplate {
		c.mountProc()
	} else {
		c.ownMounts()
	}
	c.make(s, c.inTmpfs)
	for i, b := range binds {
		c.bind(i, b)
	}
	if !c.asTemplate {
		c.innerMounts()
	}
	c.add(sys("mount_setattr", resultOf(root), str(""), flags("AT_EMPTY_PATH"), attributes("MOUNT_ATTR_RDONLY"), num(attributesSize)))
	c.add(sys("fchdir", resultOf(root)))
	c.add(sys("pivot_root", str("."), str(".")))
	c.add(sys("umount2", str("."), flags("MNT_DETACH")))
	c.add(sys("chdir", str("/")))
}

// ownMounts are those that no two programs share. Their paths are relative to
// the new root, where init is. (proc before the old root goes: the kernel wants to
// see one that is whole.)
func (c *compiler) ownMounts() {
	c.mountProc()
	for _, t := range c.tmpfs() {
		if _, inside := c.view.below(t.path); inside {
			continue
		}
		options := fmt.Sprintf("mode=%04o,size=%d,nr_inodes=%s", t.mode, t.size, tmpfsInodes)
		c.add(sys("mount", str("tmpfs"), str(t.path[1:]), str("tmpfs"), flags("MS_NOSUID|MS_NODEV|MS_NOEXEC"), str(options)))
	}
}

// innerMounts are those of ownMounts that lie in a directory of the host.
func (c *compiler) innerMounts() {
	for _, t := range c.tmpfs() {
		if _, inside := c.view.below(t.path); inside {
			c.moveInside(resultOf(c.newTmpfs([][2]string{{"mode", fmt.Sprintf("%04o", t.mode)}, {"size", fmt.Sprint(t.size)}, {"nr_inodes", tmpfsInodes}})), t.path)
		}
	}
}

const tmpfsInodes = "65536"

// newTmpfs is an empty tmpfs that is mounted nowhere yet.
func (c *compiler) newTmpfs(options [][2]string) *Call {
	fs := c.add(sys("fsopen", str("tmpfs"), flags("FSOPEN_CLOEXEC")))
	for _, option := range options {
		c.add(sys("fsconfig", resultOf(fs), flags("FSCONFIG_SET_STRING"), str(option[0]), str(option[1]), num(0)))
	}
	c.add(sys("fsconfig", resultOf(fs), flags("FSCONFIG_CMD_CREATE"), null, null, num(0)))
	return c.add(sys("fsmount", resultOf(fs), flags("FSMOUNT_CLOEXEC"), flags("MOUNT_ATTR_NOSUID|MOUNT_ATTR_NODEV|MOUNT_ATTR_NOEXEC")))
}

func (c *compiler) mountProc() {
	c.add(sys("mount", str("proc"), str("proc"), str("proc"), flags("MS_RDONLY|MS_NOSUID|MS_NODEV|MS_NOEXEC"), str("subset=pid,hidepid=invisible")))
}

// inTmpfs says whether the name lies in a directory in memory.
func (c *compiler) inTmpfs(name string) bool {
	return slices.ContainsFunc(c.tmpfs(), func(t tmpfsMount) bool { return strings.HasPrefix(name, t.path+"/") })
}

const attributesSize = 32

// attributes also takes the mount out of its peer group: a tree of a shared
// mount (systemd makes all of them shared) would send what is mounted on it in
// the cell back to the host.
func attributes(names string) Arg {
	b := make([]byte, attributesSize)
	binary.NativeEndian.PutUint64(b, flags(names).number)
	binary.NativeEndian.PutUint64(b[16:], flags("MS_PRIVATE").number)
	return at(&block{bytes: b}, 0, "{attr_set="+names+", propagation=MS_PRIVATE}")
}

// receiveTrees takes the descriptors of the detached mounts that the host sends.
func (c *compiler) receiveTrees(binds []bind) {
	for _, b := range binds {
		c.plan.shown = append(c.plan.shown, Tree{b.source, b.info, b.flat, b.writable, b.idMap(c.plan.uid, c.plan.gid)})
	}
	if !c.host.Privileged {
		return
	}
	c.plan.Trees = c.plan.shown
	for left := len(binds); left > 0; left -= TreesPerMessage {
		receive, control := receiveMessage(min(left, TreesPerMessage), "trees")
		c.add(receive)
		c.trees = append(c.trees, control)
	}
}

// bind moves one tree to its place, with its rights.
func (c *compiler) bind(i int, b bind) {
	var tree Arg
	if c.host.Privileged {
		tree = received(c.trees[i/TreesPerMessage], unix.CmsgLen(0)+4*(i%TreesPerMessage), fmt.Sprintf("tree %d", i))
	} else {
		// An ordinary user's own paths are open to init as well: the same
		// file, found again without following any link.
		file := c.add(sys("openat2", flags("AT_FDCWD"), str(b.source), openHow("O_PATH|O_CLOEXEC", unix.RESOLVE_NO_SYMLINKS, "RESOLVE_NO_SYMLINKS"), num(openHowSize)))
		c.mustBe(resultOf(file), b.info)
		how := "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH"
		if !b.flat {
			how += "|AT_RECURSIVE"
		}
		tree = resultOf(c.add(sys("open_tree", resultOf(file), str(""), flags(how))))
		tree.text = fmt.Sprintf("<open_tree %q>", b.source)
	}
	c.add(sys("mount_setattr", tree, str(""), flags("AT_EMPTY_PATH|AT_RECURSIVE"), attributes(b.rights()), num(attributesSize)))
	if _, inside := c.view.below(b.path); inside {
		c.moveInside(tree, b.path)
		return
	}
	c.add(sys("move_mount", tree, str(""), flags("AT_FDCWD"), str(path.Clean(b.path)[1:]), flags("MOVE_MOUNT_F_EMPTY_PATH")))
}

// moveInside moves a mount to a place in a directory of the host, where links
// may be.
func (c *compiler) moveInside(mount Arg, target string) {
	point := c.add(sys("openat2", flags("AT_FDCWD"), str(path.Clean(target)[1:]), openHow("O_PATH|O_CLOEXEC", unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_BENEATH, "RESOLVE_NO_SYMLINKS|RESOLVE_BENEATH"), num(openHowSize)))
	c.add(sys("move_mount", mount, str(""), resultOf(point), str(""), flags("MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH")))
}

// mustBe fails, with EAGAIN, if the file is not the one that was examined when the
// profile was made: the program, say, whose content was compared with a pin. A
// privileged host compares before it sends a tree. Init compares nothing, but a
// futex does: FUTEX_CMP_REQUEUE wakes and moves nobody, if a word in memory is as
// expected (futex(2)).
func (c *compiler) mustBe(file Arg, info fs.FileInfo) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return // a test's file system
	}
	now := &block{bytes: make([]byte, statSize)}
	c.add(sys("fstat", file, at(now, 0, "&now")))
	nobody := at(&block{bytes: make([]byte, 8)}, 0, "&nobody")
	for _, w := range []struct {
		name   string
		offset int
		want   uint32
	}{
		{"st_dev", 0, uint32(s.Dev)},
		{"st_dev + 4", 4, uint32(s.Dev >> 32)},
		{"st_ino", 8, uint32(s.Ino)},
		{"st_ino + 4", 12, uint32(s.Ino >> 32)},
	} {
		c.add(sys("futex", at(now, w.offset, "&now."+w.name), flags("FUTEX_CMP_REQUEUE_PRIVATE"), num(0), num(0), nobody, num(int64(w.want))))
	}
}

// statSize is that of struct stat on both architectures, which begins with device
// and inode: stat(2).
const statSize = 144

func (b bind) rights() string {
	rights := "MOUNT_ATTR_NOSUID"
	if !b.writable {
		rights += "|MOUNT_ATTR_RDONLY"
	}
	if !b.device {
		rights += "|MOUNT_ATTR_NODEV"
	}
	if !b.exec {
		rights += "|MOUNT_ATTR_NOEXEC"
	}
	return rights
}

const openHowSize = 24

func openHow(names string, resolve uint64, resolveText string) Arg {
	b := make([]byte, openHowSize)
	binary.NativeEndian.PutUint64(b, flags(names).number)
	binary.NativeEndian.PutUint64(b[16:], resolve)
	return at(&block{bytes: b}, 0, "{flags="+names+", resolve="+resolveText+"}")
}

// tmpfs are the directories in memory: the profile's and the spec's.
func (p *Profile) tmpfs() []tmpfsMount {
	list := []tmpfsMount{{path: "/dev/shm", size: p.spec.TmpSize}, {path: "/tmp", size: p.spec.TmpSize}}
	for _, m := range p.spec.Mounts {
		if m, ok := m.(tmpfsMount); ok {
			m.path = path.Clean(m.path)
			list = slices.DeleteFunc(list, func(t tmpfsMount) bool { return t.path == m.path })
			list = append(list, m)
		}
	}
	list = slices.DeleteFunc(list, func(t tmpfsMount) bool { _, shown := p.view.binds[t.path]; return shown })
	for i := range list {
		if list[i].mode == 0 {
			list[i].mode = 0o1777
		}
	}
	slices.SortFunc(list, func(a, b tmpfsMount) int { return strings.Compare(a.path, b.path) })
	return list
}

// A skeleton is what the new root has besides mounts, each list sorted, so that
// a directory stands before what is in it.
type skeleton struct {
	dirs, links, texts []string
	points             []string // empty files to mount on
}

// skeleton collects what must be made: nothing below a bound directory, which
// has its own content.
func (c *compiler) skeleton(binds []bind) skeleton {
	v := c.view
	dirs := map[string]bool{}
	var s skeleton
	ours := func(name string) bool {
		if _, inside := v.below(name); inside {
			return false
		}
		for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
			dirs[dir] = true
		}
		return true
	}
	directory := func(name string) {
		if ours(name) {
			dirs[name] = true
		}
	}
	for _, b := range binds {
		if b.info.IsDir() {
			directory(b.path)
		} else if ours(b.path) {
			s.points = append(s.points, b.path)
		}
	}
	for dir := range v.dirs {
		directory(dir)
	}
	for _, t := range c.tmpfs() {
		directory(t.path)
	}
	for name := range v.links {
		if ours(name) {
			s.links = append(s.links, name)
		}
	}
	for name := range v.texts {
		if _, shown := v.binds[name]; !shown && ours(name) {
			s.texts = append(s.texts, name)
		}
	}
	s.dirs = slices.Sorted(maps.Keys(dirs))
	slices.Sort(s.links)
	slices.Sort(s.texts)
	return s
}

// make makes the part of the skeleton that which selects.
func (c *compiler) make(s skeleton, which func(name string) bool) {
	v := c.view
	selected := func(list []string) iter.Seq[string] {
		return func(yield func(string) bool) {
			for _, name := range list {
				if which(name) && !yield(name) {
					return
				}
			}
		}
	}
	for dir := range selected(s.dirs) {
		c.add(sys("mkdirat", flags("AT_FDCWD"), str(dir[1:]), octal(0o755)))
	}
	for name := range selected(s.links) {
		c.add(sys("symlinkat", str(v.links[name]), flags("AT_FDCWD"), str(name[1:])))
	}
	for name := range selected(s.texts) {
		fd := c.add(sys("openat", flags("AT_FDCWD"), str(name[1:]), flags("O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC"), octal(0o444)))
		c.add(sys("write", resultOf(fd), str(v.texts[name]), num(int64(len(v.texts[name])))))
		c.add(sys("close", resultOf(fd)))
	}
	for name := range selected(s.points) {
		c.add(sys("mknodat", flags("AT_FDCWD"), str(name[1:]), flags("S_IFREG"), num(0)))
	}
}

package launcher

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/proscenium-dev/proscenium/isolate"
	"golang.org/x/sys/unix"
)

// Whose files a program's writes are: on a mount that maps ids they belong to
// the owner of what is mounted, else to the id that the program has outside.

// idMaps are the user namespaces that mounts are mapped by. Making one takes a
// process and about a millisecond; it is kept by a descriptor.
type idMaps struct {
	mu         sync.Mutex
	namespaces map[isolate.IDMap]*os.File
}

// maxIDMaps bounds the descriptors; beyond it everything is forgotten.
const maxIDMaps = 128

func (m *idMaps) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forgetLocked()
}

func (m *idMaps) forgetLocked() {
	for _, f := range m.namespaces {
		f.Close()
	}
	m.namespaces = nil
}

// own decides whose the writes to a tree are and returns that in words for
// Enforced. That there can be none is no error, for it may be read all the same,
// but said.
func (l *Launcher) own(tree int, t isolate.Tree, uid, gid uint32) (string, error) {
	mapped := errors.New("that is root")
	if t.Map != (isolate.IDMap{}) {
		if mapped = l.mapIDs(tree, t.Map); mapped == nil {
			return fmt.Sprintf("writes to %s: owned by uid %d, whose it is", t.Path, t.Map.FileUID), nil
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return "", os.NewSyscallError("fstat", err)
	}
	if !mayWrite(tree, &st, uid, gid) {
		return fmt.Sprintf("writes to %s: none: the program runs as %d:%d and may not write there (owner %d:%d, mode %#o), nor can it act as the owner (%v); chown it to an ordinary user or to the id that programs run as",
			t.Path, uid, gid, st.Uid, st.Gid, st.Mode&0o7777, mapped), nil
	}
	return fmt.Sprintf("writes to %s: owned by uid %d", t.Path, uid), nil
}

// mapIDs makes the tree an idmapped mount: itself, and not what is mounted in it.
func (l *Launcher) mapIDs(tree int, m isolate.IDMap) error {
	l.maps.mu.Lock()
	defer l.maps.mu.Unlock()
	namespace, ok := l.maps.namespaces[m]
	if !ok {
		var err error
		if namespace, err = l.userNamespace(m); err != nil {
			return fmt.Errorf("a user namespace to map ids by: %w", err)
		}
		if len(l.maps.namespaces) >= maxIDMaps {
			l.maps.forgetLocked()
		}
		if l.maps.namespaces == nil {
			l.maps.namespaces = map[isolate.IDMap]*os.File{}
		}
		l.maps.namespaces[m] = namespace
	}
	err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(namespace.Fd())})
	return os.NewSyscallError("mount_setattr(MOUNT_ATTR_IDMAP)", err)
}

// userNamespace makes one with these maps. Its first process stays root, which
// makes it root's: whoever shares the id of a namespace's owner may enter it, and
// this one has all ids.
func (l *Launcher) userNamespace(m isolate.IDMap) (*os.File, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	c := &Cmd{Path: "a user namespace", Plan: isolate.UserNamespace(), launcher: l, ctx: ctx}
	p, err := c.begin(nil, func() error { return nil })
	if err != nil {
		return nil, err
	}
	defer p.abandon()
	pid, err := pidOf(p.init)
	if err != nil {
		return nil, err
	}
	for file, text := range map[string]string{"uid_map": m.UIDMap(), "gid_map": m.GIDMap()} {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, file), []byte(text), 0); err != nil {
			return nil, err
		}
	}
	return os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
}

// mayWrite is whether mode and owner let an id write; an access control list is
// believed to.
func mayWrite(fd int, st *unix.Stat_t, uid, gid uint32) bool {
	need := uint32(0o2)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		need = 0o3
	}
	switch {
	case st.Uid == uid:
		return st.Mode>>6&need == need
	case accessList(fd):
		return true
	case st.Gid == gid:
		return st.Mode>>3&need == need
	}
	return st.Mode&need == need
}

func accessList(fd int) bool {
	_, err := unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d", fd), "system.posix_acl_access", nil)
	return err == nil
}

package isolate

import (
	"fmt"
	"strings"
	"syscall"
)

// An IDMap makes files of one owner the program's own, on one mount: owner and
// program change places there, for users and for groups; files of everybody else
// stay as they are. What the program makes is the owner's. The mount is an
// idmapped one (mount_setattr(2), Linux 5.12), which the file system must take:
// ext4 and xfs from 5.12 on, btrfs 5.15, tmpfs 6.3; overlayfs and NFS do not.
//
// The zero value maps nothing. Equal ids stay as they are.
type IDMap struct {
	FileUID, FileGID int // of the owner
	UID, GID         int // of the program, outside
}

// idMap is the map for a writable bind. Nobody is made root: files of root stay
// root's, and so do those of its group.
func (b bind) idMap(uid, gid int) IDMap {
	s, ok := b.info.Sys().(*syscall.Stat_t)
	if !ok || !b.writable || s.Uid == 0 || int(s.Uid) == uid {
		return IDMap{}
	}
	m := IDMap{FileUID: int(s.Uid), FileGID: int(s.Gid), UID: uid, GID: gid}
	if m.FileGID == 0 {
		m.FileGID = gid
	}
	return m
}

// UIDMap is the map as /proc/PID/uid_map takes it, see user_namespaces(7).
func (m IDMap) UIDMap() string { return swap(m.FileUID, m.UID) }

// GIDMap is the map as /proc/PID/gid_map takes it.
func (m IDMap) GIDMap() string { return swap(m.FileGID, m.GID) }

// String is how a plan prints it.
func (m IDMap) String() string {
	s := fmt.Sprintf("user namespace, uid %d↔%d", m.FileUID, m.UID)
	if m.FileGID != m.GID {
		s += fmt.Sprintf(", gid %d↔%d", m.FileGID, m.GID)
	}
	return s
}

// swap maps every id to itself, but for two.
func swap(a, b int) string {
	var lines strings.Builder
	line := func(from, to, count int) {
		if count > 0 {
			fmt.Fprintf(&lines, "%d %d %d\n", from, to, count)
		}
	}
	low, high := min(a, b), max(a, b)
	if low == high {
		line(0, 0, maxID+1)
		return lines.String()
	}
	line(0, 0, low)
	line(low, high, 1)
	line(low+1, low+1, high-low-1)
	line(high, low, 1)
	line(high+1, high+1, maxID-high)
	return lines.String()
}

// UserNamespace is the plan of a user namespace and nothing else, to map the ids
// of a mount by: init waits in it for a program that never comes, while the host
// writes the maps.
func UserNamespace() *Plan {
	p := &Plan{SetUp: Sequence{failed: RecordSetUpFailed}}
	s := &p.StageOne
	s.failed = RecordStageOneFailed
	s.becomeInit("CLONE_NEWUSER|CLONE_NEWPID")
	return p
}

package isolate

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// A template is a mount namespace with the finished root of a profile, owned by
// a user namespace of the same outer identity. Its maker sends both to the host
// and ends. A start enters them and clones: the copy has every mount, locked, and
// adds only what no two programs may share, its /proc and what it can write in
// memory. The cost of a start no longer grows with the number of files that a
// program sees, nor with the mounts of the host.
//
// Whoever has the outer identity has all capabilities over the template's user
// namespace, as over any that he could make. The program does not: it lives in a
// user namespace below, with none.

// Template is the plan of the profile's template. It is nil where each start must
// make its own root: something is shown below /tmp or another directory in
// memory, which is each program's own.
func (p *Profile) Template() (*Plan, error) {
	c := compiler{Profile: p, plan: &Plan{privileged: p.host.Privileged, uid: p.uid, gid: p.gid}, asTemplate: true}
	s := c.skeleton(p.view.ordered())
	for _, names := range [][]string{s.dirs, s.links, s.texts, s.points} {
		if slices.ContainsFunc(names, c.inTmpfs) {
			return nil, nil
		}
	}
	c.stageOne("CLONE_NEWUSER|CLONE_NEWNS|CLONE_NEWPID")
	c.plan.SetUp.failed = RecordSetUpFailed
	c.identify()
	c.root()
	// Descriptors with numbers that are known now: they go into a message.
	control := &block{bytes: controlMessage(templateNamespaces)}
	for i, ns := range []string{"user", "mnt"} {
		fd := c.add(sys("openat", flags("AT_FDCWD"), str("/proc/self/ns/"+ns), flags("O_RDONLY|O_CLOEXEC"), num(0)))
		c.add(sys("dup3", resultOf(fd), num(int64(templateDescriptor+i)), flags("O_CLOEXEC")))
		binary.NativeEndian.PutUint32(control.bytes[unix.CmsgLen(0)+4*i:], uint32(templateDescriptor+i))
	}
	c.add(sendRecord(RecordTemplate, control, "user, mnt"))
	c.add(sys("exit_group", num(0)))
	return c.plan, nil
}

const (
	templateNamespaces = 2
	templateDescriptor = 1000 // beyond any that the plan has opened before
)

// enterTemplate is stage one's way into the template. The change of identity clears
// the parent-death signal.
func (c *compiler) enterTemplate(first func(*Call) *Call) {
	receive, control := receiveMessage(templateNamespaces, "namespaces")
	first(receive)
	for i, kind := range []string{"CLONE_NEWUSER", "CLONE_NEWNS"} {
		first(sys("setns", received(control, unix.CmsgLen(0)+4*i, "the template's"), flags(kind)))
	}
	first(sys("prctl", flags("PR_SET_PDEATHSIG"), flags("SIGKILL")))
}

// Key is the same for plans that do the same with the same files: two profiles
// of one key can share a template.
func (p *Plan) Key() (key [sha256.Size]byte, err error) {
	h := sha256.New()
	for _, s := range []*Sequence{&p.StageOne, &p.SetUp} {
		b, err := s.Encode()
		if err != nil {
			return key, err
		}
		h.Write(b)
	}
	binary.Write(h, binary.NativeEndian, []int64{int64(p.uid), int64(p.gid)})
	for _, t := range p.shown {
		s, ok := t.Info.Sys().(*syscall.Stat_t)
		if !ok {
			return key, unix.ENOTSUP
		}
		binary.Write(h, binary.NativeEndian, []uint64{uint64(s.Dev), s.Ino, uint64(t.Map.FileUID), uint64(t.Map.FileGID), uint64(len(t.Path))})
		h.Write([]byte(t.Path))
		binary.Write(h, binary.NativeEndian, t.Flat)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

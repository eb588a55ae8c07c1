package isolate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A forker is a process that does nothing but fork, for a start: a child of the
// launcher's, and init's image. What it forks becomes stage one by reading the
// next plan. No exec stands between, and no address space is made, which is most of what
// the fork of so small a process takes: the forker waits (CLONE_VFORK) until stage one,
// in its memory (CLONE_VM), has cloned init and ended.
//
// That memory belongs to the user namespace of the launcher and is undumpable, so that
// the outer identity, which stage one has taken, gives nobody the right to trace it
// (ptrace(2)). It gives the right to stop stage one, as it does for programs: the forker
// then ends after a while, by its timer. What the kernel kills for want of memory it kills
// with all who share that memory; stage one can so take its forker along. The launcher
// replaces forkers that end. Init has memory of its own: it lives as long as its program,
// and dies for no other.
//
// It has the host's identity and rights and does what it is told: who holds the host's
// end of its socket is the host. A request carries nothing of the program but its
// descriptors.

// ForkerRequests is where a forker's requests come from. A request has
// ForkRequestDescriptors descriptors, always, which are stdin, stdout, stderr, where
// the host listens, the v2 control group and the network namespace, or any other for
// none. They find their places by themselves: a descriptor that is received has the
// lowest free number.
const (
	ForkerRequests         = 4
	ForkRequestDescriptors = 6

	forkerGroup     = 5
	forkerNetwork   = 6
	forkRequestSize = 24
)

// A ForkerNetwork is where the children of a forker find themselves.
type ForkerNetwork int

const (
	// LauncherNetwork is the launcher's network namespace.
	LauncherNetwork ForkerNetwork = iota
	// FreshNetwork is one of each child's own, made ahead, for that one takes longer
	// than all others together.
	FreshNetwork
	// GivenNetwork is what comes with the request.
	GivenNetwork
)

// ForkerSetUp is what a forker does once, before it reads its plan.
func ForkerSetUp() *Sequence {
	return &Sequence{failed: RecordForkFailed, Init: []*Call{
		// Again: the exec of a host with a set-id bit has cleared it.
		sys("prctl", flags("PR_SET_PDEATHSIG"), flags("SIGKILL")),
		sys("prctl", flags("PR_SET_DUMPABLE"), num(0)),
		sys("prctl", flags("PR_SET_NAME"), str("proscenium-fork")),
		// The launcher ignores it, and that stays over an exec; init waits for children.
		sys("rt_sigaction", flags("SIGCHLD"), at(&block{bytes: make([]byte, 32)}, 0, "{SIG_DFL}"), null, num(8)),
		// What ends a service is sent to all of its processes. The host decides how it ends.
		sys("rt_sigprocmask", flags("SIG_SETMASK"), at(&block{bytes: bytes.Repeat([]byte{0xff}, 8)}, 0, "~[]"), null, num(8)),
		newTimer(),
		// All but the text and the buffer: neither stack nor vDSO is of use to init, and
		// they would be half of its page tables. A kernel may seal the vDSO (mseal(2)).
		sys("munmap", num(bufferEnd), num(addressEnd()-bufferEnd), num(0)).tolerate(unix.EPERM),
	}}
}

// Forker is the plan of one. Host and launcher, which are both privileged or neither,
// make the same.
func Forker(privileged bool, network ForkerNetwork) *Sequence {
	s := &Sequence{failed: RecordForkFailed}
	first := func(call *Call) { s.Init = append(s.Init, call) }
	child := func(call *Call) { s.Child = append(s.Child, call) }

	first(setTimer(0))
	first(sys("close_range", num(0), num(ForkerRequests-1), num(0)))
	first(sys("close_range", num(ForkerRequests+1), num(0xffffffff), num(0)))
	if network == FreshNetwork {
		// A failure is told to the next request, of which there then is no child: see
		// IsAhead.
		first(sys("unshare", flags("CLONE_NEWNET")))
	}
	args := &block{bytes: make([]byte, cloneArgsSize)}
	binary.NativeEndian.PutUint64(args.bytes[cloneArgsGroup:], forkerGroup)
	ids := &block{bytes: make([]byte, 16)}
	// As many descriptors each time: the kernel writes how much it used over how
	// much there is.
	control := &block{bytes: make([]byte, unix.CmsgSpace(4*ForkRequestDescriptors))}
	iov := &block{words: []Arg{at(args, 0, ""), num(8), at(ids, 0, ""), num(16)}}
	message := &block{words: []Arg{null, num(0), at(iov, 0, ""), num(2), at(control, 0, ""), num(int64(len(control.bytes))), num(0)}}
	s.serves = sys("recvmsg", num(ForkerRequests), at(message, 0, "{flags, ids, SCM_RIGHTS=[6 descriptors]}"), num(0))
	first(s.serves.tolerate(forkRequestSize))
	first(sys("dup3", num(forkerNetwork), num(forkerNetwork+1), num(0))) // are they complete?
	if network == GivenNetwork {
		first(sys("setns", num(forkerNetwork), flags("CLONE_NEWNET")))
	}
	first(setTimer(forkerPatience))

	if clone3() == nil {
		s.Clone = sys("clone3", at(args, 0, "{<flags>, cgroup=5}"), num(cloneArgsSize), null)
	} else {
		s.Clone = sys("clone", flags(forkApart), null, null)
	}

	child(sys("close_range", num(ForkerRequests), num(0xffffffff), num(0)))
	// PID 1 gets no signal that it has not asked for, unless it blocks it.
	child(sys("rt_sigprocmask", flags("SIG_SETMASK"), at(&block{bytes: make([]byte, 8)}, 0, "[]"), null, num(8)))
	if privileged {
		child(sys("setgroups", num(0), null))
		child(sys("setgid", Arg{block: ids, offset: 8, load: true, text: "<gid>"}))
		child(sys("setuid", Arg{block: ids, load: true, text: "<uid>"}))
		child(sys("prctl", flags("PR_SET_DUMPABLE"), num(0))) // whatever became of fs.suid_dumpable since
	}
	child(sys("prctl", flags("PR_SET_PDEATHSIG"), flags("SIGKILL"))) // the change of identity has cleared it
	return s
}

const bufferEnd = BufferAddress + BuffersSize

// addressEnd is where the addresses of a process end: on amd64 of one that has not
// asked for more, elsewhere by the kernel's configuration. The stack is near it, and
// what the auxiliary vector calls AT_RANDOM is there: getauxval(3).
func addressEnd() int64 {
	if runtime.GOARCH == "amd64" {
		return 1<<47 - 4096
	}
	const atRandom = 25
	vector, _ := unix.Auxv()
	for _, entry := range vector {
		if entry[0] == atRandom {
			return 1 << bits.Len64(uint64(entry[1]))
		}
	}
	return bufferEnd + 4096 // then everything stays
}

// forkerPatience is how long a forker waits for a stage one, in seconds. A stage one that
// takes longer than that goes on without it.
const forkerPatience = 5

// newTimer makes the process's first timer, which has the number 0. It kills, as all other
// signals are blocked.
func newTimer() *Call {
	event := &block{bytes: make([]byte, 64)} // struct sigevent: sigevent(3type)
	binary.NativeEndian.PutUint32(event.bytes[8:], uint32(unix.SIGKILL))
	return sys("timer_create", flags("CLOCK_MONOTONIC"), at(event, 0, "{signo=KILL}"), at(&block{bytes: make([]byte, 8)}, 0, "&timer"))
}

func setTimer(seconds int) *Call {
	value := &block{bytes: make([]byte, 32)} // struct itimerspec: timer_settime(2)
	binary.NativeEndian.PutUint64(value.bytes[16:], uint64(seconds))
	return sys("timer_settime", num(0), num(0), at(value, 0, fmt.Sprintf("{value=%d s}", seconds)), null)
}

// The flags of the clone that makes stage one, in the forker's memory or its own.
const (
	forkApart  = "CLONE_PARENT"
	forkShared = "CLONE_PARENT|CLONE_VM|CLONE_VFORK"
)

// struct clone_args: clone(2).
const (
	cloneArgsSize  = 88
	cloneArgsGroup = 80
)

// ForkRequest is what a forker reads: whether its child is born in the control
// group, which takes clone3, and shares the forker's memory, and who it is where the
// host is root.
func (p *Plan) ForkRequest(inGroup, shared bool) ([]byte, error) {
	if p.privileged && (p.uid == 0 || p.gid == 0) {
		return nil, errors.New("a program never gets the id 0 of the host")
	}
	how := flags(forkApart).number
	if shared {
		how = flags(forkShared).number
	}
	if inGroup {
		if err := clone3(); err != nil {
			return nil, err
		}
		how |= unix.CLONE_INTO_CGROUP
	}
	b := binary.NativeEndian.AppendUint64(nil, how)
	b = binary.NativeEndian.AppendUint64(b, uint64(p.uid))
	return binary.NativeEndian.AppendUint64(b, uint64(p.gid)), nil
}

// IsAhead is whether a forker makes the call, which CallAt has named, before it is
// asked to: its failure may be an old one, and the forker has tried again since.
func IsAhead(call string) bool { return strings.HasPrefix(call, "unshare(") }

// clone3 is why there is none: the filters of container engines do not all let it pass.
var clone3 = sync.OnceValue(func() error {
	f, _ := featureOf("clone3")
	return f.Probe()
})

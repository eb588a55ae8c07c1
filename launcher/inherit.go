package launcher

import (
	"bytes"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// What a process inherits and no namespace, group or filter takes away is the
// launcher's to set right: programs have it from there. A host that is a real-time
// process, or one that is never to be killed for memory, gives its programs neither.

// inheritNothing is for the whole process.
func inheritNothing() error {
	// memory.oom.group spares processes that are never to be killed.
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(string(bytes.TrimSpace(b))); err != nil || n < 0 {
		if err := os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0); err != nil {
			return err
		}
	}
	for _, r := range []struct {
		resource int
		most     uint64
	}{
		{unix.RLIMIT_RTPRIO, 0}, // with these a program makes itself a real-time one, for which
		{unix.RLIMIT_NICE, 0},   // cpu.max does not count, or goes before others
		{unix.RLIMIT_MSGQUEUE, 819200},
		{unix.RLIMIT_SIGPENDING, 4096},
	} {
		if err := lower(r.resource, r.most, true); err != nil {
			return err
		}
	}
	// Unlimited, it makes the layout of memory less random: personality(2).
	return lower(unix.RLIMIT_STACK, 8<<20, false)
}

// lower bounds a soft limit, and the hard one too if asked.
func lower(resource int, most uint64, hard bool) error {
	var l unix.Rlimit
	if err := unix.Getrlimit(resource, &l); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	l.Cur = min(l.Cur, most)
	if hard {
		l.Max = min(l.Max, most)
	}
	return os.NewSyscallError("setrlimit", unix.Setrlimit(resource, &l))
}

// inheritNoSchedule is for the calling thread, which stays locked: the usual policy,
// no priority above the usual, and the usual execution domain.
func inheritNoSchedule() error {
	runtime.LockOSThread()
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return os.NewSyscallError("sched_getattr", err)
	}
	switch attr.Policy {
	case unix.SCHED_NORMAL, unix.SCHED_BATCH, unix.SCHED_IDLE:
		if attr.Nice >= 0 {
			break
		}
		fallthrough
	default:
		if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: max(attr.Nice, 0)}, 0); err != nil {
			return os.NewSyscallError("sched_setattr", err)
		}
	}
	// IOPRIO_WHO_PROCESS, this thread: IOPRIO_CLASS_NONE goes by the nice value.
	if _, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, 1, 0, 0); errno != 0 && errno != unix.ENOSYS {
		return os.NewSyscallError("ioprio_set", errno)
	}
	const persona = 0 // PER_LINUX
	if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, persona, 0, 0); errno != 0 && errno != unix.ENOSYS {
		return os.NewSyscallError("personality", errno)
	}
	return nil
}

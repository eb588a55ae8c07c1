package launcher

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/isolate"
	"golang.org/x/sys/unix"
)

// aForker is one with its requests. Its stage ones and inits are the children of the
// thread that started it.
type aForker struct {
	testing.TB
	null     *os.File
	requests *conn
	*forker
	before []int // the thread's children
	killed bool  // it ends by a signal
}

func startAForker(t testing.TB) *aForker { return startForkerAs(t, false) }

func startForkerAs(t testing.TB, privileged bool) *aForker {
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	image, err := openImage()
	if err != nil {
		t.Fatal(err)
	}
	f := &aForker{TB: t, before: childrenOfThread(t)}
	if f.null, err = os.Open(os.DevNull); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.null.Close() })
	requests, far, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(far)
	f.requests = requests
	if f.forker, err = startForker(image, far, isolate.Forker(privileged, isolate.LauncherNetwork)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.reap)
	if fd, err := strconv.Atoi(strings.TrimPrefix(image, "/proc/self/fd/")); err == nil {
		unix.Close(fd)
	}
	return f
}

func childrenOfThread(t testing.TB) (pids []int) {
	b, err := os.ReadFile("/proc/thread-self/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range strings.Fields(string(b)) {
		pid, _ := strconv.Atoi(f)
		pids = append(pids, pid)
	}
	return pids
}

// reap waits for the forker's own end, and for what it forked.
func (f *aForker) reap() {
	f.requests.Close()
	const exited = 1 // CLD_EXITED: waitid(2)
	var end unix.Siginfo
	if err := unix.Waitid(unix.P_PIDFD, f.pidfd, &end, unix.WEXITED, nil); err != nil || (end.Code != exited) != f.killed {
		f.Errorf("the forker's end: %v, code %d", err, end.Code)
	}
	if err := f.bury(); err != nil {
		f.Error(err)
	}
	for _, child := range childrenOfThread(f) {
		if !slices.Contains(f.before, child) {
			unix.Wait4(child, nil, 0, nil)
		}
	}
}

// ask sends the request with so many descriptors, the fourth of which is where the
// answer comes. It is the kind of the record; 0: nobody is there to answer.
func (f *aForker) ask(request []byte, descriptors int) uint64 {
	here, there, err := socketPair()
	if err != nil {
		f.Fatal(err)
	}
	defer here.Close()
	stageOne, err := isolate.UserNamespace().StageOne.Encode()
	if err == nil {
		err = here.send(stageOne)
	}
	if err != nil {
		f.Fatal(err)
	}
	null := int(f.null.Fd())
	fds := []int{null, null, null, there, null, null, null}
	err = f.requests.send(request, fds[:descriptors]...)
	unix.Close(there)
	if err != nil {
		return 0 // it has ended
	}
	b := make([]byte, isolate.RecordSize)
	n, fds, err := here.recv(b, 1)
	if err != nil {
		return 0
	}
	defer closeAll(fds)
	r, err := isolate.DecodeRecord(b[:n])
	if err != nil {
		f.Fatal(err)
	}
	if r.Kind == isolate.RecordCloned && len(fds) == 1 {
		unix.PidfdSendSignal(fds[0], unix.SIGKILL, nil, 0)
	}
	return r.Kind
}

// TestMayShare: only where a change of identity is known to close the memory.
func TestMayShare(t *testing.T) {
	for text, want := range map[string]bool{"0\n": true, "2\n": true, "1\n": false, "": false} {
		if mayShare(strings.NewReader(text)) != want {
			t.Errorf("suid_dumpable %q", text)
		}
	}
}

func forkRequest(t testing.TB, inGroup bool) []byte {
	b, err := isolate.UserNamespace().ForkRequest(inGroup, true)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzForker: a request is answered by the child that it asked for, or by the call
// that failed, and the forker goes on; one that is not whole, of bytes or descriptors,
// ends it. It never makes a child that nobody asked for. The flags are the host's to
// choose, and no part of this.
func FuzzForker(f *testing.F) {
	good, intoGroup := forkRequest(f, false), forkRequest(f, true)
	for _, n := range []byte{0, 3, 4, 5, 6} {
		f.Add(good, n)
		f.Add(intoGroup, n)
	}
	for _, n := range []int{0, 1, 8, 23} {
		f.Add(good[:n], byte(5))
	}
	f.Add(append(bytes.Clone(good), 0), byte(5))
	f.Fuzz(func(t *testing.T, request []byte, n byte) {
		descriptors := int(n) % 8
		request = bytes.Clone(request)
		inGroup := false
		if len(request) >= 8 {
			asked := binary.NativeEndian.Uint64(request)
			inGroup = asked&unix.CLONE_INTO_CGROUP != 0
			binary.NativeEndian.PutUint64(request, asked&unix.CLONE_INTO_CGROUP|binary.NativeEndian.Uint64(good))
		}
		want := uint64(isolate.RecordCloned)
		switch {
		case len(request) < len(good) || descriptors < isolate.ForkRequestDescriptors:
			want = 0
		case inGroup:
			want = isolate.RecordForkFailed // the group is none
		}
		forker := startAForker(t)
		if kind := forker.ask(request, descriptors); kind != want {
			t.Errorf("answer %d to %x with %d descriptors, want %d", kind, request, descriptors, want)
		}
		next := uint64(isolate.RecordCloned)
		if want == 0 {
			next = 0
		}
		for range 2 {
			if kind := forker.ask(good, isolate.ForkRequestDescriptors); kind != next {
				t.Errorf("answer %d to the next request, want %d", kind, next)
			}
		}
	})
}

// TestForkerRefusedFlags: what the kernel refuses is told, by the call.
func TestForkerRefusedFlags(t *testing.T) {
	forker := startAForker(t)
	request := forkRequest(t, false)
	binary.NativeEndian.PutUint32(request[4:], 0xffffffff)
	if kind := forker.ask(request, isolate.ForkRequestDescriptors); kind != isolate.RecordForkFailed {
		t.Errorf("answer %d", kind)
	}
}

// TestFailedForkerSetUp: what a forker cannot do at all is said, by the call, and not
// tried without end. One that was killed has nothing to say.
func TestFailedForkerSetUp(t *testing.T) {
	const firstCall = isolate.BufferAddress + isolate.BufferSize + 128
	for what, record := range map[string][]byte{
		"prctl(PR_SET_PDEATHSIG, SIGKILL)": isolate.Record{Kind: isolate.RecordForkFailed, Value: firstCall, Errno: uint64(unix.EACCES)}.Encode(),
		"record of 3 bytes":                {1, 2, 3},
		"":                                 nil,
	} {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Write(pair[0], []byte("a plan that it has not read"))
		if record != nil {
			unix.Write(pair[1], record)
		}
		unix.Close(pair[1])
		pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
		if err != nil {
			t.Fatal(err)
		}
		err = (&forker{pidfd: pidfd, setUp: pair[0]}).bury()
		if said := fmt.Sprint(err); (err == nil) != (what == "") || err != nil && !strings.Contains(said, what) {
			t.Errorf("%q instead of %q", said, what)
		}
	}
}

// TestForkerWaitsForNoStoppedStageOne: who has the outer identity can stop stage one; the
// forker, which waits in the same memory, then ends, and stage one still becomes init.
func TestForkerWaitsForNoStoppedStageOne(t *testing.T) {
	f := startAForker(t)
	here, stageOne := f.stageOne(forkRequest(t, false))
	defer here.Close()
	if err := unix.Kill(stageOne, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if !ended(f.pidfd, 30_000) {
		t.Error("the forker waits on")
	}
	unix.Kill(stageOne, unix.SIGCONT)
	plan, err := isolate.UserNamespace().StageOne.Encode()
	if err == nil {
		err = here.send(plan)
	}
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, isolate.RecordSize)
	n, fds, err := here.recv(b, 1)
	defer closeAll(fds)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := isolate.DecodeRecord(b[:n]); err != nil || r.Kind != isolate.RecordCloned {
		t.Errorf("stage one's word: %v, %v", r, err)
	}
	if len(fds) == 1 {
		unix.PidfdSendSignal(fds[0], unix.SIGKILL, nil, 0)
	}
	f.killed = true
}

// stageOne has one forked, which waits for its plan.
func (f *aForker) stageOne(request []byte) (here *conn, pid int) {
	here, there, err := socketPair()
	if err != nil {
		f.Fatal(err)
	}
	null := int(f.null.Fd())
	err = f.requests.send(request, null, null, null, there, null, null)
	unix.Close(there)
	if err != nil {
		f.Fatal(err)
	}
	forker, err := pidOf(f.pidfd)
	if err != nil {
		f.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		for _, pid := range childrenOfThread(f) {
			if pid != forker && !slices.Contains(f.before, pid) {
				return here, pid
			}
		}
		time.Sleep(time.Millisecond) // its birth is no event of ours
	}
	f.Fatal("no stage one")
	return nil, 0
}

// TestStageOneIsClosed: it has the outer identity, and the memory of a forker, of root's
// perhaps, which that identity must not open. What it may do is to see a process of its own.
func TestStageOneIsClosed(t *testing.T) {
	outer, privileged := os.Geteuid(), os.Geteuid() == 0
	var as *syscall.Credential
	if privileged {
		outer = 65534
		as = &syscall.Credential{Uid: uint32(outer), Gid: uint32(outer)}
	}
	f := startForkerAs(t, privileged)
	request := forkRequest(t, false)
	binary.NativeEndian.PutUint64(request[8:], uint64(outer))
	binary.NativeEndian.PutUint64(request[16:], uint64(outer))
	here, stageOne := f.stageOne(request)
	defer here.Close()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", stageOne))
		if strings.Contains(string(status), fmt.Sprintf("\nUid:\t%d\t%[1]d\t%[1]d\t%[1]d\n", outer)) && strings.Contains(string(status), "\nState:\tS") {
			break
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("stage one: %s, %v", status, err)
		}
	}
	look := func(file string) error {
		cmd := exec.Command("/usr/bin/cat", file)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
		return cmd.Run()
	}
	for _, file := range []string{"maps", "environ", "auxv", "mem"} { // ptrace(2): PTRACE_MODE_READ, and ATTACH
		if err := look(fmt.Sprintf("/proc/%d/%s", stageOne, file)); err == nil {
			t.Errorf("its %s was read", file)
		}
	}
	if err := look("/proc/self/maps"); err != nil {
		t.Errorf("a process of its own: %v", err)
	}
}

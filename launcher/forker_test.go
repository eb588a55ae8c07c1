package launcher

import (
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/proscenium-dev/proscenium/isolate"
	"golang.org/x/sys/unix"
)

// TestForker: a request is answered by the child that it asked for, or by the call
// that failed, and the forker goes on; where nobody can be answered it ends, and
// with it the launcher. It never makes a child that nobody asked for.
func TestForker(t *testing.T) {
	children := func() (pids []int) {
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
	image, err := openImage()
	if err != nil {
		t.Fatal(err)
	}
	plan, err := isolate.Forker(false, false).Encode()
	if err != nil {
		t.Fatal(err)
	}
	namespace := isolate.UserNamespace()
	good, err := namespace.ForkRequest(false)
	if err != nil {
		t.Fatal(err)
	}
	intoGroup, err := namespace.ForkRequest(true)
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()

	for name, c := range map[string]struct {
		request     []byte
		descriptors int
		kind        uint64 // of the answer; 0: the forker ends
	}{
		"good":                            {good, 5, isolate.RecordCloned},
		"one descriptor too many":         {good, 6, isolate.RecordCloned},
		"into what is no group":           {intoGroup, 5, isolate.RecordForkFailed},
		"without the group":               {intoGroup, 4, 0},
		"no place to answer":              {good, 3, 0},
		"no descriptor":                   {good, 0, 0},
		"too short":                       {good[:23], 5, 0},
		"empty":                           {[]byte{}, 5, 0},
		"nothing":                         {nil, 0, 0},
		"flags that the kernel knows not": {append([]byte{0, 0x80, 0, 0, 0xff, 0xff, 0xff, 0xff}, good[8:]...), 5, isolate.RecordForkFailed},
	} {
		t.Run(name, func(t *testing.T) {
			runtime.LockOSThread() // whose child the forker is, and what it forks
			defer runtime.UnlockOSThread()
			before := children()
			requests, far, err := socketPair()
			if err != nil {
				t.Fatal(err)
			}
			defer requests.Close()
			forker, err := startForker(image, far, plan)
			if err != nil {
				t.Fatal(err)
			}
			unix.Close(far)
			ask := func(request []byte, descriptors int) uint64 {
				here, there, err := socketPair()
				if err != nil {
					t.Fatal(err)
				}
				defer here.Close()
				fds := []int{int(null.Fd()), int(null.Fd()), int(null.Fd()), there, int(null.Fd()), int(null.Fd())}
				if stageOne, err := namespace.StageOne.Encode(); err != nil || here.send(stageOne) != nil {
					t.Fatal("the plan was not sent", err)
				}
				if request == nil && descriptors == 0 {
					requests.shutdown()
				} else if err := requests.send(append([]byte(nil), request...), fds[:descriptors]...); err != nil {
					t.Fatal(err)
				}
				unix.Close(there)
				b := make([]byte, isolate.RecordSize)
				n, fds, err := here.recv(b, 1)
				if err != nil {
					return 0
				}
				defer closeAll(fds)
				r, err := isolate.DecodeRecord(b[:n])
				if err != nil {
					t.Fatal(err)
				}
				if r.Kind == isolate.RecordCloned && len(fds) == 1 {
					unix.PidfdSendSignal(fds[0], unix.SIGKILL, nil, 0)
				}
				return r.Kind
			}
			if kind := ask(c.request, c.descriptors); kind != c.kind {
				t.Errorf("answer %d, want %d", kind, c.kind)
			}
			if c.kind != 0 {
				for range 2 {
					if kind := ask(good, 5); kind != isolate.RecordCloned {
						t.Errorf("the next request: answer %d", kind)
					}
				}
				requests.Close()
			}
			const exited = 1 // CLD_EXITED: waitid(2)
			var end unix.Siginfo
			if err := unix.Waitid(unix.P_PIDFD, forker, &end, unix.WEXITED, nil); err != nil || end.Code != exited {
				t.Errorf("the forker's end: %v, code %d", err, end.Code)
			}
			unix.Close(forker)
			for _, child := range children() { // what it forked: stage ones, and their inits
				if !slices.Contains(before, child) {
					unix.Wait4(child, nil, 0, nil)
				}
			}
		})
	}
}

package launcher

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/reexec"
	"golang.org/x/sys/unix"
)

const serverName = "proscenium-launcher"

func init() {
	reexec.Register(serverName, serve)
	// Here and not in main: what a program links besides (Prometheus, wazero)
	// is then never initialised in the launcher, which stays small and fast to
	// fork from.
	reexec.Init()
}

// controlDescriptor is where the launcher finds its socket.
const controlDescriptor = 3

// workers bounds the starts that are under way at once. Each is a thread that
// mostly waits for the kernel.
const workers = 4

// serve is the launcher: it turns requests into inits until the host's end of
// the socket is gone, and then ends, which kills every init by its parent-death
// signal. It sees neither arguments nor environments: those go from the host
// straight to init.
func serve() {
	if err := serveControl(controlDescriptor); err != nil {
		os.Stderr.WriteString("proscenium-launcher: " + err.Error() + "\n")
		os.Exit(1)
	}
}

func serveControl(control int) error {
	// The environment that it could leak it never had (see Start); its memory
	// is nobody's to read; a signal meant for a terminal's group is not for it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_SET_DUMPABLE)", err)
	}
	unix.CloseOnExec(control) // else every init would hold it and no end of file be seen
	// Ignored signals stay ignored over an exec, handled ones become default
	// again: programs start with default dispositions.
	signal.Notify(make(chan os.Signal, 1))
	debug.SetGCPercent(50)

	image, err := openImage()
	if err != nil {
		return err
	}
	s := server{control: control, image: image, waiting: map[int]chan syscall.WaitStatus{}, forked: make(chan struct{}, 1)}
	go s.reap()
	for range workers {
		go s.work()
	}
	select {} // the workers end the process
}

type server struct {
	control int
	image   string

	// forks is held for reading from before a fork until the child's pid is in
	// waiting, so that reap never meets a stage one that is not there yet.
	forks   sync.RWMutex
	mu      sync.Mutex
	waiting map[int]chan syscall.WaitStatus // stage ones, by pid
	forked  chan struct{}
}

// work serves requests, one at a time. Its thread is the parent of what it
// forks, by which parent-death signals go, so it must live as long as the
// launcher does.
func (s *server) work() {
	runtime.LockOSThread()
	b := make([]byte, requestSize)
	for {
		n, fds, err := recvmsg(s.control, b, maxRequest)
		if errors.Is(err, io.EOF) {
			os.Exit(0)
		}
		if err != nil {
			os.Stderr.WriteString("proscenium-launcher: " + err.Error() + "\n")
			os.Exit(1)
		}
		s.start(b[:n], fds)
	}
}

// start runs stage one to its end and says so on the program's own pair, of
// which it then lets go. The host sends init its plan only after that.
func (s *server) start(b []byte, fds []int) {
	defer closeAll(fds)
	if len(fds) == 0 {
		return // nowhere to answer
	}
	record := isolate.Record{Kind: isolate.RecordLaunched}
	r, err := decodeRequest(b, len(fds))
	if err == nil {
		record.Value, err = s.stageOne(r, fds)
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		record.Errno = uint64(errno)
	} else if err != nil {
		record.Errno = uint64(unix.EBADMSG)
	}
	// The host may be gone: then so are we, soon.
	unix.Sendmsg(fds[0], record.Encode(), nil, nil, unix.MSG_NOSIGNAL)
}

func (s *server) stageOne(r request, fds []int) (status uint64, err error) {
	attr := &syscall.ProcAttr{
		Files: []uintptr{uintptr(fds[1]), uintptr(fds[2]), uintptr(fds[3]), uintptr(fds[0])},
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	}
	if r.privileged {
		attr.Sys.Credential = &syscall.Credential{Uid: r.uid, Gid: r.gid}
	}
	if len(fds) == maxRequest {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, fds[4]
	}
	ended := make(chan syscall.WaitStatus, 1)
	s.forks.RLock()
	pid, err := syscall.ForkExec(s.image, []string{"init"}, attr)
	if err == nil {
		s.mu.Lock()
		s.waiting[pid] = ended
		s.mu.Unlock()
	}
	s.forks.RUnlock()
	if err != nil {
		return 0, err
	}
	select {
	case s.forked <- struct{}{}:
	default:
	}
	return uint64(<-ended), nil
}

// reap waits for every child: stage ones, whose workers want to know, and
// inits, whose ends the hosts see by pidfd.
func (s *server) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.ECHILD:
			<-s.forked
			continue
		case err != nil:
			continue
		}
		s.forks.Lock()
		s.forks.Unlock() //lint:ignore SA2001 every fork before the wait has now its entry
		s.mu.Lock()
		if ended, ok := s.waiting[pid]; ok {
			ended <- status
			delete(s.waiting, pid)
		}
		s.mu.Unlock()
	}
}

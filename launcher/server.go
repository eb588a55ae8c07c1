package launcher

import (
	"errors"
	"io"
	"os"
	"os/signal"
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
	if err := inheritNothing(); err != nil {
		return err
	}

	image, err := openImage()
	if err != nil {
		return err
	}
	s := server{control: control, image: image, waiting: map[int]int{}, forked: make(chan struct{}, 1)}
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
	waiting map[int]int // pids of stage ones → where to answer
	forked  chan struct{}
}

// work serves requests, one at a time. Its thread is the parent of what it
// forks, by which parent-death signals go, so it must live as long as the
// launcher does.
func (s *server) work() {
	if err := inheritNoSchedule(); err != nil {
		os.Stderr.WriteString("proscenium-launcher: " + err.Error() + "\n")
		os.Exit(1)
	}
	b := make([]byte, requestSize)
	var net network
	for {
		n, fds, err := recvmsg(s.control, b, maxRequest)
		if errors.Is(err, io.EOF) {
			os.Exit(0)
		}
		if err != nil {
			os.Stderr.WriteString("proscenium-launcher: " + err.Error() + "\n")
			os.Exit(1)
		}
		s.start(b[:n], fds, &net)
		net.prepare()
	}
}

// start forks stage one. Only failure is answered, on the program's own pair: here,
// or by reap if stage one is killed.
func (s *server) start(b []byte, fds []int, net *network) {
	if len(fds) == 0 {
		return // nowhere to answer
	}
	step("request taken")
	r, err := decodeRequest(b, len(fds))
	if err == nil {
		err = net.enter(r.freshNetwork)
		step("network entered")
	}
	if err == nil {
		err = s.stageOne(r, fds)
	}
	if err == nil {
		closeAll(fds[1:]) // the first is reap's now
		return
	}
	record := isolate.Record{Kind: isolate.RecordLaunched, Errno: uint64(unix.EBADMSG)}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		record.Errno = uint64(errno)
	}
	answer(fds[0], record)
	closeAll(fds)
}

// answer does not care for failure: the host may be gone, and then so are we, soon.
func answer(fd int, r isolate.Record) {
	unix.Sendmsg(fd, r.Encode(), nil, nil, unix.MSG_NOSIGNAL)
}

func (s *server) stageOne(r request, fds []int) error {
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
	s.forks.RLock()
	pid, err := syscall.ForkExec(s.image, []string{"init"}, attr)
	if err == nil {
		s.mu.Lock()
		s.waiting[pid] = fds[0]
		s.mu.Unlock()
	}
	s.forks.RUnlock()
	step("forked")
	if err != nil {
		return err
	}
	select {
	case s.forked <- struct{}{}:
	default:
	}
	return nil
}

// reap waits for every child: stage ones, of which it tells the host if they were
// killed, and inits, whose ends the hosts see by pidfd. As long as a thread of the
// launcher lives, each is the child of one, and gets the signal when that ends.
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
		fd, ok := s.waiting[pid]
		delete(s.waiting, pid)
		s.mu.Unlock()
		if ok {
			step("stage one ended")
			if status != 0 {
				answer(fd, isolate.Record{Kind: isolate.RecordLaunched, Value: uint64(status)})
			}
			unix.Close(fd)
		}
	}
}

package testenv

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// Seen is what a program sees of itself and its surroundings.
type Seen struct {
	Namespaces  map[string]string // name → inode
	Status      map[string]string // /proc/self/status
	Securebits  int
	Dumpable    int
	PID, PPID   int
	UID, GID    int
	Groups      []int
	Session     int
	Args, Env   []string
	Dir         string
	Hostname    string
	Descriptors map[string]string // number → what it is
	Mounts      []string          // target, type, options of each
	Files       []string          // every path but what is in /proc
	Writable    []string          // of those, and of /proc, what could be opened for writing
	Limits      map[string][2]uint64
	Interfaces  []string
	Terminal    string // errno of opening /dev/tty
	Init        string // errno of looking at /proc/1
	Blocked     string // SigBlk
	Ignored     string // SigIgn
	Cgroup      string
}

// printProbe is the role "probe".
func printProbe() {
	s := Seen{
		Namespaces: map[string]string{}, Status: map[string]string{}, Descriptors: map[string]string{}, Limits: map[string][2]uint64{},
		PID: os.Getpid(), PPID: os.Getppid(), UID: os.Getuid(), GID: os.Getgid(),
		Args: os.Args, Env: os.Environ(),
	}
	// First, while nothing else is open but what the runtime has.
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !ofRuntime(target) {
			s.Descriptors[e.Name()] = target
		}
	}
	namespaces, _ := os.ReadDir("/proc/self/ns")
	for _, n := range namespaces {
		s.Namespaces[n.Name()], _ = os.Readlink("/proc/self/ns/" + n.Name())
	}
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			s.Status[name] = strings.TrimSpace(value)
		}
	}
	s.Securebits, _ = unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	s.Dumpable, _ = unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	s.Groups, _ = os.Getgroups()
	s.Session, _ = unix.Getsid(0)
	s.Dir, _ = os.Getwd()
	s.Hostname, _ = os.Hostname()
	s.Blocked, s.Ignored = s.Status["SigBlk"], s.Status["SigIgn"]
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		i := 6
		for f[i] != "-" {
			i++
		}
		s.Mounts = append(s.Mounts, fmt.Sprintf("%s %s %s", f[4], f[i+1], f[5]))
	}
	for name, resource := range map[string]int{"core": unix.RLIMIT_CORE, "nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "fsize": unix.RLIMIT_FSIZE, "memlock": unix.RLIMIT_MEMLOCK} {
		var l unix.Rlimit
		unix.Getrlimit(resource, &l)
		s.Limits[name] = [2]uint64{l.Cur, l.Max}
	}
	s.walk()
	network, _ := os.ReadFile("/proc/self/net/dev")
	for line := range strings.Lines(string(network)) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			s.Interfaces = append(s.Interfaces, strings.TrimSpace(name))
		}
	}
	cgroup, _ := os.ReadFile("/proc/self/cgroup")
	s.Cgroup = string(cgroup)
	s.Terminal = Errno(open("/dev/tty", unix.O_RDWR))
	_, err := os.Stat("/proc/1")
	s.Init = Errno(err)
	json.NewEncoder(os.Stdout).Encode(s)
}

// ofRuntime is what Go's own runtime holds open.
func ofRuntime(target string) bool {
	return strings.HasPrefix(target, "anon_inode:[event") || strings.HasPrefix(target, "/proc/") && strings.HasSuffix(target, "/fd")
}

func open(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// Errno is the name of the errno in err; "" for none.
func Errno(err error) string {
	var errno unix.Errno
	if err == nil {
		return ""
	}
	for e := err; e != nil; {
		if n, ok := e.(unix.Errno); ok {
			errno = n
			break
		}
		u, ok := e.(interface{ Unwrap() error })
		if !ok {
			break
		}
		e = u.Unwrap()
	}
	return unix.ErrnoName(errno)
}

func (s *Seen) walk() {
	filepath.WalkDir("/", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		proc := path == "/proc" || strings.HasPrefix(path, "/proc/")
		if !proc {
			s.Files = append(s.Files, path)
		}
		if d.Type().IsRegular() && open(path, unix.O_WRONLY) == nil {
			s.Writable = append(s.Writable, path)
		}
		if d.IsDir() && !proc && unix.Access(path, unix.W_OK) == nil {
			s.Writable = append(s.Writable, path+"/")
		}
		if strings.HasPrefix(path, "/proc/") && d.IsDir() && strings.Count(path, "/") > 3 {
			return fs.SkipDir
		}
		return nil
	})
	sort.Strings(s.Writable)
}

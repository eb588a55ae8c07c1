package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/isolate"
)

// A server is a program of ../programs that answers each line with one.
type server struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func serve(path string, args ...string) (*server, error) {
	s := &server{cmd: exec.Command(path, args...)}
	s.cmd.Stderr = os.Stderr
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out = bufio.NewReader(out)
	return s, s.cmd.Start()
}

func (s *server) close() {
	s.in.Close()
	s.cmd.Wait()
}

// ask sends text and reads the two numbers of the answer.
func (s *server) ask(text string) (a, b int64, err error) {
	if _, err := io.WriteString(s.in, text); err != nil {
		return 0, 0, err
	}
	line, err := s.out.ReadString('\n')
	if err != nil {
		return 0, 0, fmt.Errorf("%s has ended; its own words are above", filepath.Base(s.cmd.Path))
	}
	_, err = fmt.Sscan(line, &a, &b)
	return a, b, err
}

// floorStart is one start of the floor: until its status is known, until its init
// is reaped.
func (s *server) floorStart() (status, gone time.Duration, err error) {
	a, b, err := s.ask(".")
	return time.Duration(a), time.Duration(b), err
}

// shown is what a hardened cell for the target shows of the host.
func (s *suite) shown() (paths []string, err error) {
	host, err := isolate.ThisHost()
	if err != nil {
		return nil, err
	}
	plan, err := isolate.Compile(isolate.Hardened(), isolate.Program{Path: s.program("true"), Args: []string{"true"}}, host)
	if err != nil {
		return nil, err
	}
	for _, t := range plan.Trees {
		paths = append(paths, t.Path)
	}
	return paths, nil
}

// writeFilter writes our filter, for the floor and for bubblewrap.
func (s *suite) writeFilter() error {
	code, err := isolate.SeccompHardened.Filter()
	if err != nil {
		return err
	}
	return os.WriteFile(s.program("filter"), code, 0o644)
}

// limitFiles are those that a leaf sets, in either layout.
var limitFiles = []string{
	"memory.max", "memory.swap.max", "memory.oom.group", "cpu.max", "pids.max", // v2
	"memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.kmem.tcp.limit_in_bytes", "cpu.cfs_period_us", "cpu.cfs_quota_us", // v1
}

// limitArgs are what our own leaves are, for the C programs (../programs/leaf.h): it
// looks at one that is made as a start makes it. bare is only what limits, for a tool
// that is put into it: no group of v2 beside v1 ones, nobody who listens.
func (s *suite) limitArgs(bare bool) (args []string, err error) {
	leaf, err := s.group.New(fmt.Sprintf("model-%d", time.Now().UnixNano()), cgroup.Limits{})
	if err != nil {
		return nil, err
	}
	defer leaf.Close()
	joined, err := leaf.Tasks()
	if err != nil {
		return nil, err
	}
	add := func(option, dir string) {
		above := filepath.Dir(dir)
		var limits []string
		for _, file := range limitFiles {
			if value, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
				limits = append(limits, "-s", fmt.Sprintf("%s/%%s/%s=%s", above, file, strings.TrimSpace(string(value))))
			}
		}
		if len(limits) > 0 || !bare {
			args = slices.Concat(args, []string{option, above}, limits)
		}
	}
	if f := leaf.File(); f != nil && !(bare && len(joined) > 0) {
		add("-u", f.Name())
	}
	for _, tasks := range joined {
		tasks.Close()
		dir := filepath.Dir(tasks.Name())
		add("-l", dir)
		if _, err := os.Stat(filepath.Join(dir, "memory.oom_control")); err == nil && !bare {
			args = append(args, "-m", filepath.Dir(dir))
		}
	}
	return args, nil
}

// startFloor starts the floor with the groups, limits and files of our own.
func (s *suite) startFloor(table string) (*server, error) {
	args, err := s.limitArgs(false)
	if err != nil {
		return nil, err
	}
	paths, err := s.shown()
	if err != nil {
		return nil, err
	}
	for _, p := range paths {
		if p != s.program("true") {
			args = append(args, "-b", p)
		}
	}
	args = append(args, "-f", s.program("filter"), s.program("true"))
	s.report.configuration(table, floor, append([]string{"floor"}, args...))
	return serve(s.program("floor"), args...)
}

// A peer is a tool that somebody would otherwise take.
type peer struct {
	name   string
	every  int
	runner []string // flags of the runner
	argv   []string
	not    string // why it is left out
}

// peers are the tools that are installed, ready to be asked. A table is told how
// each was configured, and which are missing; "" tells nobody.
func (s *suite) peers(table string) (modes []mode, done func()) {
	var servers []*server
	done = func() {
		for _, r := range servers {
			r.close()
		}
	}
	for _, p := range s.allPeers() {
		err := errors.New(p.not)
		if p.not == "" {
			if p.argv[0], err = exec.LookPath(p.argv[0]); err != nil {
				err = errors.New("it is not installed")
			}
		}
		if err != nil {
			if table != "" {
				s.report.note(table, "%s is left out: %v", p.name, err)
			}
			continue
		}
		r, err := serve(s.program("runner"), p.runner...)
		if err != nil {
			s.report.note(table, "%s: %v", p.name, err)
			continue
		}
		servers = append(servers, r)
		if table != "" {
			name := p.name
			if v := version(p.argv[0]); v != "" {
				name += " (" + v + ")"
			}
			s.report.configuration(table, name, slices.Concat([]string{"runner"}, p.runner, p.argv))
		}
		line := strings.Join(p.argv, "\t") + "\n"
		modes = append(modes, mode{p.name, p.every, func() (time.Duration, error) {
			took, status, err := r.ask(line)
			if err == nil && status != 0 {
				err = fmt.Errorf("wait status %#x", status)
			}
			return time.Duration(took), err
		}})
	}
	return modes, done
}

// version is the first line of what the tool says of itself.
func version(path string) string {
	out, _ := exec.Command(path, "--version").Output()
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

const (
	bwrapSame   = "bubblewrap, same view and filter"
	bwrapSimple = "bubblewrap, all of / read-only"
	// In groups of their own with our limits.
	bwrapSameLimited   = "bubblewrap, same view and filter, same limits"
	bwrapSimpleLimited = "bubblewrap, all of / read-only, same limits"

	nsjail   = "nsjail"
	crun     = "crun"
	runc     = "runc"
	firejail = "firejail"
	vfork    = "vfork and exec, no isolation"
)

func (s *suite) allPeers() []peer {
	target := s.program("true")
	list := []peer{{name: vfork, every: 1, argv: []string{target}}}

	// bubblewrap has no limits; all else can be had of it, and limits by being put
	// into groups that have them. It also ends with its parent, and has no controlling
	// terminal.
	unshare := []string{"bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--unshare-cgroup"}
	same := append(slices.Clone(unshare), "--uid", "1000", "--gid", "1000", "--hostname", "proscenium", "--clearenv", "--cap-drop", "ALL",
		"--new-session", "--die-with-parent", "--seccomp", "9", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp")
	bwrap := peer{name: bwrapSame, every: 1, runner: []string{"-f", s.program("filter")}, argv: same}
	paths, err := s.shown()
	if err != nil {
		bwrap.not = err.Error()
	}
	for _, p := range paths {
		if !strings.HasPrefix(p, "/dev/") {
			bwrap.argv = append(bwrap.argv, "--ro-bind", p, p)
		}
	}
	bwrap.argv = append(bwrap.argv, "--", target)
	simple := append(slices.Clone(unshare), "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--ro-bind", target, "/tmp/t", "--", "/tmp/t")
	plain := peer{name: bwrapSimple, every: 1, argv: simple}
	list = append(list, bwrap, plain)
	limits, err := s.limitArgs(true)
	limited := func(p peer, name string) peer {
		p.name, p.runner = name, slices.Concat(p.runner, limits)
		if err != nil {
			p.not = err.Error()
		}
		return p
	}
	list = append(list, limited(bwrap, bwrapSameLimited), limited(plain, bwrapSimpleLimited))

	// nsjail sets rlimits; no filter, no control group.
	list = append(list, peer{name: nsjail, every: 1,
		argv: []string{"nsjail", "-Mo", "-Q", "--chroot", "/", "-m", "none:/tmp:tmpfs:size=1m", "-R", target + ":/tmp/t", "--", "/tmp/t"}})
	list = append(list, s.ociPeers()...)

	// firejail makes no user namespace for a program of its own.
	list = append(list, peer{name: firejail, every: s.slow,
		argv: []string{"firejail", "--quiet", "--noprofile", "--net=none", "--private-tmp", "--caps.drop=all", "--nonewprivs", target}})
	return list
}

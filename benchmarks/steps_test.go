package benchmarks

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/tests/testenv"
	"golang.org/x/sys/unix"
)

// What each step of a start costs by itself. All of it needs root.

// BenchmarkNamespace is a static program, started by os/exec in one new namespace
// and in all of them.
func BenchmarkNamespace(b *testing.B) {
	target := programs(b) + "/true"
	all := uintptr(0)
	run := func(name string, flags uintptr) {
		b.Run(name, func(b *testing.B) {
			testenv.Need(b, "root", flags == 0 || os.Geteuid() == 0, "namespaces without a user namespace")
			for b.Loop() {
				cmd := exec.Command(target)
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
				if err := cmd.Run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("none", 0)
	for _, n := range []struct {
		name string
		flag uintptr
	}{
		{"mnt", unix.CLONE_NEWNS}, {"pid", unix.CLONE_NEWPID}, {"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS},
		{"cgroup", unix.CLONE_NEWCGROUP}, {"net", unix.CLONE_NEWNET},
	} {
		run(n.name, n.flag)
		all |= n.flag
	}
	// os/exec forks where there is a user namespace, instead of sharing memory.
	run("user-and-a-fork", unix.CLONE_NEWUSER)
	run("all-but-user", all)
	run("all-and-a-fork", all|unix.CLONE_NEWUSER)
}

// BenchmarkCompile is from a Spec to a plan, ready to be sent: all of it, and
// what each start does where the profile is known.
func BenchmarkCompile(b *testing.B) {
	host, err := isolate.ThisHost()
	if err != nil {
		b.Fatal(err)
	}
	for _, p := range []struct{ name, path string }{{"static", programs(b) + "/true"}, {"dynamic", "/usr/bin/true"}} {
		spec := isolate.Hardened()
		spec.Allow = []string{p.path}
		b.Run(p.name+"/profile", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := isolate.Prepare(spec, host); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(p.name+"/plan", func(b *testing.B) {
			profile, err := isolate.Prepare(spec, host)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				plan, err := profile.Plan(isolate.Program{Path: p.path, Args: []string{"true"}}, isolate.Given{})
				if err != nil {
					b.Fatal(err)
				}
				for _, s := range []isolate.Sequence{plan.StageOne, plan.SetUp, plan.Program} {
					if _, err := s.Encode(); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkLeaf makes and removes a leaf with all limits.
func BenchmarkLeaf(b *testing.B) {
	for i := 0; b.Loop(); i++ {
		leaf, err := testenv.Group(b).New(fmt.Sprintf("bench-%d", i), cgroup.Limits{})
		if err != nil {
			b.Fatal(err)
		}
		if err := leaf.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMount is what the file system of a cell is made of, in a mount
// namespace of this thread alone.
func BenchmarkMount(b *testing.B) {
	testenv.Need(b, "root", os.Geteuid() == 0, "mounts")
	file := programs(b) + "/true"
	steps := []struct {
		name string
		step func(dir string) error
	}{
		{"tmpfs", func(dir string) error { return unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m") }},
		{"proc", func(dir string) error { return unix.Mount("proc", dir, "proc", 0, "subset=pid,hidepid=invisible") }},
		{"bind-by-path", func(dir string) error { return unix.Mount("/usr/lib", dir, "", unix.MS_BIND, "") }},
		{"bind-by-descriptor", func(dir string) error { return bindTree("/usr/lib", dir) }},
	}
	for _, s := range steps {
		b.Run(s.name, func(b *testing.B) {
			dir := b.TempDir()
			inOwnMounts(b, func() error {
				for b.Loop() {
					if err := s.step(dir); err != nil {
						return err
					}
					b.StopTimer()
					if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
						return err
					}
					b.StartTimer()
				}
				return nil
			})
		})
	}
	// A tree that nobody mounts: its end is dear, since the kernel waits then.
	b.Run("open-tree-unused", func(b *testing.B) {
		for b.Loop() {
			fd, err := unix.OpenTree(unix.AT_FDCWD, file, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
			if err != nil {
				b.Fatal(err)
			}
			unix.Close(fd)
		}
	})
	b.Run("new-namespace", func(b *testing.B) {
		inOwnMounts(b, func() error {
			for b.Loop() {
				if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// bindTree shows from at to, read-only, as a plan does.
func bindTree(from, to string) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	attributes := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attributes); err != nil {
		return err
	}
	return unix.MoveMount(fd, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// inOwnMounts runs f on a thread with mounts of its own, which ends with it.
func inOwnMounts(b *testing.B, f func() error) {
	onThread(b, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
			return err
		}
		return f()
	})
}

// onThread runs f on a thread of its own, which ends with it.
func onThread(b *testing.B, f func() error) {
	b.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		done <- f()
	}()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkFilter installs the hardened filter, each time on a new thread.
func BenchmarkFilter(b *testing.B) {
	code, err := isolate.SeccompHardened.Filter()
	if err != nil {
		b.Fatal(err)
	}
	program := unix.SockFprog{Len: uint16(len(code) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&code[0]))}
	for b.Loop() {
		b.StopTimer()
		onThread(b, func() error {
			if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
				return err
			}
			b.StartTimer()
			_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program)))
			b.StopTimer()
			if errno != 0 {
				return errno
			}
			return nil
		})
		b.StartTimer()
	}
}

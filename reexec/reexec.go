// Package reexec runs this binary again under another name, from a sealed copy
// of itself.
//
// A package registers an entry point in its init function; main calls Init
// first thing:
//
//	func main() {
//		reexec.Init()
//		…
//	}
//
// Start starts the entry in a fresh process. The image is a memfd that nobody
// can write any more, so neither replacing the file on disk nor opening
// /proc/PID/exe of the child for writing changes what runs (CVE-2019-5736).
// The copy takes the size of the binary in memory while the process lives.
//
// The name is argv[0]. Go's init functions run before Init does; an entry that
// wants to be small calls Init itself, right behind its Register, as package
// launcher does: packages that are initialised later then never are.
package reexec

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

var entries = map[string]func(){}

// Register names an entry point. It panics on an empty name or one that is
// taken: both are mistakes that no run of the program can mend.
func Register(name string, entry func()) {
	if name == "" {
		panic("reexec: empty name")
	}
	if _, taken := entries[name]; taken {
		panic("reexec: " + name + " is registered twice")
	}
	entries[name] = entry
}

// Init runs the entry that this process was started for and ends the process
// with status 0 when it returns. It does nothing in an ordinary process.
func Init() {
	if entry, ok := entries[os.Args[0]]; ok {
		entry()
		os.Exit(0)
	}
}

// Start starts this binary under the registered name, with args behind it, as
// os.StartProcess does.
func Start(name string, attr *os.ProcAttr, args ...string) (*os.Process, error) {
	if _, ok := entries[name]; !ok {
		return nil, fmt.Errorf("reexec: %s is not registered", name)
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("reexec: is /proc mounted? %w", err)
	}
	defer self.Close()
	image, err := Seal(name, self)
	if err != nil {
		return nil, fmt.Errorf("reexec: %w", err)
	}
	defer image.Close()
	// The child's own descriptors take the low numbers before it opens the path.
	high, err := unix.FcntlInt(image.Fd(), unix.F_DUPFD_CLOEXEC, 3+len(attr.Files))
	if err != nil {
		return nil, os.NewSyscallError("fcntl(F_DUPFD_CLOEXEC)", err)
	}
	defer unix.Close(high)
	path := fmt.Sprintf("/proc/self/fd/%d", high) // /proc/self is then the child
	return os.StartProcess(path, append([]string{name}, args...), attr)
}

// Seal copies r into a memfd, seals it against every change and returns it open
// for reading. memfd_create(2), fcntl(2) F_ADD_SEALS; Linux 3.17, F_SEAL_EXEC
// 6.3.
func Seal(name string, r io.Reader) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	w := os.NewFile(uintptr(fd), "memfd:"+name)
	defer w.Close() // a writer would make the exec fail with ETXTBSY
	if _, err := io.Copy(w, r); err != nil {
		return nil, fmt.Errorf("copying the image of %s: %w", name, err)
	}
	sealed, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	_, err = unix.FcntlInt(w.Fd(), unix.F_ADD_SEALS, seals|unix.F_SEAL_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		_, err = unix.FcntlInt(w.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		sealed.Close()
		return nil, os.NewSyscallError("fcntl(F_ADD_SEALS)", err)
	}
	return sealed, nil
}

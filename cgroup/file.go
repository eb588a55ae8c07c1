package cgroup

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A file is an open directory or file of the kernel's. What is in a directory is
// found from there, without a walk from the root, and without an offer to the runtime's
// poller, as package os makes one, which takes such files and then costs two more system
// calls each. It is closed once, by who knows that nobody else uses it.
type file struct {
	fd        int
	dir, name string // of which a path is made only when somebody asks
}

// root is where absolute paths are opened.
var root = file{fd: unix.AT_FDCWD}

func (f file) path() string {
	if f.dir == "" {
		return f.name
	}
	return filepath.Join(f.dir, f.name)
}

func openFile(path string, flags int) (file, error) { return root.open(path, flags) }

func write(dir, name, text string) error { return root.write(filepath.Join(dir, name), text) }

// open opens what is in a directory.
func (f file) open(name string, flags int) (file, error) {
	in := f.path()
	for {
		fd, err := unix.Openat(f.fd, name, flags|unix.O_CLOEXEC, 0)
		if err == nil {
			return file{fd, in, name}, nil
		}
		if err != unix.EINTR {
			return file{fd: -1}, &os.PathError{Op: "open", Path: filepath.Join(in, name), Err: err}
		}
	}
}

func (f file) close() { unix.Close(f.fd) }

// content reads a file from its start into b: what the kernel writes is shorter.
func (f file) content(b *[4096]byte) ([]byte, error) {
	for {
		n, err := unix.Pread(f.fd, b[:], 0)
		if err == nil {
			return b[:n], nil
		}
		if err != unix.EINTR {
			return nil, &os.PathError{Op: "read", Path: f.path(), Err: err}
		}
	}
}

func (f file) put(text string) error {
	for {
		_, err := unix.Write(f.fd, []byte(text))
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return &os.PathError{Op: "write", Path: f.path(), Err: err}
		}
	}
}

// read and write are of a file in a directory.
func (f file) read(name string, b *[4096]byte) ([]byte, error) {
	in, err := f.open(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer in.close()
	return in.content(b)
}

func (f file) write(name, text string) error {
	out, err := f.open(name, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer out.close()
	return out.put(text)
}

// readFile is os.ReadFile, for what may be longer.
func readFile(path string) ([]byte, error) {
	f, err := openFile(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.close()
	b := make([]byte, 0, 512)
	for {
		n, err := unix.Read(f.fd, b[len(b):cap(b)])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return b, nil
		default:
			b = b[:len(b)+n]
			if len(b) == cap(b) {
				b = append(b, 0)[:len(b)]
			}
		}
	}
}

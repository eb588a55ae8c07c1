package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/proscenium-dev/proscenium/launcher"
	"golang.org/x/sys/unix"
)

// stdio connects our standard streams with the program's. Pipes, terminals and
// sockets are passed on. A regular file is not: by way of /proc/self/fd a program
// could open it again, on the host's mount, write what was opened for reading
// and map what it has written executable. Its bytes go through a pipe.
type stdio struct {
	copies  []func() error // what start begins
	outputs sync.WaitGroup

	mu  sync.Mutex
	err error
}

func connect(cmd *launcher.Cmd) (*stdio, error) {
	s := &stdio{}
	for _, stream := range []struct {
		ours   *os.File
		theirs **os.File
		pipe   func() (*os.File, error)
	}{
		{os.Stdin, &cmd.Stdin, cmd.StdinPipe},
		{os.Stdout, &cmd.Stdout, cmd.StdoutPipe},
		{os.Stderr, &cmd.Stderr, cmd.StderrPipe},
	} {
		var st unix.Stat_t
		if err := unix.Fstat(int(stream.ours.Fd()), &st); err != nil {
			continue // closed: the program gets /dev/null
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			pipe, err := stream.pipe()
			if err != nil {
				return nil, err
			}
			s.relay(stream.ours, pipe)
		case unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR:
			*stream.theirs = stream.ours
		default:
			return nil, fmt.Errorf("%s is neither a file nor a pipe, terminal or socket", stream.ours.Name())
		}
	}
	return s, nil
}

// relay copies between a file of ours and the program's end.
func (s *stdio) relay(ours, pipe *os.File) {
	if ours == os.Stdin {
		s.copies = append(s.copies, func() error {
			defer pipe.Close()
			if _, err := io.Copy(pipe, ours); err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, os.ErrClosed) {
				return err
			}
			return nil
		})
		return
	}
	s.outputs.Add(1)
	s.copies = append(s.copies, func() error {
		defer s.outputs.Done()
		defer pipe.Close()
		_, err := io.Copy(ours, pipe)
		return err
	})
}

// start begins to copy, once the program runs.
func (s *stdio) start() {
	for _, f := range s.copies {
		go func() {
			if err := f(); err != nil {
				s.mu.Lock()
				s.err = errors.Join(s.err, err)
				s.mu.Unlock()
			}
		}()
	}
}

// finish waits until all output has been copied. What the program did not read
// of its input stays unread.
func (s *stdio) finish() error {
	s.outputs.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// An output is a file that is written at the end and was opened at the start: a
// program that can write where it lies cannot put a link in its place.
type output struct{ file *os.File }

// openOutput opens a regular file, following no link at its end; "" is no file,
// and "-" standard error.
func openOutput(path string) (output, error) {
	switch path {
	case "":
		return output{}, nil
	case "-", "/dev/stderr":
		return output{os.Stderr}, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return output{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink > 1 {
		f.Close()
		return output{}, fmt.Errorf("%s: not a regular file with one name: %w", path, errors.Join(err, os.ErrInvalid))
	}
	return output{f}, nil
}

// finish replaces the content.
func (o output) finish(content []byte) error {
	if o.file == nil {
		return nil
	}
	if o.file == os.Stderr {
		_, err := o.file.Write(content)
		return err
	}
	defer o.file.Close()
	if err := o.file.Truncate(0); err != nil {
		return err
	}
	_, err := o.file.WriteAt(content, 0)
	return err
}

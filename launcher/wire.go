package launcher

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A conn is one end of a SEQPACKET pair: messages with descriptors, each whole.
type conn struct{ file *os.File }

// socketPair makes the host's end, which the runtime's poller watches, and the
// far end, a plain blocking descriptor.
func socketPair() (*conn, int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, os.NewSyscallError("socketpair", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, -1, os.NewSyscallError("fcntl(O_NONBLOCK)", err)
	}
	return &conn{os.NewFile(uintptr(fds[0]), "socketpair")}, fds[1], nil
}

func (c *conn) Close() error { return c.file.Close() }

// shutdown lets the far end read the end of file; it may still send.
func (c *conn) shutdown() {
	if raw, err := c.file.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_WR) })
	}
}

func (c *conn) setDeadline(t time.Time) error { return c.file.SetDeadline(t) }

// send sends one message; the descriptors stay open here.
func (c *conn) send(b []byte, fds ...int) error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	var control []byte
	if len(fds) > 0 {
		control = unix.UnixRights(fds...)
	}
	var errno error
	err = raw.Write(func(fd uintptr) bool {
		for {
			errno = unix.Sendmsg(int(fd), b, control, nil, unix.MSG_NOSIGNAL)
			if errno != unix.EINTR {
				return errno != unix.EAGAIN
			}
		}
	})
	if err == nil {
		err = os.NewSyscallError("sendmsg", errno)
	}
	return err
}

// recv receives one message of at most len(b) bytes and maxFDs descriptors,
// which are close-on-exec and the caller's. A longer message is an error and
// what came with it is closed. io.EOF: the far end is gone.
func (c *conn) recv(b []byte, maxFDs int) (n int, fds []int, err error) {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return 0, nil, err
	}
	var errno error
	err = raw.Read(func(fd uintptr) bool {
		n, fds, errno = recvmsg(int(fd), b, maxFDs)
		return !errors.Is(errno, unix.EAGAIN)
	})
	if err == nil {
		err = errno
	}
	return n, fds, err
}

func recvmsg(fd int, b []byte, maxFDs int) (int, []int, error) {
	var control []byte
	if maxFDs > 0 {
		control = make([]byte, unix.CmsgSpace(4*maxFDs))
	}
	for {
		n, controlLen, flags, _, err := unix.Recvmsg(fd, b, control, unix.MSG_CMSG_CLOEXEC)
		// ECONNRESET is told once, when the far end is gone without having read
		// everything, and before what it has sent itself: that is read next.
		if err == unix.EINTR || err == unix.ECONNRESET {
			continue
		}
		if err != nil {
			return 0, nil, err
		}
		fds, err := parseRights(control[:controlLen])
		switch {
		case err != nil:
		case flags&unix.MSG_CTRUNC != 0 && len(fds) < maxFDs: // there was room for it
			err = os.NewSyscallError("recvmsg of a descriptor", unix.EMFILE)
		case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
			err = fmt.Errorf("message larger than %d bytes and %d descriptors", len(b), maxFDs)
		}
		if err != nil {
			closeAll(fds)
			return 0, nil, err
		}
		if n == 0 && len(fds) == 0 {
			return 0, nil, io.EOF
		}
		return n, fds, nil
	}
}

// parseRights gives the descriptors, also with an error: the caller closes them.
func parseRights(control []byte) (fds []int, err error) {
	if len(control) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		rights, err := unix.ParseUnixRights(&messages[i])
		fds = append(fds, rights...)
		if err != nil {
			return fds, err
		}
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

//go:build wasip1

// An actor in plain Go that uses every function of package guest. Its state is a
// line for each thing that it saw.
package main

import (
	"fmt"
	"os"

	"github.com/proscenium-dev/proscenium/wit/guest"
)

type actor struct{}

func init() { guest.Register(actor{}) }
func main() {}

func (actor) Init(state []byte, id string) ([]byte, error) {
	guest.Log("I am " + id)
	fmt.Fprintln(os.Stderr, "and this is stderr")
	state = fmt.Appendf(state, "nil %t\n", state == nil)
	pid, err := guest.Spawn(guest.Config{
		Program: "/bin/sh", Args: []string{"-c", `pwd; echo "$NAME"; cat; echo complaint >&2; exit 7`},
		Cwd: "/usr/share", Env: [][2]string{{"NAME", "value"}}, Stdout: guest.Lines, Stderr: guest.Lines,
	})
	if err != nil {
		return nil, err
	}
	s, err := guest.GetStatus(pid)
	if err != nil || s.PID != pid || !s.Running || s.Memory == 0 || s.StartTime == 0 {
		return nil, fmt.Errorf("status %+v, %v", s, err)
	}
	if n, err := guest.WriteStdin(pid, []byte("through stdin\n")); n != 14 || err != nil {
		return nil, fmt.Errorf("stdin took %d: %v", n, err)
	}
	return state, guest.CloseStdin(pid)
}

func (actor) HandleStdout(state []byte, pid uint64, data []byte) ([]byte, error) {
	return fmt.Appendf(state, "%d out %s\n", pid, data), nil
}

func (actor) HandleStderr(state []byte, pid uint64, data []byte) ([]byte, error) {
	return fmt.Appendf(state, "%d err %s\n", pid, data), nil
}

func (actor) HandleExit(state []byte, pid uint64, code int32) ([]byte, error) {
	state = fmt.Appendf(state, "%d exit %d\n", pid, code)
	s, err := guest.GetStatus(pid)
	state = fmt.Appendf(state, "running %t, code %d, %v\n", s.Running, s.ExitCode, err)
	state = fmt.Appendf(state, "%v\n%v\n", guest.Signal(pid, 15), guest.Kill(pid))
	if pid == 1 {
		next, err := guest.Spawn(guest.Config{Program: "/usr/bin/sleep", Args: []string{"1000"}})
		if err == nil {
			err = guest.Kill(next)
		}
		return state, err
	}
	return state, nil
}

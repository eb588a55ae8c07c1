package handler_test

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/launcher"
)

// printer is a Sink that prints what it gets.
type printer struct{}

func (printer) HandleStdout(id uint64, line []byte) error {
	fmt.Printf("stdout %s\n", line) // the bytes are ours until we return
	return nil
}

func (printer) HandleStderr(id uint64, line []byte) error {
	fmt.Printf("stderr %s\n", line)
	return nil
}

func (printer) HandleExit(id uint64, r handler.Result) error {
	fmt.Println("exit", r.ExitCode, r.Reason)
	return nil
}

// A Go program gives sort its input and takes its lines. Its main begins with
// reexec.Init().
func Example() {
	// Where no leaves can be made, New wants Config.Unlimited instead.
	g, err := cgroup.Open()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer g.Close()
	l, err := launcher.Start(launcher.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()

	c := handler.DefaultConfig()
	c.AllowedPrograms = []string{"/usr/bin/sort"}
	c.Limits.Memory = 32 << 20
	h, err := handler.New(c, l, g, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer h.Close()

	ctx := context.Background()
	id, err := h.Spawn(ctx, handler.ProcessConfig{Program: "/usr/bin/sort", StdoutMode: handler.LineByLine}, printer{})
	if err != nil {
		fmt.Println(err)
		return
	}
	h.WriteStdin(id, []byte("pear\napple\n"))
	h.CloseStdin(id)
	fmt.Println("waited:", h.Wait(ctx))

	_, err = h.Spawn(ctx, handler.ProcessConfig{Program: "/usr/bin/rm"}, printer{})
	fmt.Println("denied:", err)
	// Output:
	// stdout apple
	// stdout pear
	// exit 0 exited
	// waited: <nil>
	// denied: allowed_programs: /usr/bin/rm is not allowed
}

func ExampleVerifyAudit() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := dir + "/audit"
	log, err := handler.OpenAudit(path, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	log.Record(handler.Event{Kind: handler.KillAsked, Process: 7})
	log.Close()
	s, err := handler.VerifyAudit(path)
	fmt.Println(s.Lines, s.Closed, err)

	b, _ := os.ReadFile(path)
	os.WriteFile(path, []byte(strings.Replace(string(b), `"process":7`, `"process":8`, 1)), 0o600)
	_, err = handler.VerifyAudit(path)
	fmt.Println(err != nil)
	// Output:
	// 3 true <nil>
	// true
}

// Command proscenium runs programs in cells of their own: for a WebAssembly
// actor (run), or one from the command line (exec). plan shows what a start
// would do, doctor what this host can enforce.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/proscenium-dev/proscenium/reexec"
	// cobra for help by example, completions and flags that stop at the program.
	"github.com/spf13/cobra"
)

func main() {
	reexec.Init()
	os.Exit(Main(os.Args[1:]))
}

// An exitCode ends the command with a status and nothing more to say.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// A failure is an error with the exit status that it means.
type failure struct {
	err  error
	code int
}

func (f failure) Error() string { return f.err.Error() }
func (f failure) Unwrap() error { return f.err }

// exitUsage is of a command line that is not understood; exec and plan have exitFailed
// for it, for 2 may be the program's own.
const exitUsage = 2

// Main runs the command line and returns its exit status.
func Main(args []string) int {
	root := &cobra.Command{
		Use:   "proscenium",
		Short: "Run programs in cells of their own, for actors and from the command line",
		Long: `Proscenium runs operating-system programs isolated and limited: each in its own
namespaces, inside a control group that hard-enforces memory, CPU and processes,
with a file system in which only the allowed programs exist.`,
		Example: `  proscenium doctor
  proscenium exec --memory 64M --timeout 10s -- /usr/bin/sort --version
  proscenium run actor.toml`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(runCommand(), execCommand(), planCommand(), doctorCommand(), auditCommand())
	root.SetArgs(args)
	cmd, err := root.ExecuteC()
	var code exitCode
	var f failure
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &f):
		fmt.Fprintln(os.Stderr, "proscenium:", err)
		return f.code
	}
	fmt.Fprintln(os.Stderr, "proscenium:", err)
	fmt.Fprintln(os.Stderr, "Try `proscenium --help`.")
	if name := cmd.Name(); name == "exec" || name == "plan" {
		return exitFailed
	}
	return exitUsage
}

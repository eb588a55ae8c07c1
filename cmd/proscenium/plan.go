package main

import (
	"errors"
	"fmt"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/spf13/cobra"
)

func planCommand() *cobra.Command {
	var flags programFlags
	cmd := &cobra.Command{
		Use:   "plan [the flags of exec] -- PROGRAM [ARGS…]",
		Short: "Print the plan that exec would carry out; run nothing",
		Long: `plan prints every system call between the request and the program's first
instruction, as strace would, in order. <…> stands for the result of the call
named in it. Values of environment variables are not shown.`,
		Example: `  proscenium plan -- /usr/bin/true
  proscenium plan --rw /srv/data -- sort | grep /srv/data`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			program, err := find(args[0])
			if err != nil {
				return failure{err, exitNotFound}
			}
			spec, specErr := flags.spec()
			limits, limitErr := flags.cgroupLimits()
			if err := errors.Join(specErr, limitErr); err != nil {
				return failure{err, exitFailed}
			}
			host, err := isolate.ThisHost()
			if err != nil {
				return failure{err, exitFailed}
			}
			plan, err := isolate.Compile(spec, isolate.Program{Path: program, Args: args, Env: flags.env, Dir: flags.dir}, host)
			if err != nil {
				return failure{err, startFailure(program, err)}
			}
			if flags.limits == "enforced" {
				limits = limits.WithDefaults()
				fmt.Fprintf(cmd.OutOrStdout(), "host: control group with memory %d bytes, swap 0, cpu %g, pids %d\n", limits.Memory, limits.CPU, limits.Pids)
			}
			fmt.Fprint(cmd.OutOrStdout(), plan)
			return nil
		},
	}
	flags.register(cmd)
	return cmd
}

package main

import (
	"fmt"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/spf13/cobra"
)

func planCommand() *cobra.Command {
	var flags programFlags
	cmd := &cobra.Command{
		Use:   "plan [the flags of exec] -- PROGRAM [ARGS…] | plan --oci FILE",
		Short: "Print the plan that exec would carry out; run nothing",
		Long: `plan prints every system call between the request and the program's first
instruction, as strace would, in order. <…> stands for the result of the call
named in it. Values of environment variables are not shown.`,
		Example: `  proscenium plan -- /usr/bin/true
  proscenium plan --rw /srv/data -- sort | grep /srv/data
  proscenium plan --oci bundle/config.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := flags.request(args)
			if err != nil {
				return err
			}
			host, err := isolate.ThisHost()
			if err != nil {
				return failure{err, exitFailed}
			}
			plan, err := isolate.Compile(r.spec, r.program, host)
			if err != nil {
				return failure{err, startFailure(r, err)}
			}
			if flags.limits == "enforced" {
				limits := r.limits.WithDefaults()
				fmt.Fprintf(cmd.OutOrStdout(), "host: control group with memory %d bytes, swap 0, cpu %g, pids %d\n", limits.Memory, limits.CPU, limits.Pids)
			}
			fmt.Fprint(cmd.OutOrStdout(), plan)
			return nil
		},
	}
	flags.register(cmd)
	return cmd
}

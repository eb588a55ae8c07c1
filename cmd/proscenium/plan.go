package main

import (
	"fmt"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
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
			var given isolate.Given
			var unlimited error
			if flags.limits == "enforced" {
				given.Groups, unlimited = cgroup.Joins()
			}
			profile, err := isolate.Prepare(r.spec.Allowing(r.program.Path), host)
			if err != nil {
				return failure{err, startFailure(r, err)}
			}
			plan, err := profile.Plan(r.program, given)
			if err != nil {
				return failure{err, startFailure(r, err)}
			}
			out := cmd.OutOrStdout()
			switch limits := r.limits.WithDefaults(); {
			case unlimited != nil:
				fmt.Fprintf(out, "host: control group: exec would refuse: %v\n", unlimited)
			case flags.limits == "enforced":
				fmt.Fprintf(out, "host: control group with memory %d bytes, swap 0, cpu %g over %v, pids %d\n", limits.Memory, limits.CPU, limits.CPUPeriod, limits.Pids)
				if limits.KillOne {
					fmt.Fprintln(out, "host: control group in which one process dies when memory runs out")
				}
				for _, io := range limits.IO {
					fmt.Fprintf(out, "host: control group with io %s\n", io)
				}
			default:
				fmt.Fprintln(out, "host: no control group, by request")
			}
			fmt.Fprint(out, plan)
			if flags.timeout > 0 {
				fmt.Fprintf(out, "host: SIGTERM after %v, and %v later the end\n", flags.timeout, handler.DefaultGrace)
			}
			if flags.cpuTime > 0 {
				fmt.Fprintf(out, "host: SIGTERM after %v of processor time, and %v later the end\n", flags.cpuTime, handler.DefaultGrace)
			}
			return nil
		},
	}
	flags.register(cmd)
	return cmd
}

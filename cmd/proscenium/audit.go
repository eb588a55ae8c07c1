package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/proscenium-dev/proscenium/handler"
	"github.com/spf13/cobra"
)

func auditCommand() *cobra.Command {
	audit := &cobra.Command{
		Use:   "audit",
		Short: "Check and read audit logs",
		Example: `  proscenium audit verify audit.jsonl
  proscenium audit show audit.jsonl`,
	}
	audit.AddCommand(auditVerify(), auditShow())
	return audit
}

func auditVerify() *cobra.Command {
	var running bool
	cmd := &cobra.Command{
		Use:   "verify FILE…",
		Short: "Check that nothing was cut, changed, reordered or taken away",
		Long: `verify reads the files of one log, oldest first, and checks that every line follows
from the one before. It prints the hash of the last line: kept elsewhere, it shows a
later cut at the end as well. A log that does not end with its closing line is
refused, for it may have been cut: say --running if its writer still writes.`,
		Example: `  proscenium audit verify audit.jsonl.1 audit.jsonl.80412 audit.jsonl
  proscenium audit verify --running audit.jsonl`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := handler.VerifyAudit(args...)
			if err != nil {
				return failure{err, 1}
			}
			if !s.Closed && !running {
				return failure{fmt.Errorf("%s: line %d is not the closing line: the log was cut, its writer was killed, or still writes (--running)", args[len(args)-1], s.Lines), 1}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "ok: %d lines, the last has the hash %s\n", s.Lines, s.Head)
			return nil
		},
	}
	cmd.Flags().BoolVar(&running, "running", false, "the log need not end with its closing line")
	return cmd
}

func auditShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show FILE…",
		Short:   "Print a log for people; verify checks it",
		Example: "  proscenium audit show audit.jsonl | less -S",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			defer w.Flush()
			for _, name := range args {
				if err := handler.ReadAudit(name, func(seq uint64, e handler.Event) { showEvent(w, seq, e) }); err != nil {
					return failure{err, 1}
				}
			}
			return nil
		},
	}
}

// showEvent prints one line. Texts are quoted: they are an actor's words, and a
// terminal obeys control characters.
func showEvent(w *tabwriter.Writer, seq uint64, e handler.Event) {
	var details []string
	add := func(format string, args ...any) { details = append(details, fmt.Sprintf(format, args...)) }
	if e.Count > 0 {
		add("%d times", e.Count)
	}
	if e.Program != "" {
		add("%q", e.Program)
	}
	for _, a := range e.Args {
		add("%q", a)
	}
	if e.Dir != "" {
		add("dir=%q", e.Dir)
	}
	if len(e.Env) > 0 {
		add("env=%q", e.Env)
	}
	if e.Stream != "" {
		add("%s", e.Stream)
	}
	if e.Bytes != 0 {
		add("%d bytes", e.Bytes)
	}
	if e.Reason != "" && e.ExitCode != nil {
		add("%s, exit code %d, %.3f s, cpu %.3f s, peak %d bytes", e.Reason, *e.ExitCode, e.Wall, e.CPU, e.MemoryPeak)
	} else if e.Signal != 0 {
		add("signal %d", e.Signal)
	}
	if e.Rule != "" {
		add("rule=%q", e.Rule)
	}
	if e.Error != "" {
		add("error=%q", e.Error)
	}
	for _, line := range e.Enforced {
		add("[%s]", line)
	}
	process := ""
	if e.Process != 0 {
		process = fmt.Sprintf("#%d", e.Process)
	}
	fmt.Fprintf(w, "%d\t%s\t%q\t%s\t%s\t%s\n", seq, e.Time.Format("2006-01-02 15:04:05.000"), e.Actor, process, e.Kind, strings.Join(details, " "))
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Say what this host can enforce, and what to do where it cannot",
		Long: `doctor looks at the kernel, at user namespaces and what restricts them, at control
groups and their delegation, at seccomp and Landlock, and finally starts a program
in the default profile. Each line says ok or missing; a missing one says what
follows and what to do.

The exit status is 0 if programs can be run in the default profile, else 1.`,
		Example: "  proscenium doctor\n  sudo -u nobody proscenium doctor",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := doctor{out: cmd.OutOrStdout()}
			d.examine()
			if d.ill {
				return exitCode(1)
			}
			return nil
		},
	}
}

// A doctor prints findings as it makes them.
type doctor struct {
	out io.Writer
	ill bool // the default profile cannot be had
}

func (d *doctor) ok(what, detail string, args ...any) {
	fmt.Fprintf(d.out, "ok       %-28s %s\n", what, fmt.Sprintf(detail, args...))
}

// missing is a finding without which the default profile cannot be had.
func (d *doctor) missing(what, consequence, remedy string) {
	d.ill = true
	d.lacking(what, consequence, remedy)
}

// lacking is a finding that the default profile does without.
func (d *doctor) lacking(what, consequence, remedy string) {
	fmt.Fprintf(d.out, "missing  %-28s %s\n", what, consequence)
	fmt.Fprintf(d.out, "         %-28s → %s\n", "", remedy)
}

func (d *doctor) examine() {
	d.kernel()
	d.userNamespaces()
	d.proc()
	group := d.groups()
	d.start(group)
	if group != nil {
		group.Close()
	}
}

func (d *doctor) kernel() {
	var u unix.Utsname
	unix.Uname(&u)
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	fmt.Sscanf(release, "%d.%d", &major, &minor)
	if major > 5 || major == 5 && minor >= 15 {
		d.ok("kernel", "Linux %s", release)
	} else {
		d.lacking("kernel", "Linux "+release+" is older than 5.15, for which this is made", "the features below decide; a newer kernel is safer")
	}
	for _, f := range isolate.Features {
		err := f.Probe()
		switch {
		case err == nil && f.Tried():
			d.ok(f.Name, "Linux %s", f.Since)
		case err == nil:
			d.ok(f.Name, "Linux %s; the start below tells", f.Since)
		case f.Without == "":
			d.missing(f.Name, f.Why, err.Error())
		default:
			d.lacking(f.Name, f.Why+"; without it: "+f.Without, err.Error())
		}
	}
}

// userNamespaces names what distributions and administrators restrict them by.
func (d *doctor) userNamespaces() {
	restrictions := isolate.Restrictions()
	for _, r := range restrictions {
		d.missing("user namespaces", fmt.Sprintf("%s (%s): no cell can be made", r.Setting, r.Whose), r.Remedy)
	}
	if len(restrictions) == 0 {
		limit, _ := os.ReadFile("/proc/sys/user/max_user_namespaces")
		d.ok("user namespaces", "at most %s, not restricted", bytes.TrimSpace(limit))
	}
	if os.Geteuid() == 0 {
		d.ok("identity", "root: programs get the id 65534, never 0")
	} else {
		d.ok("identity", "uid %d: programs keep it", os.Geteuid())
	}
	host, err := isolate.ThisHost()
	if err != nil {
		d.missing("this host", err.Error(), "/proc must be mounted")
		return
	}
	if host.ForeignGroups > 0 {
		d.lacking("identity", fmt.Sprintf("%d supplementary groups, which programs keep: an ordinary user cannot drop them", host.ForeignGroups), "start this process without any, as by setpriv --clear-groups or a service's SupplementaryGroups=")
	}
	if host.CoreSocket {
		d.lacking("no cores", "kernel.core_pattern is a socket, which gets a program's core whatever RLIMIT_CORE is", "sysctl -w kernel.core_pattern=core, or a pipe")
	}
}

// proc looks for a masked /proc, as container engines make it: the kernel then
// refuses a new one.
func (d *doctor) proc() {
	if masked := isolate.MaskedProc(); len(masked) > 0 {
		d.lacking("whole /proc", "parts of /proc are covered ("+strings.Join(masked, ", ")+"), as in a container: the kernel may refuse a cell its own", isolate.RemedyMaskedProc)
		return
	}
	d.ok("whole /proc", "nothing of it is covered")
}

func (d *doctor) groups() *cgroup.Group {
	g, err := cgroup.Open()
	if err != nil {
		d.missing("limits", err.Error(), `or, without limits: exec --limits none, limits = "none" in a manifest`)
		return nil
	}
	d.ok("control groups", "%s", g.Layout())
	leaf, err := g.New("doctor", cgroup.Limits{})
	if err != nil {
		d.missing("limits", err.Error(), "see hack/proscenium.service for a unit with delegation")
		g.Close()
		return nil
	}
	defer leaf.Close()
	d.ok("limits", "%s", strings.Join(leaf.Enforced(), "; "))
	if leaf.File() != nil {
		const name = "cgroup.kill"
		if _, err := os.Stat(filepath.Join(leaf.Path(), name)); err != nil {
			d.lacking(name, "each process of a program is killed by itself, PID 1 of its namespace with them", err.Error()+": Linux has it since 5.14")
		} else {
			d.ok(name, "everything of a program is killed at once")
		}
	}
	return g
}

// start is the proof: a program in the default profile.
func (d *doctor) start(group *cgroup.Group) {
	l, err := launcher.Start(launcher.Config{})
	if err != nil {
		d.missing("launcher", err.Error(), "/proc must be mounted, memfd_create allowed")
		return
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	program, err := find("true")
	if err != nil {
		d.missing("a start", err.Error(), "doctor runs `true`, which must be in PATH")
		return
	}
	cell, err := handler.StartCell(l.Command(ctx, program), group, cgroup.Limits{}, handler.Budgets{Wall: 20 * time.Second})
	if err != nil {
		d.missing("a start", err.Error(), "the line that failed says which call the kernel refused; the findings above may say why")
		return
	}
	if r := cell.Wait(); r.Reason != handler.Exited || r.ExitCode != 0 {
		d.missing("a start", fmt.Sprintf("%s ended: %s, %d", program, r.Reason, r.ExitCode), "this is unexpected: please report it")
		return
	}
	d.ok("a start", "%s ran in the default profile", program)
	for _, line := range cell.Enforced {
		fmt.Fprintf(d.out, "         %-28s %s\n", "", line)
	}
}

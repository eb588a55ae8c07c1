package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/handler/actor"
	"github.com/proscenium-dev/proscenium/launcher"
	"github.com/proscenium-dev/proscenium/metrics"
	"github.com/spf13/cobra"
)

type runFlags struct {
	stateOut, audit, metricsAddr, logLevel string
}

func runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run MANIFEST…",
		Short: "Run the actors of manifests until nothing of them is alive or queued",
		Long: `run loads the WebAssembly actor that a manifest names, calls its init and then
delivers the events of the processes that it starts, until none is alive and no
event is queued. A signal (INT, TERM) kills its processes, delivers their exits
and ends it; a second one ends it at once.

Several actors run beside each other and strictly apart: ids, processes, limits
and failures are each one's own. They share the audit log and the metrics, which
tell them by their names.

The exit status is 0 when every actor ended well and 1 when one failed. The
actors' logs are on standard error.`,
		Example: `  proscenium run actor.toml
  proscenium run --state-out state.json --audit audit.jsonl actor.toml
  proscenium run --metrics-addr 127.0.0.1:9464 --log-level debug actor.toml other.toml

  # A manifest:
  name = "inventory"
  component_path = "inventory.wasm"

  [[handlers]]
  type = "process"
  config = {
    allowed_programs = ["/usr/bin/find", "/usr/bin/sort"],
    allowed_paths = ["/srv/data"],
    max_processes = 4,
    limits = { memory = "64M", cpu = 0.5, wall = "1m" },
  }`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.run(args); err != nil {
				return failure{err, 1}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.stateOut, "state-out", "", "write the actor's final state to this file, byte for byte; of several, to a file of the actor's name in this directory")
	flags.StringVar(&f.audit, "audit", "", "append every operation to this file, as JSON lines in a hash chain")
	flags.StringVar(&f.metricsAddr, "metrics-addr", "", "serve Prometheus metrics on http://HOST:PORT/metrics")
	flags.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

// A performance is one actor from its manifest to its end.
type performance struct {
	manifest *handler.Manifest
	state    output
	actor    atomic.Pointer[actor.Actor] // the one that lives, or lived last
	ctx      context.Context
	cancel   context.CancelFunc
}

func (f *runFlags) run(paths []string) (err error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return fmt.Errorf("--log-level %q: debug, info, warn or error", f.logLevel)
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	performances, err := f.prepare(paths)
	if err != nil {
		return err
	}
	var recorders handler.Recorders
	if f.audit != "" {
		audit, err2 := handler.OpenAudit(f.audit, 0)
		if err2 != nil {
			return err2
		}
		defer func() { err = errors.Join(err, audit.Close()) }()
		recorders = append(recorders, audit)
	}
	m := metrics.New()
	recorders = append(recorders, m)
	if f.metricsAddr != "" {
		stop, err := serveMetrics(f.metricsAddr, m, logger)
		if err != nil {
			return err
		}
		defer stop()
	}
	var group *cgroup.Group
	limited := func(p *performance) bool { return p.manifest.Process != nil && !p.manifest.Process.Unlimited }
	if slices.ContainsFunc(performances, limited) {
		if group, err = cgroup.Open(); err != nil {
			return err
		}
		defer group.Close()
	}
	l, err := launcher.Start(launcher.Config{})
	if err != nil {
		return err
	}
	defer l.Close()

	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go end(performances, signals, logger)
	errs := make([]error, len(performances))
	var wg sync.WaitGroup
	for i, p := range performances {
		wg.Go(func() {
			errs[i] = p.play(actor.Config{Manifest: p.manifest, Launcher: l, Group: group, Recorder: recorders, Logger: logger}, m)
			if errs[i] != nil && len(performances) > 1 {
				errs[i] = fmt.Errorf("actor %s: %w", p.manifest.Name, errs[i])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// prepare reads the manifests and opens what the states will be written to: the
// file of --state-out, or of more than one actor a file each in it.
func (f *runFlags) prepare(paths []string) (list []*performance, err error) {
	names := map[string]string{}
	for _, path := range paths {
		p := &performance{}
		p.ctx, p.cancel = context.WithCancel(context.Background())
		if p.manifest, err = handler.LoadManifest(path); err != nil {
			return nil, err
		}
		name := p.manifest.Name
		if before, twice := names[name]; twice {
			return nil, fmt.Errorf("%s and %s: both actors are named %q: logs, metrics and audit tell actors apart by their names", before, path, name)
		}
		names[name] = path
		out := f.stateOut
		if out != "" && len(paths) > 1 {
			if !filepath.IsLocal(name) || filepath.Base(name) != name {
				return nil, fmt.Errorf("--state-out: the actor's name %q cannot be a file's", name)
			}
			out = filepath.Join(out, name)
		}
		if p.state, err = openOutput(out); err != nil {
			return nil, fmt.Errorf("--state-out: %w", err)
		}
		list = append(list, p)
	}
	return list, nil
}

// play runs the actor to its end.
func (p *performance) play(config actor.Config, m *metrics.Metrics) error {
	defer p.cancel()
	a, err := actor.Run(p.ctx, config, func(a *actor.Actor) {
		p.actor.Store(a)
		if h := a.Handler(); h != nil {
			m.Remove(p.manifest.Name) // of before a restart
			m.Add(p.manifest.Name, h)
		}
	})
	if errors.Is(err, context.Canceled) {
		err = errors.New("ended at once by a signal")
	}
	final, _ := a.State() // none is an empty file
	return errors.Join(err, p.state.finish(final))
}

// end ends the actors at a signal: the first kills their processes and lets them
// hear of that, the second does not wait.
func end(performances []*performance, signals <-chan os.Signal, logger *slog.Logger) {
	first := true
	for s := range signals {
		logger.Info("ending", "signal", s)
		for _, p := range performances {
			a := p.actor.Load()
			if !first || a == nil || a.Failed() != nil { // it may be waiting for a restart
				p.cancel()
			} else if h := a.Handler(); h != nil {
				h.Drain()
			}
		}
		first = false
	}
}

// serveMetrics listens before it returns, so that a wrong address is an error.
func serveMetrics(addr string, m *metrics.Metrics, logger *slog.Logger) (stop func(), err error) {
	registry := prometheus.NewRegistry()
	if err := registry.Register(m); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("--metrics-addr: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go server.Serve(listener)
	logger.Info("serving metrics", "address", listener.Addr())
	return func() { server.Close() }, nil
}

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
		Use:   "run MANIFEST",
		Short: "Run the actor of a manifest until nothing of it is alive or queued",
		Long: `run loads the WebAssembly actor that the manifest names, calls its init and then
delivers the events of the processes that it starts, until none is alive and no
event is queued. A signal (INT, TERM) kills its processes, delivers their exits
and ends it; a second one ends it at once.

The exit status is 0 when the actor ended well and 1 when it failed. The actor's
log is on standard error.`,
		Example: `  proscenium run actor.toml
  proscenium run --state-out state.json --audit audit.jsonl actor.toml
  proscenium run --metrics-addr 127.0.0.1:9464 --log-level debug actor.toml

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
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.run(args[0]); err != nil {
				return failure{err, 1}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.stateOut, "state-out", "", "write the actor's final state to this file, byte for byte")
	flags.StringVar(&f.audit, "audit", "", "append every operation to this file, as JSON lines in a hash chain")
	flags.StringVar(&f.metricsAddr, "metrics-addr", "", "serve Prometheus metrics on http://HOST:PORT/metrics")
	flags.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

func (f *runFlags) run(path string) (err error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return fmt.Errorf("--log-level %q: debug, info, warn or error", f.logLevel)
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	state, err := openOutput(f.stateOut)
	if err != nil {
		return fmt.Errorf("--state-out: %w", err)
	}
	manifest, err := handler.LoadManifest(path)
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
	if manifest.Process != nil && !manifest.Process.Unlimited {
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
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var current atomic.Pointer[actor.Actor]
	go end(ctx, cancel, signals, &current, logger)
	config := actor.Config{Manifest: manifest, Launcher: l, Group: group, Recorder: recorders, Logger: logger}
	a, err := actor.Run(ctx, config, func(a *actor.Actor) {
		current.Store(a)
		if h := a.Handler(); h != nil {
			m.Remove(manifest.Name) // of before a restart
			m.Add(manifest.Name, h)
		}
	})
	if errors.Is(err, context.Canceled) {
		err = errors.New("ended at once by a signal")
	}
	final, _ := a.State() // none is an empty file
	return errors.Join(err, state.finish(final))
}

// end ends the actor at a signal: the first kills its processes and lets it hear
// of that, the second does not wait.
func end(ctx context.Context, cancel func(), signals <-chan os.Signal, current *atomic.Pointer[actor.Actor], logger *slog.Logger) {
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case s := <-signals:
			logger.Info("ending", "signal", s)
			a := current.Load()
			if n > 1 || a == nil || a.Failed() != nil { // it may be waiting for a restart
				cancel()
				return
			}
			if h := a.Handler(); h != nil {
				h.Drain()
			}
		}
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

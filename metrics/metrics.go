// Package metrics exports what handlers do to Prometheus: a Recorder that counts
// their events, and a collector that reads their counters at each scrape:
//
//	proscenium_processes_running{actor}
//	proscenium_process_starts_total{result}
//	proscenium_process_starts_unlimited_total
//	proscenium_process_exits_total{reason}
//	proscenium_process_duration_seconds
//	proscenium_output_bytes_total{stream}
//	proscenium_events_delivered_total
//	proscenium_denials_total{rule}
//	proscenium_actor_failures_total
package metrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/proscenium-dev/proscenium/handler"
)

// Metrics counts events and collects handlers. Register it with a registry of
// your own; it uses no global one.
type Metrics struct {
	started, ended, denied *prometheus.CounterVec
	actorFailures          prometheus.Counter
	unlimited              prometheus.Counter
	duration               prometheus.Histogram

	mu       sync.Mutex
	handlers map[string]*handler.Handler
	past     handler.Counters // of handlers that were removed
}

var (
	running   = prometheus.NewDesc("proscenium_processes_running", "Processes that are alive.", []string{"actor"}, nil)
	output    = prometheus.NewDesc("proscenium_output_bytes_total", "Bytes of output read for actors, line ends and what was skipped included.", []string{"stream"}, nil)
	delivered = prometheus.NewDesc("proscenium_events_delivered_total", "Events delivered to actors: output and exits.", nil, nil)
)

// New makes the metrics.
func New() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "proscenium", Name: name, Help: help}, labels)
	}
	return &Metrics{
		started:       counter("process_starts_total", "Starts of processes, by result.", "result"),
		ended:         counter("process_exits_total", "Ends of processes, by reason.", "reason"),
		denied:        counter("denials_total", "Operations refused, by rule.", "rule"),
		actorFailures: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "proscenium", Name: "actor_failures_total", Help: "Actors that failed."}),
		unlimited:     prometheus.NewCounter(prometheus.CounterOpts{Namespace: "proscenium", Name: "process_starts_unlimited_total", Help: "Processes started without limits, by request."}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "proscenium", Name: "process_duration_seconds", Help: "Wall-clock time from start to end.",
			NativeHistogramBucketFactor: 1.2, NativeHistogramMaxBucketNumber: 100,
			Buckets: []float64{.005, .02, .1, .5, 2, 10, 60, 600},
		}),
		handlers: map[string]*handler.Handler{},
	}
}

// Add collects a handler's counters under the actor's name until Remove.
func (m *Metrics) Add(actor string, h *handler.Handler) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.handlers[actor] = h
}

// Remove keeps the sums of a handler that is closed.
func (m *Metrics) Remove(actor string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h, ok := m.handlers[actor]; ok {
		m.past = sum(m.past, h.Counters())
		delete(m.handlers, actor)
	}
}

func sum(a, b handler.Counters) handler.Counters {
	return handler.Counters{StdoutBytes: a.StdoutBytes + b.StdoutBytes, StderrBytes: a.StderrBytes + b.StderrBytes, Events: a.Events + b.Events}
}

// Record implements handler.Recorder. Labels come from fixed sets, never from
// an actor's words.
func (m *Metrics) Record(e handler.Event) {
	n := float64(max(e.Count, 1))
	switch e.Kind {
	case handler.Spawned:
		m.started.WithLabelValues("started").Inc()
		for _, line := range e.Enforced {
			if line == handler.NoLimits {
				m.unlimited.Inc()
			}
		}
	case handler.SpawnFailed:
		m.started.WithLabelValues("failed").Inc()
	case handler.SpawnDenied:
		m.started.WithLabelValues("denied").Add(n)
		m.denied.WithLabelValues(e.Rule).Add(n)
	case handler.Denied:
		m.denied.WithLabelValues(e.Rule).Add(n)
	case handler.Ended:
		m.ended.WithLabelValues(string(e.Reason)).Inc()
		m.duration.Observe(e.Wall)
	case handler.ActorFailed:
		m.actorFailures.Inc()
	}
}

func (m *Metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.started, m.ended, m.denied, m.actorFailures, m.unlimited, m.duration}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.collectors() {
		c.Describe(ch)
	}
	ch <- running
	ch <- output
	ch <- delivered
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.collectors() {
		c.Collect(ch)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	total := m.past
	for actor, h := range m.handlers {
		c := h.Counters()
		total = sum(total, c)
		ch <- prometheus.MustNewConstMetric(running, prometheus.GaugeValue, float64(c.Running), actor)
	}
	ch <- prometheus.MustNewConstMetric(output, prometheus.CounterValue, float64(total.StdoutBytes), "stdout")
	ch <- prometheus.MustNewConstMetric(output, prometheus.CounterValue, float64(total.StderrBytes), "stderr")
	ch <- prometheus.MustNewConstMetric(delivered, prometheus.CounterValue, float64(total.Events))
}

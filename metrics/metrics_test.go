package metrics

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/proscenium-dev/proscenium/handler"
)

func TestMetrics(t *testing.T) {
	m := New()
	for _, e := range []handler.Event{
		{Kind: handler.Spawned}, {Kind: handler.Spawned, Enforced: []string{handler.NoLimits}}, {Kind: handler.SpawnFailed},
		{Kind: handler.SpawnDenied, Rule: "allowed_programs"}, {Kind: handler.Denied, Rule: "os-kill"}, {Kind: handler.Denied, Rule: "os-kill", Count: 6},
		{Kind: handler.Ended, Reason: handler.OutOfMemory, Wall: 0.3}, {Kind: handler.Ended, Reason: handler.Exited, Wall: 1},
		{Kind: handler.ActorFailed}, {Kind: handler.StdinWritten, Bytes: 7},
	} {
		m.Record(e)
	}
	h, err := handler.New(handler.Config{Unlimited: true, MaxProcesses: 1, MaxOutputBuffer: 1}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	m.Add("actor", h)
	want := `
# HELP proscenium_actor_failures_total Actors that failed.
# TYPE proscenium_actor_failures_total counter
proscenium_actor_failures_total 1
# HELP proscenium_denials_total Operations refused, by rule.
# TYPE proscenium_denials_total counter
proscenium_denials_total{rule="allowed_programs"} 1
proscenium_denials_total{rule="os-kill"} 7
# HELP proscenium_events_delivered_total Events delivered to actors: output and exits.
# TYPE proscenium_events_delivered_total counter
proscenium_events_delivered_total 0
# HELP proscenium_output_bytes_total Bytes of output read for actors, line ends and what was skipped included.
# TYPE proscenium_output_bytes_total counter
proscenium_output_bytes_total{stream="stderr"} 0
proscenium_output_bytes_total{stream="stdout"} 0
# HELP proscenium_process_exits_total Ends of processes, by reason.
# TYPE proscenium_process_exits_total counter
proscenium_process_exits_total{reason="exited"} 1
proscenium_process_exits_total{reason="out-of-memory"} 1
# HELP proscenium_process_starts_total Starts of processes, by result.
# TYPE proscenium_process_starts_total counter
proscenium_process_starts_total{result="denied"} 1
proscenium_process_starts_total{result="failed"} 1
proscenium_process_starts_total{result="started"} 2
# HELP proscenium_process_starts_unlimited_total Processes started without limits, by request.
# TYPE proscenium_process_starts_unlimited_total counter
proscenium_process_starts_unlimited_total 1
# HELP proscenium_processes_running Processes that are alive.
# TYPE proscenium_processes_running gauge
proscenium_processes_running{actor="actor"} 0
`
	names := []string{}
	for line := range strings.Lines(want) {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			names = append(names, strings.Fields(name)[0])
		}
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(m)
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	m.Remove("actor")
	if n := testutil.CollectAndCount(m, "proscenium_processes_running"); n != 0 {
		t.Errorf("%d gauges of a handler that was removed", n)
	}
}

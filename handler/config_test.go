package handler

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/isolate"
)

// proposal is the block of the predecessor's documentation, as it stands there.
const proposal = `name = "a"
component_path = "a.wasm"

[[handlers]]
type = "process"
config = {
  max_processes = 10,
  max_output_buffer = 1048576,  # 1MB max output buffer per process
  allowed_programs = [
    "/usr/bin/ls",
    "/usr/bin/grep",
    "/usr/bin/find"
  ],
  allowed_paths = [
    "/tmp",
    "/var/data"
  ]
}
`

func TestManifest(t *testing.T) {
	m, err := ParseManifest([]byte(proposal), "/etc/actors")
	if err != nil {
		t.Fatal(err)
	}
	c := m.Process
	if m.Name != "a" || m.ComponentPath != "/etc/actors/a.wasm" || m.Deadline != DefaultDeadline || c.MaxProcesses != 10 || c.MaxOutputBuffer != 1<<20 || len(c.AllowedPrograms) != 3 || len(c.AllowedPaths) != 2 || c.Unlimited {
		t.Errorf("%+v, %+v", m, c)
	}
	all := "\ufeff" + strings.Replace(strings.Replace(proposal, `"/var/data"
  ]
}`, `"/var/data",
  ],
  read_only_paths = ["/srv"],
  args_allowed = { "/usr/bin/ls" = ["-l"] },
  env = { allow = ["LANG"], deny = ["PATH"], set = { TZ = "UTC" } },
  stdin = "null", profile = "system", network = "host", no_jit = true, warm = 3, run_as = "7:8",
  limits = { memory = "64M", cpu = 0.5, cpu_period = "50ms", pids = 9, wall = "1m", cpu_time = "10s", grace = "1s", kill_one = true,
    io = [{ device = "/dev/vda", read = "10M", write_ops = 100 }] },
}`, 1), `name = "a"`, "name = \"a\"\ninitial_state = \"s\"\ndeadline = \"none\"\nmemory = \"1M\"", 1)
	if m, err = ParseManifest([]byte(all), "/"); err != nil {
		t.Fatal(err)
	}
	c = m.Process
	limits := cgroup.Limits{Memory: 64 << 20, CPU: 0.5, CPUPeriod: 50 * time.Millisecond, Pids: 9, KillOne: true, IO: []cgroup.IOLimit{{Device: "/dev/vda", Read: 10 << 20, WriteOps: 100}}}
	if m.Deadline != 0 || m.Memory != 1<<20 || string(m.State) != "s" || !c.StdinNull || c.Warm != 3 || !c.Isolation.NoJIT || c.Isolation.HostUID != 7 || c.Isolation.HostGID != 8 || c.Isolation.View != isolate.ViewSystem || c.Isolation.Network != isolate.NetworkHost ||
		!reflect.DeepEqual(c.Limits, limits) || c.Budgets != (Budgets{Wall: time.Minute, CPU: 10 * time.Second, Grace: time.Second}) ||
		c.Env.Set["TZ"] != "UTC" || c.ArgsAllowed["/usr/bin/ls"][0] != "-l" || c.ReadOnlyPaths[0] != "/srv" {
		t.Errorf("%+v, %+v", m, c)
	}
	none := strings.Replace(proposal, "max_processes = 10", `limits = "none"`, 1)
	if m, err = ParseManifest([]byte(none), "/"); err != nil || !m.Process.Unlimited {
		t.Errorf("%+v, %v", m, err)
	}
	tables := "name=\"a\"\ncomponent_path=\"b\"\n[[handlers]]\ntype=\"runtime\"\n[[handlers]]\ntype=\"process\"\n[handlers.config]\nmax_processes=1\n[handlers.config.limits]\npids=5\n"
	if m, err = ParseManifest([]byte(tables), "/"); err != nil || m.Process.Limits.Pids != 5 {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]string{
		"5P": "more than 1P", "99999999P": "more than 1P", "2000000000000000": "more than 1P",
		"0": "not a size", "-1": "not a size", "lots": "not a size", "": "not a size",
	} {
		if n, err := ParseSize(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %d, %v, want …%s…", text, n, err, want)
		}
	}
	if n, err := ParseSize("1P"); n != 1<<50 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func TestBadManifests(t *testing.T) {
	with := func(old, new string) string { return strings.Replace(proposal, old, new, 1) }
	for _, c := range []struct{ text, want string }{
		{with("max_processes", "max_proceses"), `7:3: unknown key "max_proceses" (did you mean "max_processes"?)`},
		{with("max_processes", "Max_Processes"), `7:3: unknown key "Max_Processes"`},
		{with(`name = "a"`, "name = \"a\"\nversion = 1"), `2:1: unknown key "version" (known here: name,`},
		{with("max_processes = 10", "limits = { memroy = \"1M\" }"), `7:14: unknown key "memroy"`},
		{with("max_processes = 10", "limits = \"off\""), `7:3: limits is a table`},
		{with("max_processes = 10", "max_processes = \"ten\""), `7:`},
		{with("max_processes = 10", "max_processes = -1"), `max_processes -1`},
		{with("1048576", "0"), `max_output_buffer 0`},
		{with("1048576", "99999999999"), `max_output_buffer 99999999999`},
		{with("max_processes = 10", `limits = { memory = "99999999999GiB" }`), `more than 1P`},
		{with("max_processes = 10", `limits = { memory = "0.3" }`), `not a size`},
		{with("max_processes = 10", `limits = { memory = "1k" }`), `memory limit`},
		{with("max_processes = 10", `limits = { cpu = 0.0 }`), `cpu limit`},
		{with("max_processes = 10", `limits = { cpu = nan }`), `cpu limit`},
		{with("max_processes = 10", `limits = { pids = 0 }`), `pids limit`},
		{with("max_processes = 10", `limits = { wall = "-1s" }`), `time span`},
		{with("max_processes = 10", `profile = "open"`), `profile "open"`},
		{with("max_processes = 10", `network = "some"`), `network "some"`},
		{with("max_processes = 10", `stdin = "tty"`), `stdin "tty"`},
		{with("max_processes = 10", `env = { set = { LD_PRELOAD = "x" } }`), `"LD_PRELOAD" has no name, or changes which code runs`},
		{with("max_processes = 10", `run_as = "0"`), `run_as "0" is not "uid" or "uid:gid": 0 is not between`},
		{with("max_processes = 10", `run_as = "nobody"`), `run_as "nobody"`},
		{with("max_processes = 10", `run_as = ""`), `run_as ""`},
		{with("max_processes = 10", `id_range = "5"`), `id_range "5" is not "first-last"`},
		{with("max_processes = 10", `id_range = ""`), `id_range ""`},
		{with("max_processes = 10", `run_as = "5", id_range = "6-7"`), `exclude each other`},
		{with(`"process"`, `"http"`), `handler type "http"`},
		{proposal + "[[handlers]]\ntype = \"process\"\n", `two handlers`},
		{with(`name = "a"`, `name = ""`), `name is missing`},
		{with(`name = "a"`, "name = \"a\"\ninit_state = \"x\"\ninitial_state = \"y\""), `exclude each other`},
		{with(`name = "a"`, "name = \"a\"\nmemory = \"1K\""), `memory: between`},
		{with(`name = "a"`, "name = \"a\"\nname = \"b\""), `2:1`},
		{with(`name = "a"`, "name = \"a\"\ndeadline = 5"), `2:1: deadline has a value of the wrong type`},
		{with(`name = "a"`, "name = \"a\"\ndeadline = {}"), `2:1: deadline has a value of the wrong type`},
		{with(`name = "a"`, "name = \"a\"\nmemory = 268435456"), `2:1: memory has a value of the wrong type`},
		{with("max_processes = 10", "limits = { wall = true }"), `7:14: wall has a value of the wrong type`},
		{with("max_processes = 10", "limits = { io = [{ device = \"/dev/vda\", read = 5 }] }"), `7:43: read has a value of the wrong type`},
		{proposal + "[deadline]\n", `19:2: deadline has a value of the wrong type`},
		{with(`"process"`, `"runtime"`), `a handler of type runtime has nothing to configure`},
		{"name = ", "1:"},
		{"\x00", "1:1"},
	} {
		_, err := ParseManifest([]byte(c.text), "/")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
}

// FuzzManifest: no manifest makes it panic, and one that is taken is in bounds.
func FuzzManifest(f *testing.F) {
	f.Add(proposal)
	f.Add("[[handlers]]\nconfig.limits = \"none\"")
	f.Add("handlers = [{config = {limits = {memory = 1}}}]")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseManifest([]byte(text), "/nonexistent")
		if err == nil && (m.Name == "" || m.Process != nil && (m.Process.MaxProcesses < 0 || m.Process.MaxOutputBuffer < 1 || m.Process.Limits.Check() != nil)) {
			t.Errorf("%+v", m)
		}
	})
}

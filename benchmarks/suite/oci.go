package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// ociPeers are crun and runc with one bundle: seven namespaces, read-only root
// with nothing but the target, no capability, no_new_privs. Neither filter nor
// limits are asked of them: both would make them slower. They do not run where
// the v1 controllers are mounted beside v2: there they see v2 alone, in a mount
// namespace of their own.
func (s *suite) ociPeers() []peer {
	bundle, err := s.bundle()
	why := ""
	if err != nil {
		why = "the bundle: " + err.Error()
	}
	var runner []string
	if s.group.Layout() == "hybrid" {
		runner = []string{"-b", "/sys/fs/cgroup/unified"}
	}
	state := func(name string) string { return filepath.Join(s.programs, name+"-state") }
	s.containers++ // two of a name cannot be at once
	id := fmt.Sprintf("proscenium-bench-%d", s.containers)
	return []peer{
		{name: crun, every: 1, runner: runner, not: why,
			argv: []string{"crun", "--cgroup-manager=disabled", "--root", state("crun"), "run", "--bundle", bundle, id}},
		{name: runc, every: s.slow, runner: runner, not: why,
			argv: []string{"runc", "--root", state("runc"), "run", "--bundle", bundle, id}},
	}
}

type object = map[string]any

// bundle makes the OCI bundle and returns its directory.
func (s *suite) bundle() (string, error) {
	dir := filepath.Join(s.programs, "bundle")
	for _, d := range []string{"proc", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, "rootfs", d), 0o755); err != nil {
			return "", err
		}
	}
	target := filepath.Join(dir, "rootfs", "true")
	if err := os.Link(s.program("true"), target); err != nil && !os.IsExist(err) {
		return "", err
	}
	var namespaces []object
	for _, n := range []string{"user", "mount", "pid", "ipc", "uts", "network", "cgroup"} {
		namespaces = append(namespaces, object{"type": n})
	}
	ids := []object{{"containerID": 0, "hostID": 65534, "size": 1}}
	none := []string{}
	config := object{
		"ociVersion": "1.0.2",
		"hostname":   "proscenium",
		"process": object{
			"user": object{"uid": 0, "gid": 0}, "args": []string{"/true"}, "cwd": "/", "noNewPrivileges": true,
			"capabilities": object{"bounding": none, "effective": none, "permitted": none, "inheritable": none, "ambient": none},
		},
		"root": object{"path": "rootfs", "readonly": true},
		"mounts": []object{
			{"destination": "/proc", "type": "proc", "source": "proc", "options": []string{"nosuid", "noexec", "nodev"}},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755", "size=65536k"}},
			{"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "nodev", "noexec", "mode=1777"}},
		},
		"linux": object{"namespaces": namespaces, "uidMappings": ids, "gidMappings": ids},
	}
	text, err := json.MarshalIndent(config, "", "\t")
	if err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "config.json"), text, 0o644)
}

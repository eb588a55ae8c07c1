package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/tests/testenv"
)

const disk = "/dev/vda"

// needDisk wants the disk of the virtual machine, which is nobody's. By its serial
// number: what is written to another would be lost.
func needDisk(t *testing.T) {
	t.Helper()
	serial, err := os.ReadFile("/sys/block/vda/serial")
	testenv.Need(t, "disk", err == nil && strings.TrimSpace(string(serial)) == "scratch", "there is no disk that may be written to")
}

func TestIOLimit(t *testing.T) {
	testenv.NoLeaks(t)
	limits := cgroup.Limits{IO: []cgroup.IOLimit{{Device: disk, Read: 4 << 20, WriteOps: 100}}}
	if testenv.Group(t).Layout() != "unified" {
		leaf, err := testenv.Group(t).New("io", limits)
		if err == nil || !strings.Contains(err.Error(), "io controller of cgroup v2") {
			leaf.Close()
			t.Errorf("where it cannot be had: %v", err)
		}
		return
	}
	needDisk(t)
	leaf, err := testenv.Group(t).New("io", limits)
	if err != nil {
		t.Fatal(err)
	}
	defer leaf.Close()
	if b, err := os.ReadFile(filepath.Join(leaf.Path(), "io.max")); err != nil || string(b) != "254:0 rbps=4194304 wbps=max riops=max wiops=100\n" {
		t.Errorf("io.max is %q, %v", b, err)
	}
	if all := strings.Join(leaf.Enforced(), "\n"); !strings.Contains(all, "io: "+disk+": 4194304 bytes/s read, 100 writes/s") {
		t.Error(all)
	}
	for device, want := range map[string]string{"/dev/null": "block device required", "/dev/nonexistent": "no such file", "254:77": "no such device"} {
		l, err := testenv.Group(t).New("bad", cgroup.Limits{IO: []cgroup.IOLimit{{Device: device, Read: 1 << 20}}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", device, err)
		}
		if err == nil {
			l.Close()
		}
	}
	if os.Getuid() != 0 {
		return // who may not read the disk cannot be measured
	}
	begun := time.Now()
	dd := exec.Command("/usr/bin/dd", "if="+disk, "of=/dev/null", "bs=1M", "count=8", "iflag=direct")
	dd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(leaf.File().Fd())}
	if out, err := dd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if took := time.Since(begun); took < time.Second {
		t.Errorf("8 MiB at 4 MiB a second took %v", took)
	}
}

// TestNoSwap: a program does not swap, also on a host that does.
func TestNoSwap(t *testing.T) {
	testenv.NoLeaks(t)
	needDisk(t)
	testenv.Need(t, "root", os.Getuid() == 0, "swapon(2)")
	for _, command := range [][]string{{"/sbin/mkswap", disk}, {"/sbin/swapon", disk}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", command, err, out)
		}
	}
	defer exec.Command("/sbin/swapoff", disk).Run()
	r := start(t, cgroup.Limits{Memory: 32 << 20, KillOne: true}, handler.Budgets{Wall: time.Minute}, shell, "/bin/sh", "-c", "tail /dev/zero; exec sleep 1000")
	events := filepath.Join(r.Leaf.Path(), "memory.events")
	for b := ""; !strings.Contains(b, "oom_kill 1"); time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(events)
		if err != nil {
			t.Fatal(err) // the wall-clock limit has ended it
		}
		b = string(text)
	}
	for _, file := range []string{"memory.swap.current", "memory.swap.max"} {
		if b, err := os.ReadFile(filepath.Join(r.Leaf.Path(), file)); err != nil || string(b) != "0\n" {
			t.Errorf("%s: %q, %v", file, b, err)
		}
	}
}

package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup2"
	"golang.org/x/sys/unix"
)

// An IOLimit bounds what reaches one block device, which page cache may delay:
// io.max of cgroup v2. A zero rate is no limit.
type IOLimit struct {
	Device   string // path of a whole disk, /dev/vda, or its number, 254:0
	Read     int64  // bytes a second
	Write    int64  // bytes a second
	ReadOps  int64  // operations a second
	WriteOps int64  // operations a second
}

// String is "/dev/vda: 1000 bytes/s read, 5 writes/s", with what is limited.
func (l IOLimit) String() string {
	var rates []string
	for _, r := range []struct {
		rate int64
		unit string
	}{{l.Read, "bytes/s read"}, {l.Write, "bytes/s written"}, {l.ReadOps, "reads/s"}, {l.WriteOps, "writes/s"}} {
		if r.rate > 0 {
			rates = append(rates, fmt.Sprintf("%d %s", r.rate, r.unit))
		}
	}
	return l.Device + ": " + strings.Join(rates, ", ")
}

// maxIOLimits bounds the list.
const maxIOLimits = 64

func (l IOLimit) check() error {
	rates := []int64{l.Read, l.Write, l.ReadOps, l.WriteOps}
	some := false
	for _, r := range rates {
		if r < 0 {
			return fmt.Errorf("io limit of %s: a rate cannot be negative", l.Device)
		}
		some = some || r > 0
	}
	switch {
	case !filepath.IsAbs(l.Device) && !strings.Contains(l.Device, ":"):
		return fmt.Errorf("io limit of %q: a device is an absolute path, or MAJOR:MINOR", l.Device)
	case !some:
		return fmt.Errorf("io limit of %s: no rate is given", l.Device)
	}
	return nil
}

// number finds the device's, and refuses what io.max has no limits for.
func (l IOLimit) number() (major, minor uint32, err error) {
	refuse := func(err error) (uint32, uint32, error) {
		return 0, 0, fmt.Errorf("io limit of %s: %w", l.Device, err)
	}
	if first, second, ok := strings.Cut(l.Device, ":"); ok && !filepath.IsAbs(l.Device) {
		a, err1 := strconv.ParseUint(first, 10, 32)
		b, err2 := strconv.ParseUint(second, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return refuse(err)
		}
		major, minor = uint32(a), uint32(b)
	} else {
		var s unix.Stat_t
		if err := unix.Stat(l.Device, &s); err != nil {
			return refuse(err)
		}
		if s.Mode&unix.S_IFMT != unix.S_IFBLK {
			return refuse(unix.ENOTBLK)
		}
		major, minor = unix.Major(uint64(s.Rdev)), unix.Minor(uint64(s.Rdev))
	}
	if _, err := os.Stat(fmt.Sprintf("/sys/dev/block/%d:%d/partition", major, minor)); err == nil {
		return refuse(errors.New("it is a partition, and the kernel limits whole disks"))
	}
	return major, minor, nil
}

// writeIO sets the limits in the v2 group.
func writeIO(m *cgroup2.Manager, leaf file, limits []IOLimit) ([]setting, error) {
	var settings []setting
	for _, l := range limits {
		major, minor, err := l.number()
		if err != nil {
			return nil, err
		}
		io := &cgroup2.IO{}
		want := fmt.Sprintf("%d:%d", major, minor)
		for _, r := range []struct {
			kind cgroup2.IOType
			rate int64
		}{{cgroup2.ReadBPS, l.Read}, {cgroup2.WriteBPS, l.Write}, {cgroup2.ReadIOPS, l.ReadOps}, {cgroup2.WriteIOPS, l.WriteOps}} {
			if r.rate == 0 {
				want += fmt.Sprintf(" %s=max", r.kind)
				continue
			}
			// The kernel keeps operations in 32 bits.
			if (r.kind == cgroup2.ReadIOPS || r.kind == cgroup2.WriteIOPS) && r.rate >= math.MaxUint32 {
				return nil, fmt.Errorf("io limit of %s: %d operations a second are more than the kernel counts", l.Device, r.rate)
			}
			io.Max = append(io.Max, cgroup2.Entry{Type: r.kind, Major: int64(major), Minor: int64(minor), Rate: uint64(r.rate)})
			want += fmt.Sprintf(" %s=%d", r.kind, r.rate)
		}
		if err := m.Update(&cgroup2.Resources{IO: io}); err != nil {
			return nil, fmt.Errorf("io limit of %s: %w", l.Device, err)
		}
		settings = append(settings, setting{leaf, "io.max", want})
	}
	return settings, nil
}

// ioError says why a leaf of this group can have no io limits, or nil.
func (g *Group) ioError(leaf string) error {
	if len(g.legacy) > 0 {
		return errors.New("io limits need the io controller of cgroup v2; this host has v1 controllers, which do not see writes that pages cache")
	}
	if _, err := os.Stat(filepath.Join(leaf, "io.max")); err != nil {
		return fmt.Errorf("io limits need the io controller, which is not handed down to %s: %s", g.unified.dir(), remedyDelegate)
	}
	return nil
}

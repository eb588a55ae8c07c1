package isolate

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A file of /proc as container engines leave it, and as they do not.
const (
	wholeProc = `23 28 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
40 23 0:35 / /proc/sys/fs/binfmt_misc rw,nosuid,nodev,noexec,relatime shared:16 - autofs systemd-1 rw
29 28 0:24 / /sys rw - sysfs sysfs rw
`
	dockersProc = wholeProc + `611 610 0:5 /null /proc/keys rw,nosuid - tmpfs tmpfs rw
612 610 0:121 / /proc/acpi ro,relatime - tmpfs tmpfs ro
613 610 0:55 /sys /proc/sys ro - proc proc rw
`
)

// TestHostsAreRecognised: what keeps a cell from being made is named, with the
// remedy, by the call that fails for it.
func TestHostsAreRecognised(t *testing.T) {
	const clone = "clone(CLONE_PARENT|CLONE_NEWUSER)"
	const proc = `mount("proc", "proc", "proc", MS_RDONLY, "subset=pid,hidepid=invisible")`
	for name, c := range map[string]struct {
		files map[string]string
		call  string
		errno unix.Errno
		says  []string
		about string // the feature of an UnsupportedError, or "restricted"
	}{
		"an administrator":          {map[string]string{"/proc/sys/user/max_user_namespaces": "0"}, clone, unix.ENOSPC, []string{"user.max_user_namespaces = 0", "sysctl -w user.max_user_namespaces="}, "restricted"},
		"another kind of namespace": {map[string]string{"/proc/sys/user/max_net_namespaces": "0"}, clone, unix.ENOSPC, []string{"user.max_net_namespaces = 0"}, "restricted"},
		"Debian":                    {map[string]string{"/proc/sys/kernel/unprivileged_userns_clone": "0"}, clone, unix.EPERM, []string{"kernel.unprivileged_userns_clone = 0", "Debian", "sysctl -w kernel.unprivileged_userns_clone=1"}, "restricted"},
		"Ubuntu, the clone":         {map[string]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"}, clone, unix.EACCES, []string{"apparmor_restrict_unprivileged_userns = 1", "`userns,`"}, "restricted"},
		"Ubuntu, the id maps":       {map[string]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"}, `write(<openat "self/uid_map">, "1000 1000 1", 11)`, unix.EPERM, []string{"Ubuntu's AppArmor"}, "restricted"},
		"Ubuntu, the first mount":   {map[string]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"}, `mount(NULL, "/", NULL, MS_SLAVE|MS_REC, NULL)`, unix.EACCES, []string{"Ubuntu's AppArmor"}, "restricted"},
		"a container":               {map[string]string{"/proc/self/mountinfo": dockersProc}, proc, unix.EPERM, []string{"/proc is masked: /proc/keys, /proc/acpi, /proc/sys", "systempaths=unconfined"}, "restricted"},
		"a container's filter":      {map[string]string{"/proc/self/status": "Name:\tx\nSeccomp:\t2\n"}, clone, unix.EPERM, []string{"filter", "--security-opt"}, "restricted"},
		"root of a container":       {map[string]string{"/proc/self/status": "Uid:\t0\t0\t0\t0\nCapEff:\t00000000a80425fb\n"}, clone, unix.EPERM, []string{"root without CAP_SYS_ADMIN", "--cap-add SYS_ADMIN"}, "restricted"},
		"root of one id":            {map[string]string{"/proc/self/status": "Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n", "/proc/self/uid_map": "         0       1000          1\n"}, clone, unix.EPERM, []string{"the id 65534", "uid_map", "ordinary user"}, "restricted"},
		"too many":                  {map[string]string{"/proc/sys/user/max_user_namespaces": "100"}, clone, unix.ENOSPC, []string{"as many namespaces as"}, ""},
		"not masked":                {map[string]string{"/proc/self/mountinfo": wholeProc}, proc, unix.EPERM, nil, ""},
		"an old kernel":             {nil, `openat2(AT_FDCWD, "/tmp", {flags=O_PATH}, 24)`, unix.ENOSYS, []string{"openat2", "Linux 5.6"}, "openat2"},
		"an old engine":             {nil, "close_range(3, 4294967295, CLOSE_RANGE_CLOEXEC)", unix.EPERM, []string{"close_range", "filter"}, "close_range"},
		"no_jit on an old kernel":   {nil, "prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)", unix.EINVAL, []string{"no_jit", "Linux 6.3"}, "no_jit (PR_SET_MDWE)"},
		"no privilege":              {nil, `mount_setattr(3, "", AT_EMPTY_PATH)`, unix.EPERM, nil, ""},
		"an old engine's mounts":    {map[string]string{"/proc/self/status": "Name:\tx\nSeccomp:\t2\n"}, `mount_setattr(3, "", AT_EMPTY_PATH)`, unix.EPERM, []string{"5.12"}, "mount_setattr"},
		"something else":            {map[string]string{"/proc/sys/user/max_user_namespaces": "0"}, `openat2(AT_FDCWD, "/nowhere", {}, 24)`, unix.ENOENT, nil, ""},
	} {
		err := explain(func(file string) string { return strings.TrimSuffix(c.files[file], "\n") }, c.call, c.errno)
		if !errors.Is(err, c.errno) {
			t.Errorf("%s: %v is not %v", name, err, c.errno)
		}
		if len(c.says) == 0 && err != error(c.errno) {
			t.Errorf("%s: %v", name, err)
		}
		for _, text := range c.says {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %q does not say %q", name, err, text)
			}
		}
		var u *UnsupportedError
		var r *RestrictedError
		about := ""
		if errors.As(err, &u) {
			about = u.Feature
		} else if errors.As(err, &r) {
			about = "restricted"
		}
		if about != c.about {
			t.Errorf("%s: it is about %q, not %q", name, about, c.about)
		}
	}
	if err := Explain("openat2()", errors.New("no errno")); err.Error() != "no errno" {
		t.Error(err)
	}
}

// TestFeaturesAreDated: each says since when, what for, and what follows from its
// absence: an error that names it, or what is done instead.
func TestFeaturesAreDated(t *testing.T) {
	for _, f := range Features {
		var major, minor int
		if n, _ := fmt.Sscanf(f.Since, "%d.%d", &major, &minor); n != 2 || f.Name == "" || f.Why == "" {
			t.Errorf("%+v", f)
		}
		if newer := major > 5 || major == 5 && minor > 15; newer && f.Without == "" {
			t.Errorf("%s is newer than the baseline and has no fallback", f.Name)
		}
		if err := f.Probe(); err != nil && f.Without == "" {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
	if err := Check(); err != nil {
		t.Error(err)
	}
	missing := Feature{Name: "this", Since: "9.9", probe: probeCall(1 << 20)}
	var u *UnsupportedError
	if err := missing.Probe(); !errors.As(err, &u) || !errors.Is(err, errors.ErrUnsupported) || !errors.Is(err, unix.ENOSYS) || !strings.Contains(err.Error(), "Linux 9.9") {
		t.Errorf("%v", err)
	}
}

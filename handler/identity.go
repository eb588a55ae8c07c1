package handler

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/proscenium-dev/proscenium/isolate"
	"golang.org/x/sys/unix"
)

// Which ids programs have on the host. Inside all are 1000; outside, programs of
// one id cannot reach each other either, but share what the kernel counts by
// user and what files the id may read and write.

// An IDRange is from First to Last, both included; the zero value is none.
type IDRange struct{ First, Last int }

const maxID = 1<<32 - 2

// ParseRunAs reads "uid" or "uid:gid". Without a gid it is the uid's number.
func ParseRunAs(text string) (uid, gid int, err error) {
	first, second, two := strings.Cut(text, ":")
	if !two {
		second = first
	}
	if uid, err = parseID(first); err == nil {
		gid, err = parseID(second)
	}
	if err != nil {
		return 0, 0, fmt.Errorf(`%q is not "uid" or "uid:gid": %w`, text, err)
	}
	return uid, gid, nil
}

// ParseIDRange reads "first-last" or "first:count", of at least one id.
func ParseIDRange(text string) (r IDRange, err error) {
	if first, last, ok := strings.Cut(text, "-"); ok {
		if r.First, err = parseID(first); err == nil {
			r.Last, err = parseID(last)
		}
	} else if first, count, ok := strings.Cut(text, ":"); ok {
		var n int
		if r.First, err = parseID(first); err == nil {
			n, err = parseID(count)
		}
		r.Last = r.First + n - 1
	} else {
		err = errors.New("neither - nor : in it")
	}
	if err == nil && (r.Last < r.First || r.Last > maxID) {
		err = fmt.Errorf("it ends at %d", r.Last)
	}
	if err != nil {
		return IDRange{}, fmt.Errorf(`%q is not "first-last" or "first:count": %w`, text, err)
	}
	return r, nil
}

func parseID(text string) (int, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err == nil && (id == 0 || id > maxID) {
		err = fmt.Errorf("%d is not between 1 and %d: nothing runs as root", id, maxID)
	}
	return int(id), err
}

// idLedger has the ids of living programs, so that no two share one: of all
// handlers of this process, and by locks on the bytes of a file with the ids'
// numbers (fcntl(2), open file description locks) of all other processes as well.
// A process that dies loses its locks.
type idLedger struct {
	mu    sync.Mutex
	file  *os.File
	inUse map[int]bool
	next  map[IDRange]int // where to look first: freed ids rest as long as can be
}

var hostIDs = idLedger{inUse: map[int]bool{}, next: map[IDRange]int{}}

const ledgerFile = "/run/proscenium.ids"

// open opens the file, once.
func (l *idLedger) open() (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		l.file, err = os.OpenFile(ledgerFile, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	}
	if err != nil {
		return fmt.Errorf("id_range: the ids that are in use are noted by locks: %w", err)
	}
	return nil
}

// take is an id of the range that no living program has.
func (l *idLedger) take(r IDRange) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := max(l.next[r], r.First)
	for range r.Last - r.First + 1 {
		if id > r.Last {
			id = r.First
		}
		if !l.inUse[id] {
			switch err := l.lock(id, unix.F_WRLCK); {
			case err == nil:
				l.inUse[id] = true
				l.next[r] = id + 1
				return id, nil
			case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES):
				return 0, fmt.Errorf("id_range: %s: %w", ledgerFile, err)
			}
		}
		id++
	}
	return 0, deny("id_range", "all %d ids from %d to %d are in use", r.Last-r.First+1, r.First, r.Last)
}

// release follows the end of everything that had the id. 0 is none.
func (l *idLedger) release(id int) {
	if id == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lock(id, unix.F_UNLCK)
	delete(l.inUse, id)
}

func (l *idLedger) lock(id int, kind int16) error {
	return unix.FcntlFlock(l.file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Start: int64(id), Len: 1})
}

// checkIdentity refuses ids that this host cannot give, and warns of those that
// somebody has already.
func (c *Config) checkIdentity() error {
	host, err := isolate.ThisHost()
	if err != nil {
		return err
	}
	uids := IDRange{c.Isolation.HostUID, c.Isolation.HostUID}
	spec := c.Isolation
	if c.IDRange != (IDRange{}) {
		uids = c.IDRange
		spec.HostUID, spec.HostGID = c.IDRange.First, c.IDRange.First
	}
	if err := spec.CheckIdentity(host); err != nil {
		return err
	}
	if c.IDRange != (IDRange{}) {
		if err := hostIDs.open(); err != nil {
			return err
		}
	}
	if host.Privileged && uids.First > 0 {
		for _, who := range holders(os.DirFS("/etc"), uids) {
			c.Logger.Warn("programs share ids with others of this host, who can reach them", "ids", fmt.Sprintf("%d-%d", uids.First, uids.Last), "of", who)
		}
	}
	return nil
}

// holders says whose the ids are by passwd(5) and subuid(5).
func holders(etc fs.FS, r IDRange) (who []string) {
	for _, file := range []struct {
		name         string
		first, count int // fields
	}{{"passwd", 2, -1}, {"subuid", 1, 2}} {
		b, _ := fs.ReadFile(etc, file.name)
		for line := range strings.Lines(string(b)) {
			f := strings.Split(strings.TrimSpace(line), ":")
			if len(f) <= max(file.first, file.count) {
				continue
			}
			first, err := strconv.Atoi(f[file.first])
			last := first
			if file.count >= 0 && err == nil {
				var count int
				count, err = strconv.Atoi(f[file.count])
				last = first + count - 1
			}
			if err == nil && first <= r.Last && last >= r.First {
				who = append(who, f[0]+" in /etc/"+file.name)
			}
		}
	}
	return who
}

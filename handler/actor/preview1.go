package actor

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"log/slog"
	"time"

	"github.com/proscenium-dev/proscenium/wit/canon"
	"github.com/tetratelabs/wazero/sys"
)

// WASI preview 1 for core modules: clocks, random numbers, short sleeps, and stdout
// and stderr into the log. What it has of descriptors is 0 to 2. wazero's own does
// not look whether the guest's time is up, and does in one call as much as the
// guest says.

const wasip1 = "wasi_snapshot_preview1"

// Error numbers.
const (
	errnoBadf   = 8
	errnoFault  = 21
	errnoInval  = 28
	errnoNosys  = 52
	errnoNotsup = 58
)

// Bounds of one call.
const (
	maxRandom   = 1 << 20 // bytes, as in package wasi
	maxSpans    = 1024    // that are written
	maxWrite    = 64 << 10
	maxWaits    = 1024
	maxSleep    = 10 * time.Millisecond // it holds up the actor's events; the guest sees by the clock that it was short
	subscribed  = 48                    // bytes of a subscription
	happened    = 32                    // of an event
	charDevice  = 2
	rightToRead = 1 << 1
	rightWrite  = 1 << 6
)

// wasiTypes are the parameters, one letter each. proc_exit alone returns nothing.
var wasiTypes = map[string]string{
	"args_get": "ii", "args_sizes_get": "ii", "environ_get": "ii", "environ_sizes_get": "ii",
	"clock_res_get": "ii", "clock_time_get": "iIi",
	"fd_advise": "iIIi", "fd_allocate": "iII", "fd_close": "i", "fd_datasync": "i", "fd_fdstat_get": "ii", "fd_fdstat_set_flags": "ii",
	"fd_fdstat_set_rights": "iII", "fd_filestat_get": "ii", "fd_filestat_set_size": "iI", "fd_filestat_set_times": "iIIi",
	"fd_pread": "iiiIi", "fd_prestat_get": "ii", "fd_prestat_dir_name": "iii", "fd_pwrite": "iiiIi", "fd_read": "iiii",
	"fd_readdir": "iiiIi", "fd_renumber": "ii", "fd_seek": "iIii", "fd_sync": "i", "fd_tell": "ii", "fd_write": "iiii",
	"path_create_directory": "iii", "path_filestat_get": "iiiii", "path_filestat_set_times": "iiiiIIi", "path_link": "iiiiiii",
	"path_open": "iiiiiIIii", "path_readlink": "iiiiii", "path_remove_directory": "iii", "path_rename": "iiiiii",
	"path_symlink": "iiiii", "path_unlink_file": "iii",
	"poll_oneoff": "iiii", "proc_exit": "i", "proc_raise": "i", "sched_yield": "", "random_get": "ii",
	"sock_accept": "iii", "sock_recv": "iiiiii", "sock_send": "iiiii", "sock_shutdown": "ii",
}

func init() {
	importSignatures[wasip1] = map[string]signature{}
	for name, letters := range wasiTypes {
		s := signature{results: params(i32)}
		for _, l := range letters {
			if l == 'I' {
				s.params = append(s.params, i64)
			} else {
				s.params = append(s.params, i32)
			}
		}
		if name == "proc_exit" {
			s.results = nil
		}
		importSignatures[wasip1][name] = s
	}
}

// whileAllocating are functions that a guest's runtime calls by itself, also in
// cabi_realloc: Go's collector reads the clock there.
var whileAllocating = map[string]bool{"clock_time_get": true, "sched_yield": true, "poll_oneoff": true, "fd_write": true}

// A wasiCall does what a function is for and returns an error number.
type wasiCall func(m canon.Memory, s []uint64) (errno uint64)

// wasi are the functions of preview 1. Those that are left out here have nothing
// to work on.
func (a *Actor) wasi() map[string]hostFunction {
	streams := [3]*lineLogger{
		1: {say: func(s string) { a.say(slog.LevelInfo, s) }},
		2: {say: func(s string) { a.say(slog.LevelWarn, s) }},
	}
	calls := map[string]wasiCall{
		"args_get": succeed, "environ_get": succeed, "sched_yield": succeed,
		"args_sizes_get": noStrings, "environ_sizes_get": noStrings,
		"clock_res_get":  func(m canon.Memory, s []uint64) uint64 { return clock(m, s[0], s[1], 1, 1) },
		"clock_time_get": a.clockTime,
		"fd_close":       ofStream, "fd_fdstat_set_flags": ofStream, "fd_fdstat_set_rights": ofStream,
		"fd_fdstat_get": streamStatus, "fd_filestat_get": streamFile,
		"fd_read": readNothing, "fd_write": func(m canon.Memory, s []uint64) uint64 { return writeStream(streams, m, s) },
		"poll_oneoff": poll, "random_get": randomGet,
		"proc_raise": func(canon.Memory, []uint64) uint64 { return errnoNosys },
		"proc_exit":  func(_ canon.Memory, s []uint64) uint64 { panic(sys.NewExitError(uint32(s[0]))) },
	}
	all := map[string]hostFunction{}
	for name := range wasiTypes {
		call := calls[name]
		if call == nil {
			call = func(canon.Memory, []uint64) uint64 { return errnoBadf }
		}
		all[name] = func(_ context.Context, g *canon.Lowerer, s []uint64) { s[0] = call(g.Memory, s) }
	}
	return all
}

func succeed(canon.Memory, []uint64) uint64 { return 0 }

// written is the error number of a store.
func written(ok bool) uint64 {
	if ok {
		return 0
	}
	return errnoFault
}

func noStrings(m canon.Memory, s []uint64) uint64 {
	return written(m.WriteUint32Le(uint32(s[0]), 0) && m.WriteUint32Le(uint32(s[1]), 0))
}

// clock stores the value of the clock with this number: the wall's or the
// monotonic one.
func clock(m canon.Memory, id, to, wall, monotonic uint64) uint64 {
	switch uint32(id) {
	case 0:
		return written(m.WriteUint64Le(uint32(to), wall))
	case 1:
		return written(m.WriteUint64Le(uint32(to), monotonic))
	}
	return errnoInval
}

func (a *Actor) clockTime(m canon.Memory, s []uint64) uint64 {
	return clock(m, s[0], s[2], uint64(time.Now().UnixNano()), uint64(time.Since(a.began))+1)
}

func isStream(fd uint64) bool { return uint32(fd) <= 2 }

// ofStream is what changes nothing.
func ofStream(_ canon.Memory, s []uint64) uint64 {
	if !isStream(s[0]) {
		return errnoBadf
	}
	return 0
}

func streamStatus(m canon.Memory, s []uint64) uint64 {
	if !isStream(s[0]) {
		return errnoBadf
	}
	b := make([]byte, 24)
	b[0] = charDevice
	rights := uint64(rightWrite)
	if uint32(s[0]) == 0 {
		rights = rightToRead
	}
	binary.LittleEndian.PutUint64(b[8:], rights)
	return written(m.Write(uint32(s[1]), b))
}

func streamFile(m canon.Memory, s []uint64) uint64 {
	if !isStream(s[0]) {
		return errnoBadf
	}
	b := make([]byte, 64)
	b[16] = charDevice
	return written(m.Write(uint32(s[1]), b))
}

// readNothing is at the end of stdin.
func readNothing(m canon.Memory, s []uint64) uint64 {
	if uint32(s[0]) != 0 {
		return errnoBadf
	}
	return written(m.WriteUint32Le(uint32(s[3]), 0))
}

// writeStream takes up to maxWrite bytes and says how many: a caller goes on with
// the rest.
func writeStream(streams [3]*lineLogger, m canon.Memory, s []uint64) uint64 {
	if !isStream(s[0]) || uint32(s[0]) == 0 {
		return errnoBadf
	}
	to := streams[uint32(s[0])]
	spans, ok := m.Read(uint32(s[1]), 8*uint32(min(uint64(uint32(s[2])), maxSpans)))
	if !ok {
		return errnoFault
	}
	n := 0
	for ; len(spans) > 0 && n < maxWrite; spans = spans[8:] {
		size := binary.LittleEndian.Uint32(spans[4:])
		data, ok := m.Read(binary.LittleEndian.Uint32(spans), min(size, uint32(maxWrite-n)))
		if !ok {
			return errnoFault
		}
		to.Write(data)
		n += len(data)
	}
	return written(m.WriteUint32Le(uint32(s[3]), uint32(n)))
}

// poll waits for clocks; everything else is ready at once, and as if it failed.
func poll(m canon.Memory, s []uint64) uint64 {
	n := uint32(s[2])
	if n == 0 || n > maxWaits {
		return errnoInval
	}
	in, ok := m.Read(uint32(s[0]), n*subscribed)
	if !ok {
		return errnoFault
	}
	events, least := make([]byte, 0, n*happened), maxSleep
	for ; len(in) > 0; in = in[subscribed:] {
		e := append(append(make([]byte, 0, happened), in[:8]...), make([]byte, happened-8)...)
		switch e[10] = in[8]; in[8] {
		case 0:
			if in[40]&1 != 0 {
				return errnoNotsup // until a moment
			}
			if t := binary.LittleEndian.Uint64(in[24:]); t < uint64(least) {
				least = time.Duration(t)
			}
		case 1, 2:
			e[8], least = errnoBadf, 0
		default:
			return errnoInval
		}
		events = append(events, e...)
	}
	time.Sleep(least)
	return written(m.Write(uint32(s[1]), events) && m.WriteUint32Le(uint32(s[3]), n))
}

func randomGet(m canon.Memory, s []uint64) uint64 {
	if uint32(s[1]) > maxRandom {
		panic(&canon.Trap{Reason: "it asks for more random bytes than 1 MiB"})
	}
	b, ok := m.Read(uint32(s[0]), uint32(s[1]))
	if ok {
		rand.Read(b)
	}
	return written(ok)
}

//go:build wasip1

// Package guest is for actors written in plain Go: one file with an Actor, and
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o actor.wasm
//
// makes a core module that Proscenium runs. See examples in hack/demo.d.
//
//	func init() { guest.Register(myActor{}) }
//	func main() {} // never called
//
// The host keeps the state: what a handler returns is what the next call gets,
// if the handler returned no error. Handlers are called one at a time.
package guest

import (
	"errors"
	"runtime"
	"unsafe"
)

// An Actor is what the host calls. State is nil before the first Init. The
// slices are the actor's to keep.
type Actor interface {
	Init(state []byte, id string) ([]byte, error)
	HandleStdout(state []byte, pid uint64, data []byte) ([]byte, error)
	HandleStderr(state []byte, pid uint64, data []byte) ([]byte, error)
	HandleExit(state []byte, pid uint64, code int32) ([]byte, error)
}

var registered Actor

// Register names the actor of this module; call it in an init function.
func Register(a Actor) { registered = a }

// A Mode is how output becomes events.
type Mode uint32

const (
	Raw Mode = iota
	Lines
	JSON
	Chunked
)

// A Config is what to start. The zero values of its sizes are the host's
// defaults.
type Config struct {
	Program    string // absolute
	Args       []string
	Cwd        string // "" is none
	Env        [][2]string
	BufferSize uint32
	Stdout     Mode
	Stderr     Mode
	ChunkSize  uint32 // 0 is none
}

// A Status is how a process is.
type Status struct {
	PID       uint64
	Running   bool
	ExitCode  int32   // if it is not running
	StartTime uint64  // milliseconds since 1970
	CPU       float32 // percent of one core since an os-status at least 20 ms ago
	Memory    uint64  // bytes
}

//go:wasmimport theater:simple/runtime log
func hostLog(ptr unsafe.Pointer, n uint32)

//go:wasmimport theater:simple/process os-spawn
func hostSpawn(program unsafe.Pointer, programLen uint32, args unsafe.Pointer, argsLen uint32,
	cwd uint32, cwdPtr unsafe.Pointer, cwdLen uint32, env unsafe.Pointer, envLen uint32,
	bufferSize, stdout, stderr, chunk, chunkSize uint32, ret unsafe.Pointer)

//go:wasmimport theater:simple/process-control os-spawn-limited
func hostSpawnLimited(parameters, ret unsafe.Pointer)

//go:wasmimport theater:simple/process-control os-report
func hostReport(pid uint64, ret unsafe.Pointer)

//go:wasmimport theater:simple/process os-write-stdin
func hostWriteStdin(pid uint64, ptr unsafe.Pointer, n uint32, ret unsafe.Pointer)

//go:wasmimport theater:simple/process os-status
func hostStatus(pid uint64, ret unsafe.Pointer)

//go:wasmimport theater:simple/process os-signal
func hostSignal(pid uint64, signal uint32, ret unsafe.Pointer)

//go:wasmimport theater:simple/process os-kill
func hostKill(pid uint64, ret unsafe.Pointer)

//go:wasmimport theater:simple/process-control os-close-stdin
func hostCloseStdin(pid uint64, ret unsafe.Pointer)

// A fat pointer, as strings and lists lie in memory.
type list struct{ ptr, n uint32 }

func bytesOf(l list) []byte {
	if l.n == 0 {
		return nil
	}
	return append([]byte(nil), unsafe.Slice((*byte)(at(l.ptr)), l.n)...)
}

// at is an address in linear memory as a pointer.
func at(address uint32) unsafe.Pointer { return unsafe.Add(unsafe.Pointer(nil), address) }

// area is where imports put their results. A package variable does not move,
// as something on a stack would when the host calls back into cabi_realloc.
var area [7]uint64

func ret() unsafe.Pointer { return unsafe.Pointer(&area) }

// result reads a result whose err is a string at the payload's offset.
func result(payload uintptr) error {
	defer release()
	if *(*byte)(ret()) == 0 {
		return nil
	}
	return errors.New(string(bytesOf(*(*list)(unsafe.Add(ret(), payload)))))
}

func pointer(b []byte) (unsafe.Pointer, uint32) {
	return unsafe.Pointer(unsafe.SliceData(b)), uint32(len(b))
}

func text(s string) (unsafe.Pointer, uint32) {
	return unsafe.Pointer(unsafe.StringData(s)), uint32(len(s))
}

func fat(s string) list {
	p, n := text(s)
	return list{uint32(uintptr(p)), n}
}

// Log writes to the actor's log.
func Log(msg string) {
	p, n := text(msg)
	hostLog(p, n)
	runtime.KeepAlive(msg)
}

// Spawn starts a program.
func Spawn(c Config) (pid uint64, err error) {
	args, env := c.lists()
	some := func(b bool) uint32 {
		if b {
			return 1
		}
		return 0
	}
	program, programLen := text(c.Program)
	cwd, cwdLen := text(c.Cwd)
	hostSpawn(program, programLen, unsafe.Pointer(&args[0]), uint32(len(c.Args)), some(c.Cwd != ""), cwd, cwdLen,
		unsafe.Pointer(&env[0]), uint32(len(c.Env)), c.BufferSize, uint32(c.Stdout), uint32(c.Stderr), some(c.ChunkSize != 0), c.ChunkSize, ret())
	runtime.KeepAlive(c)
	runtime.KeepAlive(args)
	runtime.KeepAlive(env)
	pid = area[1]
	return pid, result(8)
}

// lists are arguments and environment as they lie in memory, with one more, so that
// there is an address where there are none.
func (c Config) lists() (args []list, env [][2]list) {
	args, env = make([]list, len(c.Args)+1), make([][2]list, len(c.Env)+1)
	for i, a := range c.Args {
		args[i] = fat(a)
	}
	for i, e := range c.Env {
		env[i] = [2]list{fat(e[0]), fat(e[1])}
	}
	return args, env
}

// Limits are those of one process, tighter than the manifest's. Zero fields are the
// manifest's.
type Limits struct {
	Memory    uint64  // bytes
	CPU       float32 // cores
	Pids      uint32
	WallClock uint64 // milliseconds
}

// spawnLimited are the parameters of os-spawn-limited as they lie in memory:
// process-config and spawn-limits.
type spawnLimited struct {
	program           list
	args              list
	hasCwd            uint32
	cwd               list
	env               list
	bufferSize        uint32
	stdout, stderr    uint8
	_                 [2]byte
	hasChunk, chunk   uint32
	_                 uint32
	hasMemory, memory uint64
	hasCPU            uint32
	cpu               float32
	hasPids, pids     uint32
	hasWall, wall     uint64
}

// SpawnLimited starts a program under tighter limits.
func SpawnLimited(c Config, l Limits) (pid uint64, err error) {
	args, env := c.lists()
	p := &spawnLimited{
		program:    fat(c.Program),
		args:       list{uint32(uintptr(unsafe.Pointer(&args[0]))), uint32(len(c.Args))},
		cwd:        fat(c.Cwd),
		env:        list{uint32(uintptr(unsafe.Pointer(&env[0]))), uint32(len(c.Env))},
		bufferSize: c.BufferSize, stdout: uint8(c.Stdout), stderr: uint8(c.Stderr), chunk: c.ChunkSize,
		memory: l.Memory, cpu: l.CPU, pids: l.Pids, wall: l.WallClock,
	}
	for _, o := range []struct {
		there bool
		mark  *uint32
	}{{c.Cwd != "", &p.hasCwd}, {c.ChunkSize != 0, &p.hasChunk}, {l.CPU != 0, &p.hasCPU}, {l.Pids != 0, &p.hasPids}} {
		if o.there {
			*o.mark = 1
		}
	}
	if l.Memory != 0 {
		p.hasMemory = 1
	}
	if l.WallClock != 0 {
		p.hasWall = 1
	}
	hostSpawnLimited(unsafe.Pointer(p), ret())
	runtime.KeepAlive(c)
	runtime.KeepAlive(args)
	runtime.KeepAlive(env)
	runtime.KeepAlive(p)
	pid = area[1]
	return pid, result(8)
}

// A Reason is why a process ended.
type Reason uint8

const (
	Exited Reason = iota
	Signalled
	OutOfMemory
	TimedOut
	CPUTime
	OutputLimit
	Killed
	OutOfMemoryAbove
)

// A Report is how a process ended and what it used.
type Report struct {
	Reason                   Reason
	Signal                   uint32 // 0: none
	CPUTime                  uint64 // microseconds
	MemoryPeak               uint64 // bytes
	StdoutBytes, StderrBytes uint64
}

// GetReport asks for a process that has ended.
func GetReport(pid uint64) (Report, error) {
	hostReport(pid, ret())
	r := Report{Reason: Reason(*(*byte)(unsafe.Add(ret(), 8))), CPUTime: area[3], MemoryPeak: area[4], StdoutBytes: area[5], StderrBytes: area[6]}
	if *(*byte)(unsafe.Add(ret(), 12)) != 0 {
		r.Signal = *(*uint32)(unsafe.Add(ret(), 16))
	}
	if err := result(8); err != nil {
		return Report{}, err
	}
	return r, nil
}

// WriteStdin queues what fits and says how much that was; 0: the queue is full.
func WriteStdin(pid uint64, data []byte) (int, error) {
	p, n := pointer(data)
	hostWriteStdin(pid, p, n, ret())
	runtime.KeepAlive(data)
	took := *(*uint32)(unsafe.Add(ret(), 4))
	if err := result(4); err != nil {
		return 0, err
	}
	return int(took), nil
}

// CloseStdin lets the program read the end of its stdin, behind what is queued.
func CloseStdin(pid uint64) error {
	hostCloseStdin(pid, ret())
	return result(4)
}

// GetStatus asks for a process.
func GetStatus(pid uint64) (Status, error) {
	hostStatus(pid, ret())
	s := Status{
		PID:       area[1],
		Running:   *(*byte)(unsafe.Add(ret(), 16)) != 0,
		ExitCode:  *(*int32)(unsafe.Add(ret(), 24)),
		StartTime: area[4],
		CPU:       *(*float32)(unsafe.Add(ret(), 40)),
		Memory:    area[6],
	}
	if err := result(8); err != nil {
		return Status{}, err
	}
	return s, nil
}

// Signal sends a signal to the program.
func Signal(pid uint64, signal uint32) error {
	hostSignal(pid, signal, ret())
	return result(4)
}

// Kill kills the process and all that it started.
func Kill(pid uint64) error {
	hostKill(pid, ret())
	return result(4)
}

// allocated keeps what the host allocated until it has been read.
var allocated [][]byte

func release() { allocated = allocated[:0] }

//go:wasmexport cabi_realloc
func realloc(old, oldSize, align, size uint32) uint32 {
	b := make([]byte, size+align)
	if old != 0 {
		copy(b, unsafe.Slice((*byte)(at(old)), min(oldSize, size)))
	}
	allocated = append(allocated, b)
	address := uint32(uintptr(unsafe.Pointer(unsafe.SliceData(b))))
	return (address + align - 1) / align * align
}

// outcome is the result<tuple<option<list<u8>>>, string> of an export.
var outcome struct {
	kind uint32 // low byte: ok, err
	data [3]uint32
	kept []byte
}

// Export is what an exported function does around a handler: the state in, the
// outcome's address out. It is for packages that export further handlers.
func Export(some, ptr, n uint32, handle func(state []byte) ([]byte, error)) uint32 {
	return finish(handle(stateOf(some, ptr, n)))
}

// Bytes is a copy of a list<u8> that an exported function was given.
func Bytes(ptr, n uint32) []byte { return bytesOf(list{ptr, n}) }

func finish(state []byte, err error) uint32 {
	release()
	if err != nil {
		outcome.kept = []byte(err.Error())
		p, n := pointer(outcome.kept)
		outcome.kind, outcome.data = 1, [3]uint32{uint32(uintptr(p)), n}
	} else {
		outcome.kind, outcome.data, outcome.kept = 0, [3]uint32{}, state
		if state != nil {
			p, n := pointer(state)
			outcome.data = [3]uint32{1, uint32(uintptr(p)), n}
		}
	}
	return uint32(uintptr(unsafe.Pointer(&outcome)))
}

func stateOf(some, ptr, n uint32) []byte {
	if some == 0 {
		return nil
	}
	return append([]byte{}, bytesOf(list{ptr, n})...)
}

//go:wasmexport theater:simple/actor#init
func exportInit(some, ptr, n, id, idLen uint32) uint32 {
	return finish(registered.Init(stateOf(some, ptr, n), string(bytesOf(list{id, idLen}))))
}

//go:wasmexport theater:simple/process-handlers#handle-stdout
func exportStdout(some, ptr, n uint32, pid uint64, data, dataLen uint32) uint32 {
	return finish(registered.HandleStdout(stateOf(some, ptr, n), pid, bytesOf(list{data, dataLen})))
}

//go:wasmexport theater:simple/process-handlers#handle-stderr
func exportStderr(some, ptr, n uint32, pid uint64, data, dataLen uint32) uint32 {
	return finish(registered.HandleStderr(stateOf(some, ptr, n), pid, bytesOf(list{data, dataLen})))
}

//go:wasmexport theater:simple/process-handlers#handle-exit
func exportExit(some, ptr, n uint32, pid uint64, code int32) uint32 {
	return finish(registered.HandleExit(stateOf(some, ptr, n), pid, code))
}

package actor

import "fmt"

// hostileCases is every way to break the rules that we know, each with how it
// must end. The calls are in order but for what the parts say.
func hostileCases() (t table) {
	t.strings()
	t.lists()
	t.returnAreas()
	t.discriminants()
	t.parameters()
	t.operations()
	t.results()
	t.memory()
	t.endless()
	return t
}

// strings: each position in which a guest passes one, with what can be wrong
// with any of them.
func (t *table) strings() {
	positions := []struct {
		name     string
		op       op
		ptr, len uint32
		more     part
	}{
		{"program", opSpawn, pProgram, pProgramLen, both()},
		{"argument", opSpawn, 1000, 1004, both(point(pArgs, 0), set(pArgsLen, 1))},
		{"cwd", opSpawn, pCwdPtr, pCwdLen, set(pCwd, 1)},
		{"name of a variable", opSpawn, 1000, 1004, both(point(pEnv, 0), set(pEnvLen, 1), wordStr(8, "value"))},
		{"value of a variable", opSpawn, 1008, 1012, both(point(pEnv, 0), set(pEnvLen, 1), wordStr(0, "NAME"))},
		{"log", opLog, 0, 1, both()},
		{"err of the export", opReturn, 1004, 1008, failure()},
	}
	for _, p := range positions {
		for _, c := range []struct {
			name, bytes string
		}{
			{"overlong NUL", "\xc0\x80"},
			{"overlong slash", "\xe0\x80\xaf"},
			{"surrogate", "\xed\xa0\x80"},
			{"beyond 10FFFF", "\xf4\x90\x80\x80"},
			{"lone continuation", "a\x80"},
			{"cut short", "/\xe2\x82"},
			{"FF", "\xff"},
		} {
			t.add(p.name+": "+c.name, trap(notUTF8), p.op, p.more, point(p.ptr, 2048), set(p.len, uint64(len(c.bytes))), text(2048, c.bytes))
		}
		t.add(p.name+": one byte over the end", trap(outside), p.op, p.more, end(p.ptr, -1), set(p.len, 2))
		t.add(p.name+": 64-bit wrap", trap(outside), p.op, p.more, set(p.ptr, top-15), set(p.len, 0x20))
		t.add(p.name+": wrap to just 0", trap(outside), p.op, p.more, set(p.ptr, top-15), set(p.len, 16))
		t.add(p.name+": empty, behind the end", trap(outside), p.op, p.more, end(p.ptr, 1), set(p.len, 0))
		t.add(p.name+": empty, at the last address", trap(outside), p.op, p.more, set(p.ptr, top), set(p.len, 0))
		t.add(p.name+": as long as can be written", trap(tooLong), p.op, p.more, set(p.ptr, 0), set(p.len, top))
		t.add(p.name+": the longest that is legal", trap(outside), p.op, p.more, set(p.ptr, 0), set(p.len, 1<<28-1))
		t.add(p.name+": longer than legal by one", trap(tooLong), p.op, p.more, set(p.ptr, 0), set(p.len, 1<<28))
	}
	t.add("log: empty at the end is legal", fine, opLog, end(0, 0), set(1, 0))
	t.add("log: a NUL is legal", fine, opLog, str(0, "a\x00b"))
	t.add("log: oversized", fine, opLog, point(0, 0), set(1, 3<<20))
	t.add("log: more than the host copies", fine, opLog, set(0, 0), set(1, 5<<20))
}

// lists: of arguments and variables, and the bytes of a write.
func (t *table) lists() {
	for _, p := range []struct {
		name     string
		op       op
		ptr, len uint32
		size     uint64
	}{
		{"args", opSpawn, pArgs, pArgsLen, 8},
		{"env", opSpawn, pEnv, pEnvLen, 16},
		{"stdin", opWrite, 1, 2, 1},
	} {
		if p.size > 1 {
			for _, by := range []uint64{1, 2, 3} {
				t.add(fmt.Sprintf("%s: misaligned by %d", p.name, by), trap("is not aligned to 4"), p.op, point(p.ptr, by), set(p.len, 1))
			}
			t.add(p.name+": misaligned and empty", trap("is not aligned to 4"), p.op, set(p.ptr, 1), set(p.len, 0))
			t.add(p.name+": 2^32 bytes", trap(tooLong), p.op, point(p.ptr, 0), set(p.len, 1<<32/p.size))
			t.add(p.name+": 2^32 bytes and one element", trap(tooLong), p.op, point(p.ptr, 0), set(p.len, 1<<32/p.size+1))
		}
		t.add(p.name+": last element over the end", trap(outside), p.op, end(p.ptr, -int64(p.size)), set(p.len, 2))
		t.add(p.name+": at the last address", trap(outside), p.op, set(p.ptr, top&^3), set(p.len, 4))
		t.add(p.name+": empty, behind the end", trap(outside), p.op, end(p.ptr, 4), set(p.len, 0))
		t.add(p.name+": as long as can be written", trap(tooLong), p.op, point(p.ptr, 0), set(p.len, top))
	}
	t.starts(1, "args: empty at the end is legal", fine, opSpawn, end(pArgs, 0), set(pArgsLen, 0))
	t.starts(1, "env: empty at the end is legal", fine, opSpawn, end(pEnv, 0), set(pEnvLen, 0))
	t.add("args: 64 GiB of one string", refused(tooMuch), opSpawn, aliases(alias, 65536), point(pArgs, 0), set(pArgsLen, 65536))
	t.add("env: 64 GiB of one string", refused(tooMuch), opSpawn, aliases(alias, 65536), point(pEnv, 0), set(pEnvLen, 32768))
	t.add("args: more elements than fit", refused(tooMuch), opSpawn, aliases(empty, 300000), point(pArgs, 0), set(pArgsLen, 300000))
	t.add("args: too many", refused("4097 arguments are more than 4096"), opSpawn, aliases(empty, 4097), point(pArgs, 0), set(pArgsLen, 4097))
	t.add("env: too many", refused("1025 environment variables are more than 1024"), opSpawn, aliases(empty, 2050), point(pEnv, 0), set(pEnvLen, 1025))
	t.add("args: too long", refused("bytes are more than 524288"), opSpawn, aliases(alias, 3), point(pArgs, 0), set(pArgsLen, 3))
	t.add("stdin: empty", fine, opWrite, set(2, 0))
	t.add("stdin: empty at the end", fine, opWrite, end(1, 0), set(2, 0))
	t.add("stdin: all of memory", fine, opWrite, set(1, 0), end(2, 0))
	t.add("stdin: more than the queue, often", fine, opWrite, point(1, 0), set(2, 4<<20), again(20))
}

// returnAreas: checked before anything is done.
func (t *table) returnAreas() {
	for _, p := range []struct {
		name        string
		op          op
		ret         uint32
		size, align int64
	}{
		{"os-spawn", opSpawn, pRet, 16, 8},
		{"os-write-stdin", opWrite, 3, 12, 4},
		{"os-status", opStatus, 1, 56, 8},
		{"os-signal", opSignal, 2, 12, 4},
		{"os-kill", opKill, 1, 12, 4},
		{"os-close-stdin", opClose, 1, 12, 4},
		{"get-chain", opChain, 0, 8, 4},
	} {
		aligned := fmt.Sprintf("is not aligned to %d", p.align)
		t.add(p.name+": return area misaligned by 1", trap(aligned), p.op, point(p.ret, 1))
		t.add(p.name+": return area misaligned by half", trap(aligned), p.op, point(p.ret, uint64(p.align/2)))
		t.add(p.name+": return area over the end", trap(outside), p.op, end(p.ret, p.align-p.size/p.align*p.align))
		t.add(p.name+": return area behind the end", trap(outside), p.op, end(p.ret, 0))
		t.add(p.name+": return area at the last address", trap(outside), p.op, set(p.ret, uint64(top&^(p.align-1))))
	}
	t.starts(1, "os-spawn: return area at the end is legal", fine, opSpawn, end(pRet, -16))
	t.starts(0, "os-spawn: bad area and bad program", trap("is not aligned to 8"), opSpawn, point(pRet, 4), str(pProgram, ""))
}

// discriminants: flat, all 32 bits count; and the payload of another case does
// not.
func (t *table) discriminants() {
	for _, p := range []struct {
		name  string
		param uint32
		cases uint64
	}{{"cwd", pCwd, 2}, {"stdout-mode", pStdout, 4}, {"stderr-mode", pStderr, 4}, {"chunk-size", pChunk, 2}} {
		for _, v := range []uint64{p.cases, 255, 256, 1 << 31, top} {
			t.add(fmt.Sprintf("%s: case %d", p.name, v), trap(fmt.Sprintf("has no case %d", v)), opSpawn, set(p.param, v))
		}
	}
	t.starts(1, "cwd: none with a payload", fine, opSpawn, set(pCwd, 0), set(pCwdPtr, top), set(pCwdLen, top))
	t.starts(1, "chunk-size: none with a payload", fine, opSpawn, set(pStdout, 3), set(pChunk, 0), set(pChunkSize, top))
}

// parameters: legal for the ABI, and refused.
func (t *table) parameters() {
	for _, c := range []struct {
		name string
		want string
		what part
	}{
		{"program: empty", "parameters: the program is empty", str(pProgram, "")},
		{"program: relative", "is not an absolute path", str(pProgram, "echo")},
		{"program: a NUL", "contains a NUL byte", str(pProgram, "/usr/bin/echo\x00")},
		{"program: not allowed", "allowed_programs: /usr/bin/id is not allowed", str(pProgram, "/usr/bin/id")},
		{"program: not there", "allowed_programs: /nowhere is not allowed", str(pProgram, "/nowhere")},
		{"program: a directory", "allowed_programs: /usr/bin is not allowed", str(pProgram, "/usr/bin")},
		{"argument: a NUL", "argument 0 contains a NUL byte", arg("a\x00b")},
		{"cwd: empty", "is not an absolute path", cwd("")},
		{"cwd: relative", "is not an absolute path", cwd("share")},
		{"cwd: a NUL", "the working directory contains a NUL byte", cwd("/usr/share\x00/x")},
		{"cwd: out of an allowed path", "is not in an allowed path", cwd("/usr/share/../bin")},
		{"cwd: of a similar name", "is not in an allowed path", cwd("/usr/sharex")},
		{"env: = in a name", `the name "A=B" of an environment variable contains =`, env("A=B", "c")},
		{"env: an empty name", "the name of environment variable 0 is empty", env("", "c")},
		{"env: a NUL in a name", "contains a NUL byte", env("A\x00", "c")},
		{"env: a NUL in a value", "contains a NUL byte", env("A", "c\x00")},
		{"env: twice", "is given twice", env("A", "b", "A", "c")},
		{"env: LD_PRELOAD", "LD_PRELOAD changes which code runs", env("LD_PRELOAD", "/x.so")},
		{"buffer-size: huge", "max_output_buffer: buffer-size 4294967295 is more than 1048576", set(pBuffer, top)},
		{"chunk-size: 0", "chunk-size 0 makes no progress", both(set(pStdout, 3), set(pChunk, 1))},
		{"chunk-size: 0 of stderr", "chunk-size 0 makes no progress", both(set(pStderr, 3), set(pChunk, 1))},
		{"chunk-size: huge", "max_output_buffer: chunk-size 4294967295 is more than 1048576", both(set(pStdout, 3), set(pChunk, 1), set(pChunkSize, top))},
	} {
		t.add(c.name, refused(c.want), opSpawn, c.what)
	}
	t.starts(1, "buffer-size: 0", fine, opSpawn, set(pBuffer, 0))
	t.starts(1, "chunk-size: 0 where it does not matter", fine, opSpawn, set(pChunk, 1))
	t.starts(1, "chunk-size: 1", fine, opSpawn, set(pStdout, 3), set(pChunk, 1), set(pChunkSize, 1))
	t.starts(1, "program: by a detour", fine, opSpawn, str(pProgram, "/usr/bin/../bin/echo"))
	t.starts(1, "cwd: in an allowed path", fine, opSpawn, cwd("/usr/share/doc"))
	t.starts(1, "env: = in a value", fine, opSpawn, env("A", "b=c"))
	t.starts(many, "os-spawn: again and again", refused("max_processes: 10 processes are alive"), opSpawn, str(pProgram, "/usr/bin/sleep"), arg("1000"), again(20))
}

// operations on processes that are not there, and signals that are none.
func (t *table) operations() {
	for _, sig := range []uint64{0, 32, 33, 65, 256 + 9, top} {
		t.add(fmt.Sprintf("os-signal: %d", sig), refused(fmt.Sprintf("there is no signal %d to send", sig)), opSignal, set(1, sig))
	}
	t.add("os-signal: 64", fine, opSignal, set(1, 64))
	t.add("os-signal: STOP", fine, opSignal, set(1, 19))
	for _, o := range []struct {
		name string
		op   op
	}{{"os-write-stdin", opWrite}, {"os-status", opStatus}, {"os-signal", opSignal}, {"os-kill", opKill}, {"os-close-stdin", opClose}} {
		t.add(o.name+": pid 0", refused(unknown), o.op, set(0, 0))
		t.add(o.name+": pid 2^64-1", refused("process 18446744073709551615: "+unknown), o.op, set(0, 1<<64-1))
		t.add(o.name+": a pid of the host", refused(unknown), o.op, pid(100000))
		t.add(o.name+": a pid that is right in 32 bits", refused(unknown), o.op, pid(1<<32))
	}
	t.add("os-close-stdin: twice", refused("stdin is closed"), opClose, again(1))
}

// results of exports, in each of them.
func (t *table) results() {
	for _, in := range []struct {
		name   string
		moment moment
	}{{"init", inInit}, {"handle-stdout", inStdout}, {"handle-stderr", inStderr}, {"handle-exit", inExit}} {
		add := func(name string, want outcome, parts ...part) {
			t.add(in.name+": "+name, want, opReturn, during(in.moment), both(parts...))
		}
		add("result misaligned by 1", trap("is not aligned to 4"), point(0, 1))
		add("result at 0 is legal", fine, set(0, 0))
		add("result over the end", trap(outside), end(0, -12))
		add("result at the last address", trap(outside), set(0, top-3))
		add("result of case 2", trap("result has no case 2"), word(0, 2))
		add("state of case 255", trap("state has no case 255"), word(4, 255))
	}
	t.add("result misaligned by 2", trap("is not aligned to 4"), opReturn, point(0, 2))
	t.add("result behind the end", trap(outside), opReturn, end(0, 0))
	t.add("result of case 255", trap("result has no case 255"), opReturn, word(0, 255))
	t.add("result of case 256: one byte counts", fine, opReturn, word(0, 256))
	t.add("result: payload of err is not read", fine, opReturn, word(0, 0), word(4, 0), word(8, top), word(12, top))
	t.add("state of case 2", trap("state has no case 2"), opReturn, word(4, 2))
	t.add("state of case 256: one byte counts", fine, opReturn, word(4, 256))
	t.add("state over the end", trap(outside), opReturn, state(wordEnd(8, -1), word(12, 2)))
	t.add("state: 64-bit wrap", trap(outside), opReturn, state(word(8, top), word(12, 2)))
	t.add("state: empty, behind the end", trap(outside), opReturn, state(wordEnd(8, 1), word(12, 0)))
	t.add("state: as long as can be written", trap(tooLong), opReturn, state(word(8, 0), word(12, top)))
	t.add("state: all of memory", fine, opReturn, state(word(8, 0), wordEnd(12, 0)))
	t.add("state: more than the host keeps", limit("a state of 68157440 bytes is more than 67108864"), opReturn, roomy, set(1, 1040), state(word(8, 0), word(12, 65<<20)))
	t.add("err: empty", refused(""), opReturn, failure(wordStr(4, "")))
	t.add("err: a NUL and a newline", refused(`a\x00b\nc`), opReturn, failure(wordStr(4, "a\x00b\nc")))
	t.add("err: 1 MiB", refused("xxx"), opReturn, aliases(alias, 1), failure(wordPoint(4, 3<<20), word(8, 1<<20)))
	t.add("err: more than the host copies", limit("the call passes more data than the host takes"), opReturn, roomy, set(1, 1040), failure(word(4, 0), word(8, 65<<20)))
}

// memory: what cabi_realloc and post-return functions may not do.
func (t *table) memory() {
	// An err makes the host allocate while the guest is in an import; an event
	// makes it allocate before the call.
	reallocating := []struct {
		name  string
		op    op
		parts part
		well  outcome
	}{
		{"for an err", opStatus, pid(1), refused(unknown)},
		{"for an event", opNothing, during(inStdout), fine},
	}
	for _, in := range reallocating {
		for _, h := range []struct {
			name  string
			habit habit
			want  outcome
		}{
			{"far out of memory", far, trap("cabi_realloc's memory at 0xfffffff0")},
			{"over the end", overEnd, trap(outside)},
			{"at the end is legal", atEnd, in.well},
			{"0 is legal", zero, in.well},
			{"odd addresses are legal for bytes", misaligned, in.well},
			{"memory may grow", grows, in.well},
			{"loops", loops, deadline},
			{"traps", traps, engine("unreachable")},
			{"calls log", callsLog, trap("log " + noLeave)},
			{"calls os-spawn", callsSpawn, trap("os-spawn " + noLeave)},
		} {
			t.add("cabi_realloc "+in.name+": "+h.name, h.want, in.op, in.parts, reallocates(h.habit))
		}
	}
	t.add("cabi_realloc for the chain: misaligned", trap("not aligned to 8"), opChain, reallocates(misaligned))
	t.add("cabi_realloc for the chain: memory may grow", fine, opChain, reallocates(grows))
	t.add("cabi_realloc for the chain: loops", deadline, opChain, reallocates(loops))
	for _, in := range []moment{inInit, inStdout, inExit} {
		for _, h := range []struct {
			name  string
			habit habit
			want  outcome
		}{
			{"loops", loops, deadline},
			{"traps", traps, engine("unreachable")},
			{"calls log", callsLog, trap("log " + noLeave)},
			{"calls os-spawn", callsSpawn, trap("os-spawn " + noLeave)},
		} {
			t.add(fmt.Sprintf("post-return %s (moment %d)", h.name, in), h.want, opNothing, during(in), postReturns(h.habit))
		}
	}
	for _, pages := range []uint64{1, 16, 65535, top} {
		t.add(fmt.Sprintf("memory grows by %d pages until it fails", pages), fine, opGrow, set(0, pages))
	}
}

// endless: in the guest, and through the host.
func (t *table) endless() {
	for _, in := range []moment{inInit, inStdout, inStderr, inExit} {
		t.add(fmt.Sprintf("endless loop (moment %d)", in), deadline, opLoop, during(in))
		t.add(fmt.Sprintf("trap (moment %d)", in), engine("unreachable"), opTrap, during(in))
		t.add(fmt.Sprintf("endless recursion (moment %d)", in), engine("stack overflow"), opRecurse, during(in))
	}
	t.add("endless log", deadline, opLog, again(top))
	t.add("endless os-status", deadline, opStatus, again(top))
	t.add("endless os-write-stdin", deadline, opWrite, point(1, 0), set(2, 4<<20), again(top))
	t.add("endless get-chain", deadline, opChain, again(top))
	t.add("endless err", deadline, opKill, pid(1), again(top))
	t.add("endless denial", deadline, opSpawn, str(pProgram, "/usr/bin/id"), again(top))
	t.starts(many, "endless os-spawn", deadline, opSpawn, again(top))
}

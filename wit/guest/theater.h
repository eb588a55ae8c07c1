/*
 * theater.h: actors in C, without a C library. One file an actor:
 *
 *     #include "theater.h"
 *
 *     struct theater_result *theater_init(struct theater_state s, struct theater_bytes id)
 *     {
 *             theater_log(THEATER_STR("I am here"));
 *             return theater_ok(s);
 *     }
 *     ... theater_stdout, theater_stderr and theater_exit likewise
 *
 *     clang --target=wasm32 -O2 -mbulk-memory -ffreestanding -nostdlib \
 *             -Wl,--no-entry -I <here> -o actor.wasm actor.c
 *
 * makes a core module that Proscenium runs (Debian: clang, lld). It includes
 * definitions as well as declarations: include it in one file only.
 *
 * The host keeps the state: what a handler returns is what the next call gets,
 * if the handler returned no error. Handlers are called one at a time.
 *
 * Memory is of one kind: theater_alloc's, which lasts until the host has read
 * the result of the call that is running; then all of it is taken back. What a
 * handler is given, the errors that imports return and what theater_alloc gave
 * belong there. What must last longer belongs into the state or into variables.
 *
 * Before the include may be defined:
 *
 *     THEATER_CM32P2      the names of wit-component's "standard32" instead of
 *                         wit-bindgen's. The memory must then be exported as
 *                         cm32p2_memory: -Wl,--export-memory=cm32p2_memory, from
 *                         lld 16 on.
 *     THEATER_OWN_MEMORY  the actor defines cabi_realloc and the post-return
 *                         functions itself; with that goes theater_alloc.
 *     THEATER_OWN_EXPORTS the actor defines the exports itself.
 *     THEATER_BATCH       output comes in batches: the actor defines
 *                         theater_stdout_batch and theater_stderr_batch as well.
 */
#ifndef THEATER_H
#define THEATER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Names. An import is module + field; an export is one string. */

#define THEATER_RUNTIME  "theater:simple/runtime"
#define THEATER_PROCESS  "theater:simple/process"
#define THEATER_CONTROL  "theater:simple/process-control"
#define THEATER_ACTOR    "theater:simple/actor"
#define THEATER_HANDLERS "theater:simple/process-handlers"
#define THEATER_BATCHES  "theater:simple/process-batch-handlers"

#ifdef THEATER_CM32P2
#define THEATER_MODULE(interface)         "cm32p2|" interface
#define THEATER_NAME(interface, function) "cm32p2|" interface "|" function
#define THEATER_POST(interface, function) "cm32p2|" interface "|" function "_post"
#define THEATER_REALLOC                   "cm32p2_realloc"
#define THEATER_INITIALIZE                "cm32p2_initialize"
#else
#define THEATER_MODULE(interface)         interface
#define THEATER_NAME(interface, function) interface "#" function
#define THEATER_POST(interface, function) "cabi_post_" interface "#" function
#define THEATER_REALLOC                   "cabi_realloc"
#define THEATER_INITIALIZE                "_initialize"
#endif

#define THEATER_IMPORT(interface, function) \
	__attribute__((import_module(THEATER_MODULE(interface)), import_name(function)))
#define THEATER_EXPORT(name) __attribute__((export_name(name)))

/* Types, as the canonical ABI lays them out: little endian, pointers of 32 bits. */

#define THEATER_LAYOUT(type, size, align) \
	_Static_assert(sizeof(type) == (size) && _Alignof(type) == (align), #type)
#define THEATER_AT(type, field, offset) \
	_Static_assert(offsetof(type, field) == (offset), #type "." #field)

/* string and list<u8>. A string is UTF-8 and has no NUL behind it. */
struct theater_bytes {
	const uint8_t *ptr;
	uint32_t len;
};
THEATER_LAYOUT(struct theater_bytes, 8, 4);

/* tuple<string, string> */
struct theater_pair {
	struct theater_bytes name, value;
};
THEATER_LAYOUT(struct theater_pair, 16, 4);

/* state: option<list<u8>> */
struct theater_state {
	uint8_t some;
	struct theater_bytes bytes;
};
THEATER_LAYOUT(struct theater_state, 12, 4);
THEATER_AT(struct theater_state, bytes, 4);

/* result<tuple<state>, string>, which all exports return */
struct theater_result {
	uint8_t err;
	union {
		struct theater_state state;
		struct theater_bytes error;
	};
};
THEATER_LAYOUT(struct theater_result, 16, 4);
THEATER_AT(struct theater_result, state, 4);
THEATER_AT(struct theater_result, error, 4);

/* result<u64, string>, of os-spawn */
struct theater_u64_result {
	uint8_t err;
	union {
		uint64_t value;
		struct theater_bytes error;
	};
};
THEATER_LAYOUT(struct theater_u64_result, 16, 8);
THEATER_AT(struct theater_u64_result, value, 8);
THEATER_AT(struct theater_u64_result, error, 8);

/* result<u32, string>, of os-write-stdin; and result<_, string>, where value
 * means nothing */
struct theater_u32_result {
	uint8_t err;
	union {
		uint32_t value;
		struct theater_bytes error;
	};
};
THEATER_LAYOUT(struct theater_u32_result, 12, 4);
THEATER_AT(struct theater_u32_result, value, 4);
THEATER_AT(struct theater_u32_result, error, 4);

/* process-status */
struct theater_status {
	uint64_t pid;
	uint8_t running;
	struct {
		uint8_t some; /* it is not running */
		int32_t value;
	} exit_code;
	uint64_t start_time;   /* milliseconds since 1970 */
	float cpu_usage;       /* percent of one core since an os-status at least 20 ms ago */
	uint64_t memory_usage; /* bytes */
};
THEATER_LAYOUT(struct theater_status, 48, 8);
THEATER_AT(struct theater_status, running, 8);
THEATER_AT(struct theater_status, exit_code, 12);
THEATER_AT(struct theater_status, exit_code.value, 16);
THEATER_AT(struct theater_status, start_time, 24);
THEATER_AT(struct theater_status, cpu_usage, 32);
THEATER_AT(struct theater_status, memory_usage, 40);

/* result<process-status, string>, of os-status */
struct theater_status_result {
	uint8_t err;
	union {
		struct theater_status status;
		struct theater_bytes error;
	};
};
THEATER_LAYOUT(struct theater_status_result, 56, 8);
THEATER_AT(struct theater_status_result, status, 8);
THEATER_AT(struct theater_status_result, error, 8);

/* The parameters of os-spawn-limited, which are too many for the stack:
 * process-config and spawn-limits */
struct theater_spawn_limited {
	struct theater_bytes program;
	const struct theater_bytes *args;
	uint32_t args_len;
	struct theater_state cwd; /* an option<string> looks the same */
	const struct theater_pair *env;
	uint32_t env_len, buffer_size;
	uint8_t stdout_mode, stderr_mode;
	struct { uint8_t some; uint32_t value; } chunk_size;
	struct { uint8_t some; uint64_t value; } memory;
	struct { uint8_t some; float value; } cpu;
	struct { uint8_t some; uint32_t value; } pids;
	struct { uint8_t some; uint64_t value; } wall_clock;
};
THEATER_LAYOUT(struct theater_spawn_limited, 104, 8);
THEATER_AT(struct theater_spawn_limited, cwd, 16);
THEATER_AT(struct theater_spawn_limited, env, 28);
THEATER_AT(struct theater_spawn_limited, stdout_mode, 40);
THEATER_AT(struct theater_spawn_limited, chunk_size, 44);
THEATER_AT(struct theater_spawn_limited, memory, 56);
THEATER_AT(struct theater_spawn_limited, cpu, 72);
THEATER_AT(struct theater_spawn_limited, pids, 80);
THEATER_AT(struct theater_spawn_limited, wall_clock, 88);

enum theater_reason {
	THEATER_EXITED, THEATER_SIGNALLED, THEATER_OUT_OF_MEMORY, THEATER_TIMED_OUT,
	THEATER_CPU_TIME, THEATER_OUTPUT_LIMIT, THEATER_KILLED, THEATER_OUT_OF_MEMORY_ABOVE
};

/* exit-report */
struct theater_report {
	uint8_t reason; /* enum theater_reason */
	struct {
		uint8_t some;
		uint32_t value;
	} signal;
	uint64_t cpu_time;    /* microseconds */
	uint64_t memory_peak; /* bytes */
	uint64_t stdout_bytes, stderr_bytes;
};
THEATER_LAYOUT(struct theater_report, 48, 8);
THEATER_AT(struct theater_report, signal, 4);
THEATER_AT(struct theater_report, cpu_time, 16);

/* result<exit-report, string>, of os-report */
struct theater_report_result {
	uint8_t err;
	union {
		struct theater_report report;
		struct theater_bytes error;
	};
};
THEATER_LAYOUT(struct theater_report_result, 56, 8);
THEATER_AT(struct theater_report_result, report, 8);

/* A batch: events one after the other, each ending where ends says. */
struct theater_batch {
	struct theater_bytes data;
	const uint32_t *ends;
	uint32_t len;
};

/* meta-event, of get-chain */
struct theater_link {
	uint64_t hash;
	struct theater_bytes event_type;
	uint8_t has_parent;
	uint64_t parent;
	struct theater_bytes data; /* JSON */
};
THEATER_LAYOUT(struct theater_link, 40, 8);
THEATER_AT(struct theater_link, event_type, 8);
THEATER_AT(struct theater_link, has_parent, 16);
THEATER_AT(struct theater_link, parent, 24);
THEATER_AT(struct theater_link, data, 32);

struct theater_chain {
	const struct theater_link *ptr;
	uint32_t len;
};
THEATER_LAYOUT(struct theater_chain, 8, 4);

enum theater_mode { THEATER_RAW, THEATER_LINES, THEATER_JSON, THEATER_CHUNKED };

/* Imports, lowered: parameters flat, the result at the last one's address. Every
 * field of os-spawn's record is a parameter of its own. What an actor does not
 * call is not imported. */

THEATER_IMPORT(THEATER_RUNTIME, "log")
void theater_import_log(const uint8_t *ptr, uint32_t len);

THEATER_IMPORT(THEATER_RUNTIME, "get-chain")
void theater_import_get_chain(struct theater_chain *ret);

THEATER_IMPORT(THEATER_PROCESS, "os-spawn")
void theater_import_spawn(const uint8_t *program, uint32_t program_len,
	const struct theater_bytes *args, uint32_t args_len,
	uint32_t has_cwd, const uint8_t *cwd, uint32_t cwd_len,
	const struct theater_pair *env, uint32_t env_len,
	uint32_t buffer_size, uint32_t stdout_mode, uint32_t stderr_mode,
	uint32_t has_chunk_size, uint32_t chunk_size, struct theater_u64_result *ret);

THEATER_IMPORT(THEATER_PROCESS, "os-write-stdin")
void theater_import_write(uint64_t pid, const uint8_t *ptr, uint32_t len, struct theater_u32_result *ret);

THEATER_IMPORT(THEATER_PROCESS, "os-status")
void theater_import_status(uint64_t pid, struct theater_status_result *ret);

THEATER_IMPORT(THEATER_PROCESS, "os-signal")
void theater_import_signal(uint64_t pid, uint32_t signal, struct theater_u32_result *ret);

THEATER_IMPORT(THEATER_PROCESS, "os-kill")
void theater_import_kill(uint64_t pid, struct theater_u32_result *ret);

THEATER_IMPORT(THEATER_CONTROL, "os-close-stdin")
void theater_import_close_stdin(uint64_t pid, struct theater_u32_result *ret);

THEATER_IMPORT(THEATER_CONTROL, "os-spawn-limited")
void theater_import_spawn_limited(const struct theater_spawn_limited *parameters, struct theater_u64_result *ret);

THEATER_IMPORT(THEATER_CONTROL, "os-report")
void theater_import_report(uint64_t pid, struct theater_report_result *ret);

/* What an actor defines. */

#ifndef THEATER_OWN_EXPORTS
struct theater_result *theater_init(struct theater_state state, struct theater_bytes id);
struct theater_result *theater_stdout(struct theater_state state, uint64_t pid, struct theater_bytes data);
struct theater_result *theater_stderr(struct theater_state state, uint64_t pid, struct theater_bytes data);
struct theater_result *theater_exit(struct theater_state state, uint64_t pid, int32_t code);
#ifdef THEATER_BATCH
struct theater_result *theater_stdout_batch(struct theater_state state, uint64_t pid, struct theater_batch batch);
struct theater_result *theater_stderr_batch(struct theater_state state, uint64_t pid, struct theater_batch batch);
#endif
#endif

/* Memory. */

#ifndef THEATER_OWN_MEMORY
extern uint8_t __heap_base; /* the linker's: the first byte that nothing uses */

static uintptr_t theater_top;

/* theater_alloc traps where memory has reached its limit. */
static void *theater_alloc(uint32_t size, uint32_t align)
{
	uint64_t at = theater_top ? theater_top : (uintptr_t)&__heap_base;
	at = (at + align - 1) / align * align;
	uint64_t have = (uint64_t)__builtin_wasm_memory_size(0) << 16;
	if (at + size > have && __builtin_wasm_memory_grow(0, (at + size - have + 0xffff) >> 16) == (size_t)-1)
		__builtin_trap();
	theater_top = at + size;
	return (void *)(uintptr_t)at;
}

static void theater_reset(void) { theater_top = 0; }

/* The host wants memory for what it passes; old is never anything but null. */
THEATER_EXPORT(THEATER_REALLOC)
void *theater_realloc(const void *old, uint32_t old_size, uint32_t align, uint32_t size)
{
	void *p = theater_alloc(size, align);
	if (old)
		__builtin_memcpy(p, old, old_size < size ? old_size : size);
	return p;
}

/* The host has read the result. */
THEATER_EXPORT(THEATER_POST(THEATER_ACTOR, "init"))
void theater_post_init(void *result) { theater_reset(); }
THEATER_EXPORT(THEATER_POST(THEATER_HANDLERS, "handle-stdout"))
void theater_post_stdout(void *result) { theater_reset(); }
THEATER_EXPORT(THEATER_POST(THEATER_HANDLERS, "handle-stderr"))
void theater_post_stderr(void *result) { theater_reset(); }
THEATER_EXPORT(THEATER_POST(THEATER_HANDLERS, "handle-exit"))
void theater_post_exit(void *result) { theater_reset(); }
#ifdef THEATER_BATCH
THEATER_EXPORT(THEATER_POST(THEATER_BATCHES, "handle-stdout-batch"))
void theater_post_stdout_batch(void *result) { theater_reset(); }
THEATER_EXPORT(THEATER_POST(THEATER_BATCHES, "handle-stderr-batch"))
void theater_post_stderr_batch(void *result) { theater_reset(); }
#endif
#endif

/* Bytes. */

#define THEATER_STR(literal) ((struct theater_bytes){(const uint8_t *)("" literal), sizeof(literal) - 1})

#ifndef THEATER_OWN_MEMORY
static inline struct theater_bytes theater_join(struct theater_bytes a, struct theater_bytes b)
{
	uint8_t *p = theater_alloc(a.len + b.len, 1);
	__builtin_memcpy(p, a.ptr, a.len);
	__builtin_memcpy(p + a.len, b.ptr, b.len);
	return (struct theater_bytes){p, a.len + b.len};
}

/* theater_number is n in decimal. */
static inline struct theater_bytes theater_number(uint64_t n)
{
	uint8_t *end = (uint8_t *)theater_alloc(20, 1) + 20, *p = end;
	do
		*--p = '0' + n % 10;
	while (n /= 10);
	return (struct theater_bytes){p, (uint32_t)(end - p)};
}
#endif

static inline bool theater_equal(struct theater_bytes a, struct theater_bytes b)
{
	if (a.len != b.len)
		return false;
	for (uint32_t i = 0; i < a.len; i++)
		if (a.ptr[i] != b.ptr[i])
			return false;
	return true;
}

/* Results of exports. There is one, which the host reads before it calls again. */

static struct theater_result theater_result;

static inline struct theater_state theater_some(struct theater_bytes b) { return (struct theater_state){1, b}; }
static inline struct theater_state theater_none(void) { return (struct theater_state){0}; }

static inline struct theater_result *theater_ok(struct theater_state s)
{
	theater_result.err = 0;
	theater_result.state = s;
	return &theater_result;
}

static inline struct theater_result *theater_ok_bytes(struct theater_bytes b) { return theater_ok(theater_some(b)); }

static inline struct theater_result *theater_err(struct theater_bytes text)
{
	theater_result.err = 1;
	theater_result.error = text;
	return &theater_result;
}

/* Operations. Those that can fail return true if they did not; otherwise *error,
 * if error is not null, says why. */

static inline bool theater_outcome(uint8_t err, struct theater_bytes text, struct theater_bytes *error)
{
	if (err && error)
		*error = text;
	return !err;
}

static inline void theater_log(struct theater_bytes text) { theater_import_log(text.ptr, text.len); }

static inline struct theater_chain theater_get_chain(void)
{
	struct theater_chain c;
	theater_import_get_chain(&c);
	return c;
}

/* What to start. A zero cwd is none, zero sizes are the host's defaults. */
struct theater_process {
	struct theater_bytes program; /* absolute */
	const struct theater_bytes *args;
	uint32_t args_len;
	struct theater_bytes cwd;
	const struct theater_pair *env;
	uint32_t env_len;
	uint32_t buffer_size;
	enum theater_mode stdout_mode, stderr_mode;
	uint32_t chunk_size;
};

static inline bool os_spawn(const struct theater_process *p, uint64_t *pid, struct theater_bytes *error)
{
	struct theater_u64_result r;
	theater_import_spawn(p->program.ptr, p->program.len, p->args, p->args_len,
		p->cwd.len != 0, p->cwd.ptr, p->cwd.len, p->env, p->env_len,
		p->buffer_size, p->stdout_mode, p->stderr_mode, p->chunk_size != 0, p->chunk_size, &r);
	if (!r.err)
		*pid = r.value;
	return theater_outcome(r.err, r.error, error);
}

/* What a process may use, below the manifest's limits. Zero is the manifest's. */
struct theater_limits {
	uint64_t memory;     /* bytes */
	float cpu;           /* cores */
	uint32_t pids;
	uint64_t wall_clock; /* milliseconds */
};

static inline bool os_spawn_limited(const struct theater_process *p, struct theater_limits l, uint64_t *pid, struct theater_bytes *error)
{
	struct theater_spawn_limited s = {
		.program = p->program, .args = p->args, .args_len = p->args_len,
		.cwd = {p->cwd.len != 0, p->cwd}, .env = p->env, .env_len = p->env_len,
		.buffer_size = p->buffer_size, .stdout_mode = p->stdout_mode, .stderr_mode = p->stderr_mode,
		.chunk_size = {p->chunk_size != 0, p->chunk_size},
		.memory = {l.memory != 0, l.memory}, .cpu = {l.cpu != 0, l.cpu},
		.pids = {l.pids != 0, l.pids}, .wall_clock = {l.wall_clock != 0, l.wall_clock},
	};
	struct theater_u64_result r;
	theater_import_spawn_limited(&s, &r);
	if (!r.err)
		*pid = r.value;
	return theater_outcome(r.err, r.error, error);
}

/* os_report answers for a process that has ended. */
static inline bool os_report(uint64_t pid, struct theater_report *report, struct theater_bytes *error)
{
	struct theater_report_result r;
	theater_import_report(pid, &r);
	if (!r.err)
		*report = r.report;
	return theater_outcome(r.err, r.error, error);
}

/* os_write_stdin queues what fits; *took says how much that was. */
static inline bool os_write_stdin(uint64_t pid, struct theater_bytes data, uint32_t *took, struct theater_bytes *error)
{
	struct theater_u32_result r;
	theater_import_write(pid, data.ptr, data.len, &r);
	*took = r.err ? 0 : r.value;
	return theater_outcome(r.err, r.error, error);
}

/* os_close_stdin lets the program read the end, behind what is queued. */
static inline bool os_close_stdin(uint64_t pid, struct theater_bytes *error)
{
	struct theater_u32_result r;
	theater_import_close_stdin(pid, &r);
	return theater_outcome(r.err, r.error, error);
}

static inline bool os_status(uint64_t pid, struct theater_status *status, struct theater_bytes *error)
{
	struct theater_status_result r;
	theater_import_status(pid, &r);
	if (!r.err)
		*status = r.status;
	return theater_outcome(r.err, r.error, error);
}

static inline bool os_signal(uint64_t pid, uint32_t signal, struct theater_bytes *error)
{
	struct theater_u32_result r;
	theater_import_signal(pid, signal, &r);
	return theater_outcome(r.err, r.error, error);
}

static inline bool os_kill(uint64_t pid, struct theater_bytes *error)
{
	struct theater_u32_result r;
	theater_import_kill(pid, &r);
	return theater_outcome(r.err, r.error, error);
}

/* Exports, lowered. */

#ifndef THEATER_OWN_EXPORTS
#define THEATER_STATE_PARAMS uint32_t some, const uint8_t *ptr, uint32_t len
#define THEATER_STATE_OF     ((struct theater_state){some != 0, {ptr, len}})

THEATER_EXPORT(THEATER_NAME(THEATER_ACTOR, "init"))
struct theater_result *theater_export_init(THEATER_STATE_PARAMS, const uint8_t *id, uint32_t id_len)
{
	return theater_init(THEATER_STATE_OF, (struct theater_bytes){id, id_len});
}

THEATER_EXPORT(THEATER_NAME(THEATER_HANDLERS, "handle-stdout"))
struct theater_result *theater_export_stdout(THEATER_STATE_PARAMS, uint64_t pid, const uint8_t *data, uint32_t data_len)
{
	return theater_stdout(THEATER_STATE_OF, pid, (struct theater_bytes){data, data_len});
}

THEATER_EXPORT(THEATER_NAME(THEATER_HANDLERS, "handle-stderr"))
struct theater_result *theater_export_stderr(THEATER_STATE_PARAMS, uint64_t pid, const uint8_t *data, uint32_t data_len)
{
	return theater_stderr(THEATER_STATE_OF, pid, (struct theater_bytes){data, data_len});
}

THEATER_EXPORT(THEATER_NAME(THEATER_HANDLERS, "handle-exit"))
struct theater_result *theater_export_exit(THEATER_STATE_PARAMS, uint64_t pid, int32_t code)
{
	return theater_exit(THEATER_STATE_OF, pid, code);
}

#ifdef THEATER_BATCH
#define THEATER_BATCH_PARAMS const uint8_t *data, uint32_t data_len, const uint32_t *ends, uint32_t count
#define THEATER_BATCH_OF     ((struct theater_batch){{data, data_len}, ends, count})

THEATER_EXPORT(THEATER_NAME(THEATER_BATCHES, "handle-stdout-batch"))
struct theater_result *theater_export_stdout_batch(THEATER_STATE_PARAMS, uint64_t pid, THEATER_BATCH_PARAMS)
{
	return theater_stdout_batch(THEATER_STATE_OF, pid, THEATER_BATCH_OF);
}

THEATER_EXPORT(THEATER_NAME(THEATER_BATCHES, "handle-stderr-batch"))
struct theater_result *theater_export_stderr_batch(THEATER_STATE_PARAMS, uint64_t pid, THEATER_BATCH_PARAMS)
{
	return theater_stderr_batch(THEATER_STATE_OF, pid, THEATER_BATCH_OF);
}
#endif
#endif

#endif

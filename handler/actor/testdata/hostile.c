/* An actor that does one hostile thing, which its initial state describes: an
 * order, as hostile_test.go writes it. With it runs a victim, a program that has
 * to die with the actor. Its state after a call that went well is "ok".
 *
 * -DINITIALIZE=n: the module's _initialize does it instead, without an order. */
#define THEATER_OWN_MEMORY
#define THEATER_OWN_EXPORTS
#include "theater.h"

enum op {
	NOTHING, SPAWN, WRITE, STATUS, SIGNAL, KILL, CLOSE, LOG, CHAIN,
	RETURN,  /* from the export: parameter 0 is the address; memory has grown by
	          * parameter 1 pages */
	TRAP, LOOP,
	RECURSE, /* without end */
	GROW,    /* by parameter 0 pages, until it fails */
};

enum when { IN_INIT, IN_STDOUT, IN_STDERR, IN_EXIT };

/* What cabi_realloc and the post-return functions do once the order is known. */
enum habit {
	HONEST,
	MISALIGNED,
	FAR,       /* an address beyond all memory */
	OVER_END,  /* one byte of it is outside */
	AT_END,    /* legal: the last bytes of memory */
	ZERO,      /* legal: address 0 */
	GROWS,     /* legal: memory moves */
	LOOPS, TRAPS, CALLS_LOG, CALLS_SPAWN,
};

struct patch {
	uint32_t where; /* a parameter; from 1000 on, the word at data + where - 1000 */
	uint32_t kind;
	uint64_t value;
};

enum kind {
	ABSOLUTE,
	DATA,  /* the address of data, plus value */
	END,   /* the size of memory, plus value */
	PID,   /* the victim's, plus value */
	ALIAS, /* at the place, value strings that are all one of 1 MiB of x */
	EMPTY, /* likewise, of 0 bytes */
};

struct order {
	uint32_t op, when, realloc, post, repeat, patches, data;
	uint32_t ignore; /* an err of the import: the call went well */
	struct patch patch[];
};

static uint8_t data[4 << 20] __attribute__((aligned(16)));
#define MEGABYTE_AT (3 << 20)

static uint8_t state[8 << 10] __attribute__((aligned(8)));
static uint8_t scratch[2 << 20] __attribute__((aligned(8)));
static uint32_t scratch_top;
static const struct order *order;
static uint64_t victim;
static uint64_t p[15];
static uint64_t area[8];
static volatile uint32_t sink;

static void loop(void)
{
	for (;;)
		sink++;
}

static uint32_t (*volatile again)(uint32_t);
static uint32_t recurse(uint32_t n) { return again(n + 1) * 3 + sink; }

static void spawn(const char *script, uint32_t len, struct theater_bytes program, uint64_t *pid)
{
	struct theater_bytes args[] = {{(const uint8_t *)script, len}, THEATER_STR("echo out; echo err >&2")};
	struct theater_process r = {.program = program, .args = args, .args_len = len == 2 ? 2 : 1};
	struct theater_bytes error;
	if (!os_spawn(&r, pid, &error)) {
		theater_log(error);
		__builtin_trap();
	}
}

static void call(void)
{
	struct theater_u32_result *ret;
#define PTR(n) ((void *)(uintptr_t)p[n])
	switch (order->op) {
	case SPAWN:
		theater_import_spawn(PTR(0), p[1], PTR(2), p[3], p[4], PTR(5), p[6], PTR(7), p[8], p[9], p[10], p[11], p[12], p[13], PTR(14));
		break;
	case WRITE:
		theater_import_write(p[0], PTR(1), p[2], PTR(3));
		break;
	case STATUS:
		theater_import_status(p[0], PTR(1));
		break;
	case SIGNAL:
		ret = PTR(2);
		theater_import_signal(p[0], p[1], ret);
		break;
	case KILL:
		theater_import_kill(p[0], PTR(1));
		break;
	case CLOSE:
		theater_import_close_stdin(p[0], PTR(1));
		break;
	case LOG:
		theater_import_log(PTR(0), p[1]);
		break;
	case CHAIN:
		theater_import_get_chain(PTR(0));
		break;
	case TRAP:
		__builtin_trap();
	case LOOP:
		loop();
	case RECURSE:
		again = recurse;
		sink = recurse(0);
		break;
	case RETURN:
		__builtin_wasm_memory_grow(0, p[1]);
		break;
	case GROW:
		while (__builtin_wasm_memory_grow(0, p[0]) != (size_t)-1)
			;
		break;
	}
}

/* The parameters of a call that is in order. */
static void prepare(void)
{
	static const struct theater_bytes args[] = {THEATER_STR("hello")};
	switch (order->op) {
	case SPAWN:
		p[0] = (uintptr_t) "/usr/bin/echo", p[1] = 13;
		p[2] = (uintptr_t)args, p[3] = 1;
		p[14] = (uintptr_t)area;
		break;
	case WRITE:
		p[0] = victim, p[1] = (uintptr_t) "x", p[2] = 1, p[3] = (uintptr_t)area;
		break;
	case SIGNAL:
		p[0] = victim, p[1] = 28 /* SIGWINCH, which is ignored */, p[2] = (uintptr_t)area;
		break;
	case STATUS:
	case KILL:
	case CLOSE:
		p[0] = victim, p[1] = (uintptr_t)area;
		break;
	case LOG:
		p[0] = (uintptr_t) "x", p[1] = 1;
		break;
	case CHAIN:
		p[0] = (uintptr_t)area;
		break;
	case RETURN:
		p[0] = (uintptr_t)data;
		break;
	}
}

static void patch(const struct patch *w)
{
	uint64_t v = w->value;
	switch (w->kind) {
	case DATA:
		v += (uintptr_t)data;
		break;
	case END:
		v += (uint64_t)__builtin_wasm_memory_size(0) << 16;
		break;
	case PID:
		v += victim;
		break;
	case ALIAS:
		__builtin_memset(data + MEGABYTE_AT, 'x', 1 << 20);
		__attribute__((fallthrough));
	case EMPTY:
		for (uint32_t i = 0; i < v; i++)
			((struct theater_bytes *)(data + w->where - 1000))[i] = (struct theater_bytes){data + MEGABYTE_AT, w->kind == ALIAS ? 1 << 20 : 0};
		return;
	}
	if (w->where < 1000)
		p[w->where] = v;
	else
		*(uint32_t *)(data + w->where - 1000) = v;
}

/* The err of the import that was called, if it gave one. */
static bool refused(struct theater_bytes *text)
{
	uint32_t offset = order->op == SPAWN || order->op == STATUS ? 8 : 4;
	if (order->op < SPAWN || order->op > CLOSE || !(uint8_t)area[0])
		return false;
	*text = *(struct theater_bytes *)((uint8_t *)area + offset);
	return true;
}

static struct theater_result *perform(void)
{
	struct theater_bytes text;
	prepare();
	for (uint32_t i = 0; i < order->patches; i++)
		patch(&order->patch[i]);
	for (uint64_t i = 0; i <= order->repeat; i++) {
		scratch_top = 0;
		call();
	}
	if (order->op == RETURN)
		return (void *)(uintptr_t)p[0];
	if (!order->ignore && refused(&text))
		return theater_err(text);
	return theater_ok_bytes(THEATER_STR("ok"));
}

THEATER_EXPORT(THEATER_NAME(THEATER_ACTOR, "init"))
struct theater_result *init(uint32_t some, const uint8_t *ptr, uint32_t len, const uint8_t *id, uint32_t id_len)
{
	uint64_t helper;
	__builtin_memcpy(state, ptr, len);
	order = (const struct order *)state;
	__builtin_memcpy(data, state + order->data, len - order->data);
	spawn("1000", 4, THEATER_STR("/usr/bin/sleep"), &victim);
	if (order->when == IN_INIT)
		return perform();
	spawn("-c", 2, THEATER_STR("/bin/sh"), &helper);
	return theater_ok_bytes(THEATER_STR("ok"));
}

static struct theater_result *event(enum when when)
{
	if (order->when == when)
		return perform();
	return theater_ok_bytes(THEATER_STR("ok"));
}

#define EVENT uint32_t some, const uint8_t *ptr, uint32_t len, uint64_t pid

THEATER_EXPORT(THEATER_NAME(THEATER_HANDLERS, "handle-stdout"))
struct theater_result *out(EVENT, const uint8_t *data, uint32_t data_len) { return event(IN_STDOUT); }

THEATER_EXPORT(THEATER_NAME(THEATER_HANDLERS, "handle-stderr"))
struct theater_result *err(EVENT, const uint8_t *data, uint32_t data_len) { return event(IN_STDERR); }

THEATER_EXPORT(THEATER_NAME(THEATER_HANDLERS, "handle-exit"))
struct theater_result *ended(EVENT, int32_t code)
{
	if (pid == victim)
		return theater_ok_bytes(THEATER_STR("ok"));
	struct theater_result *r = event(IN_EXIT);
	os_kill(victim, 0); /* all went well: let the actor end */
	return r;
}

static void misbehave(enum habit h)
{
	switch (h) {
	case LOOPS:
		loop();
	case TRAPS:
		__builtin_trap();
	case CALLS_LOG:
		theater_log(THEATER_STR("from where it is forbidden"));
		break;
	case CALLS_SPAWN:
		spawn("-c", 2, THEATER_STR("/bin/sh"), &victim);
		break;
	default:
		break;
	}
}

THEATER_EXPORT(THEATER_REALLOC)
void *take(const void *old, uint32_t old_size, uint32_t align, uint32_t size)
{
	uint64_t end = (uint64_t)__builtin_wasm_memory_size(0) << 16;
	enum habit h = order ? order->realloc : HONEST;
	misbehave(h);
	switch (h) {
	case MISALIGNED:
		return scratch + 1;
	case FAR:
		return (void *)0xfffffff0;
	case OVER_END:
		return (void *)(uintptr_t)(end - size + 1);
	case AT_END:
		return (void *)(uintptr_t)(end - size);
	case ZERO:
		return 0;
	case GROWS:
		__builtin_wasm_memory_grow(0, 1);
		break;
	default:
		break;
	}
	scratch_top = (scratch_top + align - 1) / align * align;
	if (size > sizeof scratch - scratch_top)
		__builtin_trap();
	void *at = scratch + scratch_top;
	scratch_top += size;
	return at;
}

THEATER_EXPORT(THEATER_POST(THEATER_ACTOR, "init"))
void post_init(void *result)
{
	scratch_top = 0;
	if (order->when == IN_INIT)
		misbehave(order->post);
}

THEATER_EXPORT(THEATER_POST(THEATER_HANDLERS, "handle-stdout"))
void post_stdout(void *result)
{
	scratch_top = 0;
	if (order->when == IN_STDOUT)
		misbehave(order->post);
}

THEATER_EXPORT(THEATER_POST(THEATER_HANDLERS, "handle-stderr"))
void post_stderr(void *result) { scratch_top = 0; }

THEATER_EXPORT(THEATER_POST(THEATER_HANDLERS, "handle-exit"))
void post_exit(void *result)
{
	scratch_top = 0;
	if (order->when == IN_EXIT)
		misbehave(order->post);
}

#ifdef INITIALIZE
THEATER_EXPORT(THEATER_INITIALIZE)
void initialize(void) { misbehave(INITIALIZE); }
#endif

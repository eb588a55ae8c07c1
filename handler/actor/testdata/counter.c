/* Starts the shell command of its initial state, whose first two bytes are the
 * modes of stdout and stderr as digits, and counts what comes. With
 * THEATER_BATCH it comes in batches. */
#include "theater.h"

struct count {
	uint64_t hash; /* FNV-1a over the bytes of all events */
	uint64_t bytes, events, largest;
};

/* The state, once the program runs. */
struct counts {
	struct count out, err;
	int64_t code;
};

#define PARAMETER 1000 /* buffer-size and chunk-size */

static struct counts counts;

static struct theater_result *state(void)
{
	return theater_ok_bytes((struct theater_bytes){(uint8_t *)&counts, sizeof counts});
}

static void load(struct theater_state s) { __builtin_memcpy(&counts, s.bytes.ptr, sizeof counts); }

struct theater_result *theater_init(struct theater_state s, struct theater_bytes id)
{
	struct theater_bytes args[] = {THEATER_STR("-c"), {s.bytes.ptr + 2, s.bytes.len - 2}};
	struct theater_process shell = {
		.program = THEATER_STR("/bin/sh"), .args = args, .args_len = 2,
		.buffer_size = PARAMETER, .chunk_size = PARAMETER,
		.stdout_mode = s.bytes.ptr[0] - '0', .stderr_mode = s.bytes.ptr[1] - '0',
	};
	struct theater_bytes error;
	uint64_t pid;
	if (!os_spawn(&shell, &pid, &error))
		return theater_err(error);
	counts.out.hash = counts.err.hash = 0xcbf29ce484222325;
	counts.code = -1;
	return state();
}

static void add(struct count *c, struct theater_bytes data)
{
	for (uint32_t i = 0; i < data.len; i++)
		c->hash = (c->hash ^ data.ptr[i]) * 0x100000001b3;
	c->bytes += data.len;
	c->events++;
	if (data.len > c->largest)
		c->largest = data.len;
}

struct theater_result *theater_stdout(struct theater_state s, uint64_t pid, struct theater_bytes data)
{
	load(s);
	add(&counts.out, data);
	return state();
}

struct theater_result *theater_stderr(struct theater_state s, uint64_t pid, struct theater_bytes data)
{
	load(s);
	add(&counts.err, data);
	return state();
}

struct theater_result *theater_exit(struct theater_state s, uint64_t pid, int32_t code)
{
	load(s);
	counts.code = code;
	return state();
}

#ifdef THEATER_BATCH
static void add_all(struct count *c, struct theater_batch b)
{
	uint32_t start = 0;
	for (uint32_t i = 0; i < b.len; i++) {
		add(c, (struct theater_bytes){b.data.ptr + start, b.ends[i] - start});
		start = b.ends[i];
	}
}

struct theater_result *theater_stdout_batch(struct theater_state s, uint64_t pid, struct theater_batch batch)
{
	load(s);
	add_all(&counts.out, batch);
	return state();
}

struct theater_result *theater_stderr_batch(struct theater_state s, uint64_t pid, struct theater_batch batch)
{
	load(s);
	add_all(&counts.err, batch);
	return state();
}
#endif

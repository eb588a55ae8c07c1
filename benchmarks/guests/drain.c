/* Takes the output of one program. Its initial state says which, a line each: the
 * mode of stdout as a digit, the program, its arguments. It reads every byte, and
 * ends with their number, that of the events, and the sum of the bytes in words
 * of eight: nothing that it is given can be left out unseen. */
#define THEATER_BATCH
#include "theater.h"

static struct {
	uint64_t bytes, events, sum;
} seen;

struct theater_result *theater_init(struct theater_state s, struct theater_bytes id)
{
	struct theater_bytes parts[16], error;
	uint32_t n = 0, from = 0;
	for (uint32_t i = 0; i <= s.bytes.len && n < 16; i++)
		if (i == s.bytes.len || s.bytes.ptr[i] == '\n') {
			parts[n++] = (struct theater_bytes){s.bytes.ptr + from, i - from};
			from = i + 1;
		}
	struct theater_process p = {
		.program = parts[1], .args = parts + 2, .args_len = n - 2,
		.stdout_mode = parts[0].ptr[0] - '0',
	};
	uint64_t pid;
	return os_spawn(&p, &pid, &error) ? theater_ok(theater_none()) : theater_err(error);
}

static void take(struct theater_bytes data)
{
	uint64_t sum = 0, word;
	uint32_t i = 0;
	for (; i + sizeof word <= data.len; i += sizeof word) {
		__builtin_memcpy(&word, data.ptr + i, sizeof word);
		sum += word;
	}
	for (; i < data.len; i++)
		sum += data.ptr[i];
	seen.sum += sum;
	seen.bytes += data.len;
	seen.events++;
}

struct theater_result *theater_stdout(struct theater_state s, uint64_t pid, struct theater_bytes data)
{
	take(data);
	return theater_ok(s);
}

struct theater_result *theater_stdout_batch(struct theater_state s, uint64_t pid, struct theater_batch b)
{
	for (uint32_t i = 0, start = 0; i < b.len; start = b.ends[i++])
		take((struct theater_bytes){b.data.ptr + start, b.ends[i] - start});
	return theater_ok(s);
}

struct theater_result *theater_stderr_batch(struct theater_state s, uint64_t pid, struct theater_batch b)
{
	return theater_err(b.data);
}

struct theater_result *theater_stderr(struct theater_state s, uint64_t pid, struct theater_bytes data)
{
	return theater_err(data);
}

struct theater_result *theater_exit(struct theater_state s, uint64_t pid, int32_t code)
{
	return code ? theater_err(THEATER_STR("the program failed")) : theater_ok_bytes((struct theater_bytes){(uint8_t *)&seen, sizeof seen});
}

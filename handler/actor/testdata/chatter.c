/* Counts its events in its state and, if the first byte of an event is an l, logs
 * five thousand times. */
#include "theater.h"

struct theater_result *theater_init(struct theater_state s, struct theater_bytes id) { return theater_ok_bytes(THEATER_STR("\0\0\0\0")); }

struct theater_result *theater_stdout(struct theater_state s, uint64_t pid, struct theater_bytes data)
{
	uint32_t *n = theater_alloc(4, 4);
	__builtin_memcpy(n, s.bytes.ptr, 4);
	++*n;
	for (int i = 0; data.len && data.ptr[0] == 'l' && i < 5000; i++)
		theater_log(THEATER_STR("again"));
	return theater_ok_bytes((struct theater_bytes){(uint8_t *)n, 4});
}

struct theater_result *theater_stderr(struct theater_state s, uint64_t pid, struct theater_bytes data) { return theater_ok(s); }
struct theater_result *theater_exit(struct theater_state s, uint64_t pid, int32_t code) { return theater_ok(s); }

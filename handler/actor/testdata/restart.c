/* Appends an i to its state at each start, and traps at the first output until
 * there are four. */
#include "theater.h"

struct theater_result *theater_init(struct theater_state s, struct theater_bytes id)
{
	struct theater_bytes args[] = {THEATER_STR("hello")};
	struct theater_process echo = {.program = THEATER_STR("/usr/bin/echo"), .args = args, .args_len = 1};
	struct theater_bytes error;
	uint64_t pid;
	if (!os_spawn(&echo, &pid, &error))
		return theater_err(error);
	return theater_ok_bytes(theater_join(s.bytes, THEATER_STR("i")));
}

struct theater_result *theater_stdout(struct theater_state s, uint64_t pid, struct theater_bytes data)
{
	if (s.bytes.len < 4)
		__builtin_trap();
	return theater_ok(s);
}

struct theater_result *theater_stderr(struct theater_state s, uint64_t pid, struct theater_bytes data) { return theater_ok(s); }
struct theater_result *theater_exit(struct theater_state s, uint64_t pid, int32_t code) { return theater_ok(s); }

/* Returns its state unchanged, from init and once more from the exit of a
 * program; but drops one that begins with "drop" and refuses, with a state that
 * must not be kept, where it begins with "refuse". */
#include "theater.h"

static bool begins(struct theater_state s, struct theater_bytes word)
{
	return s.some && s.bytes.len >= word.len && theater_equal((struct theater_bytes){s.bytes.ptr, word.len}, word);
}

struct theater_result *theater_init(struct theater_state s, struct theater_bytes id)
{
	if (begins(s, THEATER_STR("refuse init")))
		return theater_err(theater_join(THEATER_STR("no thanks, says "), id));
	struct theater_process program = {.program = THEATER_STR("/usr/bin/true")};
	struct theater_bytes error;
	uint64_t pid;
	return os_spawn(&program, &pid, &error) ? theater_ok(s) : theater_err(error);
}

struct theater_result *theater_stdout(struct theater_state s, uint64_t pid, struct theater_bytes data) { return theater_ok(s); }
struct theater_result *theater_stderr(struct theater_state s, uint64_t pid, struct theater_bytes data) { return theater_ok(s); }

struct theater_result *theater_exit(struct theater_state s, uint64_t pid, int32_t code)
{
	if (begins(s, THEATER_STR("drop")))
		return theater_ok(theater_none());
	if (begins(s, THEATER_STR("refuse")))
		return theater_err(THEATER_STR("not this exit"));
	return theater_ok(s);
}

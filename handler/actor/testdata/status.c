/* Asks for a program while it runs and after its end. The state is both answers,
 * as they lie in memory, and the error for one that never was. */
#include "theater.h"

static bool look(uint64_t pid, struct theater_state s, struct theater_state *next, struct theater_bytes *error)
{
	static struct theater_status status;
	if (!os_status(pid, &status, error))
		return false;
	*next = theater_some(theater_join(s.bytes, (struct theater_bytes){(uint8_t *)&status, sizeof status}));
	return true;
}

struct theater_result *theater_init(struct theater_state s, struct theater_bytes id)
{
	struct theater_bytes args[] = {THEATER_STR("1000")}, error;
	struct theater_process sleep = {.program = THEATER_STR("/usr/bin/sleep"), .args = args, .args_len = 1};
	uint64_t pid;
	if (!os_spawn(&sleep, &pid, &error) || !look(pid, theater_some(THEATER_STR("")), &s, &error) || !os_kill(pid, &error))
		return theater_err(error);
	return theater_ok(s);
}

struct theater_result *theater_stdout(struct theater_state s, uint64_t pid, struct theater_bytes data) { return theater_ok(s); }
struct theater_result *theater_stderr(struct theater_state s, uint64_t pid, struct theater_bytes data) { return theater_ok(s); }

struct theater_result *theater_exit(struct theater_state s, uint64_t pid, int32_t code)
{
	struct theater_status status;
	struct theater_bytes error;
	if (!look(pid, s, &s, &error))
		return theater_err(error);
	if (os_status(pid + 1, &status, &error))
		return theater_err(THEATER_STR("a process that never was has a status"));
	return theater_ok_bytes(theater_join(s.bytes, error));
}

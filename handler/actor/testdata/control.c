/* Starts the shell command of its initial state under tighter limits, after one
 * that is looser was refused; its state is then the report of the exit. */
#include "theater.h"

static struct theater_report report;

struct theater_result *theater_init(struct theater_state s, struct theater_bytes id)
{
	struct theater_bytes args[] = {THEATER_STR("-c"), s.bytes};
	struct theater_process shell = {.program = THEATER_STR("/bin/sh"), .args = args, .args_len = 2, .stdout_mode = THEATER_LINES};
	struct theater_bytes error;
	uint64_t pid;
	if (os_spawn_limited(&shell, (struct theater_limits){.memory = 1ull << 40}, &pid, &error))
		return theater_err(THEATER_STR("more than the manifest's memory was granted"));
	theater_log(error);
	if (!os_spawn_limited(&shell, (struct theater_limits){.memory = 16 << 20, .cpu = 0.5, .pids = 9, .wall_clock = 30000}, &pid, &error))
		return theater_err(error);
	if (os_report(pid, &report, &error))
		return theater_err(THEATER_STR("a report of what runs"));
	theater_log(error);
	return theater_ok(theater_none());
}

struct theater_result *theater_stdout(struct theater_state s, uint64_t pid, struct theater_bytes data) { return theater_ok(s); }
struct theater_result *theater_stderr(struct theater_state s, uint64_t pid, struct theater_bytes data) { return theater_ok(s); }

struct theater_result *theater_exit(struct theater_state s, uint64_t pid, int32_t code)
{
	struct theater_bytes error;
	if (!os_report(pid, &report, &error))
		return theater_err(error);
	return theater_ok_bytes((struct theater_bytes){(uint8_t *)&report, sizeof report});
}

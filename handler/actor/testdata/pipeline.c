/* Three programs, each started by the exit of the one before with its output as
 * stdin. The state is the number of the stage, a digit, and its output so far. */
#include "theater.h"

static struct theater_result *stage(uint8_t number, struct theater_bytes input)
{
	static const struct theater_bytes seq[] = {THEATER_STR("1"), THEATER_STR("2000")}, sort[] = {THEATER_STR("-rn")};
	const struct theater_process stages[] = {
		{.program = THEATER_STR("/usr/bin/seq"), .args = seq, .args_len = 2},
		{.program = THEATER_STR("/usr/bin/sort"), .args = sort, .args_len = 1},
		{.program = THEATER_STR("/usr/bin/sha256sum"), .stdout_mode = THEATER_LINES},
	};
	struct theater_bytes error;
	uint64_t pid;
	uint32_t took;
	if (!os_spawn(&stages[number], &pid, &error) || !os_write_stdin(pid, input, &took, &error) ||
	    !os_close_stdin(pid, &error))
		return theater_err(error);
	return theater_ok_bytes(theater_number(number));
}

struct theater_result *theater_init(struct theater_state s, struct theater_bytes id)
{
	return stage(0, THEATER_STR(""));
}

struct theater_result *theater_stdout(struct theater_state s, uint64_t pid, struct theater_bytes data)
{
	return theater_ok_bytes(theater_join(s.bytes, data));
}

struct theater_result *theater_stderr(struct theater_state s, uint64_t pid, struct theater_bytes data)
{
	return theater_err(data);
}

struct theater_result *theater_exit(struct theater_state s, uint64_t pid, int32_t code)
{
	uint8_t number = s.bytes.ptr[0] - '0';
	if (code || number == 2)
		return theater_ok(s);
	return stage(number + 1, (struct theater_bytes){s.bytes.ptr + 1, s.bytes.len - 1});
}

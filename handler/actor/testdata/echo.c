/* Sends every byte value through cat; the state is what came back. */
#include "theater.h"

struct theater_result *theater_init(struct theater_state s, struct theater_bytes id)
{
	static uint8_t all[256];
	for (int i = 0; i < 256; i++)
		all[i] = i;
	struct theater_process cat = {.program = THEATER_STR("/usr/bin/cat")};
	struct theater_bytes error;
	uint64_t pid;
	uint32_t took;
	if (!os_spawn(&cat, &pid, &error) || !os_write_stdin(pid, (struct theater_bytes){all, 256}, &took, &error) ||
	    !os_close_stdin(pid, &error))
		return theater_err(error);
	if (took != 256)
		return theater_err(THEATER_STR("stdin did not take it all"));
	return theater_ok_bytes(THEATER_STR(""));
}

struct theater_result *theater_stdout(struct theater_state s, uint64_t pid, struct theater_bytes data)
{
	return theater_ok_bytes(theater_join(s.bytes, data));
}

struct theater_result *theater_stderr(struct theater_state s, uint64_t pid, struct theater_bytes data)
{
	return theater_err(THEATER_STR("cat complains"));
}

struct theater_result *theater_exit(struct theater_state s, uint64_t pid, int32_t code)
{
	return code ? theater_err(THEATER_STR("cat failed")) : theater_ok(s);
}

/* Ends programs in every way and tries the same on dead and unknown ones. The
 * state is a line for each answer and each exit. */
#include "theater.h"

static struct theater_bytes text;

static void say(struct theater_bytes b) { text = theater_join(text, b); }

static void answer(bool ok, struct theater_bytes error)
{
	say(ok ? THEATER_STR("ok") : error);
	say(THEATER_STR("\n"));
}

/* Everything that can be done to a process. */
static void act(uint64_t pid)
{
	struct theater_bytes error = {0};
	uint32_t took;
	bool ok = os_signal(pid, 15, &error);
	answer(ok, error);
	ok = os_signal(pid, 9, &error);
	answer(ok, error);
	ok = os_kill(pid, &error);
	answer(ok, error);
	ok = os_write_stdin(pid, THEATER_STR("x"), &took, &error);
	answer(ok, error);
	ok = os_close_stdin(pid, &error);
	answer(ok, error);
}

static uint64_t sleep(void)
{
	struct theater_bytes args[] = {THEATER_STR("1000")}, error;
	struct theater_process p = {.program = THEATER_STR("/usr/bin/sleep"), .args = args, .args_len = 1};
	uint64_t pid = 0;
	if (!os_spawn(&p, &pid, &error))
		answer(false, error);
	return pid;
}

struct theater_result *theater_init(struct theater_state s, struct theater_bytes id)
{
	text = THEATER_STR("");
	act(999);
	struct theater_bytes error = {0};
	answer(os_signal(sleep(), 15, &error), error);
	return theater_ok_bytes(text);
}

struct theater_result *theater_stdout(struct theater_state s, uint64_t pid, struct theater_bytes data) { return theater_ok(s); }
struct theater_result *theater_stderr(struct theater_state s, uint64_t pid, struct theater_bytes data) { return theater_ok(s); }

struct theater_result *theater_exit(struct theater_state s, uint64_t pid, int32_t code)
{
	text = s.bytes;
	say(theater_number(pid));
	say(THEATER_STR(" exited with "));
	say(theater_number(code));
	say(THEATER_STR("\n"));
	act(pid);
	struct theater_bytes error = {0};
	switch (pid) { /* one ends, the next is started and ended in another way */
	case 1:
		answer(os_kill(sleep(), &error), error);
		break;
	case 2:
		answer(os_signal(sleep(), 9, &error), error);
		break;
	}
	return theater_ok_bytes(text);
}

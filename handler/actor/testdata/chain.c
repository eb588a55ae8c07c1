/* Logs, and looks back: the state is its chain as lines of kind, hash and
 * parent, taken at the exit of a program. */
#include "theater.h"

struct theater_result *theater_init(struct theater_state s, struct theater_bytes id)
{
	theater_log(theater_join(THEATER_STR("\xe2\x98\x83 I am "), id));
	struct theater_process program = {.program = THEATER_STR("/usr/bin/true")};
	struct theater_bytes error;
	uint64_t pid;
	return os_spawn(&program, &pid, &error) ? theater_ok(s) : theater_err(error);
}

struct theater_result *theater_stdout(struct theater_state s, uint64_t pid, struct theater_bytes data) { return theater_ok(s); }
struct theater_result *theater_stderr(struct theater_state s, uint64_t pid, struct theater_bytes data) { return theater_ok(s); }

struct theater_result *theater_exit(struct theater_state s, uint64_t pid, int32_t code)
{
	struct theater_chain chain = theater_get_chain();
	struct theater_bytes text = THEATER_STR("");
	for (uint32_t i = 0; i < chain.len; i++) {
		const struct theater_link *l = &chain.ptr[i];
		text = theater_join(text, l->event_type);
		text = theater_join(text, THEATER_STR(" "));
		text = theater_join(text, theater_number(l->hash));
		text = theater_join(text, THEATER_STR(" "));
		text = theater_join(text, l->has_parent ? theater_number(l->parent) : THEATER_STR("none"));
		text = theater_join(text, THEATER_STR(" "));
		text = theater_join(text, l->data);
		text = theater_join(text, THEATER_STR("\n"));
	}
	return theater_ok_bytes(text);
}

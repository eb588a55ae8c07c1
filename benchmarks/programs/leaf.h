/*
 * leaf.h: control groups with limits, of floor and runner. Their options:
 *
 *     -u  the cgroup v2 group in which the leaf is made; who is in it is born there
 *     -l  likewise on v1, which is entered: a single thread that writes 0 to tasks
 *         skips the lock that a write to cgroup.procs waits for (Linux 5.5)
 *     -m  which of those has the memory controller of v1: the end of memory is listened for
 *     -s  a limit: FILE is below the group, %s stands for the leaf's name
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MOST 64
#define LEAF_OPTIONS "u:l:m:s:"

static const char *unified, *legacy[MOST], *memory, *limits[MOST];
static int n_legacy, n_limits;

static int leaf_option(int option, const char *value)
{
	switch (option) {
	case 'u': unified = value; return 1;
	case 'l': legacy[n_legacy++] = value; return 1;
	case 'm': memory = value; return 1;
	case 's': limits[n_limits++] = value; return 1;
	}
	return 0;
}

struct leaf {
	char name[64];
	int dir;          /* of v2, open, or -1 */
	int tasks[MOST];  /* of v1, open */
	int event;        /* of the end of memory, or -1 */
};

static long check(long result, const char *call)
{
	if (result < 0) {
		fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, call, strerror(errno));
		_exit(125);
	}
	return result;
}
#define CHECK(call) check((long)(call), #call)

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void put(const char *path, const char *text)
{
	int fd = check(open(path, O_WRONLY | O_CLOEXEC), path);
	check(write(fd, text, strlen(text)), path);
	close(fd);
}

/* A leaf in every hierarchy, with its limits. */
static void leaf_make(struct leaf *l, unsigned long number)
{
	char path[4096];
	snprintf(l->name, sizeof l->name, "%s-%d-%lu", program_invocation_short_name, getpid(), number);
	l->dir = l->event = -1;
	for (int i = 0; i < n_legacy; i++) {
		snprintf(path, sizeof path, "%s/%s", legacy[i], l->name);
		check(mkdir(path, 0755), path);
		snprintf(path, sizeof path, "%s/%s/tasks", legacy[i], l->name);
		l->tasks[i] = check(open(path, O_WRONLY | O_CLOEXEC), path);
	}
	if (unified) {
		snprintf(path, sizeof path, "%s/%s", unified, l->name);
		check(mkdir(path, 0755), path);
		l->dir = check(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), path);
	}
	for (int i = 0; i < n_limits; i++) {
		snprintf(path, sizeof path, limits[i], l->name);
		char *value = strchr(path, '=');
		*value++ = 0;
		put(path, value);
	}
	if (memory) {
		char text[64];
		snprintf(path, sizeof path, "%s/%s/memory.oom_control", memory, l->name);
		int control = check(open(path, O_RDONLY | O_CLOEXEC), path);
		l->event = CHECK(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
		snprintf(path, sizeof path, "%s/%s/cgroup.event_control", memory, l->name);
		snprintf(text, sizeof text, "%d %d", l->event, control);
		put(path, text);
		close(control);
	}
}

/* The calling process enters the groups of v1. */
static void leaf_enter(const struct leaf *l)
{
	for (int i = 0; i < n_legacy; i++)
		check(write(l->tasks[i], "0", 1), legacy[i]);
}

static void leaf_remove(const struct leaf *l)
{
	char path[4096];
	if (l->dir >= 0)
		close(l->dir);
	if (l->event >= 0)
		close(l->event);
	for (int i = 0; i < n_legacy; i++)
		close(l->tasks[i]);
	for (int i = -1; i < n_legacy; i++) {
		if (i < 0 && !unified)
			continue;
		snprintf(path, sizeof path, "%s/%s", i < 0 ? unified : legacy[i], l->name);
		for (int tries = 0; rmdir(path) < 0 && errno == EBUSY && tries < 10000; tries++)
			usleep(100);
	}
}

/*
 * runner: runs commands and says how long each took, from before the vfork to
 * after the wait, as cheaply as a C program can: other tools are measured by it,
 * so that no cost of Go's os/exec is put on their bill.
 *
 *     runner [-f FILE] [-b SOURCE] [-u DIR] [-l DIR]... [-s FILE=VALUE]...
 *
 *     -f  descriptor 9 of each command is FILE, at its beginning
 *     -b  in a mount namespace of its own, in which SOURCE is bound over /sys/fs/cgroup
 *     -u -l -m -s  each command runs in control groups of its own, with limits
 *         (leaf.h), made in its time, and removed before the next one's
 *
 * A line of stdin is one command, its arguments separated by tabs. The answer
 * is the time in nanoseconds and the wait status.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "leaf.h"

/*
 * vfork into a group of v2, which the C library has not: clone3 by an instruction
 * of this frame's own, for the child must not return into a frame above it.
 */
static inline __attribute__((always_inline)) long vfork_into(struct clone_args *args)
{
#if defined(__x86_64__)
	long result = SYS_clone3;
	__asm__ volatile("syscall" : "+a"(result) : "D"(args), "S"(sizeof *args) : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long result __asm__("x0") = (long)args;
	register long size __asm__("x1") = sizeof *args;
	register long number __asm__("x8") = SYS_clone3;
	__asm__ volatile("svc 0" : "+r"(result) : "r"(size), "r"(number) : "memory");
	return result;
#else
#error "clone3 by hand, as above"
#endif
}

static int null, file = -1;

/* What the child does: in a frame of its own, the parent's stays as it was. */
static __attribute__((noinline, noreturn)) void command(const struct leaf *leaf, char **args)
{
	leaf_enter(leaf);
	dup2(null, 0);
	dup2(null, 1);
	if (file >= 0) {
		lseek(file, 0, SEEK_SET);
		dup2(file, 9);
	}
	execv(args[0], args);
	_exit(127);
}

int main(int argc, char **argv)
{
	int option;
	null = CHECK(open("/dev/null", O_RDWR | O_CLOEXEC));
	while ((option = getopt(argc, argv, "f:b:" LEAF_OPTIONS)) >= 0)
		switch (option) {
		case 'f':
			file = check(open(optarg, O_RDONLY | O_CLOEXEC), optarg);
			break;
		case 'b':
			CHECK(unshare(CLONE_NEWNS));
			CHECK(mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL));
			CHECK(mount(optarg, "/sys/fs/cgroup", NULL, MS_BIND, NULL));
			break;
		default:
			if (!leaf_option(option, optarg))
				return 2;
		}
	static char line[64 << 10], *args[1024];
	struct leaf leaf;
	unsigned long number = 0;
	for (; fgets(line, sizeof line, stdin); number++) {
		int n = 0, status;
		line[strcspn(line, "\n")] = 0;
		for (char *a = strtok(line, "\t"); a && n < 1023; a = strtok(NULL, "\t"))
			args[n++] = a;
		args[n] = NULL;
		if (number)
			leaf_remove(&leaf); /* all of the command before has ended by now: nobody sleeps for it */
		uint64_t begin = now();
		leaf_make(&leaf, number);
		struct clone_args how = {.flags = CLONE_VM | CLONE_VFORK, .exit_signal = SIGCHLD};
		if (leaf.dir >= 0) {
			how.flags |= CLONE_INTO_CGROUP;
			how.cgroup = leaf.dir;
		}
		long pid = vfork_into(&how);
		if (pid == 0)
			command(&leaf, args);
		if (pid < 0) {
			errno = -pid;
			check(-1, "clone3");
		}
		CHECK(waitpid(pid, &status, 0));
		printf("%lu %d\n", (unsigned long)(now() - begin), status);
		fflush(stdout);
	}
	if (number)
		leaf_remove(&leaf);
	return 0;
}

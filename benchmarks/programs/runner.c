/*
 * runner: runs commands and says how long each took, from before the vfork to
 * after the wait, as cheaply as a C program can: other tools are measured by it,
 * so that no cost of Go's os/exec is put on their bill.
 *
 *     runner [-f FILE] [-b SOURCE]
 *
 *     -f  descriptor 9 of each command is FILE, at its beginning
 *     -b  in a mount namespace of its own, in which SOURCE is bound over /sys/fs/cgroup
 *
 * A line of stdin is one command, its arguments separated by tabs. The answer
 * is the time in nanoseconds and the wait status.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void check(int failed, const char *what)
{
	if (failed) {
		perror(what);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	int option, null = open("/dev/null", O_RDWR | O_CLOEXEC), file = -1;
	while ((option = getopt(argc, argv, "f:b:")) >= 0)
		switch (option) {
		case 'f':
			check((file = open(optarg, O_RDONLY | O_CLOEXEC)) < 0, optarg);
			break;
		case 'b':
			check(unshare(CLONE_NEWNS) < 0, "unshare");
			check(mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0, "mount /");
			check(mount(optarg, "/sys/fs/cgroup", NULL, MS_BIND, NULL) < 0, optarg);
			break;
		default:
			return 2;
		}
	static char line[64 << 10], *args[1024];
	while (fgets(line, sizeof line, stdin)) {
		int n = 0, status;
		line[strcspn(line, "\n")] = 0;
		for (char *a = strtok(line, "\t"); a && n < 1023; a = strtok(NULL, "\t"))
			args[n++] = a;
		args[n] = NULL;
		uint64_t begin = now();
		pid_t pid = vfork();
		check(pid < 0, "vfork");
		if (pid == 0) {
			dup2(null, 0);
			dup2(null, 1);
			if (file >= 0) {
				lseek(file, 0, SEEK_SET);
				dup2(file, 9);
			}
			execv(args[0], args);
			_exit(127);
		}
		check(waitpid(pid, &status, 0) < 0, "waitpid");
		printf("%lu %d\n", (unsigned long)(now() - begin), status);
		fflush(stdout);
	}
	return 0;
}

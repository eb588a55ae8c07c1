/*
 * reader BUFFER PIPE COMMAND...: reads what the command writes in a plain loop and
 * prints bytes and nanoseconds, from the first bytes to the end. BUFFER and PIPE
 * are sizes in bytes; PIPE 0 leaves the kernel's.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

int main(int argc, char **argv)
{
	int p[2], status;
	if (argc < 4 || pipe2(p, O_CLOEXEC) < 0)
		return 2;
	size_t size = strtoul(argv[1], NULL, 10);
	char *buffer = malloc(size);
	int pipe_size = atoi(argv[2]);
	if (pipe_size && fcntl(p[1], F_SETPIPE_SZ, pipe_size) < 0)
		return 2;
	if (vfork() == 0) {
		dup2(p[1], 1);
		execv(argv[3], argv + 3);
		_exit(127);
	}
	close(p[1]);
	unsigned long long total = 0;
	uint64_t first = 0;
	for (ssize_t n; (n = read(p[0], buffer, size)) > 0; total += n)
		if (!first)
			first = now();
	printf("%llu %lu\n", total, (unsigned long)(now() - first));
	wait(&status);
	return status != 0;
}

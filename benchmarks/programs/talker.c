/*
 * talker MILLISECONDS: a line every so often with its number and the time
 * (CLOCK_MONOTONIC, nanoseconds), until its stdin ends; then "end" and the number
 * of lines.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int argc, char **argv)
{
	struct pollfd in = {.fd = 0};
	unsigned long n = 0;
	setvbuf(stdout, NULL, _IOLBF, 256);
	do {
		struct timespec t;
		clock_gettime(CLOCK_MONOTONIC, &t);
		printf("%lu %llu\n", n++, t.tv_sec * 1000000000ull + t.tv_nsec);
	} while (poll(&in, 1, argc > 1 ? atoi(argv[1]) : -1) == 0);
	printf("end %lu\n", n);
	return 0;
}

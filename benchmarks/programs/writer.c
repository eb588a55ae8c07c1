/*
 * writer LINE TOTAL [wait]: writes TOTAL bytes of lines, LINE bytes each with the
 * newline, in writes of about 128 KiB. With wait it begins at the end of its
 * stdin.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static char block[128 << 10];
	if (argc < 3)
		return 2;
	size_t line = strtoul(argv[1], NULL, 10), whole = sizeof block / line * line;
	unsigned long long left = strtoull(argv[2], NULL, 10);
	memset(block, '0', sizeof block);
	for (size_t at = line - 1; at < whole; at += line)
		block[at] = '\n';
	if (argc > 3)
		for (char c; read(0, &c, 1) > 0;)
			;
	while (left > 0) {
		size_t want = left < whole ? left : whole;
		for (size_t done = 0; done < want;) {
			ssize_t n = write(1, block + done, want - done);
			if (n < 0)
				return 1;
			done += n;
		}
		left -= want;
	}
	return 0;
}

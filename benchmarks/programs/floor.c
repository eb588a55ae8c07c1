/*
 * floor: what a hardened start costs at the least. It does from C what a start
 * of Proscenium's does for a static program, and nothing that serves only to
 * check or to report: leaves with the same limits, seven namespaces, the same
 * mounts, identity, rlimits, capability sets and filter, an init that reaps,
 * the exit status. Compare it with `proscenium plan -- TARGET`.
 *
 *     floor [-n] [-u DIR] [-l DIR]... [-m DIR] [-s FILE=VALUE]... [-b PATH]... -f FILTER TARGET
 *
 *     -n  no network namespace
 *     -u -l -m -s  control groups and limits (leaf.h)
 *     -b  a file or directory that is shown, read-only
 *     -f  the filter, as an array of struct sock_filter
 *
 * For each byte on stdin it makes one start and answers with two numbers of
 * nanoseconds: until the exit status has arrived, until init is reaped. The
 * leaves are removed afterwards, in nobody's time. Needs root.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "leaf.h"

static const char *binds[MOST], *target;
static int n_binds;
static char *dirs[4 * MOST]; /* of the new root, parents first */
static int n_dirs, is_dir[MOST];
static uint64_t namespaces = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | CLONE_NEWNET;
static struct sock_fprog filter;

static void map_ids(pid_t pid)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/setgroups", pid);
	put(path, "deny");
	snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
	put(path, "1000 65534 1\n");
	snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
	put(path, "1000 65534 1\n");
}

static void limit(int resource, rlim_t value)
{
	struct rlimit l = {value, value};
	CHECK(setrlimit(resource, &l));
}

static void file(const char *path, const char *text)
{
	int fd = check(open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444), path);
	check(write(fd, text, strlen(text)), path);
	close(fd);
}

static void make_root(const int *trees)
{
	static const char *const links[][2] = {
		{"usr/bin", "bin"}, {"usr/sbin", "sbin"}, {"usr/lib", "lib"}, {"usr/lib64", "lib64"},
		{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"}, {"/proc/self/fd/2", "dev/stderr"},
		{"/usr/share/zoneinfo/Etc/UTC", "etc/localtime"},
	};
	CHECK(mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL));
	int fs = CHECK(fsopen("tmpfs", FSOPEN_CLOEXEC));
	CHECK(fsconfig(fs, FSCONFIG_SET_STRING, "mode", "0755", 0));
	CHECK(fsconfig(fs, FSCONFIG_SET_STRING, "size", "1m", 0));
	CHECK(fsconfig(fs, FSCONFIG_SET_STRING, "nr_inodes", "4096", 0));
	CHECK(fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
	int root = CHECK(fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
	CHECK(move_mount(root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH));
	CHECK(fchdir(root));
	for (int i = 0; i < n_dirs; i++)
		check(mkdir(dirs[i], 0755), dirs[i]);
	for (unsigned i = 0; i < sizeof links / sizeof *links; i++)
		check(symlink(links[i][0], links[i][1]), links[i][1]);
	file("etc/group", "program:x:1000:\nnogroup:x:65534:\n");
	file("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n");
	file("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
	file("etc/passwd", "program:x:1000:1000:program:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n");
	for (int i = 0; i < n_binds; i++)
		if (!is_dir[i])
			check(mknod(binds[i] + 1, S_IFREG, 0), binds[i]);
	CHECK(mount("proc", "proc", "proc", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "subset=pid,hidepid=invisible"));
	CHECK(mount("tmpfs", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=67108864,nr_inodes=65536"));
	CHECK(mount("tmpfs", "tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=67108864,nr_inodes=65536"));
	for (int i = 0; i < n_binds; i++) {
		struct mount_attr a = {.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_RDONLY, .propagation = MS_PRIVATE};
		if (strncmp(binds[i], "/dev/", 5))
			a.attr_set |= MOUNT_ATTR_NODEV;
		if (strcmp(binds[i], target))
			a.attr_set |= MOUNT_ATTR_NOEXEC;
		check(mount_setattr(trees[i], "", AT_EMPTY_PATH | AT_RECURSIVE, &a, sizeof a), binds[i]);
		check(move_mount(trees[i], "", AT_FDCWD, binds[i] + 1, MOVE_MOUNT_F_EMPTY_PATH), binds[i]);
	}
	struct mount_attr a = {.attr_set = MOUNT_ATTR_RDONLY, .propagation = MS_PRIVATE};
	CHECK(mount_setattr(root, "", AT_EMPTY_PATH, &a, sizeof a));
	CHECK(fchdir(root));
	CHECK(syscall(SYS_pivot_root, ".", "."));
	CHECK(umount2(".", MNT_DETACH));
	CHECK(chdir("/"));
}

static void drop_privileges(void)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct none[2] = {0};
	limit(RLIMIT_CORE, 1);
	limit(RLIMIT_MEMLOCK, 64 << 10);
	limit(RLIMIT_NPROC, 4096);
	limit(RLIMIT_FSIZE, 4ull << 30);
	syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL);
	for (int cap = 0; prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++)
		;
	CHECK(prctl(PR_SET_SECUREBITS, 0xef, 0, 0, 0));
	CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
	CHECK(syscall(SYS_capset, &header, none));
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

/* PID 1 of the new namespaces. */
static void init(const struct leaf *leaf, int go, int report, const int *trees)
{
	char byte;
	if (read(go, &byte, 1) != 1)
		_exit(125);
	leaf_enter(leaf);
	CHECK(syscall(SYS_setresgid, 1000, 1000, 1000));
	CHECK(syscall(SYS_setresuid, 1000, 1000, 1000));
	CHECK(prctl(PR_SET_DUMPABLE, 0));
	CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL));
	CHECK(prctl(PR_SET_NAME, "init"));
	CHECK(sethostname("proscenium", 10));
	umask(0);
	make_root(trees);
	drop_privileges();
	char *argv[] = {(char *)target, NULL}, *env[] = {NULL};
	pid_t pid = CHECK(vfork());
	if (pid == 0) {
		sigset_t none;
		sigemptyset(&none);
		umask(022);
		CHECK(setsid());
		CHECK(sigprocmask(SIG_SETMASK, &none, NULL));
		CHECK(syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC));
		limit(RLIMIT_NOFILE, 1024);
		CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter));
		execve(target, argv, env);
		check(-1, target);
	}
	for (;;) {
		int status;
		if (CHECK(wait4(-1, &status, 0, NULL)) == pid) {
			CHECK(write(report, &status, sizeof status));
			_exit(0);
		}
	}
}

static void start(unsigned long number)
{
	struct leaf leaf;
	int go[2], report[2], trees[MOST], pidfd, status;
	uint64_t begin = now();
	leaf_make(&leaf, number);
	for (int i = 0; i < n_binds; i++)
		trees[i] = check(open_tree(AT_FDCWD, binds[i], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE), binds[i]);
	CHECK(pipe2(go, O_CLOEXEC));
	CHECK(pipe2(report, O_CLOEXEC));
	struct clone_args args = {.flags = namespaces | CLONE_PIDFD, .pidfd = (uintptr_t)&pidfd, .exit_signal = SIGCHLD};
	if (leaf.dir >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = leaf.dir;
	}
	pid_t pid = CHECK(syscall(SYS_clone3, &args, sizeof args));
	if (pid == 0)
		init(&leaf, go[0], report[1], trees);
	map_ids(pid);
	CHECK(write(go[1], "", 1));
	close(report[1]);
	if (read(report[0], &status, sizeof status) != sizeof status || status != 0) {
		fprintf(stderr, "floor: the target did not exit with 0\n");
		exit(1);
	}
	uint64_t reported = now();
	CHECK(waitpid(pid, &status, 0));
	uint64_t gone = now();
	close(go[0]), close(go[1]), close(report[0]), close(pidfd);
	for (int i = 0; i < n_binds; i++)
		close(trees[i]);
	leaf_remove(&leaf);
	printf("%lu %lu\n", (unsigned long)(reported - begin), (unsigned long)(gone - begin));
	fflush(stdout);
}

static void add_dir(const char *path)
{
	for (int i = 0; i < n_dirs; i++)
		if (!strcmp(dirs[i], path))
			return;
	dirs[n_dirs++] = strdup(path);
}

/* The directories that lead to path, and itself if it is one. */
static void add_path(const char *path, int itself)
{
	char text[4096];
	snprintf(text, sizeof text, "%s", path + 1);
	for (char *slash = text; (slash = strchr(slash, '/')); *slash++ = '/') {
		*slash = 0;
		add_dir(text);
	}
	if (itself)
		add_dir(text);
}

static void show(const char *path)
{
	struct stat s;
	if (stat(path, &s) < 0)
		return; /* Proscenium shows what the host has, too */
	is_dir[n_binds] = S_ISDIR(s.st_mode);
	binds[n_binds++] = path;
	add_path(path, S_ISDIR(s.st_mode));
}

static void load_filter(const char *path)
{
	static char bytes[64 << 10];
	int fd = check(open(path, O_RDONLY), path);
	filter.len = check(read(fd, bytes, sizeof bytes), path) / sizeof(struct sock_filter);
	filter.filter = (void *)bytes;
	close(fd);
}

int main(int argc, char **argv)
{
	int option;
	while ((option = getopt(argc, argv, "nb:f:" LEAF_OPTIONS)) >= 0)
		switch (option) {
		case 'n': namespaces &= ~CLONE_NEWNET; break;
		case 'b': show(optarg); break;
		case 'f': load_filter(optarg); break;
		default:
			if (!leaf_option(option, optarg))
				return 2;
		}
	if (optind != argc - 1 || !filter.len) {
		fprintf(stderr, "floor: see the head of floor.c\n");
		return 2;
	}
	target = argv[optind];
	show(target);
	for (const char *const *d = (const char *const[]){"/dev/shm", "/etc", "/proc", "/tmp", "/usr", NULL}; *d; d++)
		add_path(*d, 1);
	CHECK(setgroups(0, NULL));
	char byte;
	for (unsigned long number = 0; read(0, &byte, 1) == 1; number++)
		start(number);
	return 0;
}

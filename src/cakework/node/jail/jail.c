/* cakework-jail: confines itself, then becomes the program it is given.
 *
 *   cakework-jail --root DIR --uid N [--netns FD] [--procs FILE]... [--bind FROM:TO]...
 *                 [--device PATH]... [--preload FILE] [--fork FD | --fork-users FD]
 *                 -- PROGRAM [ARG]...
 *
 * In this order: joins the cgroups (--procs, each a cgroup.procs file), enters the network
 * namespace, gets mount, IPC and UTS namespaces of its own, and makes a root file system in
 * which there is nothing but /usr (read-only, with its usual links), /dev/null, the given
 * devices, and the given folders or files (read-only unless TO ends in ",rw"). Then it becomes
 * user and group N, without capabilities or a way to gain any, and runs the program in a session
 * of its own, with FILE preloaded into it. Descriptors it was given stay open. The process id does not change.
 *
 * With --fork the program is told that requests to be forked come through FD (see zygote.c). With
 * --fork-users it also keeps the right to change its user, so that each fork can become one of its own
 * and give the right up: only for a program that has run nothing of a stranger's.
 *
 * DIR is an empty folder; nothing is left mounted outside the new namespace. Errors go to
 * stderr, exit status 126.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST 16
#define OPEN_FILES 1024
#define USER_RIGHTS (1u << 6 | 1u << 7) /* CAP_SETGID, CAP_SETUID */
#define CAPABILITY_VERSION 0x20080522
#define PRELOAD "/preload.so"

struct list {
    const char *items[MOST];
    int count;
};

struct options {
    const char *root, *preload, *fork;
    uid_t uid;
    int netns, forks_change_user;
    struct list procs, binds, devices;
    char **program;
};

static _Noreturn void fail(const char *what, const char *name)
{
    fprintf(stderr, "cakework-jail: %s %s: %s\n", what, name, strerror(errno));
    exit(126);
}

static _Noreturn void usage(const char *why)
{
    fprintf(stderr, "cakework-jail: %s\n", why);
    exit(126);
}

static void keep(struct list *list, const char *item)
{
    if (list->count == MOST)
        usage("too many of one option");
    list->items[list->count++] = item;
}

static long number(const char *text)
{
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || *end || end == text || value < 0 || value > 0x7fffffff)
        usage("not a number");
    return value;
}

static struct options parse(int argc, char **argv)
{
    struct options o = { .netns = -1 };
    int i = 1;
    for (; i + 1 < argc && strcmp(argv[i], "--") != 0; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--root"))
            o.root = value;
        else if (!strcmp(name, "--preload"))
            o.preload = value;
        else if (!strcmp(name, "--fork") || !strcmp(name, "--fork-users")) {
            o.fork = value;
            o.forks_change_user = name[6] != 0;
        } else if (!strcmp(name, "--uid"))
            o.uid = (uid_t)number(value);
        else if (!strcmp(name, "--netns"))
            o.netns = (int)number(value);
        else if (!strcmp(name, "--procs"))
            keep(&o.procs, value);
        else if (!strcmp(name, "--bind"))
            keep(&o.binds, value);
        else if (!strcmp(name, "--device"))
            keep(&o.devices, value);
        else
            usage("unknown option");
    }
    if (i + 1 >= argc || strcmp(argv[i], "--") != 0 || !o.root || !o.uid)
        usage("needs --root, --uid and -- PROGRAM");
    o.program = argv + i + 1;
    return o;
}

static void join(const char *procs)
{
    int fd = open(procs, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1)
        fail("cannot join", procs);
    close(fd);
}

/* Makes the folders above path, which is absolute, below the current folder. */
static void parents(const char *path)
{
    char part[4096];
    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        size_t length = (size_t)(slash - path) - 1;
        if (length >= sizeof part)
            usage("path too long");
        memcpy(part, path + 1, length);
        part[length] = 0;
        if (mkdir(part, 0755) && errno != EEXIST)
            fail("cannot make", part);
    }
}

/* Binds from (outside) to the same place as `to`, absolute inside the new root, our folder. */
static void bind_to(const char *from, const char *to, unsigned long flags)
{
    struct stat st;
    if (stat(from, &st))
        fail("cannot see", from);
    parents(to);
    const char *inside = to + 1;
    if (S_ISDIR(st.st_mode)) {
        if (mkdir(inside, 0755) && errno != EEXIST)
            fail("cannot make", inside);
    } else {
        int fd = open(inside, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0444);
        if (fd < 0)
            fail("cannot make", inside);
        close(fd);
    }
    if (mount(from, inside, NULL, MS_BIND, NULL))
        fail("cannot bind", from);
    if (mount(NULL, inside, NULL, MS_BIND | MS_REMOUNT | MS_NOSUID | flags, NULL))
        fail("cannot restrict", inside);
}

static void bind_option(const char *option)
{
    char text[8192];
    if (strlen(option) >= sizeof text)
        usage("path too long");
    strcpy(text, option);
    char *to = strrchr(text, ':');
    if (!to || to[1] != '/')
        usage("--bind takes FROM:TO, both absolute");
    *to++ = 0;
    unsigned long flags = MS_RDONLY | MS_NODEV;
    char *mode = strstr(to, ",rw");
    if (mode && !mode[3]) {
        *mode = 0;
        flags = MS_NODEV | MS_NOEXEC;
    }
    bind_to(text, to, flags);
}

/* Makes a device like the one outside, usable by the program whoever may use that one. */
static void make_device(const char *path)
{
    struct stat st;
    if (stat(path, &st) || !S_ISCHR(st.st_mode))
        fail("cannot see the device", path);
    if (mknod(path + 1, S_IFCHR | 0666, st.st_rdev))
        fail("cannot make the device", path);
}

static void enter_root(const struct options *o)
{
    static const char *const links[] = { "bin", "lib", "lib64", "lib32", "sbin" };
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
        fail("cannot make private", "/");
    if (mount("tmpfs", o->root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=0755"))
        fail("cannot mount", o->root);
    if (chdir(o->root))
        fail("cannot enter", o->root);
    bind_to("/usr", "/usr", MS_RDONLY | MS_NODEV);
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
        char target[16];
        snprintf(target, sizeof target, "usr/%s", links[i]);
        if (symlink(target, links[i]))
            fail("cannot link", links[i]);
    }
    bind_to("/etc/ld.so.cache", "/etc/ld.so.cache", MS_RDONLY | MS_NODEV | MS_NOEXEC);
    if (mkdir("dev", 0755) || mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k"))
        fail("cannot mount", "/dev");
    make_device("/dev/null");
    for (int i = 0; i < o->devices.count; i++)
        make_device(o->devices.items[i]);
    if (mount(NULL, "dev", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NOEXEC, NULL))
        fail("cannot make read-only", "/dev");
    if (o->preload)
        bind_to(o->preload, PRELOAD, MS_RDONLY | MS_NODEV);
    for (int i = 0; i < o->binds.count; i++)
        bind_option(o->binds.items[i]);
    if (syscall(SYS_pivot_root, ".", "."))
        fail("cannot change root to", o->root);
    if (umount2(".", MNT_DETACH) || chdir("/"))
        fail("cannot leave", "the old root");
    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, "size=1m,mode=0755"))
        fail("cannot make read-only", "/");
}

/* The right to change user and group is kept through exec, and no other. */
static void keep_user_rights(void)
{
    /* capset(2): version and process; effective, permitted, inheritable, twice. */
    struct { uint32_t version; int pid; } header = { CAPABILITY_VERSION, 0 };
    uint32_t data[6] = { USER_RIGHTS, USER_RIGHTS, USER_RIGHTS };
    if (syscall(SYS_capset, &header, data))
        fail("cannot keep", "a capability");
    for (int cap = 0; cap < 32; cap++)
        if (USER_RIGHTS & 1u << cap && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0))
            fail("cannot keep", "a capability");
}

static void drop_rights(uid_t uid, int keep)
{
    static const struct rlimit none = { 0, 0 };
    struct rlimit files;
    setrlimit(RLIMIT_CORE, &none);
    /* The node has as many open files as it may; what it starts gets what is usual. */
    if (!getrlimit(RLIMIT_NOFILE, &files) && files.rlim_cur > OPEN_FILES) {
        files.rlim_cur = OPEN_FILES;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    for (int cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
        if (!(keep && cap < 32 && USER_RIGHTS & 1u << cap) && prctl(PR_CAPBSET_DROP, cap))
            fail("cannot drop", "a capability");
    if (keep && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
        fail("cannot keep", "a capability");
    if (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid))
        fail("cannot become", "the user");
    if (keep)
        keep_user_rights();
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        fail("cannot set", "no_new_privs");
}

int main(int argc, char **argv)
{
    struct options o = parse(argc, argv);
    umask(0);
    for (int i = 0; i < o.procs.count; i++)
        join(o.procs.items[i]);
    if (o.netns >= 0) {
        if (setns(o.netns, CLONE_NEWNET))
            fail("cannot enter", "the network namespace");
        close(o.netns);
    }
    if (unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS))
        fail("cannot get", "namespaces");
    enter_root(&o);
    drop_rights(o.uid, o.forks_change_user);
    setsid();
    char fork[64];
    snprintf(fork, sizeof fork, "CAKEWORK_FORK=%s", o.fork ? o.fork : "");
    char *environment[] = { "LC_ALL=C", o.preload ? "LD_PRELOAD=" PRELOAD : NULL,
                            o.fork ? fork : NULL, NULL };
    execve(o.program[0], o.program, environment);
    fail("cannot run", o.program[0]);
}

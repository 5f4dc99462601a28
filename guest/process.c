#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdalign.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "etc.h"
#include "files.h"
#include "freezer.h"
#include "notify.h"
#include "paths.h"
#include "rootfs.h"
#include "text.h"
#include "user.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum {
    CHILD_STACK = 64 << 10,
    ACCOUNTS_MAX = 1 << 20,
    EXIT_NOT_STARTED = 127,
};

/* What parent and child share: the child runs in the parent's memory until it executes. */
struct start {
    const struct run *run;
    const struct disk *image;
    const struct disk *volume;
    int mounts; /* of the program to join; -1: it is the program */
    int notify;
    int out, err;
    bool failed;
    struct failure *failure;
};

/* A missing file is an empty one. */
static bool read_accounts(const char *path, char *buffer, struct file_text *text,
                          struct failure *f)
{
    ssize_t size = plain_read(path, buffer, ACCOUNTS_MAX);
    if (size < 0 && errno != ENOENT && errno != ENOTDIR)
        return fail(f, errno, "reading", path);
    if (size == ACCOUNTS_MAX - 1)
        return fail(f, EFBIG, "reading", path);
    *text = (struct file_text){buffer, size < 0 ? 0 : (size_t)size};
    return true;
}

static bool find_user(struct user *user, const char *spec, struct failure *f)
{
    static char passwd[ACCOUNTS_MAX], group[ACCOUNTS_MAX];
    struct file_text passwd_text, group_text;
    const char *why;
    if (!read_accounts("/etc/passwd", passwd, &passwd_text, f) ||
        !read_accounts("/etc/group", group, &group_text, f))
        return false;
    if (!user_lookup(user, spec, passwd_text, group_text, &why)) {
        fail(f, 0, "looking for user", spec);
        strncat(f->what, ": ", sizeof f->what - strlen(f->what) - 1);
        strncat(f->what, why, sizeof f->what - strlen(f->what) - 1);
        return false;
    }
    return true;
}

static bool enter_folder(const char *cwd, struct failure *f)
{
    if (chdir("/") || (*cwd && (!folder_make(cwd, 0755) || chdir(cwd))))
        return fail(f, errno, "entering the working directory", cwd);
    return true;
}

/* A program that a hook joins may have put anything in its place. */
static int open_null(void)
{
    struct stat st;
    int fd = open("/dev/null", O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    if (!fstat(fd, &st) && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3) &&
        !fcntl(fd, F_SETFL, 0))
        return fd;
    close(fd);
    errno = ENODEV;
    return -1;
}

/* Standard input is the null device of the new root, not one of the old. */
static bool set_streams(const struct start *start, struct failure *f)
{
    int null = open_null();
    if (null < 0)
        return fail(f, errno, "opening", "/dev/null");
    if (dup2(null, STDIN_FILENO) < 0 || dup2(start->out, STDOUT_FILENO) < 0 ||
        dup2(start->err, STDERR_FILENO) < 0)
        return fail(f, errno, "setting up the standard streams", NULL);
    return true;
}

/* Directly: libc would look for threads to tell. */
static bool become(const struct user *user, struct failure *f)
{
    if (syscall(SYS_setgroups, user->group_count, user->groups) ||
        syscall(SYS_setresgid, user->gid, user->gid, user->gid) ||
        syscall(SYS_setresuid, user->uid, user->uid, user->uid))
        return fail(f, errno, "becoming the user", NULL);
    return true;
}

static bool detach(struct failure *f)
{
    sigset_t none;
    sigemptyset(&none);
    if (!freezer_enter(f))
        return false;
    if (setsid() < 0 || sigprocmask(SIG_SETMASK, &none, NULL))
        return fail(f, errno, "detaching the process", NULL);
    return true;
}

/* Adds HOME at the end of env, where a place is free, when env lacks it. */
static void add_home(char **env, const char *home)
{
    static char entry[HOME_MAX + 8];
    struct text t = text_of(entry, sizeof entry);
    if (env_get(env, "HOME"))
        return;
    text_add(&t, "HOME=");
    text_add(&t, home);
    while (*env)
        env++;
    env[0] = entry;
    env[1] = NULL;
}

/* Returns only when nothing could be executed. */
static bool execute(char **argv, char **env, struct failure *f)
{
    static char path[PATH_MAX];
    const char *search = env_get(env, "PATH");
    int error = ENOENT;
    for (size_t i = 0;; i++) {
        struct text t = text_of(path, sizeof path);
        if (!path_candidate(&t, search ? search : DEFAULT_PATH, argv[0], i))
            return fail(f, error, "executing", argv[0]);
        if (t.cut)
            continue;
        execve(path, argv, env);
        if (errno != ENOENT && errno != ENOTDIR)
            error = errno;
        if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
            return fail(f, error, "executing", path);
    }
}

static bool enter(const struct start *start)
{
    struct failure *f = start->failure;
    /* By the guest's /proc: the program to be joined may have put another in the place of its. */
    if (!switch_write(VM_PROC "/self/oom_score_adj", "0"))
        return fail(f, errno, "detaching the process", NULL);
    if (start->mounts >= 0)
        return rootfs_join(start->mounts, f);
    return rootfs_enter(start->image, start->volume, f) &&
           (start->notify < 0 || notify_place(start->notify, f));
}

static bool run_in_image(const struct start *start)
{
    static struct user user;
    const struct run *run = start->run;
    struct failure *f = start->failure;
    if (!enter(start) || !find_user(&user, run->user, f) || !detach(f) ||
        !enter_folder(run->cwd, f) || !set_streams(start, f) || !become(&user, f))
        return false;
    add_home(run->env, user.home);
    return execute(run->argv, run->env, f);
}

static int child(void *argument)
{
    struct start *start = argument;
    start->failed = !run_in_image(start);
    _exit(EXIT_NOT_STARTED);
}

static pid_t spawn(struct start *start)
{
    alignas(16) static char stack[CHILD_STACK];
    const int flags = CLONE_VM | CLONE_VFORK | CLONE_NEWNS | SIGCHLD;
    pid_t pid = clone(child, stack + sizeof stack, flags, start);
    if (pid < 0) {
        fail(start->failure, errno, "starting a process", NULL);
        return -1;
    }
    if (!start->failed)
        return pid;
    waitpid(pid, NULL, 0);
    return -1;
}

bool process_pipe(int ends[2], struct failure *f)
{
    if (pipe2(ends, O_CLOEXEC))
        return fail(f, errno, "making a pipe", NULL);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    return true;
}

static bool open_pipes(int out[2], int err[2], struct failure *f)
{
    if (!process_pipe(out, f))
        return false;
    if (process_pipe(err, f))
        return true;
    close(out[0]);
    close(out[1]);
    return false;
}

static bool spawn_with_pipes(struct process *process, struct start *start)
{
    int out[2], err[2];
    if (!open_pipes(out, err, start->failure))
        return false;
    start->out = out[1];
    start->err = err[1];
    process->pid = spawn(start);
    process->out = out[0];
    process->err = err[0];
    close(out[1]);
    close(err[1]);
    if (process->pid > 0)
        return true;
    close(out[0]);
    close(err[0]);
    return false;
}

bool process_start(struct process *process, const struct run *run, struct disks *disks,
                   const char *address, int notify, struct failure *f)
{
    struct start start = {
        .run = run, .image = &disks->image, .mounts = -1, .notify = notify, .failure = f};
    struct etc etc = etc_of(&run->identity, address);
    if (!run->argv[0])
        return fail(f, EINVAL, "executing a program without a name", NULL);
    if (!disk_claim(&disks->image, f) || (run->volume && !disk_claim(&disks->volume, f)))
        return false;
    start.volume = run->volume ? &disks->volume : NULL;
    return etc_write(&etc, VM_UPPER, f) && spawn_with_pipes(process, &start);
}

static int open_mounts(pid_t pid)
{
    char path[64];
    struct text t = text_of(path, sizeof path);
    text_add(&t, VM_PROC "/");
    text_number(&t, (uint64_t)pid);
    text_add(&t, "/ns/mnt");
    return open(path, O_RDONLY | O_CLOEXEC);
}

static bool spawn_with_pipe(struct process *process, struct start *start)
{
    int ends[2];
    if (!process_pipe(ends, start->failure))
        return false;
    start->out = start->err = ends[1];
    process->out = ends[0];
    process->err = -1;
    process->pid = spawn(start);
    close(ends[1]);
    if (process->pid > 0)
        return true;
    close(ends[0]);
    return false;
}

bool process_join(struct process *process, const struct run *run, pid_t pid, struct failure *f)
{
    struct start start = {.run = run, .mounts = open_mounts(pid), .notify = -1, .failure = f};
    bool started;
    if (start.mounts < 0)
        return fail(f, errno, "finding the program", NULL);
    if (!run->argv[0])
        fail(f, EINVAL, "executing a program without a name", NULL);
    started = run->argv[0] && spawn_with_pipe(process, &start);
    close(start.mounts);
    return started;
}

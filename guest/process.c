#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdalign.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "files.h"
#include "network.h"
#include "paths.h"
#include "rootfs.h"
#include "user.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum {
    CHILD_STACK = 64 << 10,
    ACCOUNTS_MAX = 1 << 20,
    HOSTNAME_MAX = 64,
    EXIT_NOT_STARTED = 127,
};

/* What parent and child share: the child runs in the parent's memory until it executes. */
struct start {
    const struct run *run;
    const struct disk *image;
    const struct disk *volume;
    struct etc_texts etc;
    int out, err;
    bool failed;
    struct failure *failure;
};

/* A missing file is an empty one. */
static bool read_accounts(const char *path, char *buffer, struct file_text *text,
                          struct failure *f)
{
    ssize_t size = file_read(path, buffer, ACCOUNTS_MAX);
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

/* Standard input is the null device of the new root, not one of the old. */
static bool set_streams(const struct start *start, struct failure *f)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(start->out, STDOUT_FILENO) < 0 ||
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
    if (!switch_write("/proc/self/oom_score_adj", "0") || setsid() < 0 ||
        sigprocmask(SIG_SETMASK, &none, NULL))
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

static bool run_in_image(const struct start *start)
{
    static struct user user;
    const struct run *run = start->run;
    struct failure *f = start->failure;
    if (!rootfs_enter(start->image, start->volume, &start->etc, f) ||
        !find_user(&user, run->user, f) || !detach(f) || !enter_folder(run->cwd, f) ||
        !set_streams(start, f) || !become(&user, f))
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

static bool open_pipes(int out[2], int err[2], struct failure *f)
{
    if (pipe2(out, O_CLOEXEC))
        return fail(f, errno, "making a pipe", NULL);
    if (pipe2(err, O_CLOEXEC)) {
        close(out[0]);
        close(out[1]);
        return fail(f, errno, "making a pipe", NULL);
    }
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    fcntl(err[0], F_SETFL, O_NONBLOCK);
    return true;
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
                   const char *address, struct failure *f)
{
    static char hostname[HOSTNAME_MAX + 2], hosts[1024], resolv[4096];
    char own[16];
    unsigned prefix;
    struct start start = {.run = run, .image = &disks->image, .failure = f};
    struct text name = text_of(hostname, sizeof hostname);
    if (!run->argv[0])
        return fail(f, EINVAL, "executing a program without a name", NULL);
    if (!disk_claim(&disks->image, f) || (run->volume && !disk_claim(&disks->volume, f)))
        return false;
    start.volume = run->volume ? &disks->volume : NULL;
    text_add(&name, run->hostname);
    text_add(&name, "\n");
    start.etc = (struct etc_texts){name, text_of(hosts, sizeof hosts),
                                   text_of(resolv, sizeof resolv)};
    if (!address || !network_parse(address, own, &prefix))
        strcpy(own, "127.0.1.1");
    hosts_text(&start.etc.hosts, own, run->hostname);
    resolv_text(&start.etc.resolv, run->dns);
    return spawn_with_pipes(process, &start);
}

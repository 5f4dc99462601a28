#include "hook.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "identity.h"
#include "process.h"
#include "text.h"

enum { ANSWER_MAX_BYTES = 65536, PATH_MAX_BYTES = 2048 };

/* Nothing in it may end a line of the request. */
static bool is_path(const char *path)
{
    if (*path != '/' || strlen(path) > PATH_MAX_BYTES)
        return false;
    while (*path > ' ' && *path < 0x7F)
        path++;
    return !*path;
}

static int connected(uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to))
        return -1;
    return fd;
}

static bool send_request(int fd, uint16_t port, const char *path)
{
    static char request[PATH_MAX_BYTES + 256];
    struct text t = text_of(request, sizeof request);
    text_add(&t, "POST ");
    text_add(&t, path);
    text_add(&t, " HTTP/1.1\r\nHost: localhost:");
    text_number(&t, port);
    text_add(&t, "\r\nUser-Agent: cakework\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    return send(fd, t.at, t.used, MSG_NOSIGNAL) == (ssize_t)t.used;
}

/* Reads the answer to its end, or as much as is enough. Returns its status; 0: it has none. */
static unsigned read_answer(int fd)
{
    static char bytes[4096];
    char head[13] = "";
    size_t used = 0, all = 0;
    ssize_t n;
    uint32_t status = 0;
    while (all < ANSWER_MAX_BYTES && (n = recv(fd, bytes, sizeof bytes, 0)) > 0) {
        size_t wanted = sizeof head - 1 - used;
        size_t part = (size_t)n < wanted ? (size_t)n : wanted;
        memcpy(head + used, bytes, part);
        used += part;
        all += (size_t)n;
    }
    if (used < sizeof head - 1 || strncmp(head, "HTTP/1.", 7) || head[8] != ' ' ||
        !parse_number(head + 9, &status))
        return 0;
    return status;
}

static void complain(const char *path, const char *what, uint32_t status)
{
    static char line[PATH_MAX_BYTES + 256];
    struct text t = text_of(line, sizeof line);
    text_add(&t, "[cakework: POST ");
    text_add(&t, path);
    text_add(&t, what);
    if (status)
        text_number(&t, status);
    text_add(&t, "]\n");
    if (write(STDOUT_FILENO, t.at, t.used) < 0)
        return;
}

static int post(const struct hook *hook)
{
    int fd = connected(hook->port);
    unsigned status;
    if (fd < 0 || !send_request(fd, hook->port, hook->path)) {
        complain(hook->path, ": nothing answers on the program's port", 0);
        return 1;
    }
    status = read_answer(fd);
    if (status >= 200 && status < 300)
        return 0;
    complain(hook->path, status ? " was answered " : " had no HTTP answer", status);
    return 1;
}

/* A process of the guest's own, so that nothing of what it waits for keeps the guest. */
static bool start_post(struct process *process, const struct hook *hook, struct failure *f)
{
    int ends[2];
    if (!is_path(hook->path))
        return fail(f, EINVAL, "sending a POST to", hook->path);
    if (!process_pipe(ends, f))
        return false;
    process->pid = fork();
    if (process->pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        syscall(SYS_close_range, STDERR_FILENO + 1, ~0u, 0);
        _exit(post(hook));
    }
    process->out = ends[0];
    close(ends[1]);
    if (process->pid > 0)
        return true;
    close(ends[0]);
    return fail(f, errno, "starting a process", NULL);
}

static bool start_program(struct process *process, const struct hook *hook,
                          const struct run *run, pid_t pid, struct failure *f)
{
    static char *env[LIST_MAX + 8];
    struct run beside = *run;
    size_t count = 0;
    for (char **entry = run->env; *entry; entry++)
        env[count++] = *entry;
    for (char *const *entry = identity_env(); *entry; entry++)
        env[count++] = *entry;
    env[count] = NULL;
    beside.argv = hook->argv;
    beside.env = env;
    return process_join(process, &beside, pid, f);
}

bool hook_start(struct hooking *hooking, const struct hook *hook, const struct run *run,
                pid_t pid, struct failure *f)
{
    struct process process;
    bool started = hook->port ? start_post(&process, hook, f)
                              : start_program(&process, hook, run, pid, f);
    if (!started)
        return false;
    hooking->active = true;
    hooking->due = false;
    hooking->pid = process.pid;
    hooking->end = HOOK_DONE;
    hooking->kill_at_ms = steady_clock_ms() + hook->timeout_ms;
    output_open(&hooking->out, process.out, STREAM_STDERR);
    return true;
}

void hook_ended(struct hooking *hooking, int status)
{
    hooking->pid = 0;
    hooking->kill_at_ms = 0;
    if (hooking->end == HOOK_TIMEOUT)
        hooking->value = 0;
    else if (WIFSIGNALED(status)) {
        hooking->end = HOOK_SIGNAL;
        hooking->value = (uint32_t)WTERMSIG(status);
    } else
        hooking->value = (uint32_t)WEXITSTATUS(status);
}

void hook_keep_time(struct hooking *hooking, uint64_t now_ms)
{
    if (!hooking->kill_at_ms || hooking->kill_at_ms > now_ms)
        return;
    hooking->kill_at_ms = 0;
    hooking->end = HOOK_TIMEOUT;
    kill(hooking->pid, SIGKILL);
}

void hook_read(struct hooking *hooking, struct lines *lines, enum when_full when_full)
{
    if (!hooking->active)
        return;
    output_read(&hooking->out, lines, when_full);
    if (hooking->pid)
        return;
    /* Whatever it left behind may hold the pipe for ever: what is in it now is all. */
    if (hooking->out.fd >= 0)
        output_end(&hooking->out, lines, when_full);
    if (hooking->out.fd < 0) {
        hooking->active = false;
        hooking->due = true;
    }
}

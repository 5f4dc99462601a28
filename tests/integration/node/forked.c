/* A program with threads, to be forked through cakework-preload.so; see test_forking.py.
 *
 * Takes commands of one letter from descriptor 0 and answers each with one line on descriptor 1.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Atomic long counted;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t asked_or_done = PTHREAD_COND_INITIALIZER;
static int asked, done;
static __thread int own = 1;
static char *kept;

static void *count(void *argument)
{
    for (own = 2;; counted++)
        usleep(100);
    return argument;
}

static void *serve(void *argument)
{
    own = 3;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!asked)
            pthread_cond_wait(&asked_or_done, &lock);
        asked = 0;
        done = own;
        pthread_cond_broadcast(&asked_or_done);
    }
    return argument;
}

static void *once(void *argument)
{
    return (void *)((intptr_t)argument + 1);
}

static void *allocate(void *argument)
{
    free(malloc(4096));
    return argument;
}

/* Makes threads as QEMU does, with all signals blocked, one after another; each ends at once. */
static void *churn(void *argument)
{
    sigset_t all, before;
    pthread_attr_t detached;
    sigfillset(&all);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    for (;;) {
        pthread_t thread;
        pthread_sigmask(SIG_SETMASK, &all, &before);
        pthread_create(&thread, &detached, allocate, NULL);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        usleep(20);
    }
    return argument;
}

static int ask(void)
{
    pthread_mutex_lock(&lock);
    asked = 1;
    done = 0;
    pthread_cond_broadcast(&asked_or_done);
    while (!done)
        pthread_cond_wait(&asked_or_done, &lock);
    pthread_mutex_unlock(&lock);
    return done;
}

static const char *outcome(long result)
{
    return result < 0 ? strerrorname_np(errno) : "done";
}

static void threads(void)
{
    long before = counted;
    pthread_t thread;
    void *result = NULL;
    while (counted < before + 10)
        usleep(100);
    int created = pthread_create(&thread, NULL, once, (void *)41);
    if (!created)
        pthread_join(thread, &result);
    printf("own %d served %d created %ld random %d\n", own, ask(), (long)(intptr_t)result,
           rand() >= 0);
}

static void try_rights(pid_t other)
{
    char *nothing[] = { "true", NULL };
    struct rlimit limit;
    printf("exec %s ", outcome(execve("/bin/true", nothing, nothing)));
    printf("fork %s ", outcome(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)));
    printf("vfork %s ", outcome(syscall(SYS_vfork)));
    printf("clone3 %s ", outcome(syscall(SYS_clone3, NULL, 0)));
    printf("kill %s ", outcome(kill(other, SIGCONT)));
    printf("tgkill %s ", outcome(syscall(SYS_tgkill, other, other, SIGCONT)));
    printf("own tgkill %s ", outcome(syscall(SYS_tgkill, getpid(), getpid(), 0)));
    printf("ptrace %s ", outcome(ptrace(PTRACE_ATTACH, other, 0, 0)));
    printf("setuid %s ", outcome(syscall(SYS_setresuid, 12345, 12345, 12345)));
    printf("setgroups %s ", outcome(syscall(SYS_setgroups, 0, NULL)));
    printf("prlimit %s ", outcome(syscall(SYS_prlimit64, other, RLIMIT_FSIZE, NULL, &limit)));
    printf("own prlimit %s ", outcome(syscall(SYS_prlimit64, 0, RLIMIT_FSIZE, NULL, &limit)));
    printf("setpriority %s ", outcome(syscall(SYS_setpriority, PRIO_PROCESS, other, 0)));
    printf("setown %s ", outcome(fcntl(0, F_SETOWN, other)));
    printf("setsig %s ", outcome(fcntl(0, F_SETSIG, SIGKILL)));
    printf("getfl %s ", outcome(fcntl(0, F_GETFL)));
    printf("fiosetown %s ", outcome(ioctl(0, FIOSETOWN, &other)));
    printf("shmget %s ", outcome(syscall(SYS_shmget, IPC_PRIVATE, 4096, 0600)));
    printf("mq_open %s ", outcome(syscall(SYS_mq_open, "queue", O_CREAT | O_RDWR, 0600, NULL)));
    printf("socket %s ", outcome(socket(AF_UNIX, SOCK_STREAM, 0)));
    printf("bind %s ", outcome(bind(0, NULL, 0)));
    printf("connect %s ", outcome(connect(0, NULL, 0)));
    printf("listen %s ", outcome(listen(0, 1)));
    printf("unshare %s\n", outcome(unshare(CLONE_NEWUSER)));
}

static void command(char letter)
{
    switch (letter) {
    case 't':
        threads();
        break;
    case 'r':
        try_rights(getppid());
        break;
    case 'w':
        printf("was %c\n", *kept);
        *kept = 'x';
        break;
    case 'c': {
        pthread_t thread;
        printf("churns %d\n", pthread_create(&thread, NULL, churn, NULL));
        break;
    }
    case 'i':
        printf("pid %d uid %d\n", (int)getpid(), (int)getuid());
        break;
    default:
        printf("what?\n");
    }
    fflush(stdout);
}

int main(void)
{
    pthread_t counter, server;
    struct pollfd in = { .fd = 0, .events = POLLIN };
    char letter;
    kept = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(kept, 4096, MADV_DONTFORK);
    *kept = 'o';
    if (pthread_create(&counter, NULL, count, NULL) || pthread_create(&server, NULL, serve, NULL))
        return 1;
    for (;;)
        if (poll(&in, 1, -1) > 0) {
            if (read(0, &letter, 1) != 1)
                return 0;
            command(letter);
        }
}

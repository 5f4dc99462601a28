/* Part of cakework-preload.so: lets a QEMU be forked as it is, with all its threads.
 *
 * What makes a machine slow to start under emulation is that its QEMU begins with nothing translated. A
 * fork of a QEMU whose guest has gone that way before has it all, and shares the memory of both until it
 * writes. But fork() copies one thread only, and QEMU has several. So this
 *
 *   1. keeps a list of QEMU's threads (pthread_create below);
 *   2. waits in a thread of its own for requests on the socket that CAKEWORK_FORK names;
 *   3. then has every thread park in the handler of a signal, and forks;
 *   4. in the fork, becomes the user it is to be, answers, puts the descriptors that came with the request
 *      in place of those that belong to the original, gives up what rights there are, and makes each
 *      thread again: one of the kernel's that is new, on the stack and with the thread-local storage of
 *      the old one, which then returns from that handler.
 *
 * A request is one packet: struct request and `count` descriptors (SCM_RIGHTS), of which number i takes the
 * place of places[i]. The answer is an int: 0, from the fork itself, so that the kernel says who it is
 * (SCM_CREDENTIALS), or a negative errno. The fork is a child of the original's parent. Whoever asks sees to it
 * that the machine is paused and that nobody is connected to it.
 *
 * The fork takes no further requests unless the place of that socket was given another one.
 */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/rseq.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "rights.h"

#define MOST_THREADS 128
#define MOST_PLACES 64
#define FIRST_STACK 4096
#define RSEQ_SIZE 32
#define STRUCT_PTHREAD 2048 /* beyond what glibc's has before its tid */
#define SIGNAL (SIGRTMIN + 9)
#define THREAD_FLAGS                                                                               \
    (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |            \
     CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)

struct request {
    uint32_t uid; /* 0: stay who it is */
    uint32_t may_fork;
    uint32_t count;
    int32_t places[MOST_PLACES];
};

enum use { FREE, RUNS, LEAVES /* it may hold locks of the C library until the kernel has ended it */ };

struct thread {
    _Atomic enum use use;
    _Atomic int known;
    int tid;
    void *self; /* glibc's struct pthread, and the thread pointer */
    void *(*routine)(void *);
    void *argument;
    jmp_buf here;
    void *robust;
    size_t robust_size;
};

typedef int creator(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

static struct thread threads[MOST_THREADS];
static __thread struct thread *me __attribute__((tls_model("initial-exec")));
static pthread_mutex_t list = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int parked, generation;
static int control = -1;
static size_t tid_offset;
static creator *real_create;

static void futex(_Atomic int *word, int operation, int value)
{
    syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

static _Noreturn void fail(const char *why)
{
    (void)!write(STDERR_FILENO, why, strlen(why));
    _exit(125);
}

/* The handler. A thread of the original waits here; one of a fork begins its life by returning. */
static void park(int number)
{
    int before = generation, error = errno;
    (void)number;
    syscall(SYS_get_robust_list, 0, &me->robust, &me->robust_size);
    if (!_setjmp(me->here)) {
        parked++;
        futex(&parked, FUTEX_WAKE, 1);
        while (generation == before)
            futex(&generation, FUTEX_WAIT, before);
    }
    errno = error;
}

static void enlist(struct thread *thread)
{
    sigset_t set;
    thread->tid = (int)syscall(SYS_gettid);
    thread->self = (void *)pthread_self();
    me = thread;
    sigemptyset(&set);
    sigaddset(&set, SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void leave(void *thread)
{
    pthread_mutex_lock(&list);
    ((struct thread *)thread)->use = LEAVES;
    pthread_mutex_unlock(&list);
}

static void *begin(void *argument)
{
    struct thread *thread = argument;
    void *(*routine)(void *) = thread->routine;
    void *given = thread->argument, *result;
    enlist(thread);
    pthread_cleanup_push(leave, thread);
    thread->known = 1;
    futex(&thread->known, FUTEX_WAKE, 1);
    result = routine(given);
    pthread_cleanup_pop(1);
    return result;
}

/* Makes a timer that sends a thread of this process SIGNAL; -1: there is no such thread. Not tgkill: a
 * fork has the filters of those it comes from, each of which allows signals to its own process alone. */
static int timer_for(int tid)
{
    struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGNAL };
    int timer;
    event._sigev_un._tid = tid;
    return syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer) ? -1 : timer;
}

/* Whether a thread that leaves has left: nobody has its number any more, or another has it. */
static int has_left(const struct thread *thread)
{
    for (int i = 0; i < MOST_THREADS; i++)
        if (threads[i].use == RUNS && threads[i].tid == thread->tid)
            return 1;
    int timer = timer_for(thread->tid);
    if (timer < 0)
        return errno == EINVAL;
    syscall(SYS_timer_delete, timer);
    return 0;
}

static struct thread *vacancy(void)
{
    for (int i = 0; i < MOST_THREADS; i++)
        if (threads[i].use == FREE || (threads[i].use == LEAVES && has_left(&threads[i])))
            return &threads[i];
    return NULL;
}

/* QEMU makes threads with all signals blocked, and while this waits for a fork to be made, it has to park. */
static void lock_list(void)
{
    sigset_t set, before;
    sigemptyset(&set);
    sigaddset(&set, SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, &before);
    pthread_mutex_lock(&list);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Keeps the list locked until the thread is on it: so a fork misses none. */
int pthread_create(pthread_t *made, const pthread_attr_t *attributes, void *(*routine)(void *),
                   void *argument)
{
    if (control < 0)
        return real_create(made, attributes, routine, argument);
    lock_list();
    struct thread *thread = vacancy();
    int error = EAGAIN;
    if (thread) {
        *thread = (struct thread){ .use = RUNS, .routine = routine, .argument = argument };
        error = real_create(made, attributes, begin, thread);
        while (!error && !thread->known)
            futex(&thread->known, FUTEX_WAIT, 0);
        if (error)
            thread->use = FREE;
    }
    pthread_mutex_unlock(&list);
    return error;
}

/* QEMU would keep the guest's memory out of forks. */
int madvise(void *address, size_t size, int advice)
{
    if (advice == MADV_DONTFORK)
        return 0;
    return (int)syscall(SYS_madvise, address, size, advice);
}

/* What a guest's RDRAND gets. The generator of the library would not notice such a fork, and all forks
 * would draw the same numbers. */
int gnutls_rnd(int level, void *data, size_t size)
{
    (void)level;
    for (size_t done = 0; done < size;) {
        ssize_t got = getrandom((char *)data + done, size - done, 0);
        if (got < 0 && errno != EINTR)
            return -1;
        done += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

static int park_all(void)
{
    static const struct itimerspec at_once = { .it_value = { .tv_nsec = 1 } };
    int timers[MOST_THREADS], count = 0;
    parked = 0;
    for (int i = 0; i < MOST_THREADS; i++) {
        while (threads[i].use == LEAVES && !has_left(&threads[i]))
            sched_yield();
        if (threads[i].use == LEAVES)
            threads[i].use = FREE;
        if (threads[i].use == RUNS) {
            timers[count] = timer_for(threads[i].tid);
            if (timers[count] < 0 || syscall(SYS_timer_settime, timers[count], 0, &at_once, NULL))
                fail("zygote: a thread cannot be signaled\n");
            count++;
        }
    }
    for (int now; (now = parked) < count;)
        futex(&parked, FUTEX_WAIT, now);
    for (int i = 0; i < count; i++)
        syscall(SYS_timer_delete, timers[i]);
    return count;
}

static void release_all(void)
{
    generation++;
    futex(&generation, FUTEX_WAKE, INT_MAX);
}

static int *tid_of(void *self)
{
    return (int *)((char *)self + tid_offset);
}

/* The first function of a thread that is made again. It never returns. */
static int revive(void *argument)
{
    struct thread *thread = argument;
    syscall(SYS_set_robust_list, thread->robust, thread->robust_size);
    if (__rseq_size)
        syscall(SYS_rseq, (char *)thread->self + __rseq_offset, RSEQ_SIZE, 0, RSEQ_SIG);
    _longjmp(thread->here, 1);
}

static void revive_all(void)
{
    static char stacks[MOST_THREADS][FIRST_STACK] __attribute__((aligned(64)));
    for (int i = 0; i < MOST_THREADS; i++)
        if (threads[i].use == RUNS) {
            struct thread *thread = &threads[i];
            int *tid = tid_of(thread->self);
            thread->tid = clone(revive, stacks[i] + FIRST_STACK, THREAD_FLAGS, thread, tid,
                                thread->self, tid);
            if (thread->tid < 0)
                fail("zygote: a thread could not be made again\n");
        }
}

/* In the fork, whose only thread this is. No lock of the C library may be needed here: one that it has
 * not got may be held by a thread that is not there yet. */
static void become(const struct request *request, const int *fds)
{
    int *tid = tid_of((void *)pthread_self()), taken = 0, answer = 0;
    *tid = (int)syscall(SYS_set_tid_address, tid);
    if (change_user(request->uid))
        answer = -errno;
    send(control, &answer, sizeof answer, MSG_NOSIGNAL);
    if (answer)
        fail("zygote: the fork could not become another user\n");
    for (uint32_t i = 0; i < request->count; i++) {
        if (dup2(fds[i], request->places[i]) < 0)
            fail("zygote: a descriptor could not be put in place\n");
        close(fds[i]);
        taken |= request->places[i] == control;
    }
    if (!taken) {
        close(control);
        control = -1;
    }
    if (give_up_rights(request->may_fork))
        fail("zygote: the fork could not give up its rights\n");
    revive_all();
}

static void serve(const struct request *request, const int *fds)
{
    pthread_mutex_lock(&list);
    park_all();
    int answer = (int)syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, NULL, NULL, 0);
    if (answer == 0) {
        become(request, fds);
        pthread_mutex_unlock(&list);
        return;
    }
    if (answer < 0)
        answer = -errno;
    release_all();
    pthread_mutex_unlock(&list);
    for (uint32_t i = 0; i < request->count; i++)
        close(fds[i]);
    if (answer < 0)
        send(control, &answer, sizeof answer, MSG_NOSIGNAL);
}

/* Returns 1 for a request, 0 for none yet, -1 when there will be none any more. */
static int receive(struct request *request, int *fds)
{
    union {
        char space[CMSG_SPACE(sizeof(int) * MOST_PLACES)];
        struct cmsghdr align;
    } more;
    struct iovec part = { request, sizeof *request };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = more.space,
                              .msg_controllen = sizeof more.space };
    ssize_t size = recvmsg(control, &message, MSG_CMSG_CLOEXEC);
    if (size <= 0)
        return size < 0 && errno == EINTR ? 0 : -1;
    struct cmsghdr *first = CMSG_FIRSTHDR(&message);
    size_t got = first ? (first->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
    if (size != sizeof *request || got > MOST_PLACES || got != request->count)
        return -1;
    if (first)
        memcpy(fds, CMSG_DATA(first), got * sizeof(int));
    return 1;
}

static void *wait_for_requests(void *argument)
{
    static struct request request;
    static int fds[MOST_PLACES];
    sigset_t all;
    (void)argument;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    for (int got; (got = receive(&request, fds)) >= 0;)
        if (got)
            serve(&request, fds);
    for (;;)
        pause();
    return NULL;
}

/* glibc keeps a thread's id in its struct pthread, and tells nobody where. */
static size_t find_tid(void)
{
    int tid = (int)syscall(SYS_gettid);
    const char *self = (const char *)pthread_self();
    for (size_t at = 0; at < STRUCT_PTHREAD; at += sizeof(int))
        if (*(const int *)(self + at) == tid)
            return at;
    fail("zygote: this C library is not known\n");
}

__attribute__((constructor)) static void start(void)
{
    const char *number = getenv("CAKEWORK_FORK");
    pthread_t thread;
    *(void **)&real_create = dlsym(RTLD_NEXT, "pthread_create");
    if (!number)
        return;
    tid_offset = find_tid();
    struct sigaction action = { .sa_handler = park, .sa_flags = SA_RESTART };
    sigfillset(&action.sa_mask);
    sigaction(SIGNAL, &action, NULL);
    threads[0].use = RUNS;
    enlist(&threads[0]);
    if (keep_to_forking())
        fail("zygote: rights could not be given up\n");
    control = atoi(number);
    if (real_create(&thread, NULL, wait_for_requests, NULL))
        fail("zygote: no thread for requests\n");
}

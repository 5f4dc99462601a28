#include "guest.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "connections.h"
#include "files.h"
#include "identity.h"
#include "notify.h"
#include "orders.h"
#include "paths.h"

enum { EVENTS = 8, LOOK_EVERY_MS = 25 };

static bool watch_port(struct guest *g, int operation, bool output)
{
    struct epoll_event event = {.data.ptr = &g->link};
    event.events = (uint32_t)(EPOLLIN | (output ? EPOLLOUT : 0)) | EPOLLET;
    return !epoll_ctl(g->epoll, operation, g->link.fd, &event);
}

static bool watch_children(struct guest *g)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &g->signals};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_SETMASK, &set, NULL);
    g->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    return g->signals >= 0 && !epoll_ctl(g->epoll, EPOLL_CTL_ADD, g->signals, &event);
}

bool guest_init(struct guest *g, int port)
{
    link_init(&g->link, port);
    lines_reset(&g->lines);
    g->out.fd = g->err.fd = g->hooking.out.fd = g->notify = -1;
    g->epoll = epoll_create1(EPOLL_CLOEXEC);
    return g->epoll >= 0 && watch_port(g, EPOLL_CTL_ADD, false) && watch_children(g);
}

/* Ends everything but this process. */
static void kill_all(void)
{
    kill(-1, SIGKILL);
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
        ;
}

static void receive(struct guest *g)
{
    struct order order;
    enum received received;
    for (;;) {
        struct slots *slots = g->run_kept ? &g->kept_slots : &g->slots;
        received = link_receive(&g->link, &order, slots);
        if (received == RECEIVED_NOTHING)
            return;
        if (received == RECEIVED_ORDER)
            orders_obey(g, &order);
        else
            orders_refuse(g, EBADMSG, "reading a frame");
    }
}

/* Whether the kernel has killed a process for want of memory since it booted. */
static bool out_of_memory(void)
{
    static char stat[16384];
    char *count;
    if (file_read(VM_PROC "/vmstat", stat, sizeof stat) < 0)
        return false;
    count = strstr(stat, "\noom_kill ");
    return count && count[sizeof "\noom_kill " - 1] != '0';
}

/* The user's process has ended: what it left behind ends with it, and so its pipes do. */
static void on_end(struct guest *g, int status)
{
    g->pid = 0;
    g->ending.by_signal = WIFSIGNALED(status);
    g->ending.value = (uint32_t)(g->ending.by_signal ? WTERMSIG(status) : WEXITSTATUS(status));
    g->ending.out_of_memory = out_of_memory();
    g->look_at_ms = 0;
    kill_all();
    if (g->hooking.pid)
        hook_ended(&g->hooking, SIGKILL);
}

static void reap(struct guest *g)
{
    struct signalfd_siginfo info;
    int status;
    pid_t pid;
    while (read(g->signals, &info, sizeof info) > 0)
        ;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        if (pid == g->pid)
            on_end(g, status);
        else if (pid == g->hooking.pid)
            hook_ended(&g->hooking, status);
}

/* Past their marks. */
static void read_on(struct guest *g)
{
    output_unmark(&g->out);
    output_unmark(&g->err);
}

static void read_outputs(struct guest *g)
{
    bool wait = link_is_up(&g->link) && !g->rehearsing;
    enum when_full when_full = wait ? WHEN_FULL_WAIT : WHEN_FULL_DROP;
    if (g->state == STATE_FROZEN && g->pid && !g->frozen_due)
        return;
    if (g->marked_due && !link_is_up(&g->link))
        read_on(g);
    output_read(&g->out, &g->lines, when_full);
    output_read(&g->err, &g->lines, when_full);
    hook_read(&g->hooking, &g->lines, when_full);
    if (g->rehearsing)
        lines_reset(&g->lines);
    if (g->marking && output_is_at_mark(&g->out) && output_is_at_mark(&g->err)) {
        g->marking = false;
        g->marked_due = true;
        g->mark_last = g->lines.last;
    }
}

/* The process has ended and all it printed was read. */
static void settle(struct guest *g)
{
    if (g->pid || g->out.fd >= 0 || g->err.fd >= 0)
        return;
    if (g->rehearsing)
        rehearsal_end(g);
    else if (g->state == STATE_RUNNING || g->state == STATE_FROZEN) {
        g->state = STATE_EXITED;
        g->ending_due = true;
        g->kill_at_ms = 0;
        if (g->powering_off)
            g->off_at_ms = steady_clock_ms() + ACKNOWLEDGE_MS;
    }
}

static void answer_ending(struct guest *g)
{
    struct encoder e = link_answer(&g->link);
    encode_exited(&e, &g->ending, g->lines.last);
    link_answered(&g->link, &e);
    g->ending_due = false;
    g->ending_sent = true;
}

static void answer_hook(struct guest *g)
{
    struct encoder e = link_answer(&g->link);
    encode_hooked(&e, g->hooking.end, g->hooking.value);
    link_answered(&g->link, &e);
    g->hooking.due = false;
}

static void answer_frozen(struct guest *g)
{
    struct encoder e = link_answer(&g->link);
    encode_frozen(&e, g->lines.last);
    link_answered(&g->link, &e);
    g->frozen_due = false;
}

static void answer_mark(struct guest *g)
{
    struct encoder e = link_answer(&g->link);
    encode_marked(&e, g->mark_token, g->mark_last);
    link_answered(&g->link, &e);
    g->marked_due = false;
    read_on(g);
}

/* What comes after every line made before it. */
static void answer_late(struct guest *g)
{
    const uint8_t *unsent;
    if (!link_is_up(&g->link) || g->lines.dropped || lines_unsent(&g->lines, &unsent))
        return;
    if (g->hooking.due)
        answer_hook(g);
    if (g->marked_due)
        answer_mark(g);
    if (g->frozen_due)
        answer_frozen(g);
    if (g->ending_due)
        answer_ending(g);
}

/* Being able to write is also how the port tells that a node has come. */
static void watch_for_room(struct guest *g)
{
    bool wanted = g->link.blocked || g->link.hung_up;
    if (wanted != g->room_watched && watch_port(g, EPOLL_CTL_MOD, wanted))
        g->room_watched = wanted;
}

static void send_all(struct guest *g)
{
    if (link_is_up(&g->link) && !g->rehearsing && g->lines.dropped)
        lines_tell_dropped(&g->lines, wall_clock_ns());
    link_flush(&g->link, &g->lines);
    if (g->ending_due || g->hooking.due || g->marked_due || g->frozen_due) {
        answer_late(g);
        link_flush(&g->link, &g->lines);
    }
    watch_for_room(g);
}

static uint64_t sooner(uint64_t one, uint64_t other)
{
    return one && (!other || one < other) ? one : other;
}

static int time_to_wait(const struct guest *g)
{
    uint64_t next = sooner(sooner(g->off_at_ms, g->kill_at_ms),
                           sooner(g->hooking.kill_at_ms, g->look_at_ms));
    uint64_t now;
    if (!next)
        return -1;
    now = steady_clock_ms();
    if (next <= now)
        return 0;
    return next - now > INT_MAX ? INT_MAX : (int)(next - now);
}

static void tell_ready(struct guest *g)
{
    struct encoder e = link_answer(&g->link);
    encode_ready(&e);
    link_answered(&g->link, &e);
    g->look_at_ms = 0;
}

/* A program goes on to tell of itself when nobody wants to know any more. */
static void hear(struct guest *g)
{
    if (notify_read(g->notify) && g->look_at_ms)
        tell_ready(g);
}

static void look(struct guest *g, uint64_t now)
{
    if (!g->look_at_ms || g->look_at_ms > now)
        return;
    g->look_at_ms = now + LOOK_EVERY_MS;
    if (g->run.port && connections_listened(g->run.port))
        tell_ready(g);
}

static void note(struct guest *g, const struct epoll_event *event, bool *port)
{
    if (event->data.ptr == &g->signals)
        reap(g);
    if (event->data.ptr == &g->notify)
        hear(g);
    if (event->data.ptr != &g->link)
        return;
    *port = true;
    g->link.hung_up = event->events & EPOLLHUP;
}

static bool keep_time(struct guest *g)
{
    uint64_t now;
    if (!g->powering_off && !g->look_at_ms && !g->hooking.kill_at_ms)
        return true;
    now = steady_clock_ms();
    hook_keep_time(&g->hooking, now);
    if (g->kill_at_ms && g->kill_at_ms <= now) {
        g->kill_at_ms = 0;
        kill(-1, SIGKILL);
    }
    if (!g->off_at_ms || g->off_at_ms > now)
        return true;
    kill_all();
    disk_settle(&g->disks.volume, &g->failure);
    return false;
}

bool guest_turn(struct guest *g)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(g->epoll, events, EVENTS, time_to_wait(g));
    bool port = g->link.starved;
    for (int i = 0; i < count; i++)
        note(g, &events[i], &port);
    if (g->look_at_ms)
        look(g, steady_clock_ms());
    if (port)
        receive(g);
    read_outputs(g);
    settle(g);
    send_all(g);
    while (g->link.starved && !g->link.blocked) {
        receive(g);
        send_all(g);
    }
    output_watch(&g->out, g->epoll);
    output_watch(&g->err, g->epoll);
    output_watch(&g->hooking.out, g->epoll);
    return keep_time(g);
}

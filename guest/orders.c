#include "orders.h"

#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "connections.h"
#include "etc.h"
#include "freezer.h"
#include "identity.h"
#include "notify.h"
#include "rootfs.h"

#ifndef GUEST_BUILD
#define GUEST_BUILD "unknown"
#endif

/* More than a rehearsed program leaves behind; 2 MiB were enough for what it does today. */
#define LEFT_BEHIND (4UL << 20)
#define PAGE 4096

static void answer_failed(struct guest *g, const struct failure *failure)
{
    struct encoder e = link_answer(&g->link);
    encode_failed(&e, (uint32_t)failure->error, failure->what);
    link_answered(&g->link, &e);
}

void orders_refuse(struct guest *g, int error, const char *what)
{
    struct failure failure;
    fail(&failure, error, what, NULL);
    answer_failed(g, &failure);
}

/* What was asked for by an earlier MARK is not answered any more. */
static void forget_mark(struct guest *g)
{
    g->marking = g->marked_due = false;
    output_unmark(&g->out);
    output_unmark(&g->err);
}

static void on_hello(struct guest *g, const struct hello *hello)
{
    struct encoder e;
    link_greet(&g->link);
    forget_mark(g);
    e = link_answer(&g->link);
    encode_hello(&e, hello->token, g->state, g->lines.last, GUEST_BUILD);
    link_answered(&g->link, &e);
    lines_resend(&g->lines, hello->acked);
    g->ending_due = g->state == STATE_EXITED;
    g->ending_sent = false;
    if (g->state == STATE_FAILED)
        answer_failed(g, &g->failure);
}

/* Opens the socket on which the program says that it is ready. */
static bool listen_to(struct guest *g, struct failure *failure)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &g->notify};
    g->notify = notify_open();
    if (g->notify < 0 || epoll_ctl(g->epoll, EPOLL_CTL_ADD, g->notify, &event))
        return fail(failure, errno, "listening to the program", NULL);
    return true;
}

static bool start(struct guest *g, const struct run *run, struct failure *failure)
{
    struct process process;
    if (!identity_set(&run->identity, failure) || (run->watch && !listen_to(g, failure)) ||
        !process_start(&process, run, &g->disks, g->network.address, g->notify, failure))
        return false;
    g->pid = process.pid;
    output_open(&g->out, process.out, STREAM_STDOUT);
    output_open(&g->err, process.err, STREAM_STDERR);
    return true;
}

static void on_run(struct guest *g, const struct run *run)
{
    struct encoder e;
    if (g->state != STATE_WAITING || g->rehearsing) {
        orders_refuse(g, EBUSY, "running the program");
        return;
    }
    if (!start(g, run, &g->failure)) {
        g->state = STATE_FAILED;
        answer_failed(g, &g->failure);
        return;
    }
    g->state = STATE_RUNNING;
    g->run = *run;
    g->run_kept = true;
    link_keep_frame(&g->link);
    g->look_at_ms = run->watch ? steady_clock_ms() : 0;
    e = link_answer(&g->link);
    encode_started(&e, (uint32_t)g->pid);
    link_answered(&g->link, &e);
}

static bool undo_rehearsal(struct guest *g, struct failure *failure)
{
    lines_reset(&g->lines);
    return disk_settle(&g->disks.image, failure) && disk_release(&g->disks.image, failure) &&
           rootfs_remove_folders(failure) && rootfs_prepare_folders(failure);
}

/* Writes to the pages that a rehearsal left free, which are the first to be used again. They held
 * code, and under emulation the first writes to such a page take its translations away one by one,
 * each with all shortcuts between others: now, that no start has to. */
static void wipe_what_is_left(void)
{
    char *pages =
        mmap(NULL, LEFT_BEHIND, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return;
    madvise(pages, LEFT_BEHIND, MADV_NOHUGEPAGE);
    for (size_t at = 0; at < LEFT_BEHIND; at += PAGE)
        *(volatile char *)(pages + at) = 0;
    munmap(pages, LEFT_BEHIND);
}

void rehearsal_end(struct guest *g)
{
    struct encoder e;
    g->rehearsing = false;
    if (!undo_rehearsal(g, &g->failure)) {
        g->state = STATE_FAILED;
        answer_failed(g, &g->failure);
        return;
    }
    if (g->emulated)
        wipe_what_is_left();
    e = link_answer(&g->link);
    encode_rehearsed(&e);
    link_answered(&g->link, &e);
}

static void on_rehearse(struct guest *g, char **argv)
{
    static char *nothing[2];
    uint8_t seed[SEED_SIZE];
    struct run run = {.identity = {.seed = seed, .hostname = "localhost", .dns = nothing,
                                   .vm_id = "", .domain = "localhost"},
                      .cwd = "/", .user = "", .argv = argv, .env = nothing};
    struct failure failure;
    if (g->state != STATE_WAITING || g->rehearsing) {
        orders_refuse(g, EBUSY, "rehearsing");
        return;
    }
    fail(&failure, EIO, "drawing a seed", NULL);
    nothing[0] = NULL;
    run.identity.clock_ns = wall_clock_ns();
    g->rehearsing = getrandom(seed, sizeof seed, 0) == sizeof seed && start(g, &run, &failure);
    if (g->rehearsing)
        return;
    if (undo_rehearsal(g, &g->failure))
        answer_failed(g, &failure);
    else {
        g->state = STATE_FAILED;
        answer_failed(g, &g->failure);
    }
}

static void on_ack(struct guest *g, uint64_t number)
{
    lines_ack(&g->lines, number);
    if (!g->ending_sent || number < g->lines.last)
        return;
    g->ending_acked = true;
    if (g->powering_off)
        g->off_at_ms = steady_clock_ms();
}

static void on_signal(struct guest *g, uint64_t number)
{
    if (g->state != STATE_RUNNING || !g->pid)
        orders_refuse(g, ESRCH, "sending a signal");
    else if (kill(g->pid, (int)number))
        orders_refuse(g, errno, "sending a signal");
}

static void on_poweroff(struct guest *g, uint64_t grace_ms)
{
    uint64_t now = steady_clock_ms(), kill_at = now + grace_ms;
    if (g->state == STATE_FROZEN && freezer_thaw(&g->failure))
        g->state = STATE_RUNNING;
    if (g->state == STATE_RUNNING) {
        if (g->pid && !g->powering_off)
            kill(g->pid, SIGTERM);
        if (!g->powering_off || kill_at < g->kill_at_ms) {
            g->kill_at_ms = kill_at;
            g->off_at_ms = kill_at + ACKNOWLEDGE_MS;
        }
    } else if (!g->off_at_ms) {
        bool wait = g->state == STATE_EXITED && !g->ending_acked;
        g->off_at_ms = now + (wait ? ACKNOWLEDGE_MS : 0);
    }
    g->powering_off = true;
}

static void on_ping(struct guest *g, uint64_t token)
{
    struct encoder e = link_answer(&g->link);
    encode_pong(&e, token);
    link_answered(&g->link, &e);
}

static bool is_busy(const struct guest *g)
{
    return g->state != STATE_RUNNING || !g->pid || g->powering_off || g->hooking.active ||
           g->hooking.due;
}

static void on_hook(struct guest *g, const struct hook *hook)
{
    struct failure failure;
    forget_mark(g);
    if (is_busy(g))
        orders_refuse(g, EBUSY, "running the hook");
    else if (!hook_start(&g->hooking, hook, &g->run, g->pid, &failure))
        answer_failed(g, &failure);
}

static void on_freeze(struct guest *g)
{
    struct failure failure;
    forget_mark(g);
    if (is_busy(g))
        orders_refuse(g, EBUSY, "freezing the program");
    else if (!freezer_freeze(&failure))
        answer_failed(g, &failure);
    else {
        g->state = STATE_FROZEN;
        g->frozen_due = true;
    }
}

static void on_mark(struct guest *g, uint64_t token)
{
    forget_mark(g);
    if (is_busy(g)) {
        orders_refuse(g, EBUSY, "marking the lines");
        return;
    }
    g->marking = true;
    g->mark_token = token;
    output_mark(&g->out);
    output_mark(&g->err);
}

static bool resume(struct guest *g, const struct identity *identity, struct failure *failure)
{
    struct etc etc;
    if (!identity_set(identity, failure) || !connections_reset(failure))
        return false;
    etc = etc_of(identity, g->network.address);
    return etc_rewrite(&etc, g->pid, failure) && freezer_thaw(failure);
}

static void on_resume(struct guest *g, const struct identity *identity)
{
    struct failure failure;
    struct encoder e;
    if (g->state != STATE_FROZEN || !g->pid) {
        orders_refuse(g, EINVAL, "resuming the program");
        return;
    }
    if (!resume(g, identity, &failure)) {
        answer_failed(g, &failure);
        return;
    }
    g->state = STATE_RUNNING;
    g->frozen_due = false;
    e = link_answer(&g->link);
    encode_resumed(&e);
    link_answered(&g->link, &e);
}

void orders_obey(struct guest *g, struct order *order)
{
    switch (order->type) {
    case ORDER_HELLO:
        on_hello(g, &order->hello);
        break;
    case ORDER_REHEARSE:
        on_rehearse(g, order->run.argv);
        break;
    case ORDER_RUN:
        on_run(g, &order->run);
        break;
    case ORDER_ACK:
        on_ack(g, order->number);
        break;
    case ORDER_SIGNAL:
        on_signal(g, order->number);
        break;
    case ORDER_POWEROFF:
        on_poweroff(g, order->number);
        break;
    case ORDER_PING:
        on_ping(g, order->number);
        break;
    case ORDER_HOOK:
        on_hook(g, &order->hook);
        break;
    case ORDER_FREEZE:
        on_freeze(g);
        break;
    case ORDER_RESUME:
        on_resume(g, &order->identity);
        break;
    case ORDER_MARK:
        on_mark(g, order->number);
        break;
    }
}

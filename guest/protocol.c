#include "protocol.h"

#include <string.h>

enum guest_type {
    GUEST_HELLO = 129,
    GUEST_STARTED,
    GUEST_FAILED,
    GUEST_LINE,
    GUEST_EXITED,
    GUEST_REHEARSED,
    GUEST_PONG,
    GUEST_READY,
    GUEST_HOOKED,
    GUEST_FROZEN,
    GUEST_RESUMED,
    GUEST_MARKED,
};

/* Reads a payload; once something is wrong it stays so, and gives zeros. */
struct reader {
    uint8_t *at;
    uint8_t *end;
    bool bad;
    char **slot;
    size_t slots_left;
};

static uint64_t take(struct reader *r, size_t bytes)
{
    uint64_t value = 0;
    if (r->bad || (size_t)(r->end - r->at) < bytes) {
        r->bad = true;
        return 0;
    }
    for (size_t i = 0; i < bytes; i++)
        value |= (uint64_t)r->at[i] << (8 * i);
    r->at += bytes;
    return value;
}

static uint8_t *take_bytes(struct reader *r, size_t *size)
{
    uint8_t *bytes;
    *size = take(r, 4);
    if (r->bad || (size_t)(r->end - r->at) < *size) {
        r->bad = true;
        return NULL;
    }
    bytes = r->at;
    r->at += *size;
    return bytes;
}

/* The string slides over its own length, which makes room for its NUL. */
static char *take_str(struct reader *r)
{
    size_t size;
    uint8_t *bytes = take_bytes(r, &size);
    char *str;
    if (!bytes)
        return "";
    str = (char *)bytes - 4;
    memmove(str, bytes, size);
    str[size] = '\0';
    if (memchr(str, '\0', size))
        r->bad = true;
    return str;
}

static void take_slot(struct reader *r, char *value)
{
    *r->slot++ = value;
    r->slots_left--;
}

static char **take_list(struct reader *r)
{
    char **list = r->slot;
    size_t count = take(r, 4);
    if (r->bad || count > r->slots_left) {
        r->bad = true;
        count = 0;
    }
    for (size_t i = 0; i < count && !r->bad; i++)
        take_slot(r, take_str(r));
    *r->slot++ = NULL;
    return list;
}

static bool take_flag(struct reader *r)
{
    uint64_t value = take(r, 1);
    r->bad |= value > 1;
    return value == 1;
}

static void take_identity(struct reader *r, struct identity *identity)
{
    size_t seed_size;
    identity->clock_ns = take(r, 8);
    identity->seed = take_bytes(r, &seed_size);
    if (seed_size != SEED_SIZE)
        r->bad = true;
    identity->hostname = take_str(r);
    identity->dns = take_list(r);
    identity->vm_id = take_str(r);
    identity->domain = take_str(r);
}

static void take_run(struct reader *r, struct run *run)
{
    take_identity(r, &run->identity);
    run->cwd = take_str(r);
    run->user = take_str(r);
    run->argv = take_list(r);
    run->env = take_list(r);
    run->volume = take_flag(r);
    run->watch = take_flag(r);
    run->port = (uint16_t)take(r, 2);
}

static void take_hook(struct reader *r, struct hook *hook)
{
    hook->timeout_ms = (uint32_t)take(r, 4);
    hook->argv = take_list(r);
    hook->port = (uint16_t)take(r, 2);
    hook->path = take_str(r);
}

static void take_hello(struct reader *r, struct hello *hello)
{
    hello->version = (uint16_t)take(r, 2);
    hello->token = take(r, 8);
    hello->acked = take(r, 8);
}

bool order_parse(struct order *order, uint8_t *frame, size_t size, struct slots *slots)
{
    struct reader r = {frame, frame + size, false, slots->at, LIST_MAX};
    memset(order, 0, sizeof *order);
    order->type = (enum order_type)take(&r, 1);
    switch (order->type) {
    case ORDER_HELLO:
        take_hello(&r, &order->hello);
        break;
    case ORDER_REHEARSE:
        order->run.argv = take_list(&r);
        break;
    case ORDER_RUN:
        take_run(&r, &order->run);
        break;
    case ORDER_HOOK:
        take_hook(&r, &order->hook);
        break;
    case ORDER_FREEZE:
        break;
    case ORDER_RESUME:
        take_identity(&r, &order->identity);
        break;
    case ORDER_ACK:
    case ORDER_PING:
    case ORDER_MARK:
        order->number = take(&r, 8);
        break;
    case ORDER_SIGNAL:
    case ORDER_POWEROFF:
        order->number = take(&r, 4);
        break;
    default:
        return false;
    }
    return !r.bad && r.at == r.end;
}

void deframer_reset(struct deframer *d)
{
    d->used = 0;
    d->escaped = false;
    d->broken = false;
}

static void deframer_byte(struct deframer *d, uint8_t byte)
{
    if (d->escaped) {
        d->broken |= byte > 1;
        byte = (uint8_t)(ESCAPE + byte);
        d->escaped = false;
    } else if (byte == ESCAPE) {
        d->escaped = true;
        return;
    }
    if (d->used == FRAME_MAX)
        d->broken = true;
    else
        d->frame[d->used++] = byte;
}

enum deframed deframer_feed(struct deframer *d, const uint8_t **in, const uint8_t *end)
{
    while (*in < end) {
        uint8_t byte = *(*in)++;
        if (byte != MARK)
            deframer_byte(d, byte);
        else if (d->broken || d->escaped)
            return DEFRAMED_BROKEN;
        else if (d->used)
            return DEFRAMED_FRAME;
    }
    return DEFRAMED_MORE;
}

bool encoder_fits(const struct encoder *e)
{
    return e->used <= e->size;
}

static void put_raw(struct encoder *e, uint8_t byte)
{
    if (e->used < e->size)
        e->at[e->used] = byte;
    e->used++;
}

static void put_byte(struct encoder *e, uint8_t byte)
{
    if (byte >= ESCAPE) {
        put_raw(e, ESCAPE);
        byte = (uint8_t)(byte - ESCAPE);
    }
    put_raw(e, byte);
}

static void put(struct encoder *e, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        put_byte(e, (uint8_t)(value >> (8 * i)));
}

static void put_bytes(struct encoder *e, const uint8_t *bytes, size_t size)
{
    put(e, size, 4);
    for (size_t i = 0; i < size; i++)
        put_byte(e, bytes[i]);
}

static void put_str(struct encoder *e, const char *str)
{
    put_bytes(e, (const uint8_t *)str, strlen(str));
}

void encode_hello(struct encoder *e, uint64_t token, enum guest_state state, uint64_t last,
                  const char *build)
{
    put(e, GUEST_HELLO, 1);
    put(e, PROTOCOL_VERSION, 2);
    put(e, token, 8);
    put(e, state, 1);
    put(e, last, 8);
    put_str(e, build);
    put_raw(e, MARK);
}

void encode_started(struct encoder *e, uint32_t pid)
{
    put(e, GUEST_STARTED, 1);
    put(e, pid, 4);
    put_raw(e, MARK);
}

void encode_failed(struct encoder *e, uint32_t error, const char *what)
{
    put(e, GUEST_FAILED, 1);
    put(e, error, 4);
    put_str(e, what);
    put_raw(e, MARK);
}

void encode_line(struct encoder *e, const struct line *line)
{
    put(e, GUEST_LINE, 1);
    put(e, line->number, 8);
    put(e, line->time_ns, 8);
    put(e, line->stream, 1);
    put(e, line->goes_on, 1);
    put_bytes(e, line->text, line->size);
    put_raw(e, MARK);
}

void encode_exited(struct encoder *e, const struct ending *ending, uint64_t last)
{
    put(e, GUEST_EXITED, 1);
    put(e, ending->by_signal, 1);
    put(e, ending->value, 4);
    put(e, ending->out_of_memory, 1);
    put(e, last, 8);
    put_raw(e, MARK);
}

void encode_rehearsed(struct encoder *e)
{
    put(e, GUEST_REHEARSED, 1);
    put_raw(e, MARK);
}

void encode_pong(struct encoder *e, uint64_t token)
{
    put(e, GUEST_PONG, 1);
    put(e, token, 8);
    put_raw(e, MARK);
}

void encode_ready(struct encoder *e)
{
    put(e, GUEST_READY, 1);
    put_raw(e, MARK);
}

void encode_hooked(struct encoder *e, enum hook_end end, uint32_t value)
{
    put(e, GUEST_HOOKED, 1);
    put(e, end, 1);
    put(e, value, 4);
    put_raw(e, MARK);
}

void encode_frozen(struct encoder *e, uint64_t last)
{
    put(e, GUEST_FROZEN, 1);
    put(e, last, 8);
    put_raw(e, MARK);
}

void encode_resumed(struct encoder *e)
{
    put(e, GUEST_RESUMED, 1);
    put_raw(e, MARK);
}

void encode_marked(struct encoder *e, uint64_t token, uint64_t last)
{
    put(e, GUEST_MARKED, 1);
    put(e, token, 8);
    put(e, last, 8);
    put_raw(e, MARK);
}

size_t line_bound(size_t size)
{
    const size_t head = 1 + 8 + 8 + 1 + 1 + 4;
    return 2 * (head + size) + 1;
}

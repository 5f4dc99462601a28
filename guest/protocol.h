/* The frames of PROTOCOL.md: parsing orders, encoding answers. Pure: no system call. */
#ifndef PROTOCOL_H
#define PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PROTOCOL_VERSION = 2,
    FRAME_MAX = 1 << 20,
    TEXT_MAX = 16384,
    SEED_SIZE = 32,
    LIST_MAX = 32000,
    MARK = 0xFF,
    ESCAPE = 0xFE,
};

enum order_type {
    ORDER_HELLO = 1,
    ORDER_REHEARSE,
    ORDER_RUN,
    ORDER_ACK,
    ORDER_SIGNAL,
    ORDER_POWEROFF,
    ORDER_PING,
    ORDER_HOOK,
    ORDER_FREEZE,
    ORDER_RESUME,
    ORDER_MARK,
};

enum guest_state { STATE_WAITING, STATE_RUNNING, STATE_EXITED, STATE_FAILED, STATE_FROZEN };

/* What makes a machine itself and no other: in RUN and RESUME. `domain` is the whole name,
 * `hostname` its first part. */
struct identity {
    uint64_t clock_ns;
    const uint8_t *seed;
    const char *hostname;
    char **dns;
    const char *vm_id;
    const char *domain;
};

/* What RUN asks for. Every pointer leads into the frame it was parsed from, or into the
 * caller's slots; lists end with NULL, and env has one more free place behind its end.
 * `watch`: READY is to be sent when something listens on `port` (0: none), or the program
 * says so. */
struct run {
    struct identity identity;
    const char *cwd;
    const char *user;
    char **argv;
    char **env;
    bool volume;
    bool watch;
    uint16_t port;
};

/* A program of the image's, or with a `port` a POST to `path` there. */
struct hook {
    uint32_t timeout_ms;
    char **argv;
    uint16_t port;
    const char *path;
};

struct hello {
    uint16_t version;
    uint64_t token;
    uint64_t acked;
};

struct order {
    enum order_type type;
    union {
        struct hello hello;
        struct run run;   /* REHEARSE sets argv alone */
        struct hook hook;
        struct identity identity; /* RESUME */
        uint64_t number;  /* ACK, SIGNAL, POWEROFF, PING, MARK */
    };
};

/* Room for the lists of one order: LIST_MAX strings, the NULLs and env's free place. */
struct slots {
    char *at[LIST_MAX + 8];
};

/* Parses a frame of `size` bytes, moving its strings about in place. False: it is broken. */
bool order_parse(struct order *order, uint8_t *frame, size_t size, struct slots *slots);

/* Takes frames out of a byte stream. `frame` has room for FRAME_MAX bytes. */
struct deframer {
    uint8_t *frame;
    size_t used;
    bool escaped;
    bool broken;
};

enum deframed { DEFRAMED_MORE, DEFRAMED_FRAME, DEFRAMED_BROKEN };

void deframer_reset(struct deframer *d);

/* Eats bytes up to the end of a frame, advancing *in. MORE: all eaten, no end seen.
 * FRAME: d->frame holds d->used bytes, to be used and then reset. BROKEN: reset it. */
enum deframed deframer_feed(struct deframer *d, const uint8_t **in, const uint8_t *end);

/* Writes frames, escaped. `used` goes past `size` when there was no room: see encoder_fits. */
struct encoder {
    uint8_t *at;
    size_t used;
    size_t size;
};

bool encoder_fits(const struct encoder *e);

struct line {
    uint64_t number;
    uint64_t time_ns;
    uint8_t stream;
    bool goes_on;
    const uint8_t *text;
    size_t size;
};

struct ending {
    bool by_signal;
    uint32_t value;
    bool out_of_memory;
};

/* How a hook went. DONE: `value` is the exit status; SIGNAL: the signal that ended it. */
enum hook_end { HOOK_DONE, HOOK_SIGNAL, HOOK_TIMEOUT };

void encode_hello(struct encoder *e, uint64_t token, enum guest_state state, uint64_t last,
                  const char *build);
void encode_started(struct encoder *e, uint32_t pid);
void encode_failed(struct encoder *e, uint32_t error, const char *what);
void encode_line(struct encoder *e, const struct line *line);
void encode_exited(struct encoder *e, const struct ending *ending, uint64_t last);
void encode_rehearsed(struct encoder *e);
void encode_pong(struct encoder *e, uint64_t token);
void encode_ready(struct encoder *e);
void encode_hooked(struct encoder *e, enum hook_end end, uint32_t value);
void encode_frozen(struct encoder *e, uint64_t last);
void encode_resumed(struct encoder *e);
void encode_marked(struct encoder *e, uint64_t token, uint64_t last);

/* Bytes that a line of `size` bytes of text takes at most. */
size_t line_bound(size_t size);

#endif

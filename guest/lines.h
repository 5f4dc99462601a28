/* The lines a VM printed and the node has not acknowledged, and how bytes become lines.
 * Pure: no system call. */
#ifndef LINES_H
#define LINES_H

#include "protocol.h"

enum {
    LINES_BYTES = 4 << 20,
    LINES_COUNT = 1 << 17,
    STREAM_STDOUT = 1,
    STREAM_STDERR = 2,
};

/* A ring of encoded LINE frames. Positions grow for ever; modulo LINES_BYTES they are places
 * in `bytes`. Lines `first` … `last` are held; `sizes` has each one's encoded size, at its
 * number modulo LINES_COUNT. */
struct lines {
    uint64_t tail, sent, head;
    uint64_t first, last;
    uint64_t dropped;
    uint32_t sizes[LINES_COUNT];
    uint8_t bytes[LINES_BYTES];
};

void lines_reset(struct lines *l);

/* Adds a line, numbering it. False: there is no room. */
bool lines_add(struct lines *l, struct line *line);

/* Counts a line that was thrown away. */
void lines_drop(struct lines *l);

/* Once there is room, says in a line how many were dropped. */
void lines_tell_dropped(struct lines *l, uint64_t time_ns);

/* Forgets lines up to `number`, but none that is not wholly sent. */
void lines_ack(struct lines *l, uint64_t number);

/* A new connection: forgets lines up to `acked`, and sends all others from the start. */
void lines_resend(struct lines *l, uint64_t acked);

/* Gives what can be sent next, in one piece: *bytes and its size, 0 when all is sent. */
size_t lines_unsent(const struct lines *l, const uint8_t **bytes);
void lines_sent(struct lines *l, size_t size);

/* Splits what one stream printed into lines of at most TEXT_MAX. */
struct splitter {
    uint8_t stream;
    size_t used;   /* bytes held */
    size_t seen;   /* of these, how many were searched for a newline */
    uint8_t bytes[TEXT_MAX];
};

/* Where to read to, and how much fits: 0 when lines must be taken out first. */
size_t splitter_room(struct splitter *s, uint8_t **at);
void splitter_filled(struct splitter *s, size_t size);

/* What to do with a line when `lines` is full. */
enum when_full { WHEN_FULL_WAIT, WHEN_FULL_DROP };

/* What becomes of that which has no newline yet: it is kept, or a line, the last one or one that
 * goes on. */
enum unfinished { UNFINISHED_KEPT, UNFINISHED_ENDS, UNFINISHED_GOES_ON };

/* Moves the whole lines held into `lines`, and as `unfinished` says what has no newline.
 * False: `lines` is full and there is more (never with WHEN_FULL_DROP). */
bool splitter_flush(struct splitter *s, struct lines *lines, uint64_t time_ns,
                    enum unfinished unfinished, enum when_full when_full);

#endif

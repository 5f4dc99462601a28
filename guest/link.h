/* The connection to the node: bytes of the port in and out, in step with frames. */
#ifndef LINK_H
#define LINK_H

#include <stdbool.h>
#include <stddef.h>

#include "lines.h"
#include "protocol.h"

enum { LINK_OUT = 16384, LINK_CHUNK = 32768, ANSWER_MAX = 4096 };

/* `greeted`: a HELLO came. `hung_up`: the port last said that no node is there. `in_frame`: the
 * last byte written was not the end of a frame. `blocked`: the port took no more. `starved`:
 * orders wait until answers are sent. `out` holds answers, which go before lines; `chunk` what
 * was read and not looked at.
 *
 * The port tells of comings and goings out of step with the bytes: that a node went may be
 * heard when the HELLO of the next was already read. So hearing it pauses sending and forgets
 * nothing; it is a HELLO that starts afresh, and a node ignores what comes before its answer. */
struct link {
    int fd;
    bool greeted;
    bool hung_up;
    bool in_frame;
    bool blocked;
    bool starved;
    size_t out_sent, out_used;
    const uint8_t *chunk_at, *chunk_end;
    struct deframer in;
    uint8_t out[LINK_OUT];
    uint8_t chunk[LINK_CHUNK];
    uint8_t frame[FRAME_MAX];
    uint8_t spare[FRAME_MAX];
};

void link_init(struct link *link, int fd);

/* Whether a node is there, as far as is known. */
bool link_is_up(const struct link *link);

/* A HELLO came: sends start afresh, with a mark that ends whatever was half sent. */
void link_greet(struct link *link);

enum received { RECEIVED_NOTHING, RECEIVED_ORDER, RECEIVED_BROKEN };

/* Reads the next order. NOTHING also when answers must be sent before more is read. */
enum received link_receive(struct link *link, struct order *order, struct slots *slots);

/* Leaves the frame of the order last received as it is, for good. To be used once. */
void link_keep_frame(struct link *link);

/* An encoder for one answer; link_answered queues what it holds. */
struct encoder link_answer(struct link *link);
void link_answered(struct link *link, const struct encoder *e);

/* Writes answers and lines until all are sent or the port takes no more (`blocked`). */
void link_flush(struct link *link, struct lines *lines);

#endif

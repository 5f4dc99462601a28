/* The user's output pipes: read when there is room for what comes, watched when it is wanted. */
#ifndef OUTPUT_H
#define OUTPUT_H

#include "lines.h"

/* One of the process's output pipes; fd is -1 when it is closed or was read to its end.
 * `held`: lines wait for room. */
struct output {
    int fd;
    bool watched;
    bool held;
    struct splitter splitter;
};

void output_open(struct output *o, int fd, uint8_t stream);

/* Reads what is there, a bounded amount, into `lines`; closes the pipe at its end. */
void output_read(struct output *o, struct lines *lines, enum when_full when_full);

/* Takes what was read as all there is, and closes the pipe, unless lines wait for room. */
void output_end(struct output *o, struct lines *lines, enum when_full when_full);

/* Puts the pipe into the epoll set, or takes it out while its lines wait for room: a pipe
 * without a writer would else wake us without end. */
void output_watch(struct output *o, int epoll);

#endif

/* The user's output pipes: read when there is room for what comes, watched when it is wanted. */
#ifndef OUTPUT_H
#define OUTPUT_H

#include "lines.h"

/* What was in a pipe at one moment is still being read, or was: then nothing more is. */
enum marking { UNMARKED, MARK_AHEAD, MARK_REACHED };

/* One of the process's output pipes; fd is -1 when it is closed or was read to its end.
 * `held`: lines wait for room. `ahead`: bytes to be read up to the mark. */
struct output {
    int fd;
    bool watched;
    bool held;
    enum marking marking;
    size_t ahead;
    struct splitter splitter;
};

void output_open(struct output *o, int fd, uint8_t stream);

/* Reads what is there, a bounded amount, into `lines`; closes the pipe at its end. */
void output_read(struct output *o, struct lines *lines, enum when_full when_full);

/* Marks the end of what is in the pipe now: it is read up to there and no further, and a line that
 * is unfinished there goes on in the next. Until output_unmark, which reads on. */
void output_mark(struct output *o);
void output_unmark(struct output *o);

/* Whether all before the mark has become lines. */
bool output_is_at_mark(const struct output *o);

/* Takes what was read as all there is, and closes the pipe, unless lines wait for room. */
void output_end(struct output *o, struct lines *lines, enum when_full when_full);

/* Puts the pipe into the epoll set, or takes it out while it is not read, its lines waiting for room
 * or the mark being reached: it would else wake us without end. */
void output_watch(struct output *o, int epoll);

#endif

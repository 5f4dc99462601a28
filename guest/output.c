#include "output.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "identity.h"

enum { READS_PER_TURN = 8 };

void output_open(struct output *o, int fd, uint8_t stream)
{
    o->fd = fd;
    o->watched = false;
    o->held = false;
    o->marking = UNMARKED;
    o->splitter.stream = stream;
    o->splitter.used = o->splitter.seen = 0;
}

void output_end(struct output *o, struct lines *lines, enum when_full when_full)
{
    o->held =
        !splitter_flush(&o->splitter, lines, wall_clock_ns(), UNFINISHED_ENDS, when_full);
    if (o->held)
        return;
    close(o->fd);
    o->fd = -1;
    o->watched = false;
}

void output_mark(struct output *o)
{
    int inside = 0;
    if (o->fd >= 0 && ioctl(o->fd, FIONREAD, &inside))
        inside = 0;
    o->ahead = (size_t)inside;
    o->marking = MARK_AHEAD;
}

void output_unmark(struct output *o)
{
    o->marking = UNMARKED;
}

bool output_is_at_mark(const struct output *o)
{
    return o->fd < 0 || o->marking == MARK_REACHED;
}

/* Makes lines of what was read; at the mark of all of it. */
static void flush(struct output *o, struct lines *lines, enum when_full when_full)
{
    bool at_mark = o->marking == MARK_AHEAD && !o->ahead;
    o->held = !splitter_flush(&o->splitter, lines, wall_clock_ns(),
                              at_mark ? UNFINISHED_GOES_ON : UNFINISHED_KEPT, when_full);
    if (at_mark && !o->held)
        o->marking = MARK_REACHED;
}

void output_read(struct output *o, struct lines *lines, enum when_full when_full)
{
    for (int i = 0; i < READS_PER_TURN && !output_is_at_mark(o); i++) {
        bool marked = o->marking == MARK_AHEAD;
        uint8_t *at;
        size_t room;
        ssize_t n;
        if (o->held || (marked && !o->ahead))
            flush(o, lines, when_full);
        if (o->held || output_is_at_mark(o))
            return;
        room = splitter_room(&o->splitter, &at);
        if (marked && room > o->ahead)
            room = o->ahead;
        n = read(o->fd, at, room);
        if (n < 0 && !marked)
            return;
        if (n == 0) {
            output_end(o, lines, when_full);
            return;
        }
        if (n > 0)
            splitter_filled(&o->splitter, (size_t)n);
        /* A program may read its own pipe: what it took is not waited for. */
        o->ahead = n > 0 && marked ? o->ahead - (size_t)n : 0;
        flush(o, lines, when_full);
        if ((size_t)n < room && !o->held && !marked)
            return;
    }
}

void output_watch(struct output *o, int epoll)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = o};
    bool wanted = o->fd >= 0 && !o->held && o->marking != MARK_REACHED;
    if (o->fd < 0 || o->watched == wanted)
        return;
    epoll_ctl(epoll, wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, o->fd, &event);
    o->watched = wanted;
}

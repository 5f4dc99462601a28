#include "output.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "identity.h"

enum { READS_PER_TURN = 8 };

void output_open(struct output *o, int fd, uint8_t stream)
{
    o->fd = fd;
    o->watched = false;
    o->held = false;
    o->splitter.stream = stream;
    o->splitter.used = o->splitter.seen = 0;
}

void output_end(struct output *o, struct lines *lines, enum when_full when_full)
{
    o->held = !splitter_flush(&o->splitter, lines, wall_clock_ns(), true, when_full);
    if (o->held)
        return;
    close(o->fd);
    o->fd = -1;
    o->watched = false;
}

void output_read(struct output *o, struct lines *lines, enum when_full when_full)
{
    for (int i = 0; i < READS_PER_TURN && o->fd >= 0; i++) {
        uint8_t *at;
        size_t room;
        ssize_t n;
        o->held = o->held &&
                  !splitter_flush(&o->splitter, lines, wall_clock_ns(), false, when_full);
        if (o->held)
            return;
        room = splitter_room(&o->splitter, &at);
        n = read(o->fd, at, room);
        if (n < 0)
            return;
        if (n == 0) {
            output_end(o, lines, when_full);
            return;
        }
        splitter_filled(&o->splitter, (size_t)n);
        o->held = !splitter_flush(&o->splitter, lines, wall_clock_ns(), false, when_full);
        if ((size_t)n < room && !o->held)
            return;
    }
}

void output_watch(struct output *o, int epoll)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = o};
    bool wanted = o->fd >= 0 && !o->held;
    if (o->fd < 0 || o->watched == wanted)
        return;
    epoll_ctl(epoll, wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, o->fd, &event);
    o->watched = wanted;
}

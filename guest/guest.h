/* One VM's life as the guest sees it: what is asked, what runs, what it prints.
 *
 *     waiting ──RUN──▶ running ──the process ends──▶ exited
 *      │   ▲    └────────────▶ failed
 *      └───┘ REHEARSE
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "disks.h"
#include "lines.h"
#include "link.h"
#include "network.h"
#include "process.h"

/* How long EXITED waits to be acknowledged before the machine goes off. */
enum { ACKNOWLEDGE_MS = 2000 };

/* One of the process's output pipes; fd is -1 when it is closed or was read to its end.
 * `held`: lines wait for room. */
struct output {
    int fd;
    bool watched;
    bool held;
    struct splitter splitter;
};

struct guest {
    int epoll;
    int signals;
    bool room_watched;   /* the port wakes us when it can be written to */
    struct network network;
    struct disks disks;
    struct link link;
    struct lines lines;
    struct slots slots;
    struct output out, err;
    enum guest_state state;
    bool rehearsing;
    pid_t pid;           /* of the user's process; 0 when none runs */
    struct ending ending;
    struct failure failure;
    bool ending_due;     /* EXITED is to be sent when all lines are */
    bool ending_sent;    /* … and was, on this connection */
    bool ending_acked;
    bool powering_off;
    uint64_t kill_at_ms; /* 0: never */
    uint64_t off_at_ms;  /* 0: never */
};

/* Takes over the port; returns false with errno. */
bool guest_init(struct guest *g, int port);

/* Waits for something to happen and deals with it. False: power off now. */
bool guest_turn(struct guest *g);

#endif

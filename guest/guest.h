/* One VM's life as the guest sees it: what is asked, what runs, what it prints.
 *
 *     waiting ──────RUN──────▶ running ──the process ends──▶ exited
 *      │   ▲    │               │   ▲
 *      └───┘    └──▶ failed  FREEZE  RESUME
 *    REHEARSE                    ▼   │
 *                               frozen
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "disks.h"
#include "hook.h"
#include "lines.h"
#include "link.h"
#include "network.h"
#include "output.h"
#include "process.h"

/* How long EXITED waits to be acknowledged before the machine goes off. */
enum { ACKNOWLEDGE_MS = 2000 };

struct guest {
    int epoll;
    int signals;
    bool room_watched;   /* the port wakes us when it can be written to */
    struct network network;
    struct disks disks;
    struct link link;
    struct lines lines;
    struct slots slots;
    struct slots kept_slots;
    struct output out, err;
    struct run run;      /* what runs, once it does */
    bool run_kept;       /* … its frame and `slots` are used for nothing else any more */
    struct hooking hooking;
    enum guest_state state;
    bool rehearsing;
    bool emulated;       /* the processor is one that QEMU translates for */
    pid_t pid;           /* of the user's process; 0 when none runs */
    struct ending ending;
    struct failure failure;
    bool ending_due;     /* EXITED is to be sent when all lines are */
    bool ending_sent;    /* … and was, on this connection */
    bool ending_acked;
    bool frozen_due;     /* FROZEN is to be sent when all lines are */
    bool marking;        /* the pipes are read up to their marks */
    bool marked_due;     /* … and were: MARKED is to be sent when all lines are */
    uint64_t mark_token;
    uint64_t mark_last;  /* the last line before the marks */
    bool powering_off;
    uint64_t kill_at_ms; /* 0: never */
    uint64_t off_at_ms;  /* 0: never */
    int notify;          /* the socket on which the program says that it is ready, or -1 */
    uint64_t look_at_ms; /* when to look whether it is ready; 0: nobody wants to know */
};

/* Takes over the port; returns false with errno. */
bool guest_init(struct guest *g, int port);

/* Waits for something to happen and deals with it. False: power off now. */
bool guest_turn(struct guest *g);

#endif

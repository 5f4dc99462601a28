/* A hook: what runs beside the program right before a snapshot and after it. */
#ifndef HOOK_H
#define HOOK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "failure.h"
#include "lines.h"
#include "output.h"
#include "protocol.h"

/* `pid` is 0 when it has ended; `due`: how it ended is to be told when its lines are sent. */
struct hooking {
    bool active;
    bool due;
    pid_t pid;
    uint64_t kill_at_ms;
    struct output out;
    enum hook_end end;
    uint32_t value;
};

/* Starts `hook` beside the program that was started by `run` and has id `pid`. */
bool hook_start(struct hooking *hooking, const struct hook *hook, const struct run *run,
                pid_t pid, struct failure *f);

/* Its process has ended with `status`, as wait tells it. */
void hook_ended(struct hooking *hooking, int status);

/* Ends it when its time is over. */
void hook_keep_time(struct hooking *hooking, uint64_t now_ms);

/* Reads what it prints, and notices that it has ended and all was read. */
void hook_read(struct hooking *hooking, struct lines *lines, enum when_full when_full);

#endif

/* The user's process: started in the image, and its end. */
#ifndef PROCESS_H
#define PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

#include "disks.h"
#include "failure.h"
#include "protocol.h"

/* Read ends of the process's pipes, non-blocking; `err` is that of a program alone. */
struct process {
    pid_t pid;
    int out;
    int err;
};

/* Claims the disks, enters the image and executes run->argv: when it returns true the program
 * runs. The caller waits for it, and closes the pipes. `address` is the VM's own, "a.b.c.d/n", or NULL.
 * `notify` is the socket to be placed in the image, -1 for none. */
bool process_start(struct process *process, const struct run *run, struct disks *disks,
                   const char *address, int notify, struct failure *f);

/* Executes run->argv beside the program with id `pid`, as it was started, with both streams
 * going to `out`. */
bool process_join(struct process *process, const struct run *run, pid_t pid, struct failure *f);

/* Makes a pipe whose reading end does not wait. */
bool process_pipe(int ends[2], struct failure *f);

#endif

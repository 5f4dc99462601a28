/* The user's process: started in the image, and its end. */
#ifndef PROCESS_H
#define PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

#include "disks.h"
#include "failure.h"
#include "protocol.h"

/* Read ends of the process's pipes, non-blocking. */
struct process {
    pid_t pid;
    int out;
    int err;
};

/* Claims the disks, enters the image and executes run->argv: when it returns true the program
 * runs. The caller waits for it, and closes the pipes. `address` is the VM's own, "a.b.c.d/n", or NULL. */
bool process_start(struct process *process, const struct run *run, struct disks *disks,
                   const char *address, struct failure *f);

#endif

/* What is done once, before the template is snapshotted, so that no start has to do it. */
#ifndef BOOT_H
#define BOOT_H

#include <stdbool.h>

#include "disks.h"
#include "failure.h"
#include "network.h"

/* Mounts, loads modules, protects pid 1, finds the disks, mounts scratch, opens the port.
 * Leaves the port's descriptor in *port. A `builder`'s program may do with the machine what it
 * likes: it keeps all capabilities and sees all of /proc. */
bool boot(struct disks *disks, const struct network *network, bool builder, int *port,
          struct failure *f);

#endif

/* What is done once, before the template is snapshotted, so that no start has to do it. */
#ifndef BOOT_H
#define BOOT_H

#include <stdbool.h>

#include "disks.h"
#include "failure.h"
#include "network.h"

/* Mounts, loads modules, protects pid 1, finds the disks, mounts scratch, opens the port.
 * Leaves the port's descriptor in *port. */
bool boot(struct disks *disks, const struct network *network, int *port, struct failure *f);

#endif

/* The root file system the user's process sees: what is made ready at boot, and the rest. */
#ifndef ROOTFS_H
#define ROOTFS_H

#include <stdbool.h>

#include "disks.h"
#include "failure.h"

/* At boot: the user's /dev, /proc and /sys; `whole`: nothing in /proc is covered. */
bool rootfs_prepare_mounts(bool whole, struct failure *f);

/* At boot, and after a rehearsal: the overlay's folders, empty but for mount points. */
bool rootfs_prepare_folders(struct failure *f);

/* After a rehearsal: takes the overlay's folders away. */
bool rootfs_remove_folders(struct failure *f);

/* In a mount namespace of its own: puts the root together and moves into it. `volume` is NULL
 * for none. */
bool rootfs_enter(const struct disk *image, const struct disk *volume, struct failure *f);

/* Moves into the root that another process was given; `mounts` is its mount namespace. */
bool rootfs_join(int mounts, struct failure *f);

#endif

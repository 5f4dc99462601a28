/* The VM's disks, found by serial number; two of them taken from and given to their driver. */
#ifndef DISKS_H
#define DISKS_H

#include <stdbool.h>

#include "failure.h"

/* For ext4: nothing is done behind a mount's back. What mkfs leaves to the kernel's thread is little,
 * and it would run in every start, for a template's disk is mounted before it is frozen. */
#define EXT4_OPTIONS "noinit_itable,no_prefetch_block_bitmaps"

/* `device` is its name on the virtio bus, empty when the VM has no such disk; `node` its path
 * while the driver has it, else empty. */
struct disk {
    const char *serial;
    char device[32];
    char node[48];
};

struct disks {
    struct disk image, scratch, volume;
};

/* Looks all disks up, which the driver must have. */
bool disks_find(struct disks *disks, struct failure *f);

/* Gives a disk to the driver, which reads its size and makes `node`. */
bool disk_claim(struct disk *disk, struct failure *f);

/* Takes an unmounted disk from the driver: the kernel forgets all it knew of it. */
bool disk_release(struct disk *disk, struct failure *f);

/* Waits until a disk is no longer mounted, then writes out what the kernel holds of it. */
bool disk_settle(const struct disk *disk, struct failure *f);

#endif

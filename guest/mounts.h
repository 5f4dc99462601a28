/* Tables of mounts. */
#ifndef MOUNTS_H
#define MOUNTS_H

#include <stdbool.h>
#include <stddef.h>

#include "failure.h"

struct mount_point {
    const char *type;
    const char *path;
    unsigned long flags;
    const char *data;
};

/* Makes each folder and mounts on it, in order. */
bool mount_all(const struct mount_point *points, size_t count, struct failure *f);

#endif

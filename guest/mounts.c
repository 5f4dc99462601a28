#include "mounts.h"

#include <errno.h>
#include <sys/mount.h>

#include "files.h"

bool mount_all(const struct mount_point *points, size_t count, struct failure *f)
{
    for (const struct mount_point *m = points; m < points + count; m++)
        if (!folder_make(m->path, 0755) || mount(m->type, m->path, m->type, m->flags, m->data))
            return fail(f, errno, "mounting", m->path);
    return true;
}

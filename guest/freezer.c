#include "freezer.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "files.h"
#include "paths.h"

#define GROUP VM_CGROUP "/program"

/* A process in the middle of reading a disk freezes when it has read. */
enum { FREEZE_MS = 5000 };

static int entrance;

bool freezer_prepare(struct failure *f)
{
    if (!folder_make(GROUP, 0755))
        return fail(f, errno, "making", GROUP);
    entrance = open(GROUP "/cgroup.procs", O_WRONLY | O_CLOEXEC);
    return entrance >= 0 ? true : fail(f, errno, "opening", GROUP);
}

bool freezer_enter(struct failure *f)
{
    return write(entrance, "0", 1) == 1 ? true : fail(f, errno, "joining", GROUP);
}

static bool is_frozen(void)
{
    char events[128];
    return file_read(GROUP "/cgroup.events", events, sizeof events) > 0 &&
           strstr(events, "frozen 1");
}

bool freezer_freeze(struct failure *f)
{
    const struct timespec pause = {0, 1000000};
    if (!switch_write(GROUP "/cgroup.freeze", "1"))
        return fail(f, errno, "freezing the program", NULL);
    for (int i = 0; i < FREEZE_MS; i++) {
        if (is_frozen())
            return true;
        nanosleep(&pause, NULL);
    }
    switch_write(GROUP "/cgroup.freeze", "0");
    return fail(f, ETIMEDOUT, "freezing the program", NULL);
}

bool freezer_thaw(struct failure *f)
{
    return switch_write(GROUP "/cgroup.freeze", "0") ? true
                                                     : fail(f, errno, "thawing the program", NULL);
}

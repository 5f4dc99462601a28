#include "disks.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "files.h"
#include "paths.h"
#include "text.h"

#define BLOCK_FOLDER VM_SYS "/block/"
#define BUS_FOLDER VM_SYS "/bus/virtio/"

enum { SETTLE_MS = 5000, SERIAL_MAX = 21 };

static void join(char *buffer, size_t size, const char *a, const char *b, const char *c)
{
    struct text t = text_of(buffer, size);
    text_add(&t, a);
    text_add(&t, b);
    text_add(&t, c);
}

/* Fills `disk` when block device `name` has its serial number. */
static bool match(struct disk *disk, const char *name)
{
    char path[PATH_MAX], serial[SERIAL_MAX + 1], link[PATH_MAX];
    ssize_t size;
    join(path, sizeof path, BLOCK_FOLDER, name, "/serial");
    if (file_read(path, serial, sizeof serial) < 0)
        return false;
    if (strcmp(serial, disk->serial))
        return false;
    join(path, sizeof path, BLOCK_FOLDER, name, "/device");
    size = readlink(path, link, sizeof link - 1);
    if (size < 0)
        return false;
    link[size] = '\0';
    join(disk->device, sizeof disk->device, basename(link), "", "");
    join(disk->node, sizeof disk->node, VM_DEV "/", name, "");
    return true;
}

static bool look_at(struct disks *disks, const char *name)
{
    return match(&disks->image, name) || match(&disks->scratch, name) ||
           match(&disks->volume, name);
}

bool disks_find(struct disks *disks, struct failure *f)
{
    DIR *folder = opendir(BLOCK_FOLDER);
    struct dirent *entry;
    *disks = (struct disks){{.serial = "image"}, {.serial = "scratch"}, {.serial = "volume"}};
    if (!folder)
        return fail(f, errno, "looking for disks", NULL);
    while ((entry = readdir(folder)))
        if (!strncmp(entry->d_name, "vd", 2))
            look_at(disks, entry->d_name);
    closedir(folder);
    return true;
}

/* Reads which block device the driver made of `disk`. */
static bool find_node(struct disk *disk)
{
    char path[PATH_MAX];
    DIR *folder;
    struct dirent *entry;
    join(path, sizeof path, BUS_FOLDER "devices/", disk->device, "/block");
    folder = opendir(path);
    if (!folder)
        return false;
    while ((entry = readdir(folder)))
        if (!strncmp(entry->d_name, "vd", 2))
            join(disk->node, sizeof disk->node, VM_DEV "/", entry->d_name, "");
    closedir(folder);
    return disk->node[0];
}

bool disk_claim(struct disk *disk, struct failure *f)
{
    if (!disk->device[0])
        return fail(f, ENODEV, "finding the disk", disk->serial);
    if (!switch_write(BUS_FOLDER "drivers/virtio_blk/bind", disk->device) || !find_node(disk))
        return fail(f, errno, "starting the disk", disk->serial);
    return true;
}

bool disk_release(struct disk *disk, struct failure *f)
{
    if (!disk->node[0])
        return true;
    if (!switch_write(BUS_FOLDER "drivers/virtio_blk/unbind", disk->device))
        return fail(f, errno, "stopping the disk", disk->serial);
    disk->node[0] = '\0';
    return true;
}

bool disk_settle(const struct disk *disk, struct failure *f)
{
    const struct timespec pause = {0, 1000000};
    int fd = -1, error;
    if (!disk->node[0])
        return true;
    for (int i = 0; i < SETTLE_MS; i++) {
        fd = open(disk->node, O_RDONLY | O_EXCL | O_CLOEXEC);
        if (fd >= 0 || errno != EBUSY)
            break;
        nanosleep(&pause, NULL);
    }
    if (fd < 0)
        return fail(f, errno, "waiting for the end of the use of disk", disk->serial);
    error = fsync(fd) ? errno : 0;
    close(fd);
    return error ? fail(f, error, "writing out disk", disk->serial) : true;
}

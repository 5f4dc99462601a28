#include "rootfs.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "etc.h"
#include "files.h"
#include "mounts.h"
#include "paths.h"
#include "text.h"

struct device {
    const char *path;
    unsigned major, minor;
};

static const struct device DEVICES[] = {
    {USER_DEV "/null", 1, 3}, {USER_DEV "/zero", 1, 5},   {USER_DEV "/full", 1, 7},
    {USER_DEV "/random", 1, 8}, {USER_DEV "/urandom", 1, 9}, {USER_DEV "/tty", 5, 0},
};

static const char *const LINKS[][2] = {
    {"/proc/self/fd", USER_DEV "/fd"},          {"/proc/self/fd/0", USER_DEV "/stdin"},
    {"/proc/self/fd/1", USER_DEV "/stdout"},    {"/proc/self/fd/2", USER_DEV "/stderr"},
    {"pts/ptmx", USER_DEV "/ptmx"},
};

enum { QUIET = MS_NOSUID | MS_NODEV | MS_NOEXEC };

static const struct mount_point MOUNTS[] = {
    {"tmpfs", USER_DEV, MS_NOSUID, "mode=0755,size=65536k"},
    {"devpts", USER_DEV "/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
    {"tmpfs", USER_DEV "/shm", QUIET, "mode=1777"},
    {"mqueue", USER_DEV "/mqueue", QUIET, NULL},
    {"proc", USER_PROC, QUIET, NULL},
    {"sysfs", USER_SYS, QUIET | MS_RDONLY, NULL},
};

/* Switches of the whole machine's, which OCI's runtimes make read-only … */
static const char *const READ_ONLY[] = {
    USER_PROC "/bus", USER_PROC "/fs", USER_PROC "/irq", USER_PROC "/sys",
    USER_PROC "/sysrq-trigger",
};

/* … and files they hide. */
static const char *const HIDDEN[] = {
    USER_PROC "/kcore", USER_PROC "/keys", USER_PROC "/timer_list", USER_PROC "/sched_debug",
};

static const char *const FOLDERS[] = {
    VM_IMAGE,        VM_UPPER "/etc",     VM_UPPER "/dev", VM_UPPER "/proc",
    VM_UPPER "/sys", VM_UPPER ETC_FOLDER, VM_WORK,         NEW_ROOT,
};

static bool make_devices(struct failure *f)
{
    for (size_t i = 0; i < sizeof DEVICES / sizeof *DEVICES; i++) {
        const struct device *d = &DEVICES[i];
        if (mknod(d->path, S_IFCHR | 0666, makedev(d->major, d->minor)) || chmod(d->path, 0666))
            return fail(f, errno, "making", d->path);
    }
    for (size_t i = 0; i < sizeof LINKS / sizeof *LINKS; i++)
        if (symlink(LINKS[i][0], LINKS[i][1]))
            return fail(f, errno, "making", LINKS[i][1]);
    return true;
}

static bool bind(const char *from, const char *to, unsigned long flags)
{
    return !mount(from, to, NULL, MS_BIND, NULL) &&
           (!flags || !mount(NULL, to, NULL, MS_REMOUNT | MS_BIND | flags, NULL));
}

/* Not every kernel has every one of these files. */
static bool cover(struct failure *f)
{
    for (size_t i = 0; i < sizeof READ_ONLY / sizeof *READ_ONLY; i++)
        if (!access(READ_ONLY[i], F_OK) && !bind(READ_ONLY[i], READ_ONLY[i], QUIET | MS_RDONLY))
            return fail(f, errno, "making read-only", READ_ONLY[i]);
    for (size_t i = 0; i < sizeof HIDDEN / sizeof *HIDDEN; i++)
        if (!access(HIDDEN[i], F_OK) && !bind(USER_DEV "/null", HIDDEN[i], 0))
            return fail(f, errno, "hiding", HIDDEN[i]);
    return true;
}

bool rootfs_prepare_mounts(bool whole, struct failure *f)
{
    return mount_all(MOUNTS, sizeof MOUNTS / sizeof *MOUNTS, f) && make_devices(f) &&
           (whole || cover(f));
}

bool rootfs_prepare_folders(struct failure *f)
{
    for (size_t i = 0; i < sizeof FOLDERS / sizeof *FOLDERS; i++)
        if (!folder_make(FOLDERS[i], 0755))
            return fail(f, errno, "making", FOLDERS[i]);
    return true;
}

bool rootfs_remove_folders(struct failure *f)
{
    if (!folder_remove(VM_UPPER) || !folder_remove(VM_WORK))
        return fail(f, errno, "removing the overlay's folders", NULL);
    return true;
}

/* "volatile": the disk is thrown away with the VM, so nothing need wait for it. */
static bool mount_overlay(const struct disk *image, struct failure *f)
{
    const char *options = "lowerdir=" VM_IMAGE ",upperdir=" VM_UPPER ",workdir=" VM_WORK
                          ",volatile";
    if (mount(image->node, VM_IMAGE, "erofs", MS_RDONLY | MS_NODEV | MS_NOATIME, NULL))
        return fail(f, errno, "mounting the image", NULL);
    if (mount("overlay", NEW_ROOT, "overlay", MS_NODEV | MS_NOATIME, options))
        return fail(f, errno, "mounting the overlay", NULL);
    return true;
}

/* The image may have a link there: it leads to somewhere in the image. */
static int open_data(void)
{
    int root = open(NEW_ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC), folder, error;
    if (root < 0)
        return -1;
    folder = folder_open(root, "data");
    error = errno;
    close(root);
    errno = error;
    return folder;
}

static bool mount_volume(const struct disk *volume, struct failure *f)
{
    char path[64];
    struct text t = text_of(path, sizeof path);
    int folder = open_data(), error;
    bool mounted;
    text_add(&t, VM_PROC "/self/fd/");
    text_number(&t, (uint64_t)folder);
    mounted = folder >= 0 &&
              !mount(volume->node, path, "ext4", MS_NODEV | MS_NOATIME, EXT4_OPTIONS);
    error = errno;
    if (folder >= 0)
        close(folder);
    return mounted ? true : fail(f, error, "mounting the volume at", "/data");
}

/* VM_FOLDER goes with all that is mounted in it; of the old root an empty shell is left,
 * below the new one, where no path leads. */
static bool move_in(struct failure *f)
{
    if (mount(USER_DEV, NEW_ROOT "/dev", NULL, MS_MOVE, NULL) ||
        mount(USER_PROC, NEW_ROOT "/proc", NULL, MS_MOVE, NULL) ||
        mount(USER_SYS, NEW_ROOT "/sys", NULL, MS_MOVE, NULL))
        return fail(f, errno, "mounting /dev, /proc and /sys", NULL);
    if (umount2(VM_FOLDER, MNT_DETACH) || chdir(NEW_ROOT) ||
        mount(".", "/", NULL, MS_MOVE, NULL) || chroot("."))
        return fail(f, errno, "moving into the image", NULL);
    return true;
}

bool rootfs_enter(const struct disk *image, const struct disk *volume, struct failure *f)
{
    return mount_overlay(image, f) && (!volume || mount_volume(volume, f)) && move_in(f);
}

bool rootfs_join(int mounts, struct failure *f)
{
    return setns(mounts, CLONE_NEWNS) ? fail(f, errno, "joining the program", NULL) : true;
}

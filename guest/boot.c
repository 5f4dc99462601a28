#include "boot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "files.h"
#include "freezer.h"
#include "mounts.h"
#include "paths.h"
#include "rootfs.h"
#include "text.h"

#define PORT_FOLDER VM_SYS "/class/virtio-ports/"

enum {
    PORT_WAIT_MS = 20000,
    NICE = -20,
    FILES_SOFT = 65536,
    FILES_HARD = 1048576,
    RESET_ON_FORK = 0x40000000,
    CAPABILITIES = 64,
};

/* The capabilities OCI's runtimes give by default (numbers: linux/capability.h), less mknod:
 * chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service,
 * net_raw, sys_chroot, audit_write, setfcap. */
static const unsigned char KEPT[] = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 29, 31};

static const struct mount_point MOUNTS[] = {
    {"tmpfs", VM_FOLDER, MS_NOSUID | MS_NODEV, "mode=0700"},
    {"devtmpfs", VM_DEV, MS_NOSUID | MS_NOEXEC, NULL},
    {"proc", VM_PROC, MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
    {"sysfs", VM_SYS, MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
    {"cgroup2", VM_CGROUP, MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
};

static bool load_module(const char *path, struct failure *f)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool loaded = fd >= 0 && (!syscall(SYS_finit_module, fd, "", 0) || errno == EEXIST);
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (!loaded)
        return fail(f, error, "loading module", path);
    unlink(path);
    return true;
}

static bool load_modules(struct failure *f)
{
    static char list[16384];
    char *at = list, *path;
    if (file_read("/etc/modules", list, sizeof list) < 0)
        return fail(f, errno, "reading", "/etc/modules");
    while ((path = strsep(&at, "\n")))
        if (*path && !load_module(path, f))
            return false;
    return true;
}

static bool drop_capabilities(struct failure *f)
{
    for (unsigned long cap = 0; cap < CAPABILITIES; cap++)
        if (!memchr(KEPT, (int)cap, sizeof KEPT) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) &&
            errno != EINVAL)
            return fail(f, errno, "dropping capabilities", NULL);
    return true;
}

/* No process of the user's may take pid 1 down or starve it; nothing here passes to a child
 * but the limits and the bounding set. */
static bool protect(struct failure *f)
{
    const struct sched_param normal = {0};
    const struct rlimit files = {FILES_SOFT, FILES_HARD};
    if (!switch_write(VM_PROC "/self/oom_score_adj", "-1000") ||
        syscall(SYS_sched_setscheduler, 0, SCHED_OTHER | RESET_ON_FORK, &normal) ||
        setpriority(PRIO_PROCESS, 0, NICE) || setrlimit(RLIMIT_NOFILE, &files))
        return fail(f, errno, "protecting the guest", NULL);
    return true;
}

/* Programs may listen on any port as any user, as under OCI's runtimes. What the kernel says
 * of a program's doings goes to no console, which is the host's. It does less by itself that wakes
 * an idle machine: memory is put together when a large piece is asked for, statistics every 10 s. */
static bool set_switches(struct failure *f)
{
    if (!switch_write(VM_PROC "/sys/kernel/printk", "1") ||
        !switch_write(VM_PROC "/sys/net/ipv4/ip_unprivileged_port_start", "0") ||
        !switch_write(VM_PROC "/sys/net/ipv4/ping_group_range", "0 2147483647") ||
        !switch_write(VM_PROC "/sys/vm/compaction_proactiveness", "0") ||
        !switch_write(VM_PROC "/sys/vm/stat_interval", "10"))
        return fail(f, errno, "setting the kernel's switches", NULL);
    return true;
}

static bool mount_scratch(struct disks *disks, struct failure *f)
{
    if (!disks->scratch.device[0])
        return fail(f, ENODEV, "finding the disk", disks->scratch.serial);
    if (!folder_make(VM_SCRATCH, 0700) ||
        mount(disks->scratch.node, VM_SCRATCH, "ext4", MS_NODEV | MS_NOATIME, EXT4_OPTIONS))
        return fail(f, errno, "mounting the disk", disks->scratch.serial);
    return true;
}

/* Opens the port if it is `name`. Returns -1 with ENOENT if it is another. */
static int open_port(const char *name)
{
    char path[PATH_MAX], label[64];
    struct text t = text_of(path, sizeof path);
    text_add(&t, PORT_FOLDER);
    text_add(&t, name);
    text_add(&t, "/name");
    if (file_read(path, label, sizeof label) < 0 || strcmp(label, "cakework\n")) {
        errno = ENOENT;
        return -1;
    }
    t = text_of(path, sizeof path);
    text_add(&t, VM_DEV "/");
    text_add(&t, name);
    return open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
}

static int find_port(void)
{
    DIR *folder = opendir(PORT_FOLDER);
    struct dirent *entry;
    int fd = -1;
    if (!folder)
        return -1;
    errno = ENOENT;
    while (fd < 0 && (entry = readdir(folder)))
        if (entry->d_name[0] != '.')
            fd = open_port(entry->d_name);
    closedir(folder);
    return fd;
}

/* Ports appear some time after their driver. */
static bool wait_port(int *port, struct failure *f)
{
    const struct timespec pause = {0, 2000000};
    for (int i = 0; i < PORT_WAIT_MS / 2; i++) {
        *port = find_port();
        if (*port >= 0)
            return true;
        nanosleep(&pause, NULL);
    }
    return fail(f, errno, "finding the port", "cakework");
}

bool boot(struct disks *disks, const struct network *network, bool builder, int *port,
          struct failure *f)
{
    umask(022);
    return mount_all(MOUNTS, sizeof MOUNTS / sizeof *MOUNTS, f) && load_modules(f) &&
           (builder || drop_capabilities(f)) && protect(f) && set_switches(f) &&
           freezer_prepare(f) &&
           network_up(network, f) && disks_find(disks, f) && mount_scratch(disks, f) &&
           disk_release(&disks->image, f) && disk_release(&disks->volume, f) &&
           rootfs_prepare_mounts(builder, f) && rootfs_prepare_folders(f) && wait_port(port, f);
}

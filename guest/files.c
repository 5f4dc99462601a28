#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

/* linux/openat2.h */
enum { NO_MAGIC_LINKS = 0x02, IN_ROOT = 0x10 };

struct how {
    uint64_t flags, mode, resolve;
};

/* linux/magic.h: file systems whose files are the kernel's own. Some wait when they are read. */
static const unsigned long KERNELS[] = {
    0x9fa0,     /* proc */
    0x62656572, /* sysfs */
    0x63677270, /* cgroup2 */
};

/* Closes `fd`. */
static ssize_t read_all(int fd, char *buffer, size_t size)
{
    size_t used = 0;
    ssize_t n = 0;
    if (fd < 0)
        return -1;
    while (used < size - 1 && (n = read(fd, buffer + used, size - 1 - used)) > 0)
        used += (size_t)n;
    close(fd);
    buffer[used] = '\0';
    return n < 0 ? -1 : (ssize_t)used;
}

ssize_t file_read(const char *path, char *buffer, size_t size)
{
    return read_all(open(path, O_RDONLY | O_CLOEXEC), buffer, size);
}

static bool is_plain(int fd)
{
    struct stat st;
    struct statfs fs;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || fstatfs(fd, &fs))
        return false;
    for (size_t i = 0; i < sizeof KERNELS / sizeof *KERNELS; i++)
        if ((unsigned long)fs.f_type == KERNELS[i])
            return false;
    return true;
}

static int open_below(int root, const char *path, int flags, mode_t mode)
{
    const struct how how = {(uint64_t)flags | O_CLOEXEC, mode, IN_ROOT | NO_MAGIC_LINKS};
    return (int)syscall(SYS_openat2, root, path, &how, sizeof how);
}

int plain_open(int root, const char *path, int flags)
{
    int fd = open_below(root, path, flags | O_NONBLOCK | O_NOCTTY, flags & O_CREAT ? 0644 : 0);
    if (fd < 0) {
        /* A pipe nobody reads, a socket, a device without a driver; a folder. */
        if (errno == ENXIO || errno == ENODEV || errno == EISDIR)
            errno = NOT_PLAIN;
        return -1;
    }
    if (is_plain(fd))
        return fd;
    close(fd);
    errno = NOT_PLAIN;
    return -1;
}

ssize_t plain_read(const char *path, char *buffer, size_t size)
{
    int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), error;
    ssize_t n;
    if (root < 0)
        return -1;
    n = read_all(plain_open(root, path, O_RDONLY), buffer, size);
    error = errno;
    close(root);
    errno = error;
    return n;
}

static bool write_to(const char *path, int flags, const char *bytes, size_t size)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC | flags, 0644);
    ssize_t n;
    if (fd < 0)
        return false;
    n = write(fd, bytes, size);
    close(fd);
    return n == (ssize_t)size;
}

bool file_write(const char *path, const char *bytes, size_t size)
{
    return write_to(path, O_CREAT | O_TRUNC, bytes, size);
}

bool switch_write(const char *path, const char *value)
{
    return write_to(path, 0, value, strlen(value));
}

static bool make_one(const char *path, mode_t mode)
{
    struct stat st;
    if (!mkdir(path, mode))
        return true;
    return errno == EEXIST && !stat(path, &st) && S_ISDIR(st.st_mode);
}

bool folder_make(const char *path, mode_t mode)
{
    char part[PATH_MAX];
    size_t size = strlen(path);
    if (make_one(path, mode))
        return true;
    if (errno != ENOENT || size >= sizeof part)
        return false;
    memcpy(part, path, size + 1);
    for (size_t i = 1; i < size; i++) {
        if (part[i] != '/')
            continue;
        part[i] = '\0';
        if (!make_one(part, mode))
            return false;
        part[i] = '/';
    }
    return make_one(path, mode);
}

int folder_open(int root, const char *path)
{
    int fd = open_below(root, path, O_PATH | O_DIRECTORY, 0);
    if (fd >= 0 || errno != ENOENT || (mkdirat(root, path, 0755) && errno != EEXIST))
        return fd;
    return open_below(root, path, O_PATH | O_DIRECTORY, 0);
}

static bool empty_folder(int folder);

static bool remove_entry(int folder, const char *name)
{
    int child;
    bool emptied;
    if (!unlinkat(folder, name, 0))
        return true;
    if (errno != EISDIR)
        return false;
    child = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    emptied = child >= 0 && empty_folder(child);
    return emptied && !unlinkat(folder, name, AT_REMOVEDIR);
}

/* Closes `folder`. */
static bool empty_folder(int folder)
{
    DIR *entries = fdopendir(folder);
    struct dirent *entry;
    bool ok = true;
    if (!entries) {
        close(folder);
        return false;
    }
    while (ok && (entry = readdir(entries)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            ok = remove_entry(folder, entry->d_name);
    closedir(entries);
    return ok;
}

bool folder_remove(const char *path)
{
    return remove_entry(AT_FDCWD, path);
}

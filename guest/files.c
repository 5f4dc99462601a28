#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

ssize_t file_read(const char *path, char *buffer, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
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

/* Part of cakework-preload.so, which is preloaded into a QEMU that is restored from files.
 *
 * The memory it is restored from is shared by many machines and must not be writable by any of
 * them, so the file is on a read-only mount. But QEMU 7.2 opens a memory-backend-file for writing
 * even when it maps it privately: here that one open becomes a read-only one. And it saves a
 * machine without its memory only if it takes the memory for shared: so it is told that it is,
 * and here that one mapping becomes a private one, which can be written to all the same.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static int ram = -1;

static int opened(const char *path, int flags, mode_t mode)
{
    if (!path || strcmp(path, "/template/ram"))
        return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    flags = (flags & ~(O_ACCMODE | O_CREAT)) | O_RDONLY;
    ram = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    return ram;
}

void *mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    if (fd >= 0 && fd == ram && (flags & MAP_TYPE) != MAP_PRIVATE)
        flags = (flags & ~(MAP_TYPE | MAP_SYNC)) | MAP_PRIVATE;
    return (void *)syscall(SYS_mmap, address, size, protection, flags, fd, offset);
}

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    return mmap64(address, size, protection, flags, fd, offset);
}

/* What a program compiled with _FORTIFY_SOURCE calls when it opens without creating. */
int __open64_2(const char *path, int flags)
{
    return opened(path, flags | O_LARGEFILE, 0);
}

int open64(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return opened(path, flags | O_LARGEFILE, mode);
}

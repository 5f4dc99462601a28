/* cakework-readonly.so: preloaded into a QEMU that restores a template.
 *
 * QEMU 7.2 opens a memory-backend-file for writing even when it maps it privately. A template's
 * memory is shared by all VMs of its shape and must not be writable by any of them, so the file
 * is on a read-only mount and here that one open becomes a read-only one; a private mapping of
 * it can be written to all the same.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static int opened(const char *path, int flags, mode_t mode)
{
    if (path && !strcmp(path, "/template/ram"))
        flags = (flags & ~(O_ACCMODE | O_CREAT)) | O_RDONLY;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
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

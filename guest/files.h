/* Whole files read and written, folders made and removed. */
#ifndef FILES_H
#define FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Reads at most size - 1 bytes and ends them with a NUL. Returns how many; -1 with errno. */
ssize_t file_read(const char *path, char *buffer, size_t size);

/* Writes a file in one go, making or emptying it. False with errno. */
bool file_write(const char *path, const char *bytes, size_t size);

/* Writes a string into a file that is there: a switch of the kernel's. False with errno. */
bool switch_write(const char *path, const char *value);

/* Makes a folder and those above it; it may be there already. False with errno. */
bool folder_make(const char *path, mode_t mode);

/* Removes a folder and all in it, within its file system. False with errno. */
bool folder_remove(const char *path);

#endif

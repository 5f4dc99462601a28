/* Whole files read and written, folders made and removed. */
#ifndef FILES_H
#define FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "failure.h"

/* Reads at most size - 1 bytes and ends them with a NUL. Returns how many; -1 with errno. */
ssize_t file_read(const char *path, char *buffer, size_t size);

/* Opens a file where strangers may have put something else, or a link to it: `path` and every link
 * on it lead to somewhere below the folder `root`. Only a plain file that lies on a disk or in
 * memory is opened, so that neither opening nor reading waits for anybody, and writing does
 * nothing else. With O_CREAT it is made. -1 with errno; NOT_PLAIN: it is something else. */
int plain_open(int root, const char *path, int flags);

/* Reads a file as file_read does, opening it as plain_open does, below "/". */
ssize_t plain_read(const char *path, char *buffer, size_t size);

/* Writes a file in one go, making or emptying it. False with errno. */
bool file_write(const char *path, const char *bytes, size_t size);

/* Writes a string into a file that is there: a switch of the kernel's. False with errno. */
bool switch_write(const char *path, const char *value);

/* Makes a folder and those above it; it may be there already. False with errno. */
bool folder_make(const char *path, mode_t mode);

/* Opens a folder below the folder `root`, making it if nothing is there; links lead to somewhere
 * below `root`, too. What is returned serves as a place, and is not for reading. -1 with errno. */
int folder_open(int root, const char *path);

/* Removes a folder and all in it, within its file system. False with errno. */
bool folder_remove(const char *path);

#endif

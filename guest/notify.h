/* The socket on which a program says that it is ready, as programs say it to systemd. */
#ifndef NOTIFY_H
#define NOTIFY_H

#include <stdbool.h>

#include "failure.h"

/* Opens the socket; -1 with errno. */
int notify_open(void);

/* In the program's root: gives it its place. */
bool notify_place(int fd, struct failure *f);

/* Reads what was said; whether READY=1 was among it. */
bool notify_read(int fd);

#endif

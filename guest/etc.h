/* The files by which a program learns who it is: names, addresses, this VM's id. */
#ifndef ETC_H
#define ETC_H

#include <stdbool.h>
#include <sys/types.h>

#include "failure.h"
#include "protocol.h"
#include "text.h"

#define ETC_FOLDER "/run/cakework"

struct etc {
    struct text hostname, hosts, resolv, identity;
};

/* The texts lie in buffers that the next call uses again. `address` is the machine's own,
 * "a.b.c.d/n", or NULL. */
struct etc etc_of(const struct identity *identity, const char *address);

/* Writes them below `root`, where the folders are there. */
bool etc_write(const struct etc *etc, const char *root, struct failure *f);

/* Writes them again as process `pid` sees them. No link leads out of what it sees, and nothing but
 * plain files is written to. */
bool etc_rewrite(const struct etc *etc, pid_t pid, struct failure *f);

#endif

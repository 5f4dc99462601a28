/* TCP connections of the whole machine, as the kernel's socket diagnosis tells of them. */
#ifndef CONNECTIONS_H
#define CONNECTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "failure.h"

/* Whether something listens on `port`, at any address. */
bool connections_listened(uint16_t port);

/* Resets every connection with another machine: after a snapshot nobody is at its other end.
 * Those within the machine, and what listens, stay. */
bool connections_reset(struct failure *f);

#endif

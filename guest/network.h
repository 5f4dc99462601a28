/* The loopback device and eth0, from addresses in text. */
#ifndef NETWORK_H
#define NETWORK_H

#include <stdbool.h>

#include "failure.h"

struct network {
    const char *address;  /* "a.b.c.d/n", NULL for no network but loopback */
    const char *gateway;  /* "a.b.c.d", NULL for none */
};

/* Returns when eth0 can send, or a while later if it has nothing to send to. */
bool network_up(const struct network *network, struct failure *f);

/* Splits "a.b.c.d/n" (n 0 … 32). `address` gets at least 16 bytes. False: it is not that. */
bool network_parse(const char *text, char address[16], unsigned *prefix);

#endif

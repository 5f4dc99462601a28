/* What a machine restored from a snapshot shares with its siblings, made its own. */
#ifndef IDENTITY_H
#define IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

#include "failure.h"
#include "protocol.h"

/* Sets the clock, adds the seed to the random pool and reseeds the generator, sets the host
 * name. False: nothing may be run. */
bool identity_set(const struct identity *identity, struct failure *f);

/* CAKEWORK_VM_ID and CAKEWORK_HOSTNAME as last set, as an environment. */
char *const *identity_env(void);

/* The wall clock, in ns since 1970; and a clock that never jumps, in ms. */
uint64_t wall_clock_ns(void);
uint64_t steady_clock_ms(void);

#endif

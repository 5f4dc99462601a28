/* The control group of all that runs for the user: it can be frozen and thawed as a whole. */
#ifndef FREEZER_H
#define FREEZER_H

#include <stdbool.h>

#include "failure.h"

/* At boot: makes the group, and keeps the way into it open. */
bool freezer_prepare(struct failure *f);

/* Puts the calling process, and the children it will have, into the group. */
bool freezer_enter(struct failure *f);

/* Returns when no process of the group runs any more. When it fails, all of them do. */
bool freezer_freeze(struct failure *f);

/* Lets the group go on. */
bool freezer_thaw(struct failure *f);

#endif

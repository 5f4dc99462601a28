/* What could not be done, and why: filled where it happens, sent as FAILED. */
#ifndef FAILURE_H
#define FAILURE_H

#include <errno.h>
#include <stdbool.h>

/* An errno of our own: what was to be a plain file is something else. */
enum { NOT_PLAIN = EMEDIUMTYPE };

struct failure {
    int error;
    char what[512];
};

/* Writes "`doing` `thing`: the error's name" and returns false. `thing` may be NULL. */
bool fail(struct failure *f, int error, const char *doing, const char *thing);

#endif

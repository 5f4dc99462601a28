#include "failure.h"

#include <string.h>

#include "text.h"

bool fail(struct failure *f, int error, const char *doing, const char *thing)
{
    struct text t = text_of(f->what, sizeof f->what);
    f->error = error;
    text_add(&t, doing);
    if (thing) {
        text_add(&t, " ");
        text_add(&t, thing);
    }
    if (error) {
        text_add(&t, ": ");
        text_add(&t, error == NOT_PLAIN ? "it is not a plain file" : strerror(error));
    }
    return false;
}

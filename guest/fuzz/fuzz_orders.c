/* Any bytes on the port: frames are taken out and parsed, and what is parsed is walked. */
#include <stdlib.h>
#include <string.h>

#include "protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static size_t walk(char *const *list)
{
    size_t size = 0;
    for (; list && *list; list++)
        size += strlen(*list) + 1;
    return size;
}

static size_t walk_identity(const struct identity *identity)
{
    return walk(identity->dns) + strlen(identity->hostname) + strlen(identity->vm_id) +
           strlen(identity->domain);
}

static size_t walk_order(const struct order *order)
{
    const struct run *run = &order->run;
    switch (order->type) {
    case ORDER_RUN:
        return walk(run->argv) + walk(run->env) + walk_identity(&run->identity) +
               strlen(run->cwd) + strlen(run->user);
    case ORDER_REHEARSE:
        return walk(run->argv);
    case ORDER_HOOK:
        return walk(order->hook.argv) + strlen(order->hook.path);
    case ORDER_RESUME:
        return walk_identity(&order->identity);
    default:
        return 0;
    }
}

/* Strings must lie within the frame, one NUL for each of their lengths included. */
static void check(const struct order *order, size_t size)
{
    if (walk_order(order) > size)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static uint8_t frame[FRAME_MAX];
    static struct slots slots;
    struct deframer d = {.frame = frame};
    const uint8_t *at = bytes;
    enum deframed deframed;
    while ((deframed = deframer_feed(&d, &at, bytes + size)) != DEFRAMED_MORE) {
        uint8_t *exact = malloc(d.used ? d.used : 1);
        struct order order;
        memcpy(exact, frame, d.used);
        if (deframed == DEFRAMED_FRAME && order_parse(&order, exact, d.used, &slots))
            check(&order, d.used);
        free(exact);
        deframer_reset(&d);
    }
    return 0;
}

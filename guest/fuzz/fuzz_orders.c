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

/* Strings must lie within the frame, one NUL for each of their lengths included. */
static void check(struct order *order, size_t size)
{
    size_t walked = walk(order->run.argv);
    if (order->type == ORDER_RUN)
        walked += walk(order->run.env) + walk(order->run.dns) + strlen(order->run.hostname) +
                  strlen(order->run.cwd) + strlen(order->run.user);
    if ((order->type == ORDER_RUN || order->type == ORDER_REHEARSE) && walked > size)
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

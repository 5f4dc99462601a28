#include "protocol.h"

#include <string.h>

#include "check.h"

static uint8_t plain[FRAME_MAX];
static struct slots slots;

static bool parse(struct order *order, const void *bytes, size_t size)
{
    static uint8_t *copy;
    bool ok;
    free(copy);
    copy = malloc(size ? size : 1); /* so that the sanitizer sees every byte beyond it */
    memcpy(copy, bytes, size);
    ok = order_parse(order, copy, size, &slots);
    return ok;
}

static size_t add_str(size_t at, const char *str)
{
    uint32_t size = (uint32_t)strlen(str);
    memcpy(plain + at, &size, 4);
    memcpy(plain + at + 4, str, size);
    return at + 4 + size;
}

static size_t add_count(size_t at, uint32_t count)
{
    memcpy(plain + at, &count, 4);
    return at + 4;
}

/* A RUN with two servers, arguments {"a", ""} and one variable. */
static size_t make_run(uint8_t volume)
{
    size_t at = 1;
    plain[0] = ORDER_RUN;
    memset(plain + at, 7, 8);
    at = add_count(at + 8, SEED_SIZE);
    memset(plain + at, 's', SEED_SIZE);
    at = add_str(at + SEED_SIZE, "host");
    at = add_str(add_str(add_count(at, 2), "1.1.1.1"), "8.8.8.8");
    at = add_str(add_str(at, "vm1"), "host.example");
    at = add_str(add_str(at, "/srv"), "app:web");
    at = add_str(add_str(add_count(at, 2), "a"), "");
    at = add_str(add_count(at, 1), "K=V");
    plain[at] = volume;
    plain[at + 1] = 1;
    plain[at + 2] = 0x90;
    plain[at + 3] = 0x1F;
    return at + 4;
}

/* Every field of a RUN comes out as it went in, and env has a free place behind its end. */
static void run_is_parsed_whole(void)
{
    struct order order;
    CHECK(parse(&order, plain, make_run(1)));
    CHECK(order.type == ORDER_RUN && order.run.identity.clock_ns == 0x0707070707070707u);
    CHECK(order.run.identity.seed[0] == 's' && order.run.identity.seed[SEED_SIZE - 1] == 's');
    CHECK(!strcmp(order.run.identity.hostname, "host") && !strcmp(order.run.cwd, "/srv"));
    CHECK(!strcmp(order.run.user, "app:web") && order.run.volume);
    CHECK(!strcmp(order.run.identity.dns[1], "8.8.8.8") && !order.run.identity.dns[2]);
    CHECK(!strcmp(order.run.argv[0], "a") && !strcmp(order.run.argv[1], ""));
    CHECK(!order.run.argv[2] && !strcmp(order.run.env[0], "K=V") && !order.run.env[1]);
    CHECK(order.run.env + 2 < slots.at + sizeof slots.at / sizeof *slots.at);
}

/* A frame cut short anywhere, or with a byte too many, is broken. */
static void cut_frames_are_broken(void)
{
    struct order order;
    size_t size = make_run(0);
    for (size_t i = 0; i < size; i++)
        CHECK(!parse(&order, plain, i));
    CHECK(parse(&order, plain, size));
    CHECK(!parse(&order, plain, size + 1));
}

static void bad_values_are_broken(void)
{
    struct order order;
    size_t size = make_run(2);
    CHECK(!parse(&order, plain, size)); /* volume is neither 0 nor 1 */
    CHECK(!parse(&order, "\x02\x01\0\0\0\x02\0\0\0a\0", 11)); /* a NUL in a str */
    CHECK(!parse(&order, "\x02\xff\xff\xff\xff", 5)); /* a list longer than the frame */
    CHECK(!parse(&order, "\x63", 1)); /* no such type */
    CHECK(!parse(&order, "", 0));
}

/* LIST_MAX empty strings fit into the slots, one more does not. */
static void lists_are_bounded(void)
{
    struct order order;
    memset(plain, 0, 5 + 4 * (LIST_MAX + 1));
    plain[0] = ORDER_REHEARSE;
    add_count(1, LIST_MAX);
    CHECK(parse(&order, plain, 5 + 4 * LIST_MAX));
    CHECK(order.run.argv[LIST_MAX - 1] && !order.run.argv[LIST_MAX]);
    add_count(1, LIST_MAX + 1);
    CHECK(!parse(&order, plain, 5 + 4 * (LIST_MAX + 1)));
}

static struct deframer deframer;

static enum deframed feed(const void *bytes, size_t size, size_t *eaten)
{
    const uint8_t *at = bytes;
    enum deframed result = deframer_feed(&deframer, &at, at + size);
    *eaten = (size_t)(at - (const uint8_t *)bytes);
    return result;
}

/* Escapes are undone, marks end frames, empty frames are none. */
static void frames_are_taken_out(void)
{
    size_t eaten;
    deframer_reset(&deframer);
    CHECK(feed("\xff\xff" "a\xfe\x00\xfe\x01z\xff" "b", 10, &eaten) == DEFRAMED_FRAME);
    CHECK(eaten == 9 && deframer.used == 4 && !memcmp(deframer.frame, "a\xfe\xffz", 4));
    deframer_reset(&deframer);
    CHECK(feed("b", 1, &eaten) == DEFRAMED_MORE);
    CHECK(feed("\xff", 1, &eaten) == DEFRAMED_FRAME && deframer.used == 1);
}

/* A broken escape spoils its frame, and no other. */
static void broken_escapes_are_told(void)
{
    size_t eaten;
    deframer_reset(&deframer);
    CHECK(feed("a\xfe\x02z\xffok\xff", 8, &eaten) == DEFRAMED_BROKEN && eaten == 5);
    deframer_reset(&deframer);
    CHECK(feed("a\xfe\xff", 3, &eaten) == DEFRAMED_BROKEN);
    deframer_reset(&deframer);
    CHECK(feed("ok\xff", 3, &eaten) == DEFRAMED_FRAME && deframer.used == 2);
}

/* A frame of FRAME_MAX bytes is taken; of a longer one no byte more is kept. */
static void frames_are_bounded(void)
{
    static uint8_t bytes[FRAME_MAX + 2];
    size_t eaten;
    memset(bytes, 'a', sizeof bytes);
    deframer_reset(&deframer);
    CHECK(feed(bytes, FRAME_MAX, &eaten) == DEFRAMED_MORE);
    CHECK(feed("\xff", 1, &eaten) == DEFRAMED_FRAME && deframer.used == FRAME_MAX);
    deframer_reset(&deframer);
    CHECK(feed(bytes, FRAME_MAX + 1, &eaten) == DEFRAMED_MORE);
    CHECK(feed("\xff", 1, &eaten) == DEFRAMED_BROKEN);
}

/* Whatever is encoded has no mark inside, and fits into line_bound. */
static void lines_are_encoded(void)
{
    static uint8_t text[TEXT_MAX], wire[2 * TEXT_MAX + 64];
    size_t eaten;
    for (int i = 0; i < 200; i++) {
        struct line line = {UINT64_MAX, draw(1000), 2, true, text, draw(TEXT_MAX + 1)};
        struct encoder e = {wire, 0, sizeof wire};
        for (size_t j = 0; j < line.size; j++)
            text[j] = (uint8_t)(draw(4) ? 0xFC + draw(4) : draw(256));
        encode_line(&e, &line);
        CHECK(encoder_fits(&e) && e.used <= line_bound(line.size));
        CHECK(memchr(wire, MARK, e.used) == wire + e.used - 1);
        deframer_reset(&deframer);
        CHECK(feed(wire, e.used, &eaten) == DEFRAMED_FRAME);
        CHECK(deframer.used == 23 + line.size && !memcmp(deframer.frame + 23, text, line.size));
    }
}

/* An encoder without room says so, and writes nothing beyond its end. */
static void encoder_keeps_within_its_room(void)
{
    struct encoder e = {malloc(8), 0, 8};
    encode_pong(&e, 1);
    CHECK(!encoder_fits(&e));
    free(e.at);
}

int main(void)
{
    deframer.frame = malloc(FRAME_MAX);
    RUN(run_is_parsed_whole);
    RUN(cut_frames_are_broken);
    RUN(bad_values_are_broken);
    RUN(lists_are_bounded);
    RUN(frames_are_taken_out);
    RUN(broken_escapes_are_told);
    RUN(frames_are_bounded);
    RUN(lines_are_encoded);
    RUN(encoder_keeps_within_its_room);
    free(deframer.frame);
    return 0;
}

#include "lines.h"

#include <string.h>

#include "check.h"

static struct lines lines;
static struct splitter splitter;

static bool add(const char *text)
{
    struct line line = {.stream = STREAM_STDOUT, .text = (const uint8_t *)text,
                        .size = strlen(text)};
    return lines_add(&lines, &line);
}

static void send_all(void)
{
    const uint8_t *bytes;
    size_t size;
    while ((size = lines_unsent(&lines, &bytes)))
        lines_sent(&lines, size);
}

/* Takes the next line out of what would be sent. */
static bool next(uint64_t *number, char *text, uint8_t *stream, bool *goes_on)
{
    static uint8_t frame[FRAME_MAX];
    struct deframer d = {.frame = frame};
    const uint8_t *bytes, *at;
    size_t size;
    while ((size = lines_unsent(&lines, &bytes))) {
        enum deframed deframed;
        at = bytes;
        deframed = deframer_feed(&d, &at, bytes + size);
        lines_sent(&lines, (size_t)(at - bytes));
        if (deframed != DEFRAMED_FRAME)
            continue;
        memcpy(number, frame + 1, 8);
        *stream = frame[17];
        *goes_on = frame[18];
        memcpy(text, frame + 23, d.used - 23);
        text[d.used - 23] = '\0';
        return true;
    }
    return false;
}

static void expect(uint64_t number, const char *text)
{
    static char got[TEXT_MAX + 1];
    uint64_t got_number;
    uint8_t stream;
    bool goes_on;
    CHECK(next(&got_number, got, &stream, &goes_on));
    CHECK(got_number == number && !strcmp(got, text));
}

static void lines_come_in_order(void)
{
    const uint8_t *bytes;
    lines_reset(&lines);
    CHECK(add("one") && add("") && add("three"));
    expect(1, "one");
    expect(2, "");
    expect(3, "three");
    CHECK(!lines_unsent(&lines, &bytes));
}

/* A new connection gets every line above the acknowledged one, from its start. */
static void unacknowledged_lines_are_sent_again(void)
{
    lines_reset(&lines);
    CHECK(add("one") && add("two") && add("three"));
    expect(1, "one");
    lines_sent(&lines, 5); /* the node went away in the middle of two */
    lines_resend(&lines, 1);
    expect(2, "two");
    expect(3, "three");
    lines_resend(&lines, 3);
    CHECK(add("four"));
    expect(4, "four");
    lines_resend(&lines, 99); /* more than was ever made */
    CHECK(lines.first == 5 && lines.tail == lines.head);
}

/* What is half sent stays, whatever a node claims to have. */
static void ack_frees_only_what_was_sent(void)
{
    lines_reset(&lines);
    CHECK(add("one") && add("two"));
    lines_ack(&lines, 2);
    CHECK(lines.first == 1);
    expect(1, "one");
    lines_sent(&lines, 5);
    lines_ack(&lines, 2);
    CHECK(lines.first == 2);
    lines_resend(&lines, 1);
    expect(2, "two");
    lines_ack(&lines, 1);
    CHECK(lines.first == 2);
    lines_ack(&lines, 2);
    CHECK(lines.first == 3);
}

/* Random additions, sends, acknowledgements and reconnections around the ring: what the
 * node has in the end is every line, once, in order. */
static void nothing_is_lost_or_repeated(void)
{
    static char text[3000], got[TEXT_MAX + 1];
    uint64_t recorded = 0, number;
    uint8_t stream;
    bool goes_on;
    lines_reset(&lines);
    for (int i = 0; i < 60000; i++) {
        size_t size = draw(sizeof text - 1);
        memset(text, 'a' + (int)((lines.last + 1) % 26), size);
        text[size] = '\0';
        add(text);
        for (uint32_t n = draw(3); n && next(&number, got, &stream, &goes_on); n--) {
            CHECK(number == recorded + 1);
            CHECK(!got[0] || got[0] == (char)('a' + (int)(number % 26)));
            recorded = number;
        }
        if (draw(20) == 0)
            lines_ack(&lines, recorded);
        if (draw(200) == 0)
            lines_resend(&lines, recorded);
        CHECK(lines.head - lines.tail <= LINES_BYTES);
    }
    while (next(&number, got, &stream, &goes_on))
        CHECK(number == ++recorded);
    CHECK(recorded == lines.last && recorded > 10000);
}

static void fill_up(void)
{
    static char text[1001];
    memset(text, 'x', 1000);
    while (add(text))
        ;
}

/* Many empty lines are bounded by their number, long ones by their bytes. */
static void the_ring_is_bounded(void)
{
    lines_reset(&lines);
    while (add(""))
        ;
    CHECK(lines.last == LINES_COUNT);
    lines_reset(&lines);
    fill_up();
    CHECK(lines.head - lines.tail > LINES_BYTES - 3000);
}

static bool print(const char *text, enum when_full when_full)
{
    uint8_t *at;
    size_t size = strlen(text);
    CHECK(splitter_room(&splitter, &at) >= size);
    memcpy(at, text, size);
    splitter_filled(&splitter, size);
    return splitter_flush(&splitter, &lines, 0, UNFINISHED_KEPT, when_full);
}

static void start(void)
{
    lines_reset(&lines);
    memset(&splitter, 0, sizeof splitter);
    splitter.stream = STREAM_STDOUT;
}

static void output_is_split_at_newlines(void)
{
    start();
    CHECK(print("a\n\nb", WHEN_FULL_WAIT) && print("c\nd", WHEN_FULL_WAIT));
    expect(1, "a");
    expect(2, "");
    expect(3, "bc");
    CHECK(splitter_flush(&splitter, &lines, 0, UNFINISHED_ENDS, WHEN_FULL_WAIT));
    expect(4, "d");
    CHECK(splitter_flush(&splitter, &lines, 0, UNFINISHED_ENDS, WHEN_FULL_WAIT) && lines.last == 4);
}

/* A line longer than TEXT_MAX comes in pieces, all but the last marked as going on. */
static void long_lines_are_cut(void)
{
    static char got[TEXT_MAX + 1];
    uint64_t number;
    uint8_t stream, *at;
    bool goes_on;
    start();
    CHECK(splitter_room(&splitter, &at) == TEXT_MAX);
    memset(at, 'x', TEXT_MAX);
    splitter_filled(&splitter, TEXT_MAX);
    CHECK(splitter_flush(&splitter, &lines, 0, UNFINISHED_KEPT, WHEN_FULL_WAIT));
    CHECK(print("end\n", WHEN_FULL_WAIT));
    CHECK(next(&number, got, &stream, &goes_on) && goes_on && strlen(got) == TEXT_MAX);
    CHECK(next(&number, got, &stream, &goes_on) && !goes_on && !strcmp(got, "end"));
}

/* With a node connected a full ring holds lines back, and goes on where it stopped. */
static void a_full_ring_waits(void)
{
    static char got[TEXT_MAX + 1];
    uint64_t number = 0;
    uint8_t stream;
    bool goes_on;
    start();
    fill_up();
    while (print("spam spam\n", WHEN_FULL_WAIT))
        ;
    CHECK(!splitter_flush(&splitter, &lines, 0, UNFINISHED_KEPT, WHEN_FULL_WAIT) && !lines.dropped);
    send_all();
    lines_ack(&lines, lines.last);
    CHECK(splitter_flush(&splitter, &lines, 0, UNFINISHED_KEPT, WHEN_FULL_WAIT));
    CHECK(next(&number, got, &stream, &goes_on) && !strcmp(got, "spam spam"));
    CHECK(number == lines.last);
}

/* Without one it drops lines, and when there is room says how many, before the next. */
static void a_full_ring_drops_and_tells(void)
{
    start();
    fill_up();
    while (print("fill\n", WHEN_FULL_WAIT) )
        ;
    CHECK(splitter_flush(&splitter, &lines, 0, UNFINISHED_KEPT, WHEN_FULL_DROP));
    CHECK(print("a\nb\n", WHEN_FULL_DROP) && lines.dropped == 3);
    send_all();
    lines_ack(&lines, lines.last);
    CHECK(print("after\n", WHEN_FULL_WAIT) && !lines.dropped);
    expect(lines.last - 1, "[cakework: 3 lines dropped: the log was not being collected]");
    expect(lines.last, "after");
}

int main(void)
{
    RUN(lines_come_in_order);
    RUN(unacknowledged_lines_are_sent_again);
    RUN(ack_frees_only_what_was_sent);
    RUN(nothing_is_lost_or_repeated);
    RUN(the_ring_is_bounded);
    RUN(output_is_split_at_newlines);
    RUN(long_lines_are_cut);
    RUN(a_full_ring_waits);
    RUN(a_full_ring_drops_and_tells);
    return 0;
}

#include "output.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

static struct lines lines;
static struct output output;
static int program;

/* A pipe that a program prints into, and no line yet. */
static void begin(int flags)
{
    int ends[2];
    CHECK(!pipe2(ends, O_CLOEXEC | flags));
    CHECK(!fcntl(ends[0], F_SETFL, O_NONBLOCK) && !fcntl(ends[1], F_SETFL, O_NONBLOCK | flags));
    lines_reset(&lines);
    output_open(&output, ends[0], STREAM_STDOUT);
    program = ends[1];
}

static void end(void)
{
    if (output.fd >= 0)
        close(output.fd);
    close(program);
}

static void print(const char *text)
{
    CHECK(write(program, text, strlen(text)) == (ssize_t)strlen(text));
}

static void expect(uint64_t number, const char *text, bool goes_on)
{
    static uint8_t frame[FRAME_MAX];
    struct deframer d = {.frame = frame};
    const uint8_t *bytes, *at;
    size_t size = lines_unsent(&lines, &bytes);
    at = bytes;
    CHECK(deframer_feed(&d, &at, bytes + size) == DEFRAMED_FRAME);
    lines_sent(&lines, (size_t)(at - bytes));
    CHECK(frame[1] == number && frame[18] == goes_on && d.used == 23 + strlen(text) &&
          !memcmp(frame + 23, text, strlen(text)));
}

static void go(void)
{
    output_read(&output, &lines, WHEN_FULL_WAIT);
}

/* What is printed after the mark is no line before it, also when it is there to be read. */
static void a_mark_cuts_where_it_was_set(void)
{
    begin(0);
    print("one\ntw");
    output_mark(&output);
    print("o\nthree\n");
    CHECK(!output_is_at_mark(&output));
    go();
    CHECK(output_is_at_mark(&output) && lines.last == 2);
    go();
    CHECK(lines.last == 2);
    output_unmark(&output);
    go();
    expect(1, "one", false);
    expect(2, "tw", true);
    expect(3, "o", false);
    expect(4, "three", false);
    end();
}

/* What was read before, and has no newline, comes before a mark, too; an empty pipe is at it. */
static void what_was_read_before_is_before_the_mark(void)
{
    begin(0);
    print("half");
    go();
    CHECK(lines.last == 0);
    output_mark(&output);
    go();
    CHECK(output_is_at_mark(&output) && lines.last == 1);
    expect(1, "half", true);
    output_mark(&output);
    go();
    CHECK(output_is_at_mark(&output) && lines.last == 1);
    end();
}

/* A mark is reached while a program prints without end: as much as was there is read, whatever it
 * has made of its pipe. */
static void a_mark_is_reached_in_the_end(void)
{
    static char text[1000];
    size_t marked, printed = 0, turns = 0;
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\n';
    for (int flags = 0; flags <= O_DIRECT; flags += O_DIRECT) {
        begin(flags);
        CHECK(fcntl(program, F_SETPIPE_SZ, 1 << 20) >= 0);
        for (printed = 0; write(program, text, sizeof text) == sizeof text; printed++)
            ;
        output_mark(&output);
        for (turns = 0; !output_is_at_mark(&output); turns++) {
            CHECK(turns < 100);
            go();
            while (write(program, text, sizeof text) == sizeof text)
                ;
        }
        marked = lines.last;
        CHECK(marked == printed);
        end();
    }
}

static void a_mark_waits_for_room(void)
{
    const uint8_t *bytes;
    struct line line = {.stream = STREAM_STDERR};
    begin(0);
    while (lines_add(&lines, &line))
        ;
    print("late");
    output_mark(&output);
    go();
    CHECK(output.held && !output_is_at_mark(&output));
    lines_sent(&lines, lines_unsent(&lines, &bytes));
    lines_ack(&lines, 1);
    go();
    CHECK(!output.held && output_is_at_mark(&output) && lines.last == LINES_COUNT + 1);
    end();
}

/* A program may read what it has printed itself: nobody waits for it. */
static void what_was_taken_is_not_waited_for(void)
{
    char taken[4];
    begin(0);
    print("gone");
    output_mark(&output);
    CHECK(read(output.fd, taken, sizeof taken) == sizeof taken);
    go();
    CHECK(output_is_at_mark(&output) && lines.last == 0);
    end();
}

static void a_pipe_at_its_end_is_at_the_mark(void)
{
    begin(0);
    print("last");
    output_mark(&output);
    close(program);
    go();
    CHECK(output_is_at_mark(&output) && lines.last == 1);
    output_unmark(&output);
    go();
    CHECK(output.fd == -1);
    output_mark(&output);
    CHECK(output_is_at_mark(&output));
}

int main(void)
{
    RUN(a_mark_cuts_where_it_was_set);
    RUN(what_was_read_before_is_before_the_mark);
    RUN(a_mark_is_reached_in_the_end);
    RUN(a_mark_waits_for_room);
    RUN(what_was_taken_is_not_waited_for);
    RUN(a_pipe_at_its_end_is_at_the_mark);
    return 0;
}

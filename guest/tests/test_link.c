#include "link.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"

static struct link port;
static struct lines lines;
static struct slots slots;
static int node;
static uint8_t bytes[1 << 22];
static size_t used;

static void open_port(void)
{
    int ends[2], small = 4096;
    CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends));
    setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    link_init(&port, ends[0]);
    lines_reset(&lines);
    node = ends[1];
    used = 0;
}

static void close_port(void)
{
    close(port.fd);
    close(node);
}

/* Reads at most `most` bytes as the node. */
static size_t take(size_t most)
{
    ssize_t n = read(node, bytes + used, most);
    if (n > 0)
        used += (size_t)n;
    return n > 0 ? (size_t)n : 0;
}

static void add(const char *text)
{
    struct line line = {.stream = 1, .text = (const uint8_t *)text, .size = strlen(text)};
    CHECK(lines_add(&lines, &line));
}

static void pong(uint64_t token)
{
    struct encoder e = link_answer(&port);
    encode_pong(&e, token);
    link_answered(&port, &e);
}

/* Counts whole frames of `type` in what the node read; all frames must be whole. */
static size_t count(uint8_t type)
{
    static uint8_t frame[FRAME_MAX];
    struct deframer d = {.frame = frame};
    const uint8_t *at = bytes;
    size_t found = 0;
    enum deframed deframed;
    while ((deframed = deframer_feed(&d, &at, bytes + used)) != DEFRAMED_MORE) {
        CHECK(deframed == DEFRAMED_FRAME);
        CHECK(frame[0] != 135 || d.used == 9);
        found += frame[0] == type;
        deframer_reset(&d);
    }
    return found;
}

/* Before the first HELLO nothing is sent; its answer begins with a mark. */
static void silence_before_hello(void)
{
    open_port();
    add("line");
    link_flush(&port, &lines);
    CHECK(!take(100));
    link_greet(&port);
    link_flush(&port, &lines);
    CHECK(take(100) && bytes[0] == MARK && count(132) == 1);
    close_port();
}

/* Answers slip in between lines, never into one, however little the port takes. */
static void answers_go_between_lines(void)
{
    static char text[5000];
    size_t pongs = 0;
    memset(text, 't', sizeof text - 1);
    open_port();
    link_greet(&port);
    for (int i = 0; i < 100; i++)
        add(text);
    do {
        link_flush(&port, &lines);
        if (pongs < 50 && draw(2)) {
            pong(0xFFFEFFFEFFFEFFFEu);
            pongs++;
        }
    } while (take(1 + draw(20000)) || port.out_used);
    CHECK(count(132) == 100 && count(135) == pongs && pongs > 10);
    close_port();
}

/* Half a line sent to a node that went away is not gone on with for the next. */
static void a_new_node_gets_whole_frames(void)
{
    static char text[TEXT_MAX];
    memset(text, 't', sizeof text - 1);
    open_port();
    link_greet(&port);
    for (int i = 0; i < 5; i++)
        add(text);
    link_flush(&port, &lines);
    CHECK(port.blocked && port.in_frame);
    while (take(sizeof bytes))
        ;
    used = 0;
    port.hung_up = true;
    link_flush(&port, &lines);
    CHECK(!take(100));
    port.hung_up = false;
    lines_resend(&lines, 0);
    link_greet(&port);
    pong(1);
    do
        link_flush(&port, &lines);
    while (take(sizeof bytes));
    CHECK(bytes[0] == MARK && count(135) == 1 && count(132) == 5);
    close_port();
}

static void say(const void *frame, size_t size)
{
    CHECK(write(node, frame, size) == (ssize_t)size);
}

/* Orders are read in turn; half a frame left by another node spoils itself alone. */
static void orders_are_received(void)
{
    struct order order;
    open_port();
    say("\x07" "abc\xff\x07" "12345678\xff\x06" "12", 18);
    CHECK(link_receive(&port, &order, &slots) == RECEIVED_BROKEN);
    CHECK(link_receive(&port, &order, &slots) == RECEIVED_ORDER && order.type == ORDER_PING);
    CHECK(link_receive(&port, &order, &slots) == RECEIVED_NOTHING);
    say("34\xff", 3);
    CHECK(link_receive(&port, &order, &slots) == RECEIVED_ORDER && order.type == ORDER_POWEROFF);
    CHECK(order.number == 0x34333231);
    close_port();
}

/* A node that asks and does not listen is no longer listened to, and loses no answer. */
static void answers_are_bounded(void)
{
    struct order order;
    static char pings[3000 * 10];
    size_t asked = sizeof pings / 10, answered = 0;
    open_port();
    link_greet(&port);
    for (size_t i = 0; i < asked; i++)
        memcpy(pings + 10 * i, "\x07" "12345678\xff", 10);
    say(pings, sizeof pings);
    do {
        while (link_receive(&port, &order, &slots) == RECEIVED_ORDER) {
            pong(order.number);
            answered++;
        }
        CHECK(port.out_used <= LINK_OUT);
        link_flush(&port, &lines);
    } while (take(sizeof bytes) || port.starved);
    CHECK(asked == answered && count(135) == asked);
    close_port();
}

/* Orders of a node that is gone, whose answers nobody reads, do not shut out the next. */
static void unread_answers_shut_nobody_out(void)
{
    struct order order;
    open_port();
    for (int i = 0; i < 5000; i++) {
        say("\x07" "12345678\xff", 10);
        CHECK(link_receive(&port, &order, &slots) == RECEIVED_ORDER);
        pong(1);
    }
    link_greet(&port);
    pong(2);
    link_flush(&port, &lines);
    CHECK(take(sizeof bytes) && count(135) == 1);
    close_port();
}

int main(void)
{
    RUN(unread_answers_shut_nobody_out);
    RUN(silence_before_hello);
    RUN(answers_go_between_lines);
    RUN(a_new_node_gets_whole_frames);
    RUN(orders_are_received);
    RUN(answers_are_bounded);
    return 0;
}

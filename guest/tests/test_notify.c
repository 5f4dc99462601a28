#include "notify.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"

/* A program that says it is ready without end keeps the guest from nothing else. */
static void what_is_said_is_read_in_turns(void)
{
    char rest[16];
    int ends[2], said = 0, left = 0;
    CHECK(!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, ends));
    while (said < 10 && send(ends[1], "READY=1", 7, 0) == 7)
        said++;
    CHECK(said == 10 && notify_read(ends[0]));
    while (recv(ends[0], rest, sizeof rest, 0) > 0)
        left++;
    CHECK(left == 2 && !notify_read(ends[0]));
    close(ends[0]);
    close(ends[1]);
}

static void only_that_line_says_it(void)
{
    static const char *const NOT[] = {"", "READY=0", "STATUS=READY=1", "READY=1x", "ready=1"};
    int ends[2];
    CHECK(!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, ends));
    for (size_t i = 0; i < sizeof NOT / sizeof *NOT; i++)
        CHECK(send(ends[1], NOT[i], strlen(NOT[i]), 0) >= 0);
    CHECK(!notify_read(ends[0]));
    CHECK(send(ends[1], "STATUS=up\nREADY=1\n", 18, 0) == 18 && notify_read(ends[0]));
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    RUN(what_is_said_is_read_in_turns);
    RUN(only_that_line_says_it);
    return 0;
}

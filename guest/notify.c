#include "notify.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "etc.h"

enum { MESSAGE_MAX = 4096, MESSAGES_PER_TURN = 8 };

int notify_open(void)
{
    return socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

bool notify_place(int fd, struct failure *f)
{
    const struct sockaddr_un place = {AF_UNIX, ETC_FOLDER "/notify"};
    /* The image may have something there; a folder, it may not. */
    unlink(place.sun_path);
    if (bind(fd, (const struct sockaddr *)&place, sizeof place) || chmod(place.sun_path, 0666))
        return fail(f, errno, "making", place.sun_path);
    return true;
}

static bool says_ready(char *message)
{
    char *line;
    while ((line = strsep(&message, "\n")))
        if (!strcmp(line, "READY=1"))
            return true;
    return false;
}

bool notify_read(int fd)
{
    char message[MESSAGE_MAX + 1];
    bool ready = false;
    ssize_t size;
    for (int i = 0; i < MESSAGES_PER_TURN; i++) {
        size = recv(fd, message, MESSAGE_MAX, 0);
        if (size < 0)
            break;
        message[size] = '\0';
        ready |= says_ready(message);
    }
    return ready;
}

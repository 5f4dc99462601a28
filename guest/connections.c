#include "connections.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, net/tcp_states.h */
enum {
    SOCK_DIAG = 4,
    BY_FAMILY = 20,
    DESTROY = 21,
    MESSAGE_DONE = 3,
    REQUEST = 1,
    ACKNOWLEDGE = 4,
    DUMP = 0x300,
    LISTENING = 1 << 10,
    /* established, syn_sent, syn_recv, fin_wait 1 and 2, close_wait, last_ack, closing,
     * new_syn_recv */
    CONNECTED = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11 | 1 << 12,
};

struct header {
    uint32_t size;
    uint16_t type, flags;
    uint32_t number, from;
};

struct ends {
    uint16_t port, remote_port;
    uint32_t address[4], remote_address[4];
    uint32_t interface;
    uint32_t cookie[2];
};

struct request {
    struct header header;
    uint8_t family, protocol, more, padding;
    uint32_t states;
    struct ends ends;
};

struct found {
    struct header header;
    uint8_t family, state, timer, retransmitted;
    struct ends ends;
    uint32_t rest[5];
};

/* Returns whether to go on. */
typedef bool visit(const struct found *found, void *argument);

static int diagnosis(void)
{
    return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, SOCK_DIAG);
}

static bool ask(int fd, uint16_t type, uint16_t flags, uint8_t family, uint32_t states,
                const struct ends *ends)
{
    struct request request = {.family = family, .protocol = IPPROTO_TCP, .states = states};
    request.header = (struct header){sizeof request, type, REQUEST | flags, 0, 0};
    if (ends)
        request.ends = *ends;
    return send(fd, &request, sizeof request, 0) == sizeof request;
}

enum walked { WALKED_ON, WALKED_ENOUGH, WALKED_WRONG };

/* Walks the messages of one datagram. ENOUGH: it was the last, or the visitor says so. */
static enum walked walk(const char *at, size_t size, visit *visitor, void *argument)
{
    struct found found;
    struct header header;
    for (; size >= sizeof header; at += header.size, size -= header.size) {
        memcpy(&header, at, sizeof header);
        header.size = (header.size + 3) & ~3u;
        if (header.type == MESSAGE_DONE)
            return WALKED_ENOUGH;
        if (header.type != BY_FAMILY || header.size < sizeof found || header.size > size)
            return WALKED_WRONG;
        memcpy(&found, at, sizeof found);
        if (!visitor(&found, argument))
            return WALKED_ENOUGH;
    }
    return WALKED_ON;
}

static bool each(int family, uint32_t states, visit *visitor, void *argument)
{
    static char datagram[32768];
    int fd = diagnosis();
    enum walked walked = WALKED_WRONG;
    ssize_t size;
    errno = EPROTO;
    if (fd >= 0 && ask(fd, BY_FAMILY, DUMP, (uint8_t)family, states, NULL))
        do {
            size = recv(fd, datagram, sizeof datagram, 0);
            walked = size > 0 ? walk(datagram, (size_t)size, visitor, argument) : WALKED_WRONG;
        } while (walked == WALKED_ON);
    if (fd >= 0)
        close(fd);
    return walked == WALKED_ENOUGH;
}

static bool is_port(const struct found *found, void *port)
{
    if (found->ends.port != htons(*(uint16_t *)port))
        return true;
    *(uint16_t *)port = 0;
    return false;
}

bool connections_listened(uint16_t port)
{
    uint16_t wanted = port;
    each(AF_INET, LISTENING, is_port, &wanted);
    if (wanted)
        each(AF_INET6, LISTENING, is_port, &wanted);
    return !wanted;
}

static bool is_loopback(const struct found *found)
{
    static const uint32_t LOOPBACK[4] = {0, 0, 0, 0x01000000};
    const uint32_t *remote = found->ends.remote_address;
    const uint8_t *last = (const uint8_t *)(found->family == AF_INET ? remote : remote + 3);
    if (found->family == AF_INET6 && !memcmp(remote, LOOPBACK, sizeof LOOPBACK))
        return true;
    return last[0] == 127 && (found->family == AF_INET || remote[2] == htonl(0xFFFF));
}

/* A connection of the machine's with itself goes on: both ends are here. */
static bool is_inner(const struct found *found)
{
    size_t size = found->family == AF_INET ? 4 : 16;
    return is_loopback(found) ||
           !memcmp(found->ends.address, found->ends.remote_address, size);
}

struct reset {
    int fd;
    int error;
};

static bool destroy(const struct found *found, void *argument)
{
    struct {
        struct header header;
        int error;
        struct header asked;
    } answer;
    struct reset *reset = argument;
    if (is_inner(found))
        return true;
    if (!ask(reset->fd, DESTROY, ACKNOWLEDGE, found->family, 0, &found->ends) ||
        recv(reset->fd, &answer, sizeof answer, 0) < (ssize_t)sizeof answer.header + 4)
        reset->error = errno;
    else if (answer.error && answer.error != -ENOENT)
        reset->error = -answer.error;
    return !reset->error;
}

bool connections_reset(struct failure *f)
{
    struct reset reset = {diagnosis(), 0};
    bool told = reset.fd >= 0 && each(AF_INET, CONNECTED, destroy, &reset) && !reset.error &&
                each(AF_INET6, CONNECTED, destroy, &reset);
    int error = reset.error ? reset.error : errno;
    if (reset.fd >= 0)
        close(reset.fd);
    return told && !reset.error ? true : fail(f, error, "resetting connections", NULL);
}

#include "network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "files.h"
#include "paths.h"
#include "text.h"

enum { CARRIER_WAIT_MS = 1500 };

bool network_parse(const char *text, char address[16], unsigned *prefix)
{
    size_t size = strcspn(text, "/");
    uint32_t number;
    struct in_addr ignored;
    if (size > 15 || text[size] != '/' || !parse_number(text + size + 1, &number))
        return false;
    memcpy(address, text, size);
    address[size] = '\0';
    *prefix = number;
    return number <= 32 && inet_aton(address, &ignored);
}

static void set_address(struct sockaddr *to, in_addr_t address)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = address};
    memcpy(to, &in, sizeof in);
}

static bool link_up(int fd, const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_UP | IFF_RUNNING};
    strcpy(request.ifr_name, name);
    return !ioctl(fd, SIOCSIFFLAGS, &request);
}

static bool address_add(int fd, const char *address, unsigned prefix)
{
    struct ifreq request = {.ifr_name = "eth0"};
    set_address(&request.ifr_addr, inet_addr(address));
    if (ioctl(fd, SIOCSIFADDR, &request))
        return false;
    set_address(&request.ifr_netmask, prefix ? htonl(~0U << (32 - prefix)) : 0);
    return !ioctl(fd, SIOCSIFNETMASK, &request);
}

static bool route_add(int fd, const char *gateway)
{
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
    set_address(&route.rt_dst, INADDR_ANY);
    set_address(&route.rt_genmask, INADDR_ANY);
    set_address(&route.rt_gateway, inet_addr(gateway));
    return !ioctl(fd, SIOCADDRT, &route);
}

/* The kernel takes up to a second to see that a new device has a carrier; until then it drops
 * what is sent. */
static void wait_carrier(void)
{
    const struct timespec pause = {0, 10000000};
    char state[16];
    for (int i = 0; i < CARRIER_WAIT_MS / 10; i++) {
        if (file_read(VM_SYS "/class/net/eth0/operstate", state, sizeof state) > 0 &&
            !strcmp(state, "up\n"))
            return;
        nanosleep(&pause, NULL);
    }
}

static bool eth0_up(int fd, const struct network *network)
{
    char address[16];
    unsigned prefix;
    if (!network_parse(network->address, address, &prefix)) {
        errno = EINVAL;
        return false;
    }
    return switch_write(VM_PROC "/sys/net/ipv6/conf/eth0/disable_ipv6", "1") &&
           address_add(fd, address, prefix) && link_up(fd, "eth0") &&
           (!network->gateway || route_add(fd, network->gateway));
}

bool network_up(const struct network *network, struct failure *f)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool up = fd >= 0 && link_up(fd, "lo") && (!network->address || eth0_up(fd, network));
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (!up)
        return fail(f, error, "setting up the network", network->address);
    if (network->address)
        wait_carrier();
    return true;
}

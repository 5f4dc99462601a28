#include "identity.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "paths.h"

/* linux/random.h */
#define ADD_ENTROPY _IOW('R', 0x03, int[2])
#define RESEED_GENERATOR _IO('R', 0x07)

enum { NS_PER_S = 1000000000, HOSTNAME_MAX = 64 };

struct entropy {
    int bits;
    int size;
    uint8_t bytes[SEED_SIZE];
};

static bool reseed(const uint8_t *seed)
{
    struct entropy entropy = {8 * SEED_SIZE, SEED_SIZE, {0}};
    int fd = open(VM_DEV "/urandom", O_RDONLY | O_CLOEXEC);
    bool seeded;
    memcpy(entropy.bytes, seed, SEED_SIZE);
    seeded = fd >= 0 && !ioctl(fd, ADD_ENTROPY, &entropy) && !ioctl(fd, RESEED_GENERATOR);
    if (fd >= 0)
        close(fd);
    return seeded;
}

bool identity_set(const struct run *run, struct failure *f)
{
    struct timespec now = {(time_t)(run->clock_ns / NS_PER_S), (long)(run->clock_ns % NS_PER_S)};
    size_t size = strlen(run->hostname);
    if (size == 0 || size > HOSTNAME_MAX)
        return fail(f, EINVAL, "setting the host name", NULL);
    if (clock_settime(CLOCK_REALTIME, &now))
        return fail(f, errno, "setting the clock", NULL);
    if (!reseed(run->seed))
        return fail(f, errno, "reseeding the random pool", NULL);
    if (sethostname(run->hostname, size))
        return fail(f, errno, "setting the host name", NULL);
    return true;
}

static struct timespec clock_now(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now;
}

uint64_t wall_clock_ns(void)
{
    struct timespec now = clock_now(CLOCK_REALTIME);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t steady_clock_ms(void)
{
    struct timespec now = clock_now(CLOCK_MONOTONIC);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

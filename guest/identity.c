#include "identity.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "paths.h"
#include "text.h"

/* linux/random.h */
#define ADD_ENTROPY _IOW('R', 0x03, int[2])
#define RESEED_GENERATOR _IO('R', 0x07)

enum { NS_PER_S = 1000000000, HOSTNAME_MAX = 64, ENTRY_MAX = 512 };

static char vm_id_entry[ENTRY_MAX], domain_entry[ENTRY_MAX];
static char *const ENTRIES[] = {vm_id_entry, domain_entry, NULL};

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

static bool remember(char *entry, const char *name, const char *value)
{
    struct text t = text_of(entry, ENTRY_MAX);
    text_add(&t, name);
    text_add(&t, value);
    return !t.cut && !strchr(value, '\n');
}

char *const *identity_env(void)
{
    return ENTRIES;
}

bool identity_set(const struct identity *identity, struct failure *f)
{
    struct timespec now = {(time_t)(identity->clock_ns / NS_PER_S),
                           (long)(identity->clock_ns % NS_PER_S)};
    size_t size = strlen(identity->hostname);
    if (size == 0 || size > HOSTNAME_MAX ||
        !remember(vm_id_entry, "CAKEWORK_VM_ID=", identity->vm_id) ||
        !remember(domain_entry, "CAKEWORK_HOSTNAME=", identity->domain))
        return fail(f, EINVAL, "setting the host name", NULL);
    if (clock_settime(CLOCK_REALTIME, &now))
        return fail(f, errno, "setting the clock", NULL);
    if (!reseed(identity->seed))
        return fail(f, errno, "reseeding the random pool", NULL);
    if (sethostname(identity->hostname, size))
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

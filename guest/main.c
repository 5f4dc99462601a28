#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <unistd.h>

#include "boot.h"
#include "guest.h"
#include "paths.h"

static struct guest guest;

/* Standard error stays the console's, for what goes wrong at boot. */
static bool close_input(struct failure *f)
{
    int fd = open(VM_DEV "/null", O_RDWR | O_CLOEXEC);
    if (fd < 0 || dup2(fd, STDIN_FILENO) < 0 || dup2(fd, STDOUT_FILENO) < 0)
        return fail(f, errno, "opening /dev/null", NULL);
    if (fd > STDERR_FILENO)
        close(fd);
    return true;
}

static bool begin(struct failure *f)
{
    int port;
    const char *role = getenv("CW_ROLE");
    bool builder = role && !strcmp(role, "builder");
    guest.emulated = getenv("CW_EMULATED");
    guest.network = (struct network){getenv("CW_ADDRESS"), getenv("CW_GATEWAY")};
    if (!boot(&guest.disks, &guest.network, builder, &port, f) || !close_input(f))
        return false;
    return guest_init(&guest, port) ? true : fail(f, errno, "watching the port", NULL);
}

static void complain(const struct failure *f)
{
    const char *parts[] = {"cakework-guest: ", f->what, "\n"};
    for (int i = 0; i < 3; i++)
        if (write(STDERR_FILENO, parts[i], strlen(parts[i])) < 0)
            return;
}

int main(void)
{
    struct failure failure;
    if (getpid() != 1) {
        fail(&failure, 0, "this is pid 1 of a microVM, and nothing else", NULL);
        complain(&failure);
        return 1;
    }
    if (begin(&failure))
        while (guest_turn(&guest))
            ;
    else
        complain(&failure);
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}

#include "etc.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "files.h"
#include "identity.h"
#include "network.h"
#include "paths.h"

struct etc etc_of(const struct identity *identity, const char *address)
{
    static char hostname[256], hosts[1024], resolv[4096], told[1024];
    char own[16];
    unsigned prefix;
    struct etc etc = {text_of(hostname, sizeof hostname), text_of(hosts, sizeof hosts),
                      text_of(resolv, sizeof resolv), text_of(told, sizeof told)};
    text_add(&etc.hostname, identity->hostname);
    text_add(&etc.hostname, "\n");
    if (!address || !network_parse(address, own, &prefix))
        strcpy(own, "127.0.1.1");
    hosts_text(&etc.hosts, own, identity->hostname);
    resolv_text(&etc.resolv, identity->dns);
    for (char *const *entry = identity_env(); *entry; entry++) {
        text_add(&etc.identity, *entry);
        text_add(&etc.identity, "\n");
    }
    return etc;
}

static bool write_one(int root, const char *path, const struct text *text, struct failure *f)
{
    int fd;
    ssize_t n;
    if (text->cut)
        return fail(f, E2BIG, "writing", path);
    fd = plain_open(root, path, O_WRONLY | O_CREAT);
    n = fd < 0 || ftruncate(fd, 0) ? -1 : write(fd, text->at, text->used);
    if (n != (ssize_t)text->used)
        fail(f, n < 0 ? errno : ENOSPC, "writing", path);
    if (fd >= 0)
        close(fd);
    return n == (ssize_t)text->used;
}

bool etc_write(const struct etc *etc, const char *root, struct failure *f)
{
    int fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    bool written;
    if (fd < 0)
        return fail(f, errno, "opening", root);
    written = write_one(fd, "/etc/hostname", &etc->hostname, f) &&
              write_one(fd, "/etc/hosts", &etc->hosts, f) &&
              write_one(fd, "/etc/resolv.conf", &etc->resolv, f) &&
              write_one(fd, ETC_FOLDER "/identity", &etc->identity, f);
    close(fd);
    return written;
}

bool etc_rewrite(const struct etc *etc, pid_t pid, struct failure *f)
{
    char root[64];
    struct text t = text_of(root, sizeof root);
    text_add(&t, VM_PROC "/");
    text_number(&t, (uint64_t)pid);
    text_add(&t, "/root");
    return etc_write(etc, root, f);
}

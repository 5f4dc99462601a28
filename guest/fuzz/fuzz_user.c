/* Any user, any passwd and group: spec NUL passwd NUL group. */
#include <stdlib.h>
#include <string.h>

#include "user.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct file_text exact(const char *at, size_t size)
{
    char *copy = malloc(size ? size : 1);
    memcpy(copy, at, size);
    return (struct file_text){copy, size};
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const char *at = (const char *)bytes, *end = at + size;
    const char *first = memchr(at, '\0', size), *second;
    struct file_text passwd, group;
    struct user user;
    const char *why;
    if (!first)
        return 0;
    second = memchr(first + 1, '\0', (size_t)(end - first - 1));
    if (!second)
        return 0;
    passwd = exact(first + 1, (size_t)(second - first - 1));
    group = exact(second + 1, (size_t)(end - second - 1));
    if (user_lookup(&user, at, passwd, group, &why) &&
        (user.group_count > GROUPS_MAX || strlen(user.home) >= HOME_MAX))
        abort();
    free((char *)passwd.at);
    free((char *)group.at);
    return 0;
}

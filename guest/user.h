/* OCI's `user[:group]`, looked up in the texts of an image's passwd and group. Pure. */
#ifndef USER_H
#define USER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GROUPS_MAX = 256, USER_NAME_MAX = 256, HOME_MAX = 1024 };

struct user {
    uint32_t uid;
    uint32_t gid;
    uint32_t groups[GROUPS_MAX];
    size_t group_count;
    char home[HOME_MAX];
};

/* A file's bytes; no NUL needed at the end. */
struct file_text {
    const char *at;
    size_t size;
};

/* Fills *user. False: *why says what is wrong. A number need not be in the files; a name must. */
bool user_lookup(struct user *user, const char *spec, struct file_text passwd,
                 struct file_text group, const char **why);

#endif

#include "user.h"

#include <string.h>

#include "text.h"

enum { FIELDS_MAX = 7 };

struct field {
    const char *at;
    size_t size;
};

/* Takes the next line off `file` and splits it at colons. Returns how many fields. */
static size_t next_entry(struct file_text *file, struct field fields[FIELDS_MAX])
{
    const char *newline = memchr(file->at, '\n', file->size);
    size_t left = newline ? (size_t)(newline - file->at) : file->size;
    const char *at = file->at;
    size_t count = 0;
    while (count < FIELDS_MAX) {
        const char *colon = count < FIELDS_MAX - 1 ? memchr(at, ':', left) : NULL;
        size_t size = colon ? (size_t)(colon - at) : left;
        fields[count++] = (struct field){at, size};
        if (!colon)
            break;
        at += size + 1;
        left -= size + 1;
    }
    left = newline ? (size_t)(newline - file->at) + 1 : file->size;
    file->at += left;
    file->size -= left;
    return count;
}

static bool field_is(struct field f, const char *str)
{
    return f.size == strlen(str) && !memcmp(f.at, str, f.size);
}

static bool field_number(struct field f, uint32_t *number)
{
    char digits[12];
    if (f.size >= sizeof digits)
        return false;
    memcpy(digits, f.at, f.size);
    digits[f.size] = '\0';
    return parse_number(digits, number);
}

static void copy_field(char *to, size_t size, struct field f)
{
    if (f.size >= size || memchr(f.at, '\0', f.size))
        return;
    memcpy(to, f.at, f.size);
    to[f.size] = '\0';
}

/* Finds `who`, a name or a number, in passwd. */
static bool find_user(struct user *user, char *name, const char *who, struct file_text passwd)
{
    struct field f[FIELDS_MAX];
    uint32_t wanted = 0, uid, gid;
    bool numeric = parse_number(who, &wanted);
    while (passwd.size) {
        if (next_entry(&passwd, f) < FIELDS_MAX || !field_number(f[2], &uid) ||
            !field_number(f[3], &gid))
            continue;
        if (!field_is(f[0], who) && !(numeric && uid == wanted))
            continue;
        user->uid = uid;
        user->gid = gid;
        copy_field(name, USER_NAME_MAX, f[0]);
        if (f[5].size)
            copy_field(user->home, HOME_MAX, f[5]);
        return true;
    }
    user->uid = wanted;
    return numeric;
}

static bool find_group(struct user *user, const char *which, struct file_text group)
{
    struct field f[FIELDS_MAX];
    uint32_t wanted = 0, gid;
    bool numeric = parse_number(which, &wanted);
    while (group.size) {
        if (next_entry(&group, f) < 3 || !field_number(f[2], &gid))
            continue;
        if (field_is(f[0], which) || (numeric && gid == wanted)) {
            user->gid = gid;
            return true;
        }
    }
    user->gid = wanted;
    return numeric;
}

static bool lists_member(struct field members, const char *name)
{
    while (members.size) {
        const char *comma = memchr(members.at, ',', members.size);
        size_t size = comma ? (size_t)(comma - members.at) : members.size;
        if (field_is((struct field){members.at, size}, name))
            return true;
        size += comma != NULL;
        members.at += size;
        members.size -= size;
    }
    return false;
}

static void find_supplementary(struct user *user, const char *name, struct file_text group)
{
    struct field f[FIELDS_MAX];
    uint32_t gid;
    while (group.size && user->group_count < GROUPS_MAX)
        if (next_entry(&group, f) >= 4 && field_number(f[2], &gid) && lists_member(f[3], name))
            user->groups[user->group_count++] = gid;
}

bool user_lookup(struct user *user, const char *spec, struct file_text passwd,
                 struct file_text group, const char **why)
{
    char who[USER_NAME_MAX], name[USER_NAME_MAX] = "";
    const char *colon = strchr(spec, ':');
    size_t size = colon ? (size_t)(colon - spec) : strlen(spec);
    memset(user, 0, sizeof *user);
    memcpy(user->home, "/", 2);
    *why = "the user's name is too long";
    if (size >= sizeof who)
        return false;
    memcpy(who, spec, size);
    who[size] = '\0';
    *why = "the image has no such user";
    if (!find_user(user, name, size ? who : "0", passwd))
        return false;
    *why = "the image has no such group";
    if (colon && colon[1])
        return find_group(user, colon + 1, group);
    if (name[0])
        find_supplementary(user, name, group);
    return true;
}

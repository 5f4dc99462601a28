#include "text.h"

#include <string.h>

struct text text_of(char *buffer, size_t size)
{
    buffer[0] = '\0';
    return (struct text){buffer, 0, size, false};
}

static void add_bytes(struct text *t, const char *bytes, size_t size)
{
    size_t room = t->size - t->used - 1;
    if (size > room) {
        size = room;
        t->cut = true;
    }
    memcpy(t->at + t->used, bytes, size);
    t->used += size;
    t->at[t->used] = '\0';
}

void text_add(struct text *t, const char *str)
{
    add_bytes(t, str, strlen(str));
}

void text_number(struct text *t, uint64_t number)
{
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    add_bytes(t, digits + at, sizeof digits - at);
}

bool parse_number(const char *str, uint32_t *number)
{
    uint64_t value = 0;
    size_t digits = strlen(str);
    if (digits == 0 || digits > 10)
        return false;
    for (size_t i = 0; i < digits; i++) {
        if (str[i] < '0' || str[i] > '9')
            return false;
        value = value * 10 + (uint64_t)(str[i] - '0');
    }
    *number = (uint32_t)value;
    return value <= UINT32_MAX;
}

void hosts_text(struct text *t, const char *address, const char *hostname)
{
    text_add(t, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    text_add(t, address);
    text_add(t, "\t");
    text_add(t, hostname);
    text_add(t, "\n");
}

void resolv_text(struct text *t, char *const *servers)
{
    for (; *servers; servers++) {
        text_add(t, "nameserver ");
        text_add(t, *servers);
        text_add(t, "\n");
    }
}

bool path_candidate(struct text *t, const char *path, const char *name, size_t index)
{
    size_t size;
    if (strchr(name, '/')) {
        text_add(t, name);
        return index == 0;
    }
    for (; index; index--) {
        path = strchr(path, ':');
        if (!path)
            return false;
        path++;
    }
    size = strcspn(path, ":");
    add_bytes(t, size ? path : ".", size ? size : 1);
    text_add(t, "/");
    text_add(t, name);
    return true;
}

const char *env_get(char *const *env, const char *key)
{
    size_t size = strlen(key);
    for (; *env; env++)
        if (!strncmp(*env, key, size) && (*env)[size] == '=')
            return *env + size + 1;
    return NULL;
}

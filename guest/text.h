/* Small texts, put together without stdio. Pure: no system call. */
#ifndef TEXT_H
#define TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A text being written; always ends with a NUL; `cut` tells that not all had room. */
struct text {
    char *at;
    size_t used;
    size_t size;
    bool cut;
};

struct text text_of(char *buffer, size_t size);
void text_add(struct text *t, const char *str);
void text_number(struct text *t, uint64_t number);

/* Reads a decimal number of 1 to 10 digits that is the whole string. False: it is none. */
bool parse_number(const char *str, uint32_t *number);

/* /etc/hosts. `address` is the one that `hostname` stands for. */
void hosts_text(struct text *t, const char *address, const char *hostname);

/* /etc/resolv.conf. */
void resolv_text(struct text *t, char *const *servers);

/* Writes candidate `index` for a program's name: `name` itself when it has a slash, else each
 * folder of PATH in turn. False: there is no such candidate. */
bool path_candidate(struct text *t, const char *path, const char *name, size_t index);

/* The value of `key` in a list of K=V; NULL when it is not there. */
const char *env_get(char *const *env, const char *key);

#endif

/* The least a test needs: CHECK, and a seeded generator, so that a failure comes again. */
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);   \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)

#define RUN(test)                                    \
    do {                                             \
        test();                                      \
        printf("%s: %s\n", __FILE__, #test);         \
    } while (0)

static inline uint32_t draw(uint32_t below)
{
    static uint64_t state = 0x9E3779B97F4A7C15u;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

#endif

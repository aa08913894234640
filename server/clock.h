/* clock.h: nanoseconds from a monotonic clock, the server's only sense of time. */
#ifndef SERVER_CLOCK_H
#define SERVER_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline double ns_to_ms(int64_t ns) { return (double)ns / 1e6; }

#endif

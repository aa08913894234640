/* split.h: cutting work into parts. */
#ifndef MOE_CPU_SPLIT_H
#define MOE_CPU_SPLIT_H

#include <stdint.h>

/* Where part i begins when n things go in `parts` parts whose sizes differ by one
 * at most; part `parts` begins at n. */
static inline int cpu_part(int n, int parts, int i)
{
    return (int)((int64_t)n * i / parts);
}

/* Pieces of at most `size` that n things make. */
static inline int cpu_ceil(int n, int size)
{
    return (n + size - 1) / size;
}

#endif

/* rng.h: the converter's random numbers: splitmix64, the same on every machine.
 *
 * Each use draws from a stream of its own, rng_stream(seed, layer, purpose), so
 * that what one stage draws never shifts what another one gets. */
#ifndef CONVERT_RNG_H
#define CONVERT_RNG_H

#include <math.h>
#include <stdint.h>

typedef struct { uint64_t state; } rng;

static inline uint64_t rng_next(rng *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline rng rng_stream(uint64_t seed, uint64_t a, uint64_t b)
{
    rng r = {seed};
    r.state = rng_next(&r) ^ a;
    r.state = rng_next(&r) ^ b;
    return r;
}

/* [0, n), n > 0; the bias of 2^-64 n is of no account here. */
static inline uint64_t rng_below(rng *r, uint64_t n)
{
    return (uint64_t)(((unsigned __int128)rng_next(r) * n) >> 64);
}

/* [0, 1) */
static inline double rng_uniform(rng *r)
{
    return (double)(rng_next(r) >> 11) * 0x1p-53;
}

/* Normal, mean 0, deviation 1 (Box-Muller). */
static inline double rng_normal(rng *r)
{
    double u = 1 - rng_uniform(r), v = rng_uniform(r);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

static inline void rng_shuffle(rng *r, int32_t *items, int n)
{
    for (int i = n - 1; i > 0; i--) {
        int j = (int)rng_below(r, (uint64_t)i + 1);
        int32_t t = items[i];
        items[i] = items[j];
        items[j] = t;
    }
}

#endif

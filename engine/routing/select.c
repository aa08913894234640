/* select.c: the k best scores by bisection on their bits. A float's bits, with
 * those below the sign turned over for negatives, order as signed integers do.
 * The k-th best key lies between the least and the greatest; each pass halves
 * that range by counting the keys at or above its middle. A pass is a plain loop
 * that vectorises, and at most 32 are needed, whatever the scores: linear time,
 * usually about log2(n) + 2 passes, since a count of exactly k ends it. */
#include <math.h>
#include <string.h>

#include "engine/routing/select.h"

static inline int32_t key_of(float score)
{
    float plain = score + 0.0f; /* -0 ties with 0 */
    int32_t bits;
    memcpy(&bits, &plain, sizeof bits);
    int32_t key = bits ^ (int32_t)((uint32_t)(bits >> 31) >> 1);
    return score == score ? key : INT32_MIN; /* NaN below -infinity */
}

static int count_from(const float *scores, int n, int32_t least)
{
    int count = 0;
    for (int i = 0; i < n; i++)
        count += key_of(scores[i]) >= least;
    return count;
}

/* The greatest key that at least k scores reach, or, where such a one exists, any
 * key that exactly k scores reach. */
static int32_t find_threshold(const float *scores, int n, int k)
{
    int64_t low = INT32_MAX, high = INT32_MIN; /* low: reached by all n >= k */
    for (int i = 0; i < n; i++) {
        int32_t key = key_of(scores[i]);
        low = key < low ? key : low;
        high = key > high ? key : high;
    }
    while (low < high) {
        int64_t middle = low + (high - low + 1) / 2;
        int count = count_from(scores, n, (int32_t)middle);
        if (count == k)
            return (int32_t)middle;
        if (count > k)
            low = middle;
        else
            high = middle - 1;
    }
    return (int32_t)low;
}

void select_topk(const float *scores, int n, int k, int32_t *out)
{
    if (k == n) {
        for (int i = 0; i < n; i++)
            out[i] = i;
        return;
    }
    int32_t threshold = find_threshold(scores, n, k);
    int above = threshold == INT32_MAX ? 0 : count_from(scores, n, threshold + 1);
    int ties = k - above; /* of the keys equal to the threshold, the first ones */
    int filled = 0;
    for (int i = 0; filled < k; i++) {
        int32_t key = key_of(scores[i]);
        if (key > threshold)
            out[filled++] = i;
        else if (key == threshold && ties > 0) {
            ties--;
            out[filled++] = i;
        }
    }
}

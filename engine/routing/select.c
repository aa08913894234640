/* select.c: the scores from a given threshold on, and the k best by bisection. The
 * k-th best is found as a threshold: each pass counts the scores that reach the
 * middle of the range that is left. Its ends are floats numbered in their order,
 * which halving needs no more than 32 times, whatever the scores: linear time. A
 * count of exactly k ends it early, usually after some 15 passes, and a pass is a
 * plain loop that vectorises. */
#include <math.h>
#include <string.h>

#include "engine/routing/select.h"

/* A float's bits, those below the sign turned over for negatives, are an integer
 * that orders as the float does; the way back is the same. */
static int32_t turn(int32_t bits)
{
    return bits < 0 ? bits ^ INT32_MAX : bits;
}

static int32_t number_of(float value)
{
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return turn(bits);
}

static float float_of(int32_t number)
{
    int32_t bits = turn(number);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* NaN reaches nothing. */
static int count_from(const float *scores, int n, float least)
{
    int count = 0;
    for (int i = 0; i < n; i++)
        count += scores[i] >= least;
    return count;
}

/* A value that at least k scores reach: exactly k if there is such a one, else the
 * k-th best score, which more than k reach by ties. At least k scores must be
 * numbers. */
static float find_threshold(const float *scores, int n, int k)
{
    int64_t low = number_of(-INFINITY), high = number_of(INFINITY);
    while (low < high) {
        int64_t middle = low + (high - low + 1) / 2;
        float value = float_of((int32_t)middle);
        int count = count_from(scores, n, value);
        if (count == k)
            return value;
        if (count > k)
            low = middle;
        else
            high = middle - 1;
    }
    return float_of((int32_t)low);
}

/* All numbers, and the first NaNs up to k. */
static void take_numbers(const float *scores, int n_nan, int k, int32_t *out)
{
    for (int i = 0, filled = 0; filled < k; i++)
        if (scores[i] == scores[i] || n_nan-- > 0)
            out[filled++] = i;
}

void select_topk(const float *scores, int n, int k, int32_t *out)
{
    int numbers = count_from(scores, n, -INFINITY);
    if (numbers <= k) {
        take_numbers(scores, k - numbers, k, out);
        return;
    }
    float threshold = find_threshold(scores, n, k);
    int reach = count_from(scores, n, threshold), equal = 0;
    for (int i = 0; reach > k && i < n; i++)
        equal += scores[i] == threshold;
    /* Of the scores equal to the threshold, the first ones as far as they fit. No
     * branch depends on a score: half of them would be mispredicted. */
    int ties = reach > k ? k - (reach - equal) : n;
    for (int i = 0, filled = 0; filled < k; i++) {
        int tie = (scores[i] == threshold) & (ties > 0);
        out[filled] = i;
        filled += (scores[i] > threshold) | tie;
        ties -= tie;
    }
}

int select_threshold_count(const float *scores, int n, float threshold)
{
    return count_from(scores, n, threshold);
}

void select_threshold(const float *scores, int n, float threshold, int count, int32_t *out)
{
    int filled = 0;
    for (int i = 0; i < n && filled < count; i++) { /* branches on no score, as above */
        out[filled] = i;
        filled += scores[i] >= threshold;
    }
}

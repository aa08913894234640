/* select.c: the scores from a given threshold on, and the k best by bisection, of one
 * token or of all pairs of a sequence. The k-th best is found as a threshold: each pass
 * counts the scores that reach the middle of the range that is left. Its ends are floats
 * numbered in their order, which halving needs no more than 32 times, whatever the
 * scores: linear time. A count of exactly k ends it early, usually after some 15 passes,
 * and a pass is a plain loop that vectorises. */
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

/* How many lie above a cut, or at it. Under a cut of NaN all numbers lie above, and NaN
 * at it. */
static int count_above(const float *scores, int n, float cut)
{
    int count = 0;
    if (cut != cut)
        return count_from(scores, n, -INFINITY);
    for (int i = 0; i < n; i++)
        count += scores[i] > cut;
    return count;
}

static int count_at(const float *scores, int n, float cut)
{
    int count = 0;
    if (cut != cut)
        return n - count_from(scores, n, -INFINITY);
    for (int i = 0; i < n; i++)
        count += scores[i] == cut;
    return count;
}

/* A value that at most k scores lie above, and at least k above or at it. */
static float find_cut(const float *scores, int n, int k)
{
    return count_from(scores, n, -INFINITY) <= k ? NAN : find_threshold(scores, n, k);
}

/* All numbers, and the first NaNs up to count. */
static void take_numbers(const float *scores, int n_nan, int count, int32_t *out)
{
    for (int i = 0, filled = 0; filled < count; i++)
        if (scores[i] == scores[i] || n_nan-- > 0)
            out[filled++] = i;
}

void select_above(const float *scores, int n, float cut, int count, int32_t *out)
{
    /* Of the scores at the cut, the first ones as far as they fit. */
    int ties = count - count_above(scores, n, cut);
    if (cut != cut) {
        take_numbers(scores, ties, count, out);
        return;
    }
    /* No branch depends on a score: half of them would be mispredicted. */
    for (int i = 0, filled = 0; filled < count; i++) {
        int tie = (scores[i] == cut) & (ties > 0);
        out[filled] = i;
        filled += (scores[i] > cut) | tie;
        ties -= tie;
    }
}

void select_topk(const float *scores, int n, int k, int32_t *out)
{
    select_above(scores, n, find_cut(scores, n, k), k, out);
}

float select_pairs(const float *scores, int n_tokens, int n_experts, int n_pairs,
                   int32_t *count)
{
    float cut = find_cut(scores, n_tokens * n_experts, n_pairs);
    int left = n_pairs;
    for (int t = 0; t < n_tokens; t++)
        left -= count[t] = count_above(scores + (size_t)t * n_experts, n_experts, cut);
    for (int t = 0; t < n_tokens && left > 0; t++) {
        int ties = count_at(scores + (size_t)t * n_experts, n_experts, cut);
        ties = ties < left ? ties : left;
        count[t] += ties;
        left -= ties;
    }
    return cut;
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

/* metrics.c: shares with their uncertainty, divergence and correlation, all in
 * double and in the order of the rows. */
#include "convert/metrics.h"

#include <math.h>
#include <stdlib.h>

interval wilson_interval(int hits, int n)
{
    const double z = 1.959963984540054; /* the normal's 97.5% point */
    if (n <= 0)
        return (interval){0, 1};
    double p = (double)hits / n, z2 = z * z / n;
    double centre = (p + z2 / 2) / (1 + z2);
    double half = z / (1 + z2) * sqrt(p * (1 - p) / n + z2 / (4.0 * n));
    /* Exact at the ends, where rounding would leave a hair. */
    return (interval){hits == 0 ? 0 : centre - half, hits == n ? 1 : centre + half};
}

int best_label(const float *logits, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* log(sum(exp(x))), shifted by the largest. */
static double log_sum_exp(const float *x, int n)
{
    double top = x[best_label(x, n)], sum = 0;
    for (int i = 0; i < n; i++)
        sum += exp(x[i] - top);
    return top + log(sum);
}

double softmax_kl(const float *p, const float *q, int n)
{
    double p_norm = log_sum_exp(p, n), q_norm = log_sum_exp(q, n), sum = 0;
    for (int i = 0; i < n; i++) {
        double log_p = p[i] - p_norm, log_q = q[i] - q_norm;
        sum += exp(log_p) * (log_p - log_q);
    }
    return sum < 0 ? 0 : sum; /* rounding; NaN stays */
}

double answer_divergence(moe_task task, const float *p, const float *q, int n)
{
    if (task == MOE_TASK_CLASSIFY)
        return softmax_kl(p, q, n);
    double sum = 0;
    for (int i = 0; i < n; i++) {
        const float a[2] = {p[i], 0}, b[2] = {q[i], 0}; /* sigmoid(z) = softmax(z, 0) */
        const double difference = (double)p[i] - q[i];
        sum += task == MOE_TASK_REGRESS ? difference * difference : softmax_kl(a, b, 2);
    }
    return sum;
}

double f1_score(const double hits[2][2])
{
    double positive = 2 * hits[1][1] + hits[0][1] + hits[1][0];
    return positive > 0 ? 2 * hits[1][1] / positive : 0;
}

double matthews(const double hits[2][2])
{
    double said = (hits[0][1] + hits[1][1]) * (hits[0][0] + hits[1][0]);
    double is = (hits[1][0] + hits[1][1]) * (hits[0][0] + hits[0][1]);
    double together = hits[1][1] * hits[0][0] - hits[0][1] * hits[1][0];
    return said * is > 0 ? together / sqrt(said * is) : 0;
}

double pearson(const double *a, const double *b, int n)
{
    double mean_a = 0, mean_b = 0, ab = 0, aa = 0, bb = 0;
    for (int i = 0; i < n; i++) {
        mean_a += a[i] / n;
        mean_b += b[i] / n;
    }
    for (int i = 0; i < n; i++) {
        double x = a[i] - mean_a, y = b[i] - mean_b;
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    return n < 2 || aa == 0 || bb == 0 ? NAN : ab / sqrt(aa * bb);
}

typedef struct { double value; int at; } ranked;

static int by_value(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    return (x->value > y->value) - (x->value < y->value);
}

/* rank [n]: from 1, the mean for equal values. sorted [n]: scratch. */
static void rank_values(const double *value, int n, ranked *sorted, double *rank)
{
    for (int i = 0; i < n; i++)
        sorted[i] = (ranked){value[i], i};
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    for (int i = 0, next; i < n; i = next) {
        next = i + 1;
        while (next < n && sorted[next].value == sorted[i].value)
            next++;
        for (int j = i; j < next; j++)
            rank[sorted[j].at] = (i + 1 + next) / 2.0;
    }
}

bool spearman(const double *a, const double *b, int n, double *out)
{
    size_t room = n > 0 ? (size_t)n : 1;
    ranked *sorted = malloc(room * sizeof *sorted);
    double *rank_a = malloc(room * sizeof *rank_a), *rank_b = malloc(room * sizeof *rank_b);
    bool enough = sorted && rank_a && rank_b;
    if (enough) {
        rank_values(a, n, sorted, rank_a);
        rank_values(b, n, sorted, rank_b);
        *out = pearson(rank_a, rank_b, n);
    }
    free(sorted);
    free(rank_a);
    free(rank_b);
    return enough;
}

/* logits.c: what is said of a sequence's logits, by task. */
#include "convert/logits.h"

#include <math.h>

#include "convert/metrics.h"

static bool every_token(const moe_model_info *info)
{
    return info->task == MOE_TASK_ANSWER;
}

size_t logits_at(const moe_model_info *info, const int32_t *cu_seqlens, int seq)
{
    size_t row = (size_t)(every_token(info) ? cu_seqlens[seq] : seq);
    return row * (size_t)info->n_labels;
}

/* Column `c` of rows of two: the place of the largest, and the log of the sum of
 * exponentials. */
static int top_of(const float *x, int n, int c)
{
    int top = 0;
    for (int i = 1; i < n; i++)
        if (x[2 * i + c] > x[2 * top + c])
            top = i;
    return top;
}

static double log_sum(const float *x, int n, int c)
{
    double top = x[2 * top_of(x, n, c) + c], sum = 0;
    for (int i = 0; i < n; i++)
        sum += exp(x[2 * i + c] - top);
    return top + log(sum);
}

static double column_kl(const float *p, const float *q, int n, int c)
{
    double p_norm = log_sum(p, n, c), q_norm = log_sum(q, n, c), sum = 0;
    for (int i = 0; i < n; i++) {
        double log_p = p[2 * i + c] - p_norm, log_q = q[2 * i + c] - q_norm;
        sum += exp(log_p) * (log_p - log_q);
    }
    return sum < 0 ? 0 : sum;
}

double logits_divergence(const moe_model_info *info, const float *p, const float *q,
                         int n_tokens)
{
    if (!every_token(info))
        return answer_divergence(info->task, p, q, info->n_labels);
    return (column_kl(p, q, n_tokens, 0) + column_kl(p, q, n_tokens, 1)) / 2;
}

bool logits_agree(const moe_model_info *info, const float *p, const float *q, int n_tokens)
{
    if (!every_token(info))
        return best_label(p, info->n_labels) == best_label(q, info->n_labels);
    return top_of(p, n_tokens, 0) == top_of(q, n_tokens, 0) &&
           top_of(p, n_tokens, 1) == top_of(q, n_tokens, 1);
}

double logits_difference(const moe_model_info *info, const float *p, const float *q,
                         int n_tokens)
{
    int n = every_token(info) ? 2 * n_tokens : 1;
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += fabs((double)p[i] - q[i]);
    return sum / n;
}

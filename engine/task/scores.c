/* scores.c: from logits to what a task calls scores. */
#include <math.h>

#include "engine/model/model.h"

/* Shifted by the largest logit, so that nothing overflows; sums in double. */
static void softmax(const float *logits, int n, float *scores)
{
    float top = logits[0];
    double sum = 0;
    for (int i = 1; i < n; i++)
        top = fmaxf(top, logits[i]);
    for (int i = 0; i < n; i++)
        sum += exp((double)logits[i] - top);
    for (int i = 0; i < n; i++) /* each read once more, then written: may alias */
        scores[i] = (float)(exp((double)logits[i] - top) / sum);
}

void moe_label_scores(const float *logprob, int n, float *scores)
{
    if (n > 0)
        softmax(logprob, n, scores);
}

void moe_scores(const moe_model *m, const float *logits, float *scores)
{
    int n = m->info.n_labels;
    switch (m->info.task) {
    case MOE_TASK_CLASSIFY:
        softmax(logits, n, scores);
        break;
    case MOE_TASK_MULTI_LABEL:
        for (int i = 0; i < n; i++)
            scores[i] = (float)(1 / (1 + exp(-(double)logits[i])));
        break;
    case MOE_TASK_TEXT: /* has no labels of its own */
    case MOE_TASK_REGRESS:
    case MOE_TASK_ANSWER:
        for (int i = 0; i < n; i++)
            scores[i] = logits[i];
        break;
    }
}

/* attention_rows.c: attention of one query a sequence over keys and values that are
 * listed row by row: a decoder's step over its cache, a node of a tree of labels over
 * its ancestors. Every key is read once, so nothing is packed. A task is one head of one
 * sequence. */
#include <string.h>

#include "engine/cpu/cpu.h"

typedef struct {
    cpu_backend *b;
    const moe_attention *a;
} job;

/* Starts from the bias of the query's position, the last. */
static void add_bias(const moe_attention *a, int h, int n, float *score)
{
    const float *bias = a->bias + (size_t)h * (2 * (size_t)a->span - 1) + (a->span - n);
    for (int i = 0; i < n; i++)
        score[i] += bias[i];
}

static void task_rows(void *ctx, int task, int thread)
{
    const job *j = ctx;
    const moe_attention *a = j->a;
    const cpu_kernels *kernels = j->b->kernels;
    int sequence = task / a->n_heads, h = task % a->n_heads;
    int first = a->cu_k[sequence], n = a->cu_k[sequence + 1] - first;
    size_t column = (size_t)h * (size_t)a->head;
    float *scratch = cpu_thread_scratch(j->b, thread), *score = scratch;
    const float **row = (const float **)(void *)(scratch + (n + 15) / 16 * 16);
    float *y = a->y + (size_t)sequence * a->ldy + column;
    for (int i = 0; i < n; i++)
        row[i] = a->k + (size_t)a->key_row[first + i] * a->ldkv + column;
    kernels->dot_rows(a->q + (size_t)sequence * a->ldq + column, a->head, row, n, score);
    if (a->bias)
        add_bias(a, h, n, score);
    float inverse = kernels->softmax(score, n, a->scale);
    for (int i = 0; i < n; i++)
        row[i] = a->v + (size_t)a->key_row[first + i] * a->ldkv + column;
    kernels->mix_rows(score, row, n, a->head, y);
    for (int i = 0; i < a->head; i++)
        y[i] *= inverse;
}

void cpu_attention_rows(cpu_backend *b, const moe_attention *a)
{
    job j = {.b = b, .a = a};
    pool_run(b->pool, task_rows, &j, a->n_seqs * a->n_heads);
}

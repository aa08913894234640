/* attention.c: softmax(scale q k^T + bias) v over a ragged batch. A task is one head
 * of one sequence, or a part of its queries where that gives too few tasks. It packs the
 * head's keys (transposed) and values into panels of 32 columns, then takes 24 queries
 * at a time: their scores against all keys, softmax, and the product with the values.
 * For 512 tokens the scores take 48 KB: they and the panels stay in L2, so nothing is
 * gained by an online softmax. A bias stands in the scores before the product is added. */
#include <string.h>

#include "engine/cpu/cpu.h"

enum { PANEL = MOE_LINEAR_PANEL, MIN_QUERIES = 48, TASKS_PER_THREAD = 4 };

typedef struct {
    cpu_backend *b;
    const moe_attention *a;
    int parts; /* of each (sequence, head): some may be empty */
} job;

/* One head of one sequence, and what a task works in. */
typedef struct {
    int h, n_q, n_k;
    const float *q, *k, *v;
    float *y;
    float *keys;   /* [ceil(n_k/32)][head][32] */
    float *values; /* [ceil(head/32)][n_k][32] */
    float *scores; /* [CPU_QUERY_ROWS][ceil(n_k/32) 32] */
} item;

static size_t round_up(size_t n)
{
    return (n + PANEL - 1) / PANEL * PANEL;
}

size_t cpu_attention_floats(const moe_backend_shape *s)
{
    size_t seq = round_up((size_t)s->max_seq);
    size_t head = round_up((size_t)(s->d_head ? s->d_head : s->d_model / s->n_heads));
    return seq * (2 * head + CPU_QUERY_ROWS);
}

static item find_item(const job *j, int sequence, int h, float *scratch)
{
    const moe_attention *a = j->a;
    size_t column = (size_t)h * (size_t)a->head, q = (size_t)a->cu_q[sequence];
    size_t k = (size_t)a->cu_k[sequence];
    item t = {
        .h = h,
        .n_q = a->cu_q[sequence + 1] - a->cu_q[sequence],
        .n_k = a->cu_k[sequence + 1] - a->cu_k[sequence],
        .q = a->q + q * a->ldq + column,
        .k = a->k + k * a->ldkv + column,
        .v = a->v + k * a->ldkv + column,
        .y = a->y + q * a->ldy + column,
        .keys = scratch,
    };
    t.values = t.keys + round_up((size_t)t.n_k) * (size_t)a->head;
    t.scores = t.values + (size_t)t.n_k * round_up((size_t)a->head);
    return t;
}

static void pack_keys(const job *j, const item *t)
{
    size_t ld = j->a->ldkv, head = (size_t)j->a->head;
    for (int i = 0; i < t->n_k; i += PANEL)
        j->b->kernels->transpose(t->k + (size_t)i * ld, ld,
                                 t->n_k - i < PANEL ? t->n_k - i : PANEL, j->a->head,
                                 t->keys + (size_t)i * head);
}

/* One panel: `columns` of it exist. */
static void pack_panel(const float *v, size_t ld, int columns, int n, float *panel)
{
    for (int t = 0; t < n; t++, v += ld, panel += PANEL)
        if (columns == PANEL) {
            memcpy(panel, v, PANEL * sizeof *panel); /* a known size is inlined */
        } else {
            memcpy(panel, v, (size_t)columns * sizeof *panel);
            memset(panel + columns, 0, (size_t)(PANEL - columns) * sizeof *panel);
        }
}

static void pack_values(const job *j, const item *t)
{
    int head = j->a->head;
    float *values = t->values;
    for (int first = 0; first < head; first += PANEL, values += (size_t)t->n_k * PANEL)
        pack_panel(t->v + first, j->a->ldkv, head - first < PANEL ? head - first : PANEL, t->n_k,
                   values);
}

/* What a query's scores start from; columns past the keys are zero. */
static void start_scores(const job *j, const item *t, int position, float *score)
{
    const moe_attention *a = j->a;
    const float *bias = a->bias + (size_t)t->h * (2 * (size_t)a->span - 1);
    size_t n = (size_t)t->n_k;
    memcpy(score, bias + (a->span - 1 - position), n * sizeof *score);
    memset(score + n, 0, (round_up(n) - n) * sizeof *score);
}

/* Softmax of one query's scores; what it does not see weighs 0. */
static float weigh(const job *j, const item *t, int position, float *score)
{
    int n = j->a->causal && position + 1 < t->n_k ? position + 1 : t->n_k;
    memset(score + n, 0, (size_t)(t->n_k - n) * sizeof *score);
    return j->b->kernels->softmax(score, n, j->a->scale);
}

/* Queries [row, row + n_rows). */
static void attend(const job *j, const item *t, int row, int n_rows)
{
    const cpu_kernels *kernels = j->b->kernels;
    const moe_attention *a = j->a;
    const float *query[CPU_QUERY_ROWS], *weight[CPU_QUERY_ROWS];
    float *score[CPU_QUERY_ROWS], *out[CPU_QUERY_ROWS], inverse[CPU_QUERY_ROWS];
    size_t columns = round_up((size_t)t->n_k);
    int position = t->n_k - t->n_q + row;
    for (int i = 0; i < n_rows; i++) {
        query[i] = t->q + (size_t)(row + i) * a->ldq;
        weight[i] = score[i] = t->scores + (size_t)i * columns;
        out[i] = t->y + (size_t)(row + i) * a->ldy;
        if (a->bias)
            start_scores(j, t, position + i, score[i]);
    }
    /* Whole panels: the columns past n_k are zero and nobody looks at them. */
    kernels->gemm(&(cpu_gemm){
        .m = n_rows, .n = (int)columns, .k = a->head, .a = query, .c = score, .n_blocks = 1,
        .b = (const float *const[]){t->keys}, .ldb = PANEL, .add = a->bias != NULL,
        .panel_stride = (size_t)a->head * PANEL,
    });
    for (int i = 0; i < n_rows; i++)
        inverse[i] = weigh(j, t, position + i, score[i]);
    kernels->gemm(&(cpu_gemm){
        .m = n_rows, .n = a->head, .k = t->n_k, .a = weight, .c = out, .n_blocks = 1,
        .b = (const float *const[]){t->values}, .ldb = PANEL,
        .panel_stride = (size_t)t->n_k * PANEL,
    });
    for (int i = 0; i < n_rows; i++)
        for (int c = 0; c < a->head; c++)
            out[i][c] *= inverse[i];
}

static void attention_task(void *ctx, int task, int thread)
{
    const job *j = ctx;
    int part = task % j->parts, h = task / j->parts % j->a->n_heads;
    int sequence = task / j->parts / j->a->n_heads;
    item t = find_item(j, sequence, h, cpu_thread_scratch(j->b, thread));
    int row = cpu_part(t.n_q, j->parts, part), end = cpu_part(t.n_q, j->parts, part + 1);
    if (row == end)
        return;
    pack_keys(j, &t);
    pack_values(j, &t);
    for (; row < end; row += CPU_QUERY_ROWS)
        attend(j, &t, row, end - row < CPU_QUERY_ROWS ? end - row : CPU_QUERY_ROWS);
}

static int most_queries(const moe_attention *a)
{
    int most = 0;
    for (int i = 0; i < a->n_seqs; i++)
        if (a->cu_q[i + 1] - a->cu_q[i] > most)
            most = a->cu_q[i + 1] - a->cu_q[i];
    return most;
}

void cpu_attention(moe_backend *base, const moe_attention *a)
{
    cpu_backend *b = (cpu_backend *)base;
    if (a->n_seqs == 0)
        return;
    if (a->key_row) {
        cpu_attention_rows(b, a);
        return;
    }
    job j = {.b = b, .a = a};
    /* Each part packs the head anew: never fewer than MIN_QUERIES for that. */
    int most = most_queries(a) / MIN_QUERIES;
    j.parts = cpu_ceil(b->n_threads * TASKS_PER_THREAD, a->n_seqs * a->n_heads);
    j.parts = j.parts > most ? most : j.parts;
    j.parts = j.parts < 1 || b->n_threads == 1 ? 1 : j.parts;
    pool_run(b->pool, attention_task, &j, a->n_seqs * a->n_heads * j.parts);
}

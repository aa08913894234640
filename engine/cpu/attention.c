/* attention.c: softmax(scale q k^T) v over a ragged batch. A task is one head of
 * one sequence, or a part of its queries where that gives too few tasks. It
 * packs the head's keys (transposed) and values into panels of 32 columns, then
 * takes 24 queries at a time: their scores against all keys, softmax, and the
 * product with the values. For 512 tokens the scores take 48 KB: they and the
 * panels stay in L2, so nothing is gained by an online softmax. */
#include <string.h>

#include "engine/cpu/cpu.h"

enum { PANEL = MOE_LINEAR_PANEL, MIN_QUERIES = 48, TASKS_PER_THREAD = 4 };

typedef struct {
    cpu_backend *b;
    const float *qkv;
    int d, n_heads, head;   /* head: columns of one */
    float scale;
    const int32_t *cu_seqlens;
    int n_seqs, query_rows; /* at most, of a task */
    int parts;              /* of each (sequence, head): some may be empty */
    float *y;
} job;

/* What a task works in. */
typedef struct {
    float *keys;   /* [ceil(s/32)][head][32] */
    float *values; /* [ceil(head/32)][s][32] */
    float *scores; /* [CPU_QUERY_ROWS][ceil(s/32) 32] */
} panels;

static size_t round_up(size_t n)
{
    return (n + PANEL - 1) / PANEL * PANEL;
}

size_t cpu_attention_floats(const moe_backend_shape *s)
{
    size_t seq = round_up((size_t)s->max_seq);
    size_t head = round_up((size_t)(s->d_model / s->n_heads));
    return seq * (2 * head + CPU_QUERY_ROWS);
}

static panels place_panels(const job *j, int s, float *scratch)
{
    panels p = {.keys = scratch};
    p.values = p.keys + round_up((size_t)s) * (size_t)j->head;
    p.scores = p.values + (size_t)s * round_up((size_t)j->head);
    return p;
}

static void pack_keys(const job *j, const float *k, int s, float *keys)
{
    size_t ld = 3 * (size_t)j->d;
    for (int t = 0; t < s; t += PANEL)
        j->b->kernels->transpose(k + (size_t)t * ld, ld, s - t < PANEL ? s - t : PANEL,
                                 j->head, keys + (size_t)t * (size_t)j->head);
}

/* One panel: `columns` of it exist. */
static void pack_panel(const float *v, size_t ld, int columns, int s, float *panel)
{
    for (int t = 0; t < s; t++, v += ld, panel += PANEL)
        if (columns == PANEL) {
            memcpy(panel, v, PANEL * sizeof *panel); /* a known size is inlined */
        } else {
            memcpy(panel, v, (size_t)columns * sizeof *panel);
            memset(panel + columns, 0, (size_t)(PANEL - columns) * sizeof *panel);
        }
}

static void pack_values(const job *j, const float *v, int s, float *values)
{
    for (int first = 0; first < j->head; first += PANEL, values += (size_t)s * PANEL)
        pack_panel(v + first, 3 * (size_t)j->d,
                   j->head - first < PANEL ? j->head - first : PANEL, s, values);
}

static void attend(const job *j, const panels *p, int s, const float *q, int n_rows,
                   float *y)
{
    const cpu_kernels *kernels = j->b->kernels;
    const float *query[CPU_QUERY_ROWS], *weight[CPU_QUERY_ROWS];
    float *score[CPU_QUERY_ROWS], *out[CPU_QUERY_ROWS];
    for (int i = 0; i < n_rows; i++) {
        query[i] = q + (size_t)i * 3 * (size_t)j->d;
        weight[i] = score[i] = p->scores + (size_t)i * round_up((size_t)s);
        out[i] = y + (size_t)i * (size_t)j->d;
    }
    /* Whole panels: the columns past s are zero and nobody looks at them. */
    kernels->gemm(&(cpu_gemm){
        .m = n_rows, .n = (int)round_up((size_t)s), .k = j->head, .a = query, .c = score, .n_blocks = 1,
        .b = (const float *const[]){p->keys}, .ldb = PANEL,
        .panel_stride = (size_t)j->head * PANEL,
    });
    for (int i = 0; i < n_rows; i++)
        kernels->softmax(score[i], s, j->scale);
    kernels->gemm(&(cpu_gemm){
        .m = n_rows, .n = j->head, .k = s, .a = weight, .c = out, .n_blocks = 1,
        .b = (const float *const[]){p->values}, .ldb = PANEL,
        .panel_stride = (size_t)s * PANEL,
    });
}

static void attention_task(void *ctx, int task, int thread)
{
    const job *j = ctx;
    int part = task % j->parts, h = task / j->parts % j->n_heads;
    int sequence = task / j->parts / j->n_heads;
    int first = j->cu_seqlens[sequence], s = j->cu_seqlens[sequence + 1] - first;
    int row = cpu_part(s, j->parts, part), end = cpu_part(s, j->parts, part + 1);
    if (row == end)
        return;
    const float *q = j->qkv + (size_t)first * 3 * (size_t)j->d + (size_t)h * (size_t)j->head;
    float *y = j->y + (size_t)first * (size_t)j->d + (size_t)h * (size_t)j->head;
    panels p = place_panels(j, s, cpu_thread_scratch(j->b, thread));
    pack_keys(j, q + j->d, s, p.keys);
    pack_values(j, q + 2 * j->d, s, p.values);
    for (; row < end; row += CPU_QUERY_ROWS)
        attend(j, &p, s, q + (size_t)row * 3 * (size_t)j->d,
               end - row < CPU_QUERY_ROWS ? end - row : CPU_QUERY_ROWS,
               y + (size_t)row * (size_t)j->d);
}

static int longest(const int32_t *cu_seqlens, int n_seqs)
{
    int most = 0;
    for (int i = 0; i < n_seqs; i++)
        if (cu_seqlens[i + 1] - cu_seqlens[i] > most)
            most = cu_seqlens[i + 1] - cu_seqlens[i];
    return most;
}

void cpu_attention(moe_backend *base, const float *qkv, int d, int n_heads, float scale,
                   const int32_t *cu_seqlens, int n_seqs, float *y)
{
    cpu_backend *b = (cpu_backend *)base;
    if (n_seqs == 0)
        return;
    job j = {.b = b, .qkv = qkv, .d = d, .n_heads = n_heads, .head = d / n_heads,
             .scale = scale, .cu_seqlens = cu_seqlens, .n_seqs = n_seqs, .y = y};
    /* Each part packs the head anew: never fewer than MIN_QUERIES for that. */
    int most = longest(cu_seqlens, n_seqs) / MIN_QUERIES;
    j.parts = cpu_ceil(b->n_threads * TASKS_PER_THREAD, n_seqs * n_heads);
    j.parts = j.parts > most ? most : j.parts;
    j.parts = j.parts < 1 || b->n_threads == 1 ? 1 : j.parts;
    pool_run(b->pool, attention_task, &j, n_seqs * n_heads * j.parts);
}

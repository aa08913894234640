/* split_coactivation.c: neurons that fire for the same inputs share an expert.
 *
 * 1. A[n, m] = sum over calibration tokens of h_n h_m, h the positive activations
 *    (the paper's Eq. 6): per chunk of tokens, H [chunk, d_ff] is computed by
 *    rows, then A += H^T H by tiles [256, 256] of its lower half, each task
 *    owning its rows or its tile, so that the sums have one order.
 * 2. Live neurons, those that fire at all, make a graph with the edges above the
 *    first non-zero decile of A x 0.99, in units of that threshold (the authors'
 *    constants). METIS cuts it into ceil(live / 32) parts.
 * 3. METIS leaves parts a few neurons too large. Each keeps the neurons most
 *    attached to it; the others go where they are most attached and there is room,
 *    by balance_assign.
 * 4. Neurons that never fire fill what is left: the last experts, which a router
 *    then need never choose. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/balance.h"
#include "convert/blas.h"
#include "convert/interrupt.h"
#include "convert/metis.h"
#include "convert/rng.h"
#include "convert/split.h"

enum { CHUNK_TOKENS = 4096, TILE = 256 };

/* ---- 1. the co-activation matrix ---------------------------------------- */

typedef struct {
    const ffn_layer *l;
    float *h;     /* [CHUNK_TOKENS, d_ff] */
    float *a;     /* [d_ff, d_ff], lower half until mirrored */
    int first, n_rows;
    int n_tiles;  /* along one side */
} gram_job;

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

static void hidden_task(void *ctx, int i, int worker)
{
    (void)worker;
    const gram_job *job = ctx;
    const ffn_layer *l = job->l;
    const int at = i * LAYER_TASK_ROWS;
    const ffn_inputs in = layer_inputs(l);
    layer_hidden(l, &in, l->x + (size_t)(job->first + at) * (size_t)l->d,
                 min_int(LAYER_TASK_ROWS, job->n_rows - at),
                 job->h + (size_t)at * (size_t)l->d_ff);
}

/* Tile i of the lower half, counted row by row: (0,0) (1,0) (1,1) (2,0) ... */
static void tile_task(void *ctx, int i, int worker)
{
    (void)worker;
    const gram_job *job = ctx;
    const int d_ff = job->l->d_ff;
    int row = 0, column = i;
    while (column > row)
        column -= ++row;
    const int r0 = row * TILE, c0 = column * TILE;
    const int rows = min_int(TILE, d_ff - r0), columns = min_int(TILE, d_ff - c0);
    float *a = job->a + (size_t)r0 * (size_t)d_ff + c0;
    if (row == column)
        blas_syrk(rows, job->n_rows, job->h + r0, d_ff, 1, a, d_ff);
    else
        blas_tn(rows, columns, job->n_rows, job->h + r0, d_ff, job->h + c0, d_ff, 1, a,
                d_ff);
}

static void mirror(float *a, int n)
{
    for (size_t i = 0; i < (size_t)n; i++)
        for (size_t j = 0; j < i; j++)
            a[j * (size_t)n + i] = a[i * (size_t)n + j];
}

static moe_status coactivations(const ffn_layer *l, float *a, moe_error *err)
{
    gram_job job = {.l = l, .a = a, .n_tiles = (l->d_ff + TILE - 1) / TILE};
    job.h = malloc((size_t)CHUNK_TOKENS * (size_t)l->d_ff * sizeof *job.h);
    if (!job.h)
        return moe_fail(err, MOE_E_MEMORY, "no memory for the activations of layer %d",
                        l->index);
    moe_status status = MOE_OK;
    for (; status == MOE_OK && job.first < l->n_tokens; job.first += CHUNK_TOKENS) {
        job.n_rows = min_int(CHUNK_TOKENS, l->n_tokens - job.first);
        workers_run(l->workers, hidden_task, &job,
                    (job.n_rows + LAYER_TASK_ROWS - 1) / LAYER_TASK_ROWS);
        workers_run(l->workers, tile_task, &job, job.n_tiles * (job.n_tiles + 1) / 2);
        status = interrupt_check(err);
    }
    free(job.h);
    mirror(a, l->d_ff);
    return status;
}

/* ---- 2. the graph -------------------------------------------------------- */

/* Non-negative floats are ordered as their bits are. */
static uint32_t float_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* The value of rank `rank` (from 0) in ascending order: by the upper half of the
 * bits, then by the lower half. count [65536]: scratch. */
static float value_of_rank(const float *a, size_t n, size_t rank, size_t *count)
{
    uint32_t found = 0;
    for (int shift = 16; shift >= 0; shift -= 16) {
        memset(count, 0, 65536 * sizeof *count);
        for (size_t i = 0; i < n; i++)
            if (shift || float_bits(a[i]) >> 16 == found >> 16)
                count[float_bits(a[i]) >> shift & 0xffff]++;
        uint32_t half = 0;
        while (rank >= count[half])
            rank -= count[half++];
        found |= half << shift;
    }
    float value;
    memcpy(&value, &found, sizeof value);
    return value;
}

/* The first of the nine deciles of a [n] that isn't zero, x 0.99; where all are,
 * the smallest positive number: every edge counts. */
static moe_status edge_threshold(const float *a, size_t n, float *least, moe_error *err)
{
    size_t *count = malloc(65536 * sizeof *count);
    if (!count)
        return moe_fail(err, MOE_E_MEMORY, "no memory to rank co-activations");
    float decile = 0;
    for (size_t tenth = 1; tenth <= 9 && decile == 0; tenth++)
        decile = value_of_rank(a, n, n * tenth / 10, count);
    if (decile == 0) {
        decile = INFINITY;
        for (size_t i = 0; i < n; i++)
            if (a[i] > 0 && a[i] < decile)
                decile = a[i];
    }
    *least = 0.99f * decile;
    free(count);
    return MOE_OK;
}

/* The rows and columns of live neurons. */
static void take_live(const float *a, size_t d_ff, const int32_t *live, size_t n_live,
                      float *sub)
{
    for (size_t i = 0; i < n_live; i++)
        for (size_t j = 0; j < n_live; j++)
            sub[i * n_live + j] = a[(size_t)live[i] * d_ff + (size_t)live[j]];
}

/* ---- 3. exact sizes ------------------------------------------------------ */

/* attached [n, n_parts] = a [n, n] summed over the members of each part, a part
 * of -1 being none, without the diagonal. */
static void attachments(const float *a, int n, const int32_t *part, int n_parts,
                        float *attached)
{
    memset(attached, 0, (size_t)n * (size_t)n_parts * sizeof *attached);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            if (i != j && part[j] >= 0)
                attached[(size_t)i * (size_t)n_parts + (size_t)part[j]] +=
                    a[(size_t)i * (size_t)n + (size_t)j];
}

/* While a part has more members than places, its least attached one leaves
 * (part = -1); the attachments of the others are then less by that one. */
static void shed_overflow(const float *a, int n, int n_parts, int32_t *part, int *room,
                          float *attached)
{
    for (int p = 0; p < n_parts; p++) {
        for (int i = 0; i < n; i++)
            room[p] -= part[i] == p;
        for (; room[p] < 0; room[p]++) {
            int least = -1;
            for (int i = 0; i < n; i++)
                if (part[i] == p &&
                    (least < 0 || attached[(size_t)i * (size_t)n_parts + (size_t)p] <
                                      attached[(size_t)least * (size_t)n_parts + (size_t)p]))
                    least = i;
            part[least] = -1;
            for (int i = 0; i < n; i++)
                attached[(size_t)i * (size_t)n_parts + (size_t)p] -=
                    i == least ? 0 : a[(size_t)i * (size_t)n + (size_t)least];
        }
    }
}

/* Makes the sizes of part [n] those of room [n_parts], which sum to n. */
static moe_status balance_parts(const float *a, int n, int n_parts, int *room,
                                int32_t *part, moe_error *err)
{
    moe_status status = MOE_OK;
    float *attached = malloc((size_t)n * (size_t)n_parts * sizeof *attached);
    int32_t *moved = malloc((size_t)n * sizeof *moved);
    int32_t *target = malloc((size_t)n * sizeof *target);
    if (attached && moved && target) {
        attachments(a, n, part, n_parts, attached);
        shed_overflow(a, n, n_parts, part, room, attached);
        attachments(a, n, part, n_parts, attached);
        int n_moved = 0;
        for (int i = 0; i < n; i++)
            if (part[i] < 0) {
                memmove(attached + (size_t)n_moved * (size_t)n_parts,
                        attached + (size_t)i * (size_t)n_parts,
                        (size_t)n_parts * sizeof *attached);
                moved[n_moved++] = i;
            }
        status = balance_assign(attached, n_moved, n_parts, room, target, err);
        for (int i = 0; status == MOE_OK && i < n_moved; i++)
            part[moved[i]] = target[i];
    } else {
        status = moe_fail(err, MOE_E_MEMORY, "no memory to balance %d neurons", n);
    }
    free(attached);
    free(moved);
    free(target);
    return status;
}

/* ---- the whole ----------------------------------------------------------- */

/* Parts are interchangeable but for the last, which may have fewer places: it
 * should be the smallest that METIS made. */
static void smallest_part_last(int32_t *part, int n, int n_parts, int *size)
{
    memset(size, 0, (size_t)n_parts * sizeof *size);
    for (int i = 0; i < n; i++)
        size[part[i]]++;
    int smallest = 0;
    for (int p = 1; p < n_parts; p++)
        if (size[p] <= size[smallest])
            smallest = p;
    for (int i = 0; i < n; i++) {
        if (part[i] == smallest)
            part[i] = n_parts - 1;
        else if (part[i] == n_parts - 1)
            part[i] = smallest;
    }
}

/* part [n_live]: experts [0, ceil(n_live / 32)) for the live neurons, all full but
 * the last. */
static moe_status cut_live(const ffn_layer *l, const float *sub, int n_live, float least,
                           int32_t *part, moe_error *err)
{
    const int n_parts = (n_live + MOE_EXPERT_SIZE - 1) / MOE_EXPERT_SIZE;
    int *room = malloc((size_t)n_parts * sizeof *room);
    if (!room)
        return moe_fail(err, MOE_E_MEMORY, "no memory to cut %d neurons", n_live);
    rng r = rng_stream(l->seed, (uint64_t)l->index, 'c');
    moe_status status =
        metis_partition(sub, n_live, n_parts, least, rng_next(&r), part, err);
    if (status == MOE_OK) {
        smallest_part_last(part, n_live, n_parts, room);
        for (int p = 0; p < n_parts; p++)
            room[p] = min_int(MOE_EXPERT_SIZE, n_live - p * MOE_EXPERT_SIZE);
        status = balance_parts(sub, n_live, n_parts, room, part, err);
    }
    free(room);
    return status;
}

/* Neurons without an expert (-1) into the places left, in order. */
static void place_dead(const ffn_layer *l, int n_live, int32_t *expert)
{
    int place = n_live;
    for (int n = 0; n < l->d_ff; n++)
        if (expert[n] < 0)
            expert[n] = place++ / MOE_EXPERT_SIZE;
}

static double cut_share(const float *a, int n, const int32_t *expert)
{
    double all = 0, cut = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++) {
            const double w = a[(size_t)i * (size_t)n + (size_t)j];
            all += w;
            cut += expert[i] == expert[j] ? 0 : w;
        }
    return all > 0 ? cut / all : 0;
}

static moe_status split_by(const ffn_layer *l, const float *a, int32_t *expert,
                           moe_error *err)
{
    const size_t d_ff = (size_t)l->d_ff;
    int32_t *live = malloc(d_ff * sizeof *live), *part = malloc(d_ff * sizeof *part);
    float *sub = NULL, least = 0;
    int n_live = 0;
    moe_status status = MOE_OK;
    if (!live || !part)
        goto no_memory;
    for (size_t n = 0; n < d_ff; n++) {
        expert[n] = -1;
        if (a[n * d_ff + n] > 0)
            live[n_live++] = (int32_t)n;
    }
    if (n_live > 0) {
        sub = malloc((size_t)n_live * (size_t)n_live * sizeof *sub);
        if (!sub)
            goto no_memory;
        take_live(a, d_ff, live, (size_t)n_live, sub);
        status = edge_threshold(a, d_ff * d_ff, &least, err);
        if (status == MOE_OK)
            status = cut_live(l, sub, n_live, least, part, err);
    }
    for (int i = 0; status == MOE_OK && i < n_live; i++)
        expert[live[i]] = part[i];
    if (status == MOE_OK)
        place_dead(l, n_live, expert);
    goto done;
no_memory:
    status = moe_fail(err, MOE_E_MEMORY, "no memory to split %d neurons", l->d_ff);
done:
    free(live);
    free(part);
    free(sub);
    return status;
}

moe_status split_coactivation(const ffn_layer *l, int32_t *expert, split_report *report,
                              moe_error *err)
{
    float *a = calloc((size_t)l->d_ff * (size_t)l->d_ff, sizeof *a);
    if (!a)
        return moe_fail(err, MOE_E_MEMORY, "no memory for %d x %d co-activations",
                        l->d_ff, l->d_ff);
    moe_status status = coactivations(l, a, err);
    if (status == MOE_OK)
        status = split_by(l, a, expert, err);
    if (status == MOE_OK)
        *report = (split_report){.cut = cut_share(a, l->d_ff, expert), .inertia = NAN,
                                 .linear = NAN};
    free(a);
    return status;
}

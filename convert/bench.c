/* bench.c: interleaved timing.
 *
 * The whole model goes through moe_forward, as a server would run it. Single
 * operations go through the backend's table, over all layers in turn: one layer's
 * weights repeated would stay in the cache and flatter batch 1. Activations are
 * random with a fixed seed, token ids too unless there is a text. Models without a
 * router, and single operations, select uniformly random experts. */
#include "convert/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/bench_step.h"
#include "engine/backend.h"
#include "engine/model/model.h"

static const double peak_seconds = 0.02;
static const uint64_t seed = 20240607;

static uint32_t draw(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static float draw_float(uint64_t *state)
{
    return (float)draw(state) / (float)(1u << 30) - 1;
}

/* ---- operations ------------------------------------------------------------- */

/* Multiplications and additions of a case, in billions. A layer's parts. */
static double linear_gflop(double tokens, double d)
{
    return 2e-9 * tokens * d * 3 * d;
}

static double attention_gflop(double squares, double d)
{
    return 4e-9 * squares * d;
}

static double ffn_gflop(double tokens, double d, double d_ff, double share)
{
    return 4e-9 * tokens * d * d_ff * share;
}

/* tokens of all sequences, squares: the sum of their squared lengths. */
static double case_gflop(const moe_model_info *info, bench_what what, const bench_case *c,
                         double tokens, double squares)
{
    double d = info->d_model, linear = linear_gflop(tokens, d);
    double attention = attention_gflop(squares, d);
    double ffn = ffn_gflop(tokens, d, info->d_ff, c->effective_ratio);
    switch (what) {
    case BENCH_LINEAR: return linear;
    case BENCH_ATTENTION: return attention;
    case BENCH_FFN: return ffn;
    case BENCH_MODEL:
    case BENCH_STEP: break;
    }
    /* The last layer: keys and values of all tokens, the rest of the first ones. */
    double last = linear * 2 / 3 + linear_gflop(c->batch, d) * 2 / 3 + attention_gflop(tokens, d) +
                  ffn_gflop(c->batch, d, info->d_ff, c->effective_ratio);
    double head = 2e-9 * c->batch * d * (d + info->n_labels);
    return (linear * 4 / 3 + attention + ffn) * (info->n_layers - 1) + last + head;
}

/* ---- the whole model -------------------------------------------------------- */

typedef struct {
    const moe_model *m;
    const bench_plan *p;
    session s;
    batch b;
    bench_steps steps;
    uint64_t *used;                        /* [n_layers, n_experts] */
    moe_backend *backend;                  /* the rest: single operations */
    float *x, *y, *qkv, *scores;
    moe_choice *choice;
    int32_t *cu_seqlens, *expert;
    moe_route route;
    int max_tokens;
} bench_state;

static moe_selector selector_for(const bench_state *t)
{
    const moe_model *m = t->m;
    bool routed = m->info.moefied && m->weights.layers[0].router.present;
    return routed && !t->p->random_routing ? MOE_SELECT_ROUTER : MOE_SELECT_RANDOM;
}

static double weight_bytes(const moe_model_info *info)
{
    return strcmp(info->dtype, "f32") == 0 ? 4 : strcmp(info->dtype, "bf16") == 0 ? 2 : 1;
}

/* Weights that the run read: dense linear layers, and the experts that some token had. */
static double read_gbytes(const bench_state *t, bool sparse)
{
    const moe_model_info *info = &t->m->info;
    double d = info->d_model, size = weight_bytes(info);
    size_t experts = (size_t)info->n_layers * (size_t)info->n_experts, used = experts;
    if (sparse) {
        moe_stats_experts(t->s.engine, t->used);
        used = 0;
        for (size_t i = 0; i < experts; i++)
            used += t->used[i] > 0;
    }
    return size * 1e-9 * (info->n_layers * 4 * d * d + 2 * d * MOE_EXPERT_SIZE * (double)used);
}

static moe_status time_model(bench_state *t, bench_case *c, double *ms, moe_error *err)
{
    moe_selection selection = {c->ratio, selector_for(t), MOE_POLICY_MODEL};
    moe_status status = bench_text_fill(t->p->text, t->m, c->batch, c->seq, selection, &t->b, err);
    moe_stats_reset(t->s.engine);
    double start = cli_seconds(), squares = 0;
    if (status == MOE_OK)
        status = batch_run(&t->b, &t->s, false, err);
    *ms = 1000 * (cli_seconds() - start);
    c->effective_ratio = 0;
    for (int s = 0; status == MOE_OK && s < c->batch; s++) {
        double n = t->b.cu_seqlens[s + 1] - t->b.cu_seqlens[s];
        c->effective_ratio += t->b.effective_ratio[s] * n / t->b.n_tokens;
        squares += n * n;
    }
    c->gflop = case_gflop(&t->m->info, BENCH_MODEL, c, t->b.n_tokens, squares);
    c->gbytes = read_gbytes(t, c->ratio < 1);
    return status;
}

static moe_status time_step(bench_state *t, bench_case *c, double *ms, moe_error *err)
{
    moe_selection selection = {c->ratio, selector_for(t), MOE_POLICY_MODEL};
    moe_status status = bench_text_fill(t->p->text, t->m, c->batch, c->seq, selection, &t->b, err);
    if (status == MOE_OK)
        status = bench_step_time(t->s.engine, &t->b, &t->steps, ms, &c->effective_ratio, err);
    bench_step_work(t->m, c->batch, c->effective_ratio, &c->gflop, &c->gbytes);
    return status;
}

/* ---- single operations ------------------------------------------------------ */

static moe_status operations_create(bench_state *t, moe_error *err)
{
    const moe_model_info *info = &t->m->info;
    moe_backend_shape shape = {.max_tokens = t->max_tokens, .max_seq = info->max_tokens,
                               .d_model = info->d_model, .n_heads = info->n_heads,
                               .n_experts = info->n_experts};
    size_t n = (size_t)t->max_tokens, d = (size_t)info->d_model;
    size_t pairs = n * (size_t)info->n_experts;
    moe_status status = backend_create(t->p->backend, t->s.pool, &shape, &t->backend, err);
    if (status != MOE_OK)
        return status;
    moe_backend *b = t->backend;
    t->x = b->ops->alloc(b, n * d * sizeof(float));
    t->y = b->ops->alloc(b, 3 * n * d * sizeof(float));
    t->qkv = b->ops->alloc(b, 3 * n * d * sizeof(float));
    t->scores = b->ops->alloc(b, pairs * sizeof(float));
    t->route.bound = b->ops->alloc(b, (n + 1) * sizeof(int32_t));
    t->route.expert = b->ops->alloc(b, pairs * sizeof(int32_t));
    t->choice = malloc(n * sizeof *t->choice);
    t->cu_seqlens = malloc((n + 1) * sizeof *t->cu_seqlens);
    t->expert = malloc(pairs * sizeof *t->expert);
    float *random = malloc((pairs > 3 * n * d ? pairs : 3 * n * d) * sizeof *random);
    if (!t->x || !t->y || !t->qkv || !t->scores || !t->route.bound || !t->route.expert ||
        !t->choice || !t->cu_seqlens || !t->expert || !random) {
        free(random);
        return moe_fail(err, MOE_E_MEMORY, "out of memory for %d tokens", t->max_tokens);
    }
    uint64_t state = seed;
    for (size_t i = 0; i < pairs || i < 3 * n * d; i++)
        random[i] = draw_float(&state);
    b->ops->put(b, t->x, random, n * d * sizeof(float));
    b->ops->put(b, t->qkv, random, 3 * n * d * sizeof(float));
    b->ops->put(b, t->scores, random, pairs * sizeof(float));
    free(random);
    return MOE_OK;
}

/* Routes the case's tokens to uniformly random experts; NULL where dense. */
static const moe_route *make_route(bench_state *t, bench_case *c)
{
    int experts = t->m->info.n_experts;
    int k = (int)(c->ratio * experts + 0.5);
    k = k < 1 ? 1 : k > experts ? experts : k;
    c->effective_ratio = (double)k / experts;
    if (k == experts)
        return NULL;
    for (int s = 0; s < c->batch; s++)
        t->choice[s] = (moe_choice){.k = k};
    t->backend->ops->select(t->backend, t->scores, t->choice, t->cu_seqlens, c->batch, experts,
                            &t->route);
    return &t->route;
}

/* Of weights that one layer's operation reads; the experts that some token has. */
static double operation_gbytes(const bench_state *t, const moe_route *route, int n_tokens)
{
    const moe_model_info *info = &t->m->info;
    double d = info->d_model, experts = info->n_experts, size = weight_bytes(info);
    if (t->p->what == BENCH_ATTENTION)
        return 0;
    if (t->p->what == BENCH_LINEAR)
        return 1e-9 * size * 3 * d * d;
    if (route) {
        moe_backend *b = t->backend;
        int32_t pairs;
        b->ops->download(b, &pairs, route->bound + n_tokens, sizeof pairs);
        b->ops->download(b, t->expert, route->expert, (size_t)pairs * sizeof *t->expert);
        memset(t->used, 0, (size_t)info->n_experts * sizeof *t->used);
        for (int i = 0; i < pairs; i++)
            t->used[t->expert[i]] = 1;
        experts = 0;
        for (int e = 0; e < info->n_experts; e++)
            experts += (double)t->used[e];
    }
    return 1e-9 * size * 2 * d * MOE_EXPERT_SIZE * experts;
}

static moe_status time_operation(bench_state *t, bench_case *c, double *ms, moe_error *err)
{
    moe_backend *b = t->backend;
    const moe_model_info *info = &t->m->info;
    int n = c->batch * c->seq;
    const moe_route *route = NULL;
    (void)err;
    c->effective_ratio = 1;
    for (int s = 0; s <= c->batch; s++)
        t->cu_seqlens[s] = s * c->seq;
    if (t->p->what == BENCH_FFN)
        route = make_route(t, c);
    size_t d = (size_t)info->d_model;
    moe_attention attention = {
        .n_seqs = c->batch, .n_heads = info->n_heads, .head = info->d_model / info->n_heads,
        .cu_q = t->cu_seqlens, .cu_k = t->cu_seqlens, .q = t->qkv, .k = t->qkv + d,
        .v = t->qkv + 2 * d, .ldq = 3 * d, .ldkv = 3 * d, .scale = t->m->attention_scale,
        .y = t->y, .ldy = d,
    };
    double start = cli_seconds();
    for (int l = 0; l < info->n_layers; l++) {
        const moe_layer *w = &t->m->weights.layers[l];
        if (t->p->what == BENCH_FFN)
            b->ops->ffn(b, &w->ffn, t->x, n, route, t->y);
        else if (t->p->what == BENCH_LINEAR)
            b->ops->linear(b, &w->qkv, MOE_ACT_NONE, t->x, n, t->y);
        else
            b->ops->attention(b, &attention);
    }
    *ms = 1000 * (cli_seconds() - start) / info->n_layers;
    c->gflop = case_gflop(info, t->p->what, c, n, (double)n * c->seq);
    c->gbytes = operation_gbytes(t, route, n);
    return MOE_OK;
}

/* ---- the rounds ------------------------------------------------------------- */

static moe_status time_case(bench_state *t, bench_case *c, double *ms, moe_error *err)
{
    switch (t->p->what) {
    case BENCH_MODEL: return time_model(t, c, ms, err);
    case BENCH_STEP: return time_step(t, c, ms, err);
    default: return time_operation(t, c, ms, err);
    }
}

static moe_status run_round(bench_state *t, bench_plan *p, int round, moe_error *err)
{
    moe_status status = MOE_OK;
    for (int i = 0; status == MOE_OK && i < p->n_cases; i++) {
        bench_case *c = &p->cases[i];
        double ms;
        status = time_case(t, c, &ms, err);
        if (round >= 0)
            c->ms[round] = ms;
    }
    double gflops = peak_gflops(p->peak_kind, p->threads_used, peak_seconds);
    if (round >= 0)
        p->peak[round] = gflops;
    return status;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void finish(bench_plan *p)
{
    for (int i = 0; i < p->n_cases; i++)
        qsort(p->cases[i].ms, (size_t)p->n_runs, sizeof(double), ascending);
    qsort(p->peak, (size_t)p->n_runs, sizeof(double), ascending);
}

/* As a server would: with the plan measured. */
static moe_status open_session(bench_state *t, moe_error *err)
{
    const bool steps = t->p->what == BENCH_STEP;
    const moe_engine_options options = {
        .backend = t->p->backend, .measure_plan = true,
        .capture = steps ? bench_step_mark : NULL, .capture_ctx = &t->steps,
    };
    t->steps = bench_steps_of(moe_model_describe(t->m));
    t->s = (session){.in_use = t->m, .info = moe_model_describe(t->m)};
    moe_status status = moe_pool_create(t->p->n_threads, &t->s.pool, err);
    if (status == MOE_OK)
        status = moe_engine_create(t->m, t->s.pool, &options, &t->s.engine, err);
    if (status != MOE_OK)
        session_close(&t->s);
    return status;
}

static moe_status state_open(bench_state *t, const moe_model *m, bench_plan *p, moe_error *err)
{
    *t = (bench_state){.m = m, .p = p};
    for (int i = 0; i < p->n_cases; i++)
        if (p->cases[i].batch * p->cases[i].seq > t->max_tokens)
            t->max_tokens = p->cases[i].batch * p->cases[i].seq;
    moe_status status = open_session(t, err);
    if (status != MOE_OK)
        return status;
    snprintf(p->isa, sizeof p->isa, "%s", moe_engine_isa(t->s.engine));
    p->threads_used = moe_pool_threads(t->s.pool);
    const moe_plan_row *rows;
    int n = moe_engine_plan(t->s.engine, &rows);
    p->n_plan = n < (int)(sizeof p->plan / sizeof *p->plan) ? n : 0;
    memcpy(p->plan, rows ? rows : p->plan, (size_t)p->n_plan * sizeof *p->plan);
    p->peak_kind = peak_for(p->isa, m->info.dtype);
    t->used = calloc((size_t)m->info.n_layers * (size_t)m->info.n_experts, sizeof *t->used);
    if (!t->used)
        return moe_fail(err, MOE_E_MEMORY, "out of memory for %d experts", m->info.n_experts);
    return bench_runs_model(p->what) ? MOE_OK : operations_create(t, err);
}

static void state_close(bench_state *t)
{
    if (t->backend)
        t->backend->ops->destroy(t->backend);
    free(t->choice);
    free(t->cu_seqlens);
    free(t->expert);
    free(t->used);
    batch_free(&t->b);
    session_close(&t->s);
}

moe_status bench_run(const moe_model *m, bench_plan *p, progress *bar, moe_error *err)
{
    bench_state t;
    moe_status status = state_open(&t, m, p, err);
    for (int round = -1; status == MOE_OK && round < p->n_runs; round++) {
        status = run_round(&t, p, round, err); /* -1 warms up */
        progress_update(bar, round + 1, NULL);
    }
    if (status == MOE_OK)
        finish(p);
    state_close(&t);
    return status;
}

moe_status bench_drive(const moe_model *m, bench_plan *p, moe_error *err)
{
    bench_state t;
    char line[32], *end;
    double ms;
    moe_status status = state_open(&t, m, p, err);
    for (int i = 0; status == MOE_OK && i < p->n_cases; i++)
        status = time_case(&t, &p->cases[i], &ms, err);
    if (status == MOE_OK)
        puts("ready");
    while (status == MOE_OK && (status = cli_flush(err)) == MOE_OK &&
           fgets(line, sizeof line, stdin)) {
        long i = strtol(line, &end, 10);
        if (end == line || *end != '\n' || i < 0 || i >= p->n_cases) {
            status = moe_fail(err, MOE_E_ARGUMENT, "standard input: expected an index below %d",
                              p->n_cases);
            break;
        }
        status = time_case(&t, &p->cases[i], &ms, err);
        printf("%.4f\n", ms);
    }
    state_close(&t);
    return status;
}

double bench_percentile(const double *sorted, int n, double share)
{
    int rank = (int)(share * n + 0.999999);
    return sorted[rank < 1 ? 0 : rank > n ? n - 1 : rank - 1];
}

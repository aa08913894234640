/* layer_stage.c: split -> activations -> router -> put. What is held is one layer:
 * its weights in source order and the mass of each token and expert. */
#include <stdlib.h>

#include "convert/layer_stage.h"
#include "engine/model/pack.h"

/* Arrays of the layer at work. */
typedef struct {
    ffn_layer l;
    float *w1, *b1, *w2, *up; /* source order; up NULL: not gated */
    float *mass, *frequency;
    int64_t *fired;
    int32_t *expert, *neurons, *train, *held_out;
    router_input in;
} desk;

static void desk_free(desk *k)
{
    free(k->w1);
    free(k->b1);
    free(k->w2);
    free(k->up);
    free(k->mass);
    free(k->frequency);
    free(k->fired);
    free(k->expert);
    free(k->neurons);
    free(k->train);
    free(k->held_out);
}

static moe_status desk_init(desk *k, const layer_stage *s, const moe_ffn *f, int index,
                            moe_error *err)
{
    const size_t d = (size_t)f->d, d_ff = (size_t)f->d_ff;
    const size_t n = (size_t)s->text->n_tokens, experts = (size_t)f->n_experts;
    *k = (desk){.w1 = malloc(d_ff * d * sizeof(float)),
                .b1 = malloc(d_ff * sizeof(float)),
                .w2 = malloc(d_ff * d * sizeof(float)),
                .up = f->gated ? malloc(d_ff * d * sizeof(float)) : NULL,
                .mass = malloc(n * experts * sizeof(float)),
                .frequency = malloc(experts * sizeof(float)),
                .fired = calloc(d_ff, sizeof(int64_t)),
                .expert = malloc(d_ff * sizeof(int32_t)),
                .neurons = malloc(experts * MOE_EXPERT_SIZE * sizeof(int32_t)),
                .train = malloc(n * sizeof(int32_t)),
                .held_out = malloc(n * sizeof(int32_t))};
    if (!k->w1 || !k->b1 || !k->w2 || !k->mass || !k->frequency || !k->fired ||
        (f->gated && !k->up) || !k->expert || !k->neurons || !k->train || !k->held_out)
        return moe_fail(err, MOE_E_MEMORY, "no memory for layer %d", index);
    unpack_w1(f, k->w1);
    unpack_b1(f, k->b1);
    unpack_w2(f, k->w2);
    if (k->up)
        unpack_up(f, k->up);
    k->l = (ffn_layer){.index = index, .d = f->d, .d_ff = f->d_ff, .n_experts = f->n_experts,
                       .act = f->act, .w1 = k->w1, .b1 = k->b1, .w2 = k->w2, .up = k->up, .x = s->x,
                       .n_tokens = s->text->n_tokens, .cu_seqlens = s->text->cu_seqlens,
                       .n_seqs = s->text->n_seqs, .seed = s->seed, .workers = s->workers};
    k->in = (router_input){.l = &k->l, .neurons = k->neurons, .mass = k->mass,
                           .sensitivity = s->sensitivity,
                           .train = k->train, .held_out = k->held_out};
    router_hold_out(&k->l, k->train, &k->in.n_train, k->held_out, &k->in.n_held_out);
    return MOE_OK;
}

/* Share of the activation mass per expert; equal shares where nothing fires. */
static void find_frequency(desk *k)
{
    const size_t experts = (size_t)k->l.n_experts;
    double all = 0;
    for (size_t e = 0; e < experts; e++) {
        double sum = 0;
        for (size_t t = 0; t < (size_t)k->l.n_tokens; t++)
            sum += k->mass[t * experts + e];
        k->frequency[e] = (float)sum;
        all += sum;
    }
    for (size_t e = 0; e < experts; e++)
        k->frequency[e] = all > 0 ? (float)(k->frequency[e] / all) : 1 / (float)experts;
}

static void count_firing(const desk *k, layer_report *report)
{
    int64_t firing = 0;
    report->dead = 0;
    for (int n = 0; n < k->l.d_ff; n++) {
        firing += k->fired[n];
        report->dead += k->fired[n] == 0;
    }
    report->active = (double)firing / k->l.d_ff / k->l.n_tokens;
}

static void say(const layer_stage *s, int layer, int stage, const char *what)
{
    if (s->on_stage)
        s->on_stage(s->ctx, layer, stage, what);
}

static moe_status split_and_route(const layer_stage *s, desk *k, router_rows *router,
                                  layer_report *report, moe_error *err)
{
    const int layer = k->l.index;
    report->converted = true;
    say(s, layer, 0, "split");
    moe_status status = s->split->split(&k->l, k->expert, &report->split, err);
    if (status != MOE_OK)
        return status;
    layer_list_neurons(&k->l, k->expert, k->neurons);
    say(s, layer, 1, "activations");
    status = layer_expert_mass(&k->l, k->neurons, k->mass, k->fired, err);
    count_firing(k, report);
    find_frequency(k);
    say(s, layer, 2, "router");
    if (status == MOE_OK)
        status = s->router->make(&k->in, router, &report->router, err);
    if (status == MOE_OK)
        status = router_captured(&k->in, router, &report->captured, err);
    if (status == MOE_OK)
        status = router_captured(&k->in, NULL, &report->oracle, err);
    return status;
}

moe_status layer_stage_run(const layer_stage *s, int layer, converted *c,
                           router_rows *router, moe_error *err)
{
    desk k;
    *router = (router_rows){.n_linears = 0};
    moe_status status =
        desk_init(&k, s, &c->model.weights.layers[layer].ffn, layer, err);
    if (status == MOE_OK)
        status = split_and_route(s, &k, router, &c->layers[layer], err);
    if (status == MOE_OK)
        status = converted_put_split(c, layer, k.neurons, k.frequency, err);
    if (status == MOE_OK)
        status = converted_put_router(c, layer, router, err);
    desk_free(&k);
    return status;
}

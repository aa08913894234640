/* fuzz_config.c: any bytes as config.json. What is accepted must keep the
 * promises that the engine builds on. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Finite, never rising where there is a router, in all rows or none. */
static void check_thresholds(const moe_config *m, int n_layers)
{
    for (int i = 0; i < m->n_rows; i++) {
        if (!m->rows[i].thresholds != !m->thresholds)
            abort();
        for (int l = 0; m->thresholds && l < n_layers; l++) {
            float here = m->rows[i].thresholds[l];
            if (!isfinite(here) ||
                (i > 0 && m->has_router[l] && here > m->rows[i - 1].thresholds[l]))
                abort();
        }
    }
}

/* In [0, n_experts], never falling, all at ratio 1 and where there is no router, in all
 * rows or none. */
static void check_means(const moe_config *m, int n_layers, int n_experts)
{
    for (int i = 0; i < m->n_rows; i++) {
        if (!m->rows[i].mean_experts != !m->mean_experts)
            abort();
        for (int l = 0; m->mean_experts && l < n_layers; l++) {
            float here = m->rows[i].mean_experts[l];
            bool all = m->rows[i].ratio == 1 || !m->has_router[l];
            if (!(here >= (all ? n_experts : 0) && here <= n_experts) ||
                (i > 0 && here < m->rows[i - 1].mean_experts[l]))
                abort();
        }
    }
}

static void check_policy(const moe_config *m)
{
    if (m->policy < MOE_POLICY_TOPK || m->policy > MOE_POLICY_SEQUENCE ||
        (m->policy == MOE_POLICY_THRESHOLD && !m->thresholds) ||
        (m->policy == MOE_POLICY_SEQUENCE && !m->mean_experts))
        abort();
}

static void check(const model_config *c)
{
    if (c->n_layers < 1 || c->d_model < 1 || c->n_heads < 1 || c->d_model % c->n_heads ||
        c->n_experts * MOE_EXPERT_SIZE < c->d_ff || c->n_labels < 1)
        abort();
    for (int i = 0; i < c->n_labels; i++)
        if (!c->labels[i] || strlen(c->labels[i]) > (size_t)16 << 20)
            abort();
    if (!c->moefied)
        return;
    for (int i = 0; i < c->moe.n_rows; i++)
        for (int l = 0; l < c->n_layers; l++) {
            int k = c->moe.rows[i].experts[l];
            if (k < 1 || k > c->n_experts || (i > 0 && k < c->moe.rows[i - 1].experts[l]))
                abort();
        }
    check_thresholds(&c->moe, c->n_layers);
    check_means(&c->moe, c->n_layers, c->n_experts);
    check_policy(&c->moe);
    if (c->moe.rows[c->moe.n_rows - 1].ratio != 1)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    model_config c;
    moe_error err;
    if (config_parse("fuzz", (const char *)data, size, &c, &err) == MOE_OK) {
        check(&c);
        config_free(&c);
    }
    return 0;
}

/* convert.h: from an open dense model and calibration text to the weights of a
 * MoEfied one. Layer by layer: capture -> split -> expert mass -> router. */
#ifndef CONVERT_CONVERT_H
#define CONVERT_CONVERT_H

#include "convert/capture.h"
#include "convert/router.h"
#include "convert/split.h"
#include "engine/model/model.h"

typedef struct {
    const split_kind *split;
    const router_kind *router;
    const bool *wanted;     /* [n_layers]: layers to convert */
    uint64_t seed;
    int max_tokens;
    int n_threads;          /* 0: as many as moe_pool_create takes */
    const char *spool_dir;  /* where captured rows may lie */
} convert_options;

/* What was found out about a layer. */
typedef struct {
    bool converted;
    split_report split;
    router_report router;
    double active;          /* share of (token, neuron) pairs that fire */
    int dead;               /* neurons that never fire */
    double captured;        /* by the router at 20% of the experts, held-out tokens */
    double oracle;          /* the same by the true best experts */
} layer_report;

typedef struct {
    moe_weights weights;    /* the source's, with the converted layers in place */
    layer_report *layers;   /* [n_layers] */
    int n_tokens, n_seqs, n_rows, n_unknown;
    struct converted_memory *memory;
} converted;

/* The result borrows m, which must outlive it: converted_free. Interrupted by a
 * signal: MOE_E_IO. */
moe_status convert_model(const moe_model *m, const dataset *data,
                         const convert_options *o, progress *bar, converted *out,
                         moe_error *err);
void converted_free(converted *c);

/* The ratios that a table lists, and the experts of one layer at one of them:
 * max(1, round(ratio * n_experts)), all of them in a layer that stays dense. */
enum { N_RATIOS = 14 };
extern const double ratio_grid[N_RATIOS];
int ratio_experts(double ratio, int n_experts, bool converted_layer);

#endif

/* convert.h: from an open dense model and calibration text to the weights of a
 * MoEfied one, with its routers, budgets and measured fidelity. */
#ifndef CONVERT_CONVERT_H
#define CONVERT_CONVERT_H

#include "convert/converted.h"
#include "convert/dataset.h"
#include "convert/resume.h"

typedef enum {
    BUDGET_UNIFORM,  /* the same count in every layer */
    BUDGET_MEASURED, /* by what a layer's experts do to the answer */
} budget_kind;

typedef struct {
    const split_kind *split;
    const router_kind *router;
    budget_kind budget;
    bool sensitivity;       /* by_norm routers weigh tokens by the answer's gradient */
    bool refit;             /* by_norm routers are fitted again on the sparse model */
    bool shift;             /* FFNs get what is left out of them on average */
    const bool *wanted;     /* [n_layers]: layers to convert */
    uint64_t seed;
    int max_tokens;
    moe_dtype dtype;        /* of the layers' linear weights */
    const char *task;       /* of text-to-text rows that name none, NULL: none */
    int n_threads;          /* 0: as many as moe_pool_create takes */
    const char *spool_dir;  /* where captured rows may lie */
    resume *resume;         /* finished layers are kept there and found again */
} convert_options;

/* The result borrows m, which must outlive it: converted_free. Interrupted by a
 * signal: MOE_E_IO. */
moe_status convert_model(const moe_model *m, const dataset *data,
                         const convert_options *o, progress *bar, converted *out,
                         moe_error *err);

#endif

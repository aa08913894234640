/* session.h: an open model with a pool and an engine, and growing ragged batches
 * to run through it. What run, eval and bench share. One thread. */
#ifndef CONVERT_SESSION_H
#define CONVERT_SESSION_H

#include "convert/dataset.h"

typedef struct {
    moe_model *model;            /* NULL where it was lent: session_open_on */
    const moe_model *in_use;
    const moe_model_info *info;
    moe_pool *pool;
    moe_engine *engine;
} session;

/* Opens the model of a directory. n_threads 0: all that the process may use.
 * On failure nothing is owed. */
moe_status session_open(session *s, const char *dir, moe_backend_kind backend,
                        int n_threads, moe_error *err);
/* The same on a model that the caller keeps. */
moe_status session_open_on(session *s, const moe_model *m, moe_backend_kind backend,
                           int n_threads, moe_error *err);
void session_close(session *s);

/* Whether the model in use can follow p; if not, MOE_E_ARGUMENT says why. */
moe_status session_check_policy(const session *s, moe_policy p, moe_error *err);

/* A row's tokens, cut to the model's limit by the longest first, of a question and a
 * context only the latter; moe_tokens_free. */
moe_status row_tokenize(const moe_model *m, const dataset_row *row, bool want_offsets,
                        moe_tokens *out, moe_error *err);

/* "text-classification", "multi-label-classification", "regression". */
const char *task_name(moe_task task);

/* Sequences end to end with what moe_forward said of each. */
typedef struct {
    int n_seqs, n_tokens;
    int32_t *cu_seqlens;         /* [n_seqs + 1] */
    int32_t *ids, *types;        /* [n_tokens] */
    moe_selection *selection;    /* [n_seqs] */
    float *logits;               /* as logits.h has them, after batch_run */
    double *effective_ratio, *mass; /* [n_seqs] */
    int seq_room, token_room, n_labels;
} batch;

/* Adds a copy of the n tokens; MOE_E_MEMORY or, past 2^30 tokens, MOE_E_LIMIT. */
moe_status batch_add(batch *b, const int32_t *ids, const int32_t *types, int n,
                     moe_selection selection, moe_error *err);
/* Runs all sequences. with_mass: fills mass too, at the cost of computing every
 * neuron. */
moe_status batch_run(batch *b, session *s, bool with_mass, moe_error *err);
void batch_clear(batch *b); /* no sequences; keeps the memory */
void batch_free(batch *b);

#endif

/* config.h: config.json of an encoder with a head (BERT, DistilBERT, RoBERTa,
 * XLM-RoBERTa) or of a T5 checkpoint, and the moefication object of a MoEfied one, read
 * and checked. The keys, their ranges and defaults are listed in docs/model-format.md. */
#ifndef MOE_MODEL_CONFIG_H
#define MOE_MODEL_CONFIG_H

#include "engine/model/weights.h"

struct cJSON;

/* The moefication object. All zero where there is none. */
typedef struct {
    const char *split, *router_kind;
    moe_dtype dtype;           /* of the layers' linear weights */
    bool normalize;
    int n_linears, width;      /* of the routers; width 0 where n_linears is 1 */
    bool *has_router;          /* [n_layers] */
    int n_rows;
    moe_ratio_row *rows;       /* [n_rows] ascending, the last is ratio 1 */
    int *experts;              /* [n_rows, n_layers], what rows point into */
    float *thresholds;         /* the same, or NULL: no row has them */
    float *mean_experts;       /* the same */
    bool shift;                /* FFNs have shifts, a row to each of the table's */
    moe_policy policy;         /* never MODEL; the rows have what it needs */
    char *json;                /* the object as text, on one line */
} moe_config;

typedef enum {
    MOE_FAMILY_BERT, MOE_FAMILY_DISTILBERT,
    MOE_FAMILY_ROBERTA, /* XLM-RoBERTa too */
    MOE_FAMILY_T5
} moe_family;

/* What T5's config.json says beyond the sizes that all have. */
typedef struct {
    bool gated, tied;          /* FFN of two products; lm_head is the word embedding */
    int n_buckets, max_distance; /* of relative positions */
    int32_t start_id, end_id;  /* the decoder's first input; </s> */
} t5_config;

typedef struct {
    char *path;                /* DIR/config.json, for messages */
    moe_family family;
    const char *architecture, *activation;
    moe_task task;
    moe_activation act;
    int n_layers, d_model, n_heads, d_ff, n_vocab, max_positions, n_types;
    int first_position;        /* row of max_positions that a text's first token has */
    int32_t pad_id;            /* RoBERTa: its tokens have the row before; else -1 */
    int n_decoder_layers;      /* the last of n_layers: T5 */
    int d_head;                /* columns of an attention head */
    int n_experts;             /* ceil(d_ff / 32), moefied or not */
    float norm_eps;
    int n_labels;
    const char **labels;       /* [n_labels] */
    t5_config t5;              /* of MOE_FAMILY_T5 */
    int n_tasks;
    moe_text_task *tasks;      /* [n_tasks] */
    bool moefied;
    moe_config moe;
    struct cJSON *root;        /* strings point into it */
} model_config;

/* MOE_E_FORMAT: missing, of the wrong type or out of range. MOE_E_UNSUPPORTED: a
 * model that this build cannot run. Messages name path, key, found, expected.
 * On success the caller owns *out: config_free. */
moe_status config_read(const char *dir, model_config *out, moe_error *err);
/* The same from text. */
moe_status config_parse(const char *path, const char *text, size_t n,
                        model_config *out, moe_error *err);
void config_free(model_config *c);

/* config_encoder.c: everything but the moefication object, of the encoders. */
moe_status config_read_encoder(model_config *c, moe_error *err);
/* Labels and task of one, c->task saying whether it answers. */
moe_status config_read_labels(model_config *c, moe_error *err);

/* config_t5.c: everything but the moefication object, of model_type "t5". */
moe_status config_read_t5(model_config *c, moe_error *err);

/* config_tasks.c: moefication.tasks into c->tasks. */
moe_status config_read_tasks(const struct cJSON *object, model_config *c, moe_error *err);
/* A file of them, {"tasks": [...]}: *out has only these and what they point into, and on
 * success is the caller's: config_free. */
moe_status config_read_tasks_file(const char *path, model_config *out, moe_error *err);

/* config_moe.c: reads the object into c->moe, the rest of c being read. */
moe_status config_read_moefication(const struct cJSON *object, model_config *c,
                                   moe_error *err);

#endif

/* moe.h: libmoe, the only header that server/, convert/ and outside users include.
 *
 * A model is a Transformer whose feed-forward networks are cut into experts of
 * 32 neurons with a router per layer (MoEfication, Zhang et al. 2022,
 * arXiv:2110.01786). A forward pass takes a ragged batch of sequences; each
 * sequence says which share of the FFN neurons (the ratio) it wants computed.
 *
 *     moe_model *m;  moe_pool *p;  moe_engine *e;  moe_error err;
 *     moe_model_open("dir", &m, &err);
 *     moe_pool_create(0, &p, &err);
 *     moe_engine_create(m, p, NULL, &e, &err);
 *     moe_tokenize(m, &text, &tokens, &err);
 *     moe_forward(e, &batch, &output, &err);
 *
 * Conventions. Functions that can fail return a moe_status and fill err, which
 * may be NULL. On failure an out pointer is set to NULL and nothing is owed.
 * destroy/close/free accept NULL. Strings are UTF-8. Shapes stand in brackets,
 * row-major: logits [n_seqs, n_labels].
 *
 * Threads. A moe_model is immutable once opened: any thread may read it and
 * tokenize with it. A moe_engine belongs to one thread at a time. Engines may
 * share a moe_pool; their forward passes then take turns. */
#ifndef MOE_H
#define MOE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- errors ---------------------------------------------------------- */

typedef enum {
    MOE_OK = 0,
    MOE_E_IO,          /* the operating system refused: open, read, map, write */
    MOE_E_FORMAT,      /* a file is broken or lies about itself */
    MOE_E_UNSUPPORTED, /* well-formed, but not something this build can run */
    MOE_E_ARGUMENT,    /* a caller's value is out of range */
    MOE_E_LIMIT,       /* larger than a stated limit */
    MOE_E_MEMORY,
} moe_status;

typedef struct {
    moe_status code;
    char message[512]; /* one line: file, thing, expected, found */
} moe_error;

/* Fills err (may be NULL) with a formatted message and returns code. */
moe_status moe_fail(moe_error *err, moe_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- models ---------------------------------------------------------- */

enum { MOE_EXPERT_SIZE = 32 }; /* neurons of an expert: the kernels' width */

typedef enum {
    MOE_TASK_CLASSIFY,    /* one label of several: softmax over the logits */
    MOE_TASK_MULTI_LABEL, /* any labels: sigmoid of each logit */
    MOE_TASK_REGRESS,     /* one raw number */
    MOE_TASK_TEXT,        /* text to text (T5): answers come from moe_decode */
    MOE_TASK_ANSWER,      /* where in a text the answer begins and ends: two logits to
                             every token, labelled "start" and "end" */
} moe_task;

/* How a token's experts follow from its router scores. */
typedef enum {
    MOE_POLICY_MODEL = 0, /* the model's own default */
    MOE_POLICY_TOPK,      /* a layer's count of experts, the best ones */
    MOE_POLICY_THRESHOLD, /* those that score at least the layer's threshold: a count
                             that varies by token and may be 0 */
    MOE_POLICY_SEQUENCE,  /* the best (token, expert) pairs of a sequence of n tokens, n
                             times the layer's mean count: tokens share a budget */
} moe_policy;

/* "topk", "threshold" or "sequence", as configurations and requests say it; "model". */
const char *moe_policy_name(moe_policy p);
/* Any but MODEL by that name; false, *out untouched: none. */
bool moe_policy_find(const char *name, moe_policy *out);

/* Expert counts per layer for one ratio, the thresholds that compute so many on
 * average, and that mean; the engine interpolates between rows. */
typedef struct {
    double ratio;       /* share of the model's FFN neurons, (0, 1] */
    const int *experts; /* [n_layers] */
    const float *thresholds; /* [n_layers], or NULL: the row has none. No meaning
                                in layers without a router */
    const float *mean_experts; /* [n_layers] per token, [0, n_experts], or NULL */
} moe_ratio_row;

/* What a text-to-text model is asked to do. */
typedef struct {
    const char *name;     /* "mrpc" */
    moe_task kind;        /* CLASSIFY: the labels are scored; REGRESS: so are they, and are
                             numbers; ANSWER: the text answers a question about the second
                             text; TEXT: any */
    const char *format;   /* "mrpc sentence1: {text} sentence2: {text_pair}"; {question} is
                             {text}, {context} is {text_pair} */
    const char *const *labels;
    int n_labels;         /* 0 but of CLASSIFY and REGRESS */
} moe_text_task;

/* What a model is. Owned by the model; lives as long as it. */
typedef struct {
    const char *dir;          /* as given to moe_model_open */
    const char *architecture; /* "BertForSequenceClassification" */
    moe_task task;
    bool moefied;             /* false: a Hugging Face checkpoint, runs dense only */
    int n_layers, d_model, n_heads, d_ff, n_vocab;
    int n_decoder_layers;     /* of n_layers, the last ones: 0 but for T5 */
    int max_tokens;           /* longest sequence, special tokens included; of a decoder's
                                 too */
    int n_labels;             /* 0 of MOE_TASK_TEXT */
    const char *const *labels; /* [n_labels], by id */
    const char *activation;    /* "relu", "gelu", "gelu_new" */
    const char *dtype;         /* of the layers' linear weights: "f32", "bf16" or "int8" */
    int n_experts;             /* of a layer: ceil(d_ff / 32) */
    int expert_size;
    const char *router, *split; /* "" where not moefied */
    int n_ratio_rows;
    const moe_ratio_row *ratio_rows; /* ascending; the last is ratio 1 */
    bool has_thresholds, has_mean_experts; /* all ratio rows have them */
    moe_policy policy;         /* the default: never MODEL */
    int n_tasks;               /* of MOE_TASK_TEXT: those that the directory states */
    const moe_text_task *tasks;
    size_t weight_bytes;             /* mapped or owned */
    const char *moefication_json;    /* the config's moefication object, "" if none */
} moe_model_info;

/* p, or the model's default in place of MODEL. */
moe_policy moe_policy_resolve(const moe_model_info *info, moe_policy p);
/* What p needs and the model lacks: "thresholds" or "mean_experts"; NULL: nothing. */
const char *moe_policy_lacks(const moe_model_info *info, moe_policy p);

typedef struct moe_model moe_model;

/* Opens a MoEfied directory (mapped, used in place) or a Hugging Face
 * checkpoint (read, converted to fp32 and packed: runs dense). Everything read
 * is checked; MOE_E_IO, _FORMAT, _UNSUPPORTED or _MEMORY name the file. */
moe_status moe_model_open(const char *dir, moe_model **out, moe_error *err);
void moe_model_close(moe_model *m);
const moe_model_info *moe_model_describe(const moe_model *m);

/* ---- text ------------------------------------------------------------ */

typedef enum {
    MOE_TRUNCATE_LONGEST_FIRST, /* take tokens from the longer of the two */
    MOE_TRUNCATE_ONLY_SECOND,   /* take them from the second text only */
    MOE_TRUNCATE_NEVER,         /* too long is MOE_E_LIMIT */
} moe_truncation;

typedef struct {
    const char *text;  size_t text_bytes;
    const char *pair;  size_t pair_bytes; /* pair NULL: a single text */
    int max_tokens;      /* 0: the model's limit; never above it */
    moe_truncation truncation;
    bool cut_left;       /* what is cut goes from the left end of a text, not the right */
    bool strict_utf8;    /* invalid UTF-8 is MOE_E_ARGUMENT, not U+FFFD */
    bool want_offsets;
} moe_text;

/* Code points [start, end) of the text (which: 0) or the pair (1) a token came
 * from; special tokens have which = -1. */
typedef struct { int32_t which, start, end; } moe_span;

typedef struct {
    int n;            /* tokens, special ones included */
    int32_t *ids;     /* [n] */
    int32_t *types;   /* [n] token type (segment) ids */
    moe_span *spans;  /* [n], or NULL where not wanted */
    int n_truncated;  /* tokens cut off */
} moe_tokens;

/* Text to ids, as the checkpoint's Hugging Face fast tokenizer does it.
 * On success the caller owns *out: moe_tokens_free. Any thread. */
moe_status moe_tokenize(const moe_model *m, const moe_text *in,
                        moe_tokens *out, moe_error *err);
void moe_tokens_free(moe_tokens *t);
/* The vocabulary's string of an id ("##ing"), NULL if out of range. */
const char *moe_token_text(const moe_model *m, int32_t id);

/* ---- engines --------------------------------------------------------- */

/* What an engine computes on. */
typedef enum {
    MOE_BACKEND_AUTO = 0, /* a GPU where this build can use one and the machine has
                             it, else the CPU */
    MOE_BACKEND_CPU,
    MOE_BACKEND_CUDA,     /* MOE_E_UNSUPPORTED where that is not to be had */
} moe_backend_kind;
/* "auto", "cpu" or "cuda". */
const char *moe_backend_name(moe_backend_kind k);
/* The kind of that name; false, *out untouched: none. */
bool moe_backend_find(const char *name, moe_backend_kind *out);

/* A pool of compute threads, the caller of moe_forward being one of them.
 * n_threads 0: as many as the affinity mask and the cgroup quota allow. */
typedef struct moe_pool moe_pool;
moe_status moe_pool_create(int n_threads, moe_pool **out, moe_error *err);
void moe_pool_destroy(moe_pool *p);
int moe_pool_threads(const moe_pool *p);

/* Whose word the selection of experts follows. All but ROUTER are controls for
 * evaluation. */
typedef enum {
    MOE_SELECT_ROUTER,    /* the model's router */
    MOE_SELECT_ORACLE,    /* positive activation mass per expert (ground truth) */
    MOE_SELECT_RANDOM,    /* a hash of layer, position and token id */
    MOE_SELECT_FREQUENCY, /* the same experts for all: most active in calibration */
} moe_selector;

/* Controls always select by TOPK, and so does THRESHOLD at a ratio below the first row
 * of the model's table. */
typedef struct {
    double ratio; /* (0, 1]; 1 is exactly dense */
    moe_selector selector;
    moe_policy policy; /* one that moe_policy_lacks nothing for */
} moe_selection;

typedef struct {
    int n_seqs;
    const int32_t *cu_seqlens;  /* [n_seqs + 1], from 0 */
    const int32_t *token_ids;   /* [cu_seqlens[n_seqs]] */
    const int32_t *token_types; /* the same, or NULL: all 0 */
    const moe_selection *selection; /* [n_seqs], or NULL: dense. One selector for
                                       all; ratios and policies may be mixed */

    /* MOE_TASK_TEXT alone. The tokens that each sequence's answer is to have, </s>
     * included: the decoder gets them one place later, behind its start token, and
     * tells what it would have said. NULL: the encoder alone runs. */
    const int32_t *cu_targets;  /* [n_seqs + 1], from 0; at least one, at most max_tokens */
    const int32_t *target_ids;  /* [cu_targets[n_seqs]] */
    const float *memory;        /* steps on decoder layers: the encoder's states
                                   [cu_seqlens[n_seqs], d_model], of moe_step_encoded */
} moe_batch;

/* Filled by moe_forward into arrays of the caller. */
typedef struct {
    float *logits;           /* [n_seqs, n_labels]; of ANSWER [tokens, 2]; not
                                looked at of TEXT */
    double *effective_ratio; /* [n_seqs] neurons selected / neurons, over all tokens and
                                layers, or NULL. Tokens of the last layer that no head
                                reads are not computed, at any ratio; they count with
                                what their sequence's choice grants them */
    double *mass;            /* [n_seqs] share of positive activation kept of the tokens
                                that are computed, or NULL; asking for it computes every
                                neuron of theirs */
    float *states;           /* MOE_TASK_TEXT: [n_tokens, d_model] the encoder's, or NULL */
    float *target_logprob;   /* MOE_TASK_TEXT with targets: [n_targets] log-probability
                                of each, after those before it, or NULL */
} moe_output;

/* Called once a layer and chunk from within moe_forward, on its thread.
 * x [n_tokens, d_model]: rows that enter the layer's FFN, valid for the call.
 * A status other than MOE_OK ends the forward pass with it. */
typedef moe_status (*moe_capture)(void *ctx, int layer, const float *x,
                                  int n_tokens, moe_error *err);

typedef struct {
    moe_backend_kind backend;
    int chunk_tokens;    /* tokens run through the layers at once: sizes the
                            arena; 0: 2048. At least the model's max_tokens */
    moe_capture capture; /* NULL: none */
    void *capture_ctx;
    bool measure_plan;   /* times the first sparse layer on this machine to fill the table
                            of moe_engine_plan; a server's affair: it takes some
                            milliseconds per million FFN weights */
} moe_engine_options;

/* Of a batch of at least n_tokens tokens (and fewer than the next row says), a layer in
 * which more than this share of (token, expert) pairs is selected runs as a dense one
 * with the others' hidden values cleared: faster, and the same bits. */
typedef struct { int n_tokens; double dense_above; } moe_plan_row;

typedef struct moe_engine moe_engine;
/* The engine borrows model and pool: both must outlive it. */
moe_status moe_engine_create(const moe_model *m, moe_pool *pool,
                             const moe_engine_options *options /* or NULL */,
                             moe_engine **out, moe_error *err);
void moe_engine_destroy(moe_engine *e);
/* The table: *rows [returned] of the engine. 0: the backend or the weights' dtype has one
 * path only. */
int moe_engine_plan(const moe_engine *e, const moe_plan_row **rows);
const char *moe_engine_isa(const moe_engine *e); /* "c", "avx2", ..., "avx512amx" */

/* Runs a batch of any number of tokens. A sequence's logits are the same bits
 * in any batch and with any number of threads. MOE_E_ARGUMENT on an id, type,
 * length, ratio or policy out of range, naming the sequence and it; the output is
 * then undefined. */
moe_status moe_forward(moe_engine *e, const moe_batch *batch,
                       moe_output *out, moe_error *err);

/* The forward pass in steps, for conversion and analysis: the caller keeps the
 * rows of a text of any length and works on one layer at a time. Embed, each
 * layer's attention and FFN, and head, in this order, give moe_forward's bits.
 * x [n_tokens, d_model]: host memory of the caller. The batch is checked as by
 * moe_forward; a layer out of range is MOE_E_ARGUMENT. Steps neither call the
 * capture nor count in the routing statistics. */
/* Out: the rows that enter layer 0. */
moe_status moe_step_embed(moe_engine *e, const moe_batch *b, float *x, moe_error *err);
/* In place: rows that enter the layer become rows that enter its FFN (BERT:
 * attention, residual, norm; T5: attention and residual, in the decoder twice, and
 * moe_step_ffn_input makes of them what enters the FFN). On decoder layers the rows
 * are those of the targets, and b->memory is read. */
moe_status moe_step_attention(moe_engine *e, int layer, const moe_batch *b, float *x,
                              moe_error *err);
/* In place: rows that enter the FFN become rows that leave the layer (the experts
 * that b->selection asks for, residual, norm). */
moe_status moe_step_ffn(moe_engine *e, int layer, const moe_batch *b, float *x,
                        moe_error *err);
/* What the FFN adds: rows x that enter it, as moe_step_attention leaves them, to its output
 * without residual and norm. x, out: as moe_step_ffn's x; may be the same. */
moe_status moe_step_ffn_output(moe_engine *e, int layer, const moe_batch *b, const float *x,
                               float *out, moe_error *err);
/* Rows as moe_step_attention leaves them to the rows that the FFN multiplies: T5 norms
 * them first, BERT did already (a copy). x, out [n_rows, d_model] may be the same. */
moe_status moe_step_ffn_input(moe_engine *e, int layer, const float *x, int n_rows,
                              float *out, moe_error *err);
/* MOE_TASK_TEXT, in place: rows that leave the encoder's last layer to its states. */
moe_status moe_step_encoded(moe_engine *e, const moe_batch *b, float *x, moe_error *err);
/* MOE_TASK_TEXT. Out: the rows [n_targets, d_model] that enter the first decoder layer. */
moe_status moe_step_embed_targets(moe_engine *e, const moe_batch *b, float *x, moe_error *err);
/* Rows that leave the last layer to logits as moe_output has them; of TEXT the targets'
 * rows to logits [n_targets, n_vocab]. */
moe_status moe_step_head(moe_engine *e, const moe_batch *b, const float *x,
                         float *logits, moe_error *err);

/* Logits to what the task calls scores: softmax, sigmoid or the raw value. Not for
 * ANSWER. logits, scores [n_labels]; may be the same array. */
void moe_scores(const moe_model *m, const float *logits, float *scores);

/* ---- text to text ----------------------------------------------------- */

/* The task of that name: the model's own or, failing that, one known by name (GLUE and
 * SQuAD as T5 was trained on them). NULL: none, or not a text-to-text model. */
const moe_text_task *moe_text_task_find(const moe_model *m, const char *name);
const moe_text_task *moe_text_tasks_known(int *n); /* all of those, static */
/* The template with in->text and in->pair put in: *out, of *n bytes and a NUL; free().
 * MOE_E_ARGUMENT: it needs a pair and there is none. */
moe_status moe_text_task_apply(const moe_text_task *t, const moe_text *in, char **out,
                               size_t *n, moe_error *err);

/* The tokens of a set of label words, each with </s>, as a tree of their prefixes.
 * Immutable: any thread. */
typedef struct moe_labels moe_labels;
/* words [n]: UTF-8, tokenized by the model as texts are. MOE_E_ARGUMENT: no words, one
 * that has no token, or two with the same tokens; MOE_E_LIMIT: more than 4096 words, or
 * more tokens than the model takes. The model must outlive *out. */
moe_status moe_labels_create(const moe_model *m, const char *const *words, int n,
                             moe_labels **out, moe_error *err);
void moe_labels_destroy(moe_labels *l);
int moe_labels_count(const moe_labels *l);
int moe_labels_tokens(const moe_labels *l); /* nodes of the tree: rows of decoder work */

/* What is wanted of one sequence, and what came of it. */
typedef struct {
    const moe_labels *labels; /* to score; NULL: a generated text */
    float *logprob;           /* labels: out [moe_labels_count], summed over a label's tokens;
                                 text: out [1], over those generated, or NULL */
    int max_new_tokens;       /* text: at most so many, </s> included; 1 to max_tokens */
    int32_t *ids;             /* text: out [max_new_tokens], without the start token */
    int n_ids;                /* text: out */
    bool ended;               /* text: out, the last of ids is </s>; false: the limit */
} moe_decoding;

/* Runs encoder and decoder of a MOE_TASK_TEXT model: greedy text, or the log-probability
 * of each label, by one pass over the tree. Sequences of both kinds, of any ratios and any
 * number may be mixed; a sequence's result is the same bits in any batch and with any
 * number of threads. Targets of the batch are not looked at. Each decoder token is
 * routed by itself: with MOE_POLICY_SEQUENCE its layers share its budget.
 * effective_ratio [n_seqs]: out over both halves, or NULL. Errors as of moe_forward. */
moe_status moe_decode(moe_engine *e, const moe_batch *batch, moe_decoding *each,
                      double *effective_ratio, moe_error *err);

/* Log-probabilities of n labels to scores: their softmax. May be the same array. */
void moe_label_scores(const float *logprob, int n, float *scores);

/* The text of ids, special ones left out. *out ends in NUL: free(). MOE_E_UNSUPPORTED
 * where the model's tokenizer makes no text of ids. Any thread. */
moe_status moe_detokenize(const moe_model *m, const int32_t *ids, int n, char **out,
                          moe_error *err);

/* ---- question answering ----------------------------------------------- */

/* A question about a text, asked of a model of the task ANSWER. */
typedef struct {
    const char *question; size_t question_bytes;
    const char *context;  size_t context_bytes;
    int max_seq_len;      /* tokens of a window; 0: 384 or the model's limit */
    int doc_stride;       /* tokens that windows share; 0: half a window or 128 */
    int max_question_len; /* tokens; a longer question is cut; 0: 64 */
    int max_windows;      /* more are MOE_E_LIMIT; 0: 4096 */
    bool strict_utf8;     /* as in moe_text */
} moe_question;

/* A text longer than a window is read in several: each the whole question and as
 * much of the context as fits, the next one beginning doc_stride tokens before its
 * end. Hugging Face's question-answering pipeline cuts in the same places. */
typedef struct {
    int n;
    moe_tokens *windows;  /* [n], with spans: which 0 the question's, 1 the context's */
} moe_windows;
/* MOE_E_ARGUMENT: a length out of range, a question that leaves no room. On success
 * the caller owns *out: moe_windows_free. Any thread. */
moe_status moe_windows_make(const moe_model *m, const moe_question *q, moe_windows *out,
                            moe_error *err);
void moe_windows_free(moe_windows *w);

typedef struct {
    int top_k;           /* answers wanted; 0: 1 */
    int max_answer_len;  /* tokens; 0: 15 */
    bool allow_none;     /* "no answer" is one of them (handle_impossible_answer) */
    bool cut_words;      /* an answer may begin or end within a word */
} moe_answer_options;

/* Code points [start, end) of the context, and the same in bytes; all 0: none. */
typedef struct {
    int32_t start, end;
    size_t first_byte, end_byte;
    double score;
} moe_answer;

/* The best answers by P(start) P(end) in each window (Devlin et al. 2018, section 4.2,
 * with a softmax over context and [CLS]), best first. What differs only in case is one
 * answer with the sum of the scores, as the pipeline has it. logits [w->n]: of each
 * window, rows of moe_output. answers [top_k]: out; returns how many, -1: out of
 * memory. Any thread. */
int moe_answers_find(const moe_model *m, const moe_question *q, const moe_windows *w,
                     const float *const *logits, const moe_answer_options *o,
                     moe_answer *answers);

/* ---- routing statistics ---------------------------------------------- */

/* Counts since the engine was made or last reset, of sequences with ratio < 1.
 * Any thread may call while another runs moe_forward. */
typedef struct {
    uint64_t tokens;          /* routed in each layer but the last */
    uint64_t last_tokens;     /* routed in the last: those that the head reads */
    uint64_t dense_tokens;    /* that took the dense path */
    uint64_t neurons_selected, neurons_skipped; /* over all tokens and layers as in
                                                   effective_ratio, dense ones selected */
} moe_stats_totals;
moe_stats_totals moe_stats_read(const moe_engine *e);
/* selected [n_layers, n_experts]: out, tokens routed to each expert; of the last layer
 * those that the head reads. */
void moe_stats_experts(const moe_engine *e, uint64_t *selected);
void moe_stats_reset(moe_engine *e);

#ifdef __cplusplus
}
#endif
#endif

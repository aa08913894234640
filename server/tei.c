/* tei.c: answers in the shape of text-embeddings-inference: POST /predict, POST /rerank,
 * GET /info. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "server/clock.h"
#include "server/json_out.h"
#include "server/server.h"

enum { SCORE_DIGITS = 7 };

/* ---- /predict ---------------------------------------------------------- */

void predict_write(buffer *b, request_state *r, int64_t total_ns)
{
    float *scores;
    scored *ranked;
    bool room = classify_scratch(b, r, &scores, &ranked);
    (void)total_ns;
    if (r->body.list)
        jw_open(b, '[');
    for (int i = 0; room && i < r->job->n_sequences; i++) {
        classify_rank(r, i, scores, ranked);
        jw_open(b, '[');
        for (int l = 0; l < r->model->info->n_labels; l++) {
            jw_open(b, '{');
            jw_pair_number(b, "score", ranked[l].score, SCORE_DIGITS);
            jw_pair_string(b, "label", r->model->info->labels[ranked[l].label]);
            jw_close(b, '}');
        }
        jw_close(b, ']');
    }
    if (r->body.list)
        jw_close(b, ']');
    free(scores);
    free(ranked);
}

/* ---- /rerank ------------------------------------------------------------- */

bool rerank_accepts(const request_state *r, problem *p)
{
    return r->model->info->n_labels <= 2 ||
           problem_set(p, 404, "wrong_task", "model '%.64s' has %d labels, expected one, or two "
                       "of which the second says that a text is relevant", r->model->name,
                       r->model->info->n_labels);
}

/* How relevant text i is: the one label's value, or the second one's probability. */
static double relevance(const request_state *r, int i)
{
    const float *logits = r->job->sequences[i].values;
    int last = r->model->info->n_labels - 1;
    float scores[2];
    if (r->body.raw_scores)
        return logits[last];
    moe_scores(r->model->model, logits, scores);
    return scores[last];
}

typedef struct { int index; double score; } relevant;

static int best_first(const void *pa, const void *pb)
{
    const relevant *a = pa, *b = pb;
    return a->score != b->score ? (a->score > b->score ? -1 : 1) : a->index - b->index;
}

void rerank_write(buffer *b, request_state *r, int64_t total_ns)
{
    int n = r->job->n_sequences;
    relevant *list = malloc((size_t)n * sizeof *list);
    (void)total_ns;
    b->failed |= !list;
    for (int i = 0; list && i < n; i++)
        list[i] = (relevant){i, relevance(r, i)};
    if (list)
        qsort(list, (size_t)n, sizeof *list, best_first);
    jw_open(b, '[');
    for (int i = 0; list && i < n; i++) {
        const request_input *in = &r->body.inputs[list[i].index];
        jw_open(b, '{');
        jw_pair_int(b, "index", list[i].index);
        if (r->body.return_text) {
            jw_key(b, "text");
            jw_text(b, in->pair, in->pair_bytes);
        }
        jw_pair_number(b, "score", list[i].score, SCORE_DIGITS);
        jw_close(b, '}');
    }
    jw_close(b, ']');
    free(list);
}

/* ---- headers ---------------------------------------------------------------- */

static void ms_header(http_exchange *x, const char *name, int64_t ns)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)((ns + 500000) / 1000000));
    http_answer_header(x, name, text);
}

static long long count_characters(const request_state *r)
{
    long long n = 0;
    for (int i = 0; i < r->body.n_inputs; i++) {
        const request_input *in = &r->body.inputs[i];
        for (size_t c = 0; c < in->text_bytes; c++)
            n += (in->text[c] & 0xc0) != 0x80;
        for (size_t c = 0; c < in->pair_bytes; c++)
            n += (in->pair[c] & 0xc0) != 0x80;
    }
    return n;
}

void tei_headers(http_exchange *x, const request_state *r, int64_t total_ns)
{
    char text[32];
    http_answer_header(x, "x-compute-type", "cpu");
    ms_header(x, "x-compute-time", total_ns);
    snprintf(text, sizeof text, "%lld", count_characters(r));
    http_answer_header(x, "x-compute-characters", text);
    snprintf(text, sizeof text, "%d", r->n_tokens);
    http_answer_header(x, "x-compute-tokens", text);
    ms_header(x, "x-total-time", total_ns);
    ms_header(x, "x-tokenization-time", r->tokenize_ns);
    ms_header(x, "x-queue-time", r->job->started_ns - r->job->pushed_ns);
    ms_header(x, "x-inference-time", r->job->finished_ns - r->job->started_ns);
}

/* ---- /info ------------------------------------------------------------------ */

static void write_labels(buffer *b, const moe_model_info *info)
{
    char id[16];
    jw_key(b, "model_type");
    jw_open(b, '{');
    jw_key(b, "classifier");
    jw_open(b, '{');
    jw_key(b, "id2label");
    jw_open(b, '{');
    for (int i = 0; i < info->n_labels; i++) {
        snprintf(id, sizeof id, "%d", i);
        jw_pair_string(b, id, info->labels[i]);
    }
    jw_close(b, '}');
    jw_key(b, "label2id");
    jw_open(b, '{');
    for (int i = 0; i < info->n_labels; i++)
        jw_pair_int(b, info->labels[i], i);
    jw_close(b, '}');
    jw_close(b, '}');
    jw_close(b, '}');
}

static void write_null(buffer *b, const char *key)
{
    jw_key(b, key);
    jw_null(b);
}

void handle_info(server *s, http_exchange *x, request_state *r)
{
    buffer b = {0};
    const moe_model_info *info = r->model->info;
    jw_open(&b, '{');
    jw_pair_string(&b, "model_id", r->model->name);
    write_null(&b, "model_sha");
    jw_pair_string(&b, "model_dtype", info->dtype);
    jw_pair_string(&b, "served_model_name", r->model->name);
    write_labels(&b, info);
    jw_pair_int(&b, "max_concurrent_requests", s->config->max_connections);
    jw_pair_int(&b, "max_input_length", info->max_tokens);
    jw_pair_int(&b, "max_batch_tokens", s->config->batch_tokens);
    write_null(&b, "max_batch_requests");
    jw_pair_int(&b, "max_client_batch_size", s->config->max_inputs);
    jw_pair_bool(&b, "auto_truncate", true);
    jw_pair_int(&b, "tokenization_workers", 1);
    jw_pair_string(&b, "version", MOE_VERSION);
    write_null(&b, "sha");
    write_null(&b, "docker_label");
    jw_close(&b, '}');
    answer_json(s, x, 200, &b);
}

/* classify.c: texts or pairs to labels, their scores by falling size: POST /v1/classify, and
 * what other protocols share with it; vLLM's POST /classify. */
#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "server/json_out.h"
#include "server/server.h"

enum { SCORE_DIGITS = 7 };

/* ---- texts to tokens --------------------------------------------------- */

static bool tokenize_one(const request_state *r, int i, moe_tokens *out, problem *p)
{
    const request_input *in = &r->body.inputs[i];
    moe_text text = {
        .text = in->text, .text_bytes = in->text_bytes,
        .pair = in->pair, .pair_bytes = in->pair_bytes,
        .truncation = r->body.truncate ? MOE_TRUNCATE_LONGEST_FIRST : MOE_TRUNCATE_NEVER,
        .cut_left = r->body.truncate_left,
        .strict_utf8 = true,
    };
    moe_error err = {0};
    moe_status status = moe_tokenize(r->model->model, &text, out, &err);
    return status == MOE_OK || input_problem(r, i, status, &err, p);
}

bool classify_tokenize(request_state *r, problem *p)
{
    r->job = job_create(r->body.n_inputs);
    if (!r->job)
        return problem_set(p, 500, "internal", "out of memory");
    for (int i = 0; i < r->body.n_inputs; i++) {
        moe_tokens *t = &r->job->sequences[i].tokens;
        if (!tokenize_one(r, i, t, p))
            return false;
        counter_add(&r->model->stats.truncated, t->n_truncated > 0);
    }
    return true;
}

/* ---- logits to labels ---------------------------------------------------- */

static int higher_first(const void *pa, const void *pb)
{
    const scored *a = pa, *b = pb;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->label - b->label;
}

/* What a request wants of logits [n]; the model's own way unless told. */
static void apply(const request_state *r, const float *logits, int n, float *scores)
{
    request_function f = r->body.raw_scores ? FUNCTION_NONE : r->body.function;
    double sum = 0, top = logits[0];
    for (int i = 1; i < n; i++)
        top = logits[i] > top ? logits[i] : top;
    for (int i = 0; i < n; i++)
        sum += exp(logits[i] - top);
    if (f == FUNCTION_DEFAULT)
        moe_scores(r->model->model, logits, scores);
    for (int i = 0; i < n && f != FUNCTION_DEFAULT; i++)
        scores[i] = f == FUNCTION_NONE      ? logits[i]
                    : f == FUNCTION_SIGMOID ? (float)(1 / (1 + exp(-(double)logits[i])))
                                            : (float)(exp(logits[i] - top) / sum);
}

/* Labels by falling score into out [n_labels]; scores [n_labels] is scratch. */
void classify_rank(const request_state *r, int i, float *scores, scored *out)
{
    int n = r->job->sequences[i].n_values;
    const float *logits = r->job->sequences[i].values;
    apply(r, logits, n, scores);
    for (int l = 0; l < n; l++)
        out[l] = (scored){l, scores[l]};
    qsort(out, (size_t)n, sizeof *out, higher_first);
}

static void write_scores(buffer *b, const request_state *r, const scored *ranked, int n)
{
    jw_open(b, '[');
    for (int i = 0; i < n; i++) {
        jw_open(b, '{');
        jw_pair_string(b, "label", r->model->info->labels[ranked[i].label]);
        jw_pair_number(b, "score", ranked[i].score, SCORE_DIGITS);
        jw_close(b, '}');
    }
    jw_close(b, ']');
}

static void write_result(buffer *b, const request_state *r, const scored *ranked)
{
    int n = r->model->info->n_labels;
    int shown = r->body.top_k && r->body.top_k < n ? r->body.top_k : n;
    jw_open(b, '{');
    jw_pair_string(b, "label", r->model->info->labels[ranked[0].label]);
    jw_pair_number(b, "score", ranked[0].score, SCORE_DIGITS);
    jw_key(b, "scores");
    write_scores(b, r, ranked, shown);
    jw_close(b, '}');
}

/* Scratch for one input's labels; false: b has failed. */
bool classify_scratch(buffer *b, const request_state *r, float **scores, scored **ranked)
{
    size_t n = (size_t)r->model->info->n_labels;
    *scores = malloc(n * sizeof **scores);
    *ranked = malloc(n * sizeof **ranked);
    b->failed |= !*scores || !*ranked;
    return !b->failed;
}

void classify_write(buffer *b, request_state *r, int64_t total_ns)
{
    float *scores;
    scored *ranked;
    bool room = classify_scratch(b, r, &scores, &ranked);
    envelope_open(b, r);
    for (int i = 0; room && i < r->job->n_sequences; i++) {
        classify_rank(r, i, scores, ranked);
        write_result(b, r, ranked);
    }
    envelope_close(b, r, total_ns);
    free(scores);
    free(ranked);
}

/* vLLM's shape; probabilities stand in the order of labels. */
void vllm_write(buffer *b, request_state *r, int64_t total_ns)
{
    float *scores;
    scored *ranked;
    bool room = classify_scratch(b, r, &scores, &ranked);
    int n = r->model->info->n_labels;
    (void)total_ns;
    jw_open(b, '{');
    jw_pair_string(b, "id", r->id);
    jw_pair_string(b, "object", "list");
    jw_pair_int(b, "created", (int64_t)time(NULL));
    jw_pair_string(b, "model", r->model->name);
    jw_key(b, "data");
    jw_open(b, '[');
    for (int i = 0; room && i < r->job->n_sequences; i++) {
        classify_rank(r, i, scores, ranked);
        jw_open(b, '{');
        jw_pair_int(b, "index", i);
        jw_pair_string(b, "label", r->model->info->labels[ranked[0].label]);
        jw_key(b, "probs");
        jw_open(b, '[');
        for (int l = 0; l < n; l++)
            jw_number(b, (double)scores[l], SCORE_DIGITS);
        jw_close(b, ']');
        jw_pair_int(b, "num_classes", n);
        jw_close(b, '}');
    }
    jw_close(b, ']');
    jw_key(b, "usage");
    jw_open(b, '{');
    jw_pair_int(b, "prompt_tokens", r->n_tokens);
    jw_pair_int(b, "total_tokens", r->n_tokens);
    jw_pair_int(b, "completion_tokens", 0);
    jw_close(b, '}');
    jw_close(b, '}');
    free(scores);
    free(ranked);
}

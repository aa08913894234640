/* text.c: text-to-text models: POST /v1/generate, and POST /v1/classify with a task, whose
 * label words are scored. A task's template is put around every input; without a task the
 * input stands for itself. */
#include <stdlib.h>
#include <string.h>

#include "server/json_out.h"
#include "server/server.h"

enum { SCORE_DIGITS = 7, NEW_TOKENS = 64 };

/* ---- before the queue --------------------------------------------------- */

/* The request's task; *out NULL: it names none. */
static bool find_task(const request_state *r, const moe_text_task **out, problem *p)
{
    *out = r->body.task ? moe_text_task_find(r->model->model, r->body.task) : NULL;
    if (*out || !r->body.task)
        return true;
    return problem_set(p, 422, "invalid_value", "task: model '%.64s' knows none named '%.60s'",
                       r->model->name, r->body.task);
}

const text_labels *text_labels_find(const served_model *m, const char *task)
{
    const moe_text_task *t = moe_text_task_find(m->model, task);
    for (int i = 0; t && i < m->n_text_labels; i++)
        if (m->text_labels[i].task == t)
            return &m->text_labels[i];
    return NULL;
}

static bool tokenize_one(const request_state *r, int i, const moe_text_task *t, moe_tokens *out,
                         problem *p)
{
    const request_input *in = &r->body.inputs[i];
    moe_text text = {.text = in->text, .text_bytes = in->text_bytes, .pair = in->pair,
                     .pair_bytes = in->pair_bytes};
    char *filled = NULL;
    size_t n = 0;
    moe_error err = {0};
    moe_status status = t ? moe_text_task_apply(t, &text, &filled, &n, &err) : MOE_OK;
    if (t)
        text = (moe_text){.text = filled, .text_bytes = n};
    text.truncation = r->body.truncate ? MOE_TRUNCATE_LONGEST_FIRST : MOE_TRUNCATE_NEVER;
    text.strict_utf8 = true;
    if (status == MOE_OK)
        status = moe_tokenize(r->model->model, &text, out, &err);
    free(filled);
    return status == MOE_OK || input_problem(r, i, status, &err, p);
}

static bool tokenize_all(request_state *r, const moe_text_task *t, problem *p)
{
    r->job = job_create(r->body.n_inputs);
    if (!r->job)
        return problem_set(p, 500, "internal", "out of memory");
    for (int i = 0; i < r->body.n_inputs; i++) {
        moe_tokens *tokens = &r->job->sequences[i].tokens;
        if (!tokenize_one(r, i, t, tokens, p))
            return false;
        counter_add(&r->model->stats.truncated, tokens->n_truncated > 0);
    }
    return true;
}

bool generate_tokenize(request_state *r, problem *p)
{
    const moe_text_task *t;
    int limit = r->model->info->max_tokens, most = r->body.max_new_tokens;
    if (most > limit)
        return problem_set(p, 422, "invalid_value", "max_new_tokens: expected 1 to %d, found %d",
                           limit, most);
    most = most ? most : limit < NEW_TOKENS ? limit : NEW_TOKENS;
    return find_task(r, &t, p) && text_tokenize(r, t, most, p);
}

bool text_tokenize(request_state *r, const moe_text_task *t, int most, problem *p)
{
    if (!tokenize_all(r, t, p))
        return false;
    size_t room = (size_t)r->body.n_inputs * (size_t)most;
    r->job->ids = malloc(room * sizeof *r->job->ids);
    if (!r->job->ids)
        return problem_set(p, 500, "internal", "out of memory");
    for (int i = 0; i < r->body.n_inputs; i++)
        r->job->sequences[i].want = (moe_decoding){
            .max_new_tokens = most, .ids = r->job->ids + (size_t)i * (size_t)most};
    return true;
}

bool label_tokenize(request_state *r, problem *p)
{
    const moe_text_task *t;
    if (!find_task(r, &t, p))
        return false;
    const text_labels *l = text_labels_find(r->model, r->body.task);
    if (!l)
        return problem_set(p, 422, "invalid_value", "task: '%.60s' has no label words: POST "
                           "/v1/generate", r->body.task);
    if (!tokenize_all(r, t, p))
        return false;
    for (int i = 0; i < r->body.n_inputs; i++)
        r->job->sequences[i].want = (moe_decoding){.labels = l->labels};
    return true;
}

/* ---- results ---------------------------------------------------------------- */

char *text_generated(buffer *b, const request_state *r, int i)
{
    const moe_decoding *d = &r->job->sequences[i].want;
    char *text = NULL;
    b->failed |= moe_detokenize(r->model->model, d->ids, d->n_ids, &text, NULL) != MOE_OK;
    return text;
}

void generate_write(buffer *b, request_state *r, int64_t total_ns)
{
    envelope_open(b, r);
    for (int i = 0; i < r->job->n_sequences; i++) {
        const moe_decoding *d = &r->job->sequences[i].want;
        char *text = text_generated(b, r, i);
        jw_open(b, '{');
        jw_pair_string(b, "text", text ? text : "");
        jw_pair_int(b, "tokens", d->n_ids);
        jw_pair_string(b, "finish_reason", d->ended ? "stop" : "length");
        jw_close(b, '}');
        free(text);
    }
    envelope_close(b, r, total_ns);
}

static int higher_first(const void *pa, const void *pb)
{
    const scored *a = pa, *b = pb;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->label - b->label;
}

/* ranked [n] and scores [n]: scratch. */
static void write_labels(buffer *b, const request_state *r, const moe_text_task *t,
                         const float *logprob, float *scores, scored *ranked)
{
    int n = t->n_labels, shown = r->body.top_k && r->body.top_k < n ? r->body.top_k : n;
    moe_label_scores(logprob, n, scores);
    for (int i = 0; i < n; i++)
        ranked[i] = (scored){i, scores[i]};
    qsort(ranked, (size_t)n, sizeof *ranked, higher_first);
    jw_open(b, '{');
    jw_pair_string(b, "label", t->labels[ranked[0].label]);
    jw_pair_number(b, "score", (double)ranked[0].score, SCORE_DIGITS);
    jw_key(b, "scores");
    jw_open(b, '[');
    for (int i = 0; i < shown; i++) {
        jw_open(b, '{');
        jw_pair_string(b, "label", t->labels[ranked[i].label]);
        jw_pair_number(b, "score", (double)ranked[i].score, SCORE_DIGITS);
        jw_close(b, '}');
    }
    jw_close(b, ']');
    jw_close(b, '}');
}

void label_write(buffer *b, request_state *r, int64_t total_ns)
{
    const moe_text_task *t = moe_text_task_find(r->model->model, r->body.task);
    size_t n = (size_t)t->n_labels;
    float *scores = malloc(n * sizeof *scores);
    scored *ranked = malloc(n * sizeof *ranked);
    b->failed |= !scores || !ranked;
    envelope_open(b, r);
    for (int i = 0; !b->failed && i < r->job->n_sequences; i++)
        write_labels(b, r, t, r->job->sequences[i].values, scores, ranked);
    envelope_close(b, r, total_ns);
    free(scores);
    free(ranked);
}

/* ---- label words of a model ---------------------------------------------------- */

static moe_status add_labels(served_model *m, const moe_text_task *tasks, int n, moe_error *err)
{
    for (int i = 0; i < n; i++) {
        /* Of two of one name the model's own, which comes first, is found. */
        if (!tasks[i].n_labels || moe_text_task_find(m->model, tasks[i].name) != &tasks[i])
            continue;
        text_labels *l = &m->text_labels[m->n_text_labels];
        l->task = &tasks[i];
        moe_status status = moe_labels_create(m->model, tasks[i].labels, tasks[i].n_labels,
                                              &l->labels, err);
        if (status != MOE_OK && tasks != m->info->tasks)
            continue; /* a vocabulary without the known task's words: it is not there */
        if (status != MOE_OK)
            return status;
        m->n_text_labels++;
    }
    return MOE_OK;
}

moe_status text_labels_create(served_model *m, moe_error *err)
{
    int n;
    const moe_text_task *known = moe_text_tasks_known(&n);
    m->text_labels = calloc((size_t)(n + m->info->n_tasks), sizeof *m->text_labels);
    if (!m->text_labels)
        return moe_fail(err, MOE_E_MEMORY, "out of memory for label words");
    moe_status status = add_labels(m, m->info->tasks, m->info->n_tasks, err);
    return status == MOE_OK ? add_labels(m, known, n, err) : status;
}

void text_labels_free(served_model *m)
{
    for (int i = 0; i < m->n_text_labels; i++)
        moe_labels_destroy(m->text_labels[i].labels);
    free(m->text_labels);
    m->text_labels = NULL;
    m->n_text_labels = 0;
}

/* hf.c: answers in the shape of Hugging Face's inference API: POST /models/{model} and
 * POST /pipeline/{task}/{model}. What stands in a body follows from the model's task. */
#include <stdlib.h>
#include <string.h>

#include "server/json_out.h"
#include "server/server.h"

enum { SCORE_DIGITS = 9 };

static bool is_task(const request_state *r, const char *name)
{
    return strlen(name) == r->task_bytes && memcmp(name, r->task, r->task_bytes) == 0;
}

bool hf_accepts(const request_state *r, problem *p)
{
    /* By the model's task: what it is asked for, and by another name. */
    const char *name = "text-classification", *also = "sentiment-analysis";
    if (r->model->info->task == MOE_TASK_ANSWER)
        name = also = "question-answering";
    if (r->model->info->task == MOE_TASK_TEXT)
        name = "text2text-generation", also = "text-generation";
    if (!r->task || is_task(r, name) || is_task(r, also))
        return true;
    return problem_set(p, 404, "wrong_task", "model '%.64s' does %s, not %.*s", r->model->name,
                       name, r->task_bytes > 40 ? 40 : (int)r->task_bytes, r->task);
}

/* Nested: a list of labels to each input, even to a single one. */
void hf_texts_write(buffer *b, request_state *r, int64_t total_ns)
{
    float *scores;
    scored *ranked;
    bool room = classify_scratch(b, r, &scores, &ranked);
    int n = r->model->info->n_labels;
    int shown = r->body.top_k && r->body.top_k < n ? r->body.top_k : n;
    (void)total_ns;
    jw_open(b, '[');
    for (int i = 0; room && i < r->job->n_sequences; i++) {
        classify_rank(r, i, scores, ranked);
        jw_open(b, '[');
        for (int l = 0; l < shown; l++) {
            jw_open(b, '{');
            jw_pair_string(b, "label", r->model->info->labels[ranked[l].label]);
            jw_pair_number(b, "score", (double)ranked[l].score, SCORE_DIGITS);
            jw_close(b, '}');
        }
        jw_close(b, ']');
    }
    jw_close(b, ']');
    free(scores);
    free(ranked);
}

void hf_generate_write(buffer *b, request_state *r, int64_t total_ns)
{
    (void)total_ns;
    jw_open(b, '[');
    for (int i = 0; i < r->job->n_sequences; i++) {
        char *text = text_generated(b, r, i);
        jw_open(b, '{');
        jw_pair_string(b, "generated_text", text ? text : "");
        jw_close(b, '}');
        free(text);
    }
    jw_close(b, ']');
}

void hf_questions_write(buffer *b, request_state *r, int64_t total_ns)
{
    (void)total_ns;
    answer_write_bare(b, r);
}

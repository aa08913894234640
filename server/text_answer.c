/* text_answer.c: POST /v1/answer by a text-to-text model: question and context in the
 * template of its question answering task, and the text that it writes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/json_out.h"
#include "server/server.h"

enum { SCORE_DIGITS = 7, ANSWER_TOKENS = 32 };

/* The model's own task for it, or the known one. */
static const moe_text_task *task_of(const served_model *m)
{
    for (int i = 0; i < m->info->n_tasks; i++)
        if (m->info->tasks[i].kind == MOE_TASK_ANSWER)
            return &m->info->tasks[i];
    return moe_text_task_find(m->model, "squad");
}

/* What only a model that marks spans can do. */
static bool refuse_span_keys(const request_state *r, problem *p)
{
    const struct { const char *key; bool set; } keys[] = {
        {"top_k", r->body.top_k > 1}, {"doc_stride", r->body.doc_stride},
        {"max_seq_len", r->body.max_seq_len}, {"max_question_len", r->body.max_question_len},
        {"handle_impossible_answer", r->body.handle_impossible_answer},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (keys[i].set)
            return problem_set(p, 409, "conflict", "%s: model '%.64s' writes one answer and marks "
                               "no spans", keys[i].key, r->model->name);
    return true;
}

bool text_answer_tokenize(request_state *r, problem *p)
{
    int limit = r->model->info->max_tokens;
    int most = r->body.max_answer_len ? r->body.max_answer_len : ANSWER_TOKENS;
    return refuse_span_keys(r, p) &&
           text_tokenize(r, task_of(r->model), most < limit ? most : limit, p);
}

static int code_points(const char *s, size_t n)
{
    int count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)s[i] & 0xC0) != 0x80;
    return count;
}

/* Where the context has the answer word for word; null where it has not. */
static void write_place(buffer *b, const request_input *in, const char *answer)
{
    size_t n = strlen(answer);
    const char *at = n ? memmem(in->pair, in->pair_bytes, answer, n) : NULL;
    if (!at) {
        jw_key(b, "start");
        jw_null(b);
        jw_key(b, "end");
        jw_null(b);
        return;
    }
    int start = code_points(in->pair, (size_t)(at - in->pair));
    jw_pair_int(b, "start", start);
    jw_pair_int(b, "end", start + code_points(answer, n));
}

void text_answer_write(buffer *b, request_state *r, int64_t total_ns)
{
    envelope_open(b, r);
    for (int i = 0; i < r->job->n_sequences; i++) {
        char *text = text_generated(b, r, i);
        jw_open(b, '{');
        jw_pair_string(b, "answer", text ? text : "");
        write_place(b, &r->body.inputs[i], text ? text : "");
        jw_pair_number(b, "score", exp((double)*r->job->sequences[i].values), SCORE_DIGITS);
        jw_close(b, '}');
        free(text);
    }
    envelope_close(b, r, total_ns);
}

/* oip.c: the Open Inference Protocol, version 2 (KServe, Triton): tokens of an infer
 * request, its answer as JSON or with bytes behind it, metadata and statistics. */
#include "server/oip.h"

#include <stdlib.h>
#include <string.h>

#include "server/clock.h"
#include "server/json_out.h"
#include "server/server.h"

enum { DIGITS = 9 };

/* ---- token ids to sequences ------------------------------------------------- */

static bool row_tokens(const request_state *r, int row, moe_tokens *out, problem *p)
{
    const oip_request *o = r->body.oip;
    size_t first = (size_t)row * (size_t)o->n_columns;
    int32_t *block = malloc((2 * (size_t)o->n_columns + 1) * sizeof *block);
    if (!block)
        return problem_set(p, 500, "internal", "out of memory");
    *out = (moe_tokens){.ids = block, .types = block + o->n_columns};
    for (int i = 0; i < o->n_columns; i++) {
        if (o->mask && !o->mask[first + (size_t)i])
            continue;
        int32_t id = o->ids[first + (size_t)i], type = o->types ? o->types[first + (size_t)i] : 0;
        if (id >= r->model->info->n_vocab || type > 1)
            return problem_set(p, 422, "invalid_value", "input_ids[%d, %d]: id %d of type %d, "
                               "expected an id up to %d of type 0 or 1", row, i, id, type,
                               r->model->info->n_vocab - 1);
        out->ids[out->n] = id;
        out->types[out->n++] = type;
    }
    if (out->n == 0 || out->n > r->model->info->max_tokens)
        return problem_set(p, 422, "too_long", "input_ids: row %d has %d tokens, expected 1 to %d",
                           row, out->n, r->model->info->max_tokens);
    return true;
}

bool oip_tokenize(request_state *r, problem *p)
{
    if (!r->body.oip->ids)
        return r->model->info->task == MOE_TASK_ANSWER ? answer_tokenize(r, p)
                                                       : classify_tokenize(r, p);
    r->job = job_create(r->body.n_inputs);
    if (!r->job)
        return problem_set(p, 500, "internal", "out of memory");
    for (int i = 0; i < r->body.n_inputs; i++)
        if (!row_tokens(r, i, &r->job->sequences[i].tokens, p))
            return false;
    return true;
}

/* ---- answers ------------------------------------------------------------------- */

/* What the outputs are made of. */
typedef struct {
    const request_state *r;
    float *scores;       /* [n_labels] scratch */
    scored *ranked;      /* the same */
    moe_answer *answers; /* [n_inputs] of questions */
} results;

static bool answers_questions(const request_state *r)
{
    return r->model->info->task == MOE_TASK_ANSWER;
}

static int columns_of(const request_state *r, int output)
{
    return output == OIP_SCORES || output == OIP_LOGITS ? r->model->info->n_labels : 1;
}

/* The text of row i of a BYTES output. */
static const char *text_of(const results *x, int output, int i, size_t *n)
{
    const request_state *r = x->r;
    if (output == OIP_ANSWER) {
        *n = x->answers[i].end_byte - x->answers[i].first_byte;
        return r->body.inputs[i].pair + x->answers[i].first_byte;
    }
    classify_rank(r, i, x->scores, x->ranked);
    const char *label = r->model->info->labels[x->ranked[0].label];
    *n = strlen(label);
    return label;
}

/* Value `column` of row i of any other output. */
static double value_of(const results *x, int output, int i, int column)
{
    const request_state *r = x->r;
    if (answers_questions(r))
        return output == OIP_START ? x->answers[i].start
               : output == OIP_END ? x->answers[i].end : x->answers[i].score;
    if (output == OIP_LOGITS)
        return r->job->sequences[i].values[column];
    classify_rank(r, i, x->scores, x->ranked);
    return output == OIP_SCORES ? x->scores[column] : x->ranked[0].score;
}

static void write_data(buffer *b, const results *x, int output)
{
    size_t n;
    jw_key(b, "data");
    jw_open(b, '[');
    for (int i = 0; i < x->r->body.n_inputs; i++)
        for (int c = 0; c < columns_of(x->r, output); c++)
            if (strcmp(oip_output_type(output), "BYTES") == 0) {
                const char *text = text_of(x, output, i, &n);
                jw_text(b, text, n);
            } else {
                jw_number(b, value_of(x, output, i, c), DIGITS);
            }
    jw_close(b, ']');
}

static void append(buffer *b, const void *bytes, size_t n)
{
    buffer_add(b, bytes, n);
}

/* The output's bytes, little-endian, onto the end of b. */
static void append_data(buffer *b, const results *x, int output)
{
    const char *type = oip_output_type(output);
    for (int i = 0; i < x->r->body.n_inputs; i++)
        for (int c = 0; c < columns_of(x->r, output); c++) {
            if (strcmp(type, "BYTES") == 0) {
                size_t n;
                const char *text = text_of(x, output, i, &n);
                uint32_t length = (uint32_t)n;
                append(b, &length, 4);
                append(b, text, n);
            } else if (strcmp(type, "FP32") == 0) {
                float v = (float)value_of(x, output, i, c);
                append(b, &v, 4);
            } else {
                int32_t v = (int32_t)value_of(x, output, i, c);
                append(b, &v, 4);
            }
        }
}

static void write_output(buffer *b, buffer *bytes, const results *x, int output, bool binary)
{
    jw_open(b, '{');
    jw_pair_string(b, "name", oip_output_name(output));
    jw_pair_string(b, "datatype", oip_output_type(output));
    jw_key(b, "shape");
    jw_open(b, '[');
    jw_int(b, x->r->body.n_inputs);
    if (columns_of(x->r, output) > 1)
        jw_int(b, columns_of(x->r, output));
    jw_close(b, ']');
    if (binary) {
        size_t before = bytes->n;
        append_data(bytes, x, output);
        jw_key(b, "parameters");
        jw_open(b, '{');
        jw_pair_uint(b, "binary_data_size", bytes->n - before);
        jw_close(b, '}');
    } else {
        write_data(b, x, output);
    }
    jw_close(b, '}');
}

static void write_head(buffer *b, const request_state *r)
{
    jw_pair_string(b, "model_name", r->model->name);
    jw_pair_string(b, "model_version", "1");
    jw_pair_string(b, "id", r->body.oip->id ? r->body.oip->id : r->id);
    jw_key(b, "parameters");
    jw_open(b, '{');
    jw_pair_number(b, "ratio", r->requested_ratio, 6);
    jw_pair_number(b, "effective_ratio", r->ratio, 6);
    jw_close(b, '}');
}

static void write_outputs(buffer *b, buffer *bytes, const results *x)
{
    static const unsigned of_labels = 1u << OIP_LABEL | 1u << OIP_SCORE | 1u << OIP_SCORES |
                                      1u << OIP_LOGITS;
    static const unsigned of_answers = 1u << OIP_ANSWER | 1u << OIP_START | 1u << OIP_END |
                                       1u << OIP_SCORE;
    const oip_request *o = x->r->body.oip;
    unsigned wanted = o->wanted ? o->wanted
                      : answers_questions(x->r) ? of_answers : of_labels;
    jw_key(b, "outputs");
    jw_open(b, '[');
    for (int i = 0; i < OIP_N_OUTPUTS; i++)
        if (wanted & 1u << i)
            write_output(b, bytes, x, i, o->binary & 1u << i);
    jw_close(b, ']');
}

static bool find_answers(const request_state *r, results *x)
{
    x->answers = calloc((size_t)r->body.n_inputs, sizeof *x->answers);
    for (int i = 0; x->answers && i < r->body.n_inputs; i++)
        if (!answer_best(r, i, &x->answers[i]))
            return false;
    return x->answers != NULL;
}

void oip_write(buffer *b, request_state *r, int64_t total_ns)
{
    results x = {.r = r};
    buffer bytes = {0};
    bool room = answers_questions(r) ? find_answers(r, &x)
                                     : classify_scratch(b, r, &x.scores, &x.ranked);
    (void)total_ns;
    b->failed |= !room;
    jw_open(b, '{');
    write_head(b, r);
    if (room)
        write_outputs(b, &bytes, &x);
    jw_close(b, '}');
    if (bytes.n && !bytes.failed) {
        r->body.oip->header_bytes = b->n;
        buffer_add(b, bytes.bytes, bytes.n);
    }
    b->failed |= bytes.failed;
    buffer_free(&bytes);
    free(x.scores);
    free(x.ranked);
    free(x.answers);
}

/* ---- metadata -------------------------------------------------------------------- */

void handle_oip_server(server *s, http_exchange *x, request_state *r)
{
    buffer b = {0};
    (void)r;
    buffer_add_string(&b, "{\"name\":\"moefied\",\"version\":\"" MOE_VERSION "\",\"extensions\":"
                      "[\"binary_tensor_data\",\"statistics\"]}");
    answer_json(s, x, 200, &b);
}

static void write_tensor(buffer *b, const char *name, const char *type, int columns)
{
    jw_open(b, '{');
    jw_pair_string(b, "name", name);
    jw_pair_string(b, "datatype", type);
    jw_key(b, "shape");
    jw_open(b, '[');
    jw_int(b, -1);
    if (columns)
        jw_int(b, columns);
    jw_close(b, ']');
    jw_close(b, '}');
}

static void write_inputs(buffer *b, const served_model *m)
{
    bool questions = m->info->task == MOE_TASK_ANSWER;
    write_tensor(b, questions ? "question" : "text", "BYTES", 0);
    if (questions)
        write_tensor(b, "context", "BYTES", 0);
}

static void write_all_outputs(buffer *b, const served_model *m)
{
    bool questions = m->info->task == MOE_TASK_ANSWER;
    for (int i = 0; i < OIP_N_OUTPUTS; i++) {
        bool of_answers = i >= OIP_ANSWER || i == OIP_SCORE;
        if (questions ? of_answers : i < OIP_ANSWER)
            write_tensor(b, oip_output_name(i), oip_output_type(i),
                         i == OIP_SCORES || i == OIP_LOGITS ? m->info->n_labels : 0);
    }
}

void handle_oip_model(server *s, http_exchange *x, request_state *r)
{
    buffer b = {0};
    jw_open(&b, '{');
    jw_pair_string(&b, "name", r->model->name);
    jw_key(&b, "versions");
    jw_open(&b, '[');
    jw_string(&b, "1");
    jw_close(&b, ']');
    jw_pair_string(&b, "platform", "moefied");
    jw_key(&b, "inputs");
    jw_open(&b, '[');
    write_inputs(&b, r->model);
    jw_close(&b, ']');
    jw_key(&b, "outputs");
    jw_open(&b, '[');
    write_all_outputs(&b, r->model);
    jw_close(&b, ']');
    jw_close(&b, '}');
    answer_json(s, x, 200, &b);
}

void handle_oip_ready(server *s, http_exchange *x, request_state *r)
{
    buffer b = {0};
    bool ready = !http_draining(s->http);
    jw_open(&b, '{');
    jw_pair_string(&b, "name", r->model->name);
    jw_pair_bool(&b, "ready", ready);
    jw_close(&b, '}');
    answer_json(s, x, ready ? 200 : 503, &b);
}

/* ---- statistics, in Triton's form ------------------------------------------------- */

static void write_duration(buffer *b, const char *key, uint64_t count, uint64_t ns)
{
    jw_key(b, key);
    jw_open(b, '{');
    jw_pair_uint(b, "count", count);
    jw_pair_uint(b, "ns", ns);
    jw_close(b, '}');
}

static uint64_t count_of(const histogram *h)
{
    uint64_t n = 0;
    for (int i = 0; i <= HISTOGRAM_BOUNDS; i++)
        n += counter_get(&h->buckets[i]);
    return n;
}

static void write_statistics(buffer *b, const served_model *m)
{
    uint64_t answers = 0, texts = 0, queue_ns = 0, compute_ns = 0;
    for (int i = 0; i < RATIO_BUCKETS; i++) {
        answers += count_of(&m->stats.queue[i]);
        texts += counter_get(&m->stats.sequences[i]);
        queue_ns += counter_get(&m->stats.queue[i].sum);
        compute_ns += counter_get(&m->stats.compute[i].sum);
    }
    jw_open(b, '{');
    jw_pair_string(b, "name", m->name);
    jw_pair_string(b, "version", "1");
    jw_pair_uint(b, "last_inference", 0);
    jw_pair_uint(b, "inference_count", texts);
    jw_pair_uint(b, "execution_count", count_of(&m->stats.batch_sequences));
    jw_key(b, "inference_stats");
    jw_open(b, '{');
    write_duration(b, "success", answers, queue_ns + compute_ns);
    write_duration(b, "fail", 0, 0);
    write_duration(b, "queue", answers, queue_ns);
    write_duration(b, "compute_input", answers, 0);
    write_duration(b, "compute_infer", answers, compute_ns);
    write_duration(b, "compute_output", answers, 0);
    write_duration(b, "cache_hit", 0, 0);
    write_duration(b, "cache_miss", 0, 0);
    jw_close(b, '}');
    jw_key(b, "batch_stats");
    jw_open(b, '[');
    jw_close(b, ']');
    jw_close(b, '}');
}

void handle_oip_stats(server *s, http_exchange *x, request_state *r)
{
    buffer b = {0};
    jw_open(&b, '{');
    jw_key(&b, "model_stats");
    jw_open(&b, '[');
    for (int i = 0; i < s->models.n; i++)
        if (!r->model_in_path || &s->models.list[i] == r->model)
            write_statistics(&b, &s->models.list[i]);
    jw_close(&b, ']');
    jw_close(&b, '}');
    answer_json(s, x, 200, &b);
}

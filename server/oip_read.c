/* oip_read.c: the body of POST /v2/models/{model}/infer: a JSON object, behind which the
 * data of inputs may stand as bytes (the binary tensor extension), in their order.
 *
 * Inputs are BYTES tensors [n] or [n, 1] of texts ("text" and "text_pair", or "question" and
 * "context"), or INT32 / INT64 tensors [n, length] ("input_ids", "attention_mask",
 * "token_type_ids"). A single BYTES tensor may have any name. */
#include <stdlib.h>
#include <string.h>

#include "server/oip.h"
#include "server/request_keys.h"

static const struct { const char *name, *type; } outputs[OIP_N_OUTPUTS] = {
    [OIP_LABEL] = {"label", "BYTES"}, [OIP_SCORE] = {"score", "FP32"},
    [OIP_SCORES] = {"scores", "FP32"}, [OIP_LOGITS] = {"logits", "FP32"},
    [OIP_ANSWER] = {"answer", "BYTES"}, [OIP_START] = {"start", "INT32"},
    [OIP_END] = {"end", "INT32"},
};

const char *oip_output_name(int output)
{
    return outputs[output].name;
}

const char *oip_output_type(int output)
{
    return outputs[output].type;
}

/* One input tensor. */
typedef struct {
    const char *name, *type;
    int rows, columns;      /* columns 1 of texts */
    const jnode *data;      /* or NULL: */
    const char *bytes;      /* [n_bytes] */
    size_t n_bytes;
} tensor;

typedef struct {
    inference_request *r;
    oip_request *o;
    const request_limits *limits;
    bool questions, binary_default;
    const char *rest;       /* of the bytes behind the JSON */
    size_t n_rest;
} reader;

static bool fail(problem *p, const char *where, const char *what)
{
    return problem_set(p, 422, "invalid_value", "%.60s: %s", where, what);
}

/* ---- members ------------------------------------------------------------- */

static const jnode *member(const jnode *object, const char *key)
{
    const jnode *m = jnode_type(object) == JNODE_OBJECT ? jnode_first(object) : NULL;
    while (m && strcmp(jnode_key(m), key) != 0)
        m = jnode_next(m);
    return m && jnode_type(m) != JNODE_NULL ? m : NULL;
}

static const char *name_of(const jnode *object, const char *key)
{
    const jnode *m = member(object, key);
    return m && request_is_name(m) ? jnode_string(m) : NULL;
}

/* The same, whatever it holds. */
static const char *string_of(const jnode *object, const char *key)
{
    const jnode *m = member(object, key);
    return m && jnode_type(m) == JNODE_STRING ? jnode_string(m) : NULL;
}

/* A dimension, a size: a whole number from 0. -1: it is none. */
static long long whole(const jnode *v)
{
    double x = v && jnode_type(v) == JNODE_NUMBER ? jnode_number(v) : -1;
    return x >= 0 && x <= 1e9 && x == (double)(long long)x ? (long long)x : -1;
}

/* ---- tensors --------------------------------------------------------------- */

static bool read_shape(const jnode *shape, tensor *t, problem *p)
{
    if (!shape || jnode_type(shape) != JNODE_ARRAY)
        return fail(p, t->name, "shape: expected a list");
    long long dims[2] = {0, 1};
    int n = jnode_count(shape), i = 0;
    for (const jnode *d = jnode_first(shape); d && n <= 2; d = jnode_next(d))
        if ((dims[i++] = whole(d)) < 0)
            return fail(p, t->name, "shape: expected whole numbers");
    if (n < 1 || n > 2 || dims[0] * dims[1] > 1 << 24)
        return fail(p, t->name, "shape: expected one or two dimensions of 16777216 values in all");
    t->rows = (int)dims[0];
    t->columns = (int)dims[1];
    return true;
}

static bool take_bytes(reader *in, const jnode *size, tensor *t, problem *p)
{
    long long n = whole(size);
    if (n < 0 || (unsigned long long)n > in->n_rest)
        return fail(p, t->name, "binary_data_size: expected at most the bytes behind the JSON");
    t->bytes = in->rest;
    t->n_bytes = (size_t)n;
    in->rest += n;
    in->n_rest -= (size_t)n;
    return true;
}

static bool read_tensor(reader *in, const jnode *v, tensor *t, problem *p)
{
    *t = (tensor){.name = string_of(v, "name"), .type = name_of(v, "datatype")};
    if (!t->name || !t->type)
        return fail(p, "inputs", "expected objects with name, shape, datatype and data");
    const jnode *size = member(member(v, "parameters"), "binary_data_size");
    t->data = member(v, "data");
    if (!read_shape(member(v, "shape"), t, p))
        return false;
    if (size && t->data)
        return fail(p, t->name, "expected data or binary_data_size, found both");
    if (size)
        return take_bytes(in, size, t, p);
    return (t->data && jnode_type(t->data) == JNODE_ARRAY) ||
           fail(p, t->name, "data: expected a list");
}

/* ---- texts ------------------------------------------------------------------- */

/* Where the next string of a tensor is. */
typedef struct { const jnode *node; const char *bytes; size_t left; } string_walk;

static bool next_string(const tensor *t, string_walk *w, const char **text, size_t *n, problem *p)
{
    if (t->bytes) {
        uint32_t length;
        if (w->left < 4)
            return fail(p, t->name, "fewer bytes than its shape wants");
        memcpy(&length, w->bytes, 4);
        if (length > w->left - 4)
            return fail(p, t->name, "an element is longer than the tensor");
        *text = w->bytes + 4;
        *n = length;
        w->bytes += 4 + length;
        w->left -= 4 + length;
        return true;
    }
    const jnode *v = w->node;
    if (v && jnode_type(v) == JNODE_ARRAY && jnode_count(v) == 1)
        v = jnode_first(v);
    if (!v || jnode_type(v) != JNODE_STRING)
        return fail(p, t->name, "data: expected as many strings as its shape says");
    *text = jnode_string(v);
    *n = jnode_length(v);
    w->node = jnode_next(w->node);
    return true;
}

static bool take_texts(reader *in, const tensor *t, bool second, problem *p)
{
    inference_request *r = in->r;
    if (t->columns != 1 || strcmp(t->type, "BYTES") != 0)
        return fail(p, t->name, "expected BYTES of shape [n] or [n, 1]");
    if (r->inputs && r->n_inputs != t->rows)
        return fail(p, t->name, "expected as many rows as the other input");
    if (!r->inputs && !request_make_inputs(r, t->rows, in->limits, p))
        return false;
    string_walk w = {t->data ? jnode_first(t->data) : NULL, t->bytes, t->n_bytes};
    for (int i = 0; i < t->rows; i++) {
        request_input *to = &r->inputs[i];
        if (!next_string(t, &w, second ? &to->pair : &to->text,
                         second ? &to->pair_bytes : &to->text_bytes, p))
            return false;
    }
    if (w.node || w.left)
        return fail(p, t->name, "more data than its shape says");
    return true;
}

/* ---- token ids ---------------------------------------------------------------- */

/* Numbers of nested or flat lists into out, at most room; false: something else. */
static bool flatten(const jnode *list, int32_t *out, int *n, int room)
{
    for (const jnode *v = jnode_first(list); v; v = jnode_next(v)) {
        if (jnode_type(v) == JNODE_ARRAY) {
            if (!flatten(v, out, n, room))
                return false;
            continue;
        }
        long long x = whole(v);
        if (x < 0 || *n == room)
            return false;
        out[(*n)++] = (int32_t)x;
    }
    return true;
}

static bool copy_ids(const tensor *t, int32_t *out, problem *p)
{
    int n = 0, want = t->rows * t->columns;
    size_t width = strcmp(t->type, "INT64") == 0 ? 8 : 4;
    if (t->data)
        return (flatten(t->data, out, &n, want) && n == want) ||
               fail(p, t->name, "data: expected as many whole numbers from 0 as its shape says");
    if (t->n_bytes != (size_t)want * width)
        return fail(p, t->name, "expected as many bytes as its shape says");
    for (int i = 0; i < want; i++) {
        int64_t x = 0;
        memcpy(&x, t->bytes + (size_t)i * width, width);
        if (x < 0 || x > INT32_MAX)
            return fail(p, t->name, "expected whole numbers from 0");
        out[i] = (int32_t)x;
    }
    return true;
}

static bool take_ids(reader *in, const tensor *t, int32_t **to, problem *p)
{
    oip_request *o = in->o;
    if (strcmp(t->type, "INT64") != 0 && strcmp(t->type, "INT32") != 0)
        return fail(p, t->name, "expected INT64 or INT32");
    if (*to)
        return fail(p, t->name, "comes twice");
    if (o->n_rows && (o->n_rows != t->rows || o->n_columns != t->columns))
        return fail(p, t->name, "expected the shape of the other inputs");
    o->n_rows = t->rows;
    o->n_columns = t->columns;
    *to = calloc((size_t)t->rows * (size_t)t->columns + 1, sizeof **to);
    if (!*to)
        return problem_set(p, 500, "internal", "out of memory");
    return copy_ids(t, *to, p);
}

/* ---- all inputs ----------------------------------------------------------------- */

static bool take_tensor(reader *in, const tensor *t, int n_tensors, problem *p)
{
    oip_request *o = in->o;
    const struct { const char *name; int32_t **to; } ids[] = {
        {"input_ids", &o->ids}, {"attention_mask", &o->mask}, {"token_type_ids", &o->types},
    };
    const char *first = in->questions ? "question" : "text";
    const char *second = in->questions ? "context" : "text_pair";
    for (int i = 0; i < 3; i++)
        if (strcmp(t->name, ids[i].name) == 0)
            return in->questions ? fail(p, t->name, "this model takes question and context")
                                 : take_ids(in, t, ids[i].to, p);
    if (strcmp(t->name, second) == 0)
        return take_texts(in, t, true, p);
    if (strcmp(t->name, first) == 0 || (n_tensors == 1 && !in->questions))
        return take_texts(in, t, false, p);
    return problem_set(p, 422, "invalid_value", "inputs: unknown '%.60s', expected %s, %s%s",
                       t->name, first, second,
                       in->questions ? "" : ", input_ids, attention_mask or token_type_ids");
}

/* Token ids need inputs too, one to a row, for what is counted by them. */
static bool check_inputs(reader *in, problem *p)
{
    inference_request *r = in->r;
    oip_request *o = in->o;
    if (o->ids && r->inputs)
        return fail(p, "inputs", "expected texts or token ids, found both");
    if (o->ids)
        return request_make_inputs(r, o->n_rows, in->limits, p);
    if (!r->inputs || !r->inputs[0].text || (in->questions && !r->inputs[0].pair))
        return fail(p, "inputs", in->questions ? "expected question and context"
                                               : "expected text or input_ids");
    return true;
}

static bool read_inputs(reader *in, const jnode *list, problem *p)
{
    if (!list || jnode_type(list) != JNODE_ARRAY || !jnode_first(list))
        return fail(p, "inputs", "expected a list of tensors");
    int n = jnode_count(list);
    for (const jnode *v = jnode_first(list); v; v = jnode_next(v)) {
        tensor t;
        if (!read_tensor(in, v, &t, p) || !take_tensor(in, &t, n, p))
            return false;
    }
    if (in->n_rest)
        return fail(p, "inputs", "more bytes behind the JSON than the inputs have");
    return check_inputs(in, p);
}

/* ---- outputs and parameters ------------------------------------------------------ */

static bool flag(const jnode *object, const char *key, bool missing)
{
    const jnode *m = member(object, key);
    return m && jnode_type(m) == JNODE_BOOL ? jnode_bool(m) : missing;
}

static bool read_outputs(reader *in, const jnode *list, problem *p)
{
    if (list && jnode_type(list) != JNODE_ARRAY)
        return fail(p, "outputs", "expected a list");
    for (const jnode *v = list ? jnode_first(list) : NULL; v; v = jnode_next(v)) {
        const char *name = name_of(v, "name");
        int i = 0;
        while (name && i < OIP_N_OUTPUTS && strcmp(outputs[i].name, name) != 0)
            i++;
        if (!name || i == OIP_N_OUTPUTS || (in->questions ? i < OIP_ANSWER && i != OIP_SCORE
                                                          : i >= OIP_ANSWER))
            return problem_set(p, 422, "invalid_value", "outputs: unknown '%.60s', expected %s",
                               name ? name : "", in->questions
                               ? "answer, start, end or score" : "label, score, scores or logits");
        in->o->wanted |= 1u << i;
        if (flag(member(v, "parameters"), "binary_data", in->binary_default))
            in->o->binary |= 1u << i;
    }
    if (!in->o->wanted && in->binary_default)
        in->o->binary = ~0u;
    return true;
}

static bool read_parameters(reader *in, const jnode *v, problem *p)
{
    static const request_key keys[] = {
        {"ratio", request_set_ratio}, {"policy", request_set_policy}, {NULL, NULL},
    };
    if (v && jnode_type(v) != JNODE_OBJECT)
        return fail(p, "parameters", "expected an object");
    in->binary_default = flag(v, "binary_data_output", false);
    return !v || (request_read_object(in->r, v, keys, in->limits, p) &&
                  (!in->questions || request_read_object(in->r, v, request_question_keys,
                                                         in->limits, p)));
}

/* ---- the whole -------------------------------------------------------------------- */

static bool parse_tree(const char *body, size_t n, const request_limits *limits, jnode **tree,
                       problem *p)
{
    json_limits bounds = {limits->max_depth, 64 + 4 * limits->max_inputs + limits->max_numbers,
                          .allow_nul = true};
    json_fault fault;
    switch (jnode_parse(body, n, &bounds, tree, &fault)) {
    case JSON_FINE: return true;
    case JSON_MALFORMED:
        return problem_set(p, 400, "malformed_json", "byte %zu: %s", fault.byte, fault.message);
    case JSON_NO_MEMORY: return problem_set(p, 500, "internal", "out of memory");
    default:
        return problem_set(p, 422, "invalid_value", "byte %zu: %s", fault.byte, fault.message);
    }
}

static bool read_all(reader *in, problem *p)
{
    const jnode *tree = in->r->tree;
    if (jnode_type(tree) != JNODE_OBJECT)
        return fail(p, "the body", "expected an object");
    in->o->id = name_of(tree, "id");
    if (member(tree, "id") && !in->o->id)
        return fail(p, "id", "expected a string");
    return read_parameters(in, member(tree, "parameters"), p) &&
           read_outputs(in, member(tree, "outputs"), p) &&
           read_inputs(in, member(tree, "inputs"), p);
}

bool oip_read(const char *body, size_t n, size_t json_bytes, bool questions,
              const request_limits *limits, inference_request *out, problem *p)
{
    *out = (inference_request){.truncate = true, .align_to_words = true};
    if (json_bytes > n)
        return fail(p, "Inference-Header-Content-Length", "expected at most the body's length");
    out->oip = calloc(1, sizeof *out->oip);
    if (!out->oip)
        return problem_set(p, 500, "internal", "out of memory");
    reader in = {.r = out, .o = out->oip, .limits = limits, .questions = questions,
                 .rest = body + json_bytes, .n_rest = n - json_bytes};
    bool fine = parse_tree(body, json_bytes, limits, &out->tree, p) && read_all(&in, p);
    if (!fine)
        request_free(out);
    return fine;
}

void oip_free(oip_request *o)
{
    if (!o)
        return;
    free(o->ids);
    free(o->mask);
    free(o->types);
    free(o);
}

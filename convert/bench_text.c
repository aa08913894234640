/* bench_text.c: see bench_text.h. A glued sequence keeps the first and the last
 * token of a real one ([CLS] and [SEP]) and has the insides of as many as it takes
 * between them, so every length is real text. */
#include "convert/bench_text.h"

#include <stdlib.h>
#include <string.h>

#include "convert/lines.h"

enum { MAX_SEQS = 1 << 20, MAX_TOKENS = 1 << 26, FIRST_ROOM = 1024 };
static const uint64_t seed = 20240607;

/* ---- reading ------------------------------------------------------------------ */

/* Room for one more sequence of n tokens at most. */
static moe_status make_room(bench_text *t, int n, moe_error *err)
{
    int used = t->n_seqs ? t->cu_seqlens[t->n_seqs] : 0;
    if (t->n_seqs >= MAX_SEQS || n > MAX_TOKENS - used)
        return moe_fail(err, MOE_E_LIMIT, "a text of more than %d sequences or %d tokens",
                        MAX_SEQS, MAX_TOKENS);
    int seqs = t->seq_room ? t->seq_room : FIRST_ROOM;
    int tokens = t->token_room ? t->token_room : FIRST_ROOM;
    seqs = t->n_seqs + 2 > seqs ? 2 * seqs : seqs;
    while (tokens < used + n)
        tokens *= 2;
    int32_t *bound = realloc(t->cu_seqlens, (size_t)seqs * sizeof *bound);
    if (bound)
        t->cu_seqlens = bound;
    int32_t *ids = bound ? realloc(t->ids, (size_t)tokens * sizeof *ids) : NULL;
    if (!ids)
        return moe_fail(err, MOE_E_MEMORY, "out of memory for %d tokens", tokens);
    t->ids = ids;
    t->seq_room = seqs;
    t->token_room = tokens;
    t->cu_seqlens[0] = 0;
    return MOE_OK;
}

static moe_status add(bench_text *t, const int32_t *ids, int n, moe_error *err)
{
    moe_status status = make_room(t, n, err);
    if (status != MOE_OK)
        return status;
    int used = t->cu_seqlens[t->n_seqs];
    memcpy(t->ids + used, ids, (size_t)n * sizeof *ids);
    t->cu_seqlens[++t->n_seqs] = used + n;
    return MOE_OK;
}

moe_status bench_text_read(const moe_model *m, const char *path, bench_text *out,
                           moe_error *err)
{
    dataset d;
    *out = (bench_text){0};
    moe_status status = dataset_read(path, 0, &d, err);
    if (status != MOE_OK)
        return status;
    for (int i = 0; status == MOE_OK && i < d.n_rows; i++) {
        moe_tokens tokens;
        status = row_tokenize(m, &d.rows[i], false, &tokens, err);
        if (status != MOE_OK)
            break;
        status = add(out, tokens.ids, tokens.n, err);
        moe_tokens_free(&tokens);
    }
    dataset_free(&d);
    if (status != MOE_OK)
        bench_text_free(out);
    return status;
}

/* The ids of one line; *n of them, at most the model's longest sequence. */
static moe_status parse_ids(const moe_model *m, const line_reader *r, const char *line,
                            size_t bytes, int32_t *ids, int *n, moe_error *err)
{
    const moe_model_info *info = moe_model_describe(m);
    const char *end = line + bytes;
    for (*n = 0;; line++) {
        while (line < end && (*line == ' ' || *line == '\t' || *line == '\r'))
            line++;
        if (line == end)
            return MOE_OK;
        if (*n == info->max_tokens)
            return moe_fail(err, MOE_E_FORMAT, "%s:%d: more than %d tokens", r->path, r->number,
                            info->max_tokens);
        int64_t id = 0;
        const char *first = line;
        for (; line < end && *line >= '0' && *line <= '9' && id < info->n_vocab; line++)
            id = 10 * id + (*line - '0');
        if (line == first || (line < end && *line != ' ' && *line != '\t' && *line != '\r') ||
            id >= info->n_vocab)
            return moe_fail(err, MOE_E_FORMAT, "%s:%d: token %d: expected a number below %d",
                            r->path, r->number, *n + 1, info->n_vocab);
        ids[(*n)++] = (int32_t)id;
        if (line == end)
            return MOE_OK;
    }
}

moe_status bench_text_read_ids(const moe_model *m, const char *path, bench_text *out,
                               moe_error *err)
{
    line_reader r;
    *out = (bench_text){0};
    moe_status status = lines_open(&r, path, err);
    if (status != MOE_OK)
        return status;
    size_t longest = (size_t)moe_model_describe(m)->max_tokens;
    int32_t *ids = malloc(longest * sizeof *ids);
    if (!ids)
        status = moe_fail(err, MOE_E_MEMORY, "out of memory for %zu tokens", longest);
    while (status == MOE_OK) {
        const char *line;
        size_t bytes;
        int n = 0;
        status = lines_next(&r, &line, &bytes, err);
        if (status != MOE_OK || !line)
            break;
        status = parse_ids(m, &r, line, bytes, ids, &n, err);
        if (status == MOE_OK && n > 0)
            status = add(out, ids, n, err);
    }
    if (status == MOE_OK && out->n_seqs == 0)
        status = moe_fail(err, MOE_E_FORMAT, "%s: has no tokens", r.path);
    free(ids);
    lines_close(&r);
    if (status != MOE_OK)
        bench_text_free(out);
    return status;
}

void bench_text_free(bench_text *t)
{
    free(t->cu_seqlens);
    free(t->ids);
    *t = (bench_text){0};
}

/* ---- filling a batch ---------------------------------------------------------- */

/* Where the next inside token is: of sequence seq, the at-th of all its tokens. */
typedef struct { int seq, at; } place;

static int32_t next_inside(const bench_text *t, place *p)
{
    for (;;) {
        int first = t->cu_seqlens[p->seq], n = t->cu_seqlens[p->seq + 1] - first;
        if (p->at < n - 1)
            return t->ids[first + p->at++];
        *p = (place){(p->seq + 1) % t->n_seqs, 1};
    }
}

/* Whether there is anything between a first and a last token. */
static bool has_inside(const bench_text *t)
{
    for (int s = 0; s < t->n_seqs; s++)
        if (t->cu_seqlens[s + 1] - t->cu_seqlens[s] > 2)
            return true;
    return false;
}

static void glue(const bench_text *t, int seq, place *p, int32_t *ids)
{
    ids[0] = t->ids[0];
    for (int i = 1; i < seq - 1; i++)
        ids[i] = next_inside(t, p);
    if (seq > 1)
        ids[seq - 1] = t->ids[t->cu_seqlens[1] - 1];
}

static void randomise(int n_vocab, int seq, uint64_t *state, int32_t *ids)
{
    for (int i = 0; i < seq; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (int32_t)((uint32_t)(*state >> 33) % (uint32_t)n_vocab);
    }
}

moe_status bench_text_fill(const bench_text *t, const moe_model *m, int n_seqs, int seq,
                           moe_selection selection, batch *b, moe_error *err)
{
    int longest = seq ? seq : moe_model_describe(m)->max_tokens;
    int32_t *ids = calloc(2 * (size_t)longest, sizeof *ids); /* and types, all 0 */
    moe_status status = ids ? MOE_OK : moe_fail(err, MOE_E_MEMORY, "out of memory");
    uint64_t state = seed;
    place p = {0, 1};
    if (status == MOE_OK && t->n_seqs && seq > 2 && !has_inside(t))
        status = moe_fail(err, MOE_E_FORMAT, "the text has no tokens but special ones");
    batch_clear(b);
    for (int s = 0; status == MOE_OK && s < n_seqs; s++) {
        const int32_t *use = ids;
        int n = seq;
        if (!t->n_seqs) {
            randomise(moe_model_describe(m)->n_vocab, seq, &state, ids);
        } else if (seq) {
            glue(t, seq, &p, ids);
        } else {
            const int32_t *bound = t->cu_seqlens + s % t->n_seqs;
            use = t->ids + bound[0];
            n = bound[1] - bound[0];
        }
        status = batch_add(b, use, ids + longest, n, selection, err);
    }
    free(ids);
    return status;
}

/* MoEfied T5 directories: written and read back, at ratio 1 what the checkpoint is, below
 * it the same bits in any batch, at any thread count, beside any ratio and kind of
 * answer; the decoder forced to its targets and in steps; and what is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/moe.h"
#include "tests/support/t5_moefied.h"

#define SOURCE "models/t5-mini-glue"
#define GATED "tests/data/t5-v1_1-gated-gelu"
enum { TEXTS = 6, WORDS = 4, MAX_NEW = 10, MAX_TOKENS = 256 };

static const char *const texts[TEXTS] = {
    "sst2 sentence: it 's a charming and often affecting journey .", "",
    "sst2 sentence: unflinchingly bleak and desperate",
    "mrpc sentence1: He said so . sentence2: So he said .",
    "<extra_id_0> a b <extra_id_1>", "word word word word word word word",
};
static const char *const words[WORDS] = {"negative", "positive", "not_equivalent", "equivalent"};

/* A model with an engine, and the texts as a batch. */
typedef struct {
    moe_model *model;
    moe_pool *pool;
    moe_engine *engine;
    moe_labels *labels;
    int32_t cu_seqlens[TEXTS + 1], ids[MAX_TOKENS];
    moe_batch all;
} machine;

static const char *folder(const char *name)
{
    static char path[512];
    const char *base = getenv("MOE_TMP");
    snprintf(path, sizeof path, "%s/%s", base ? base : "/tmp", name);
    return path;
}

static void open_machine(machine *m, const char *dir, int n_threads,
                         const moe_engine_options *options)
{
    moe_error err;
    *m = (machine){0};
    if (moe_model_open(dir, &m->model, &err) != MOE_OK)
        fail_msg("%s", err.message);
    assert_int_equal(moe_pool_create(n_threads, &m->pool, &err), MOE_OK);
    assert_int_equal(moe_engine_create(m->model, m->pool, options, &m->engine, &err), MOE_OK);
    assert_int_equal(moe_labels_create(m->model, words, WORDS, &m->labels, &err), MOE_OK);
    for (int i = 0; i < TEXTS; i++) {
        moe_text in = {.text = texts[i], .text_bytes = strlen(texts[i])};
        moe_tokens t;
        assert_int_equal(moe_tokenize(m->model, &in, &t, &err), MOE_OK);
        m->cu_seqlens[i + 1] = m->cu_seqlens[i] + t.n;
        memcpy(m->ids + m->cu_seqlens[i], t.ids, (size_t)t.n * sizeof *t.ids);
        moe_tokens_free(&t);
    }
    m->all = (moe_batch){.n_seqs = TEXTS, .cu_seqlens = m->cu_seqlens, .token_ids = m->ids};
}

static void close_machine(machine *m)
{
    moe_labels_destroy(m->labels);
    moe_engine_destroy(m->engine);
    moe_pool_destroy(m->pool);
    moe_model_close(m->model);
}

/* What came of each text: labels for even ones, text for odd ones. */
typedef struct {
    moe_decoding each[TEXTS];
    float logprob[TEXTS][WORDS];
    int32_t ids[TEXTS][MAX_NEW];
    double effective[TEXTS];
} answers;

static void ask(answers *a)
{
    memset(a, 0, sizeof *a);
    for (int i = 0; i < TEXTS; i++)
        a->each[i] = (moe_decoding){.logprob = a->logprob[i], .ids = a->ids[i],
                                    .max_new_tokens = MAX_NEW};
}

static void decode(machine *m, const moe_batch *b, answers *a)
{
    moe_error err;
    ask(a);
    for (int i = 0; i < b->n_seqs; i += 2)
        a->each[i].labels = m->labels;
    if (moe_decode(m->engine, b, a->each, a->effective, &err) != MOE_OK)
        fail_msg("%s", err.message);
}

static void assert_same(const answers *a, int i, const answers *b, int j)
{
    assert_memory_equal(a->logprob[i], b->logprob[j], sizeof a->logprob[i]);
    assert_int_equal(a->each[i].n_ids, b->each[j].n_ids);
    assert_int_equal(a->each[i].ended, b->each[j].ended);
    assert_memory_equal(a->ids[i], b->ids[j], sizeof a->ids[i]);
    assert_true(a->effective[i] == b->effective[j]);
}

/* ---- files ------------------------------------------------------------------- */

static void at_ratio_1_it_is_the_checkpoint(const char *source, const char *name, moe_dtype t,
                                            double tolerance)
{
    machine dense, moe;
    answers expected, got;
    moe_selection selection[TEXTS];
    t5_moefied_write(source, folder(name), t);
    open_machine(&dense, source, 2, NULL);
    open_machine(&moe, folder(name), 2, NULL);
    assert_true(moe_model_describe(moe.model)->moefied);
    for (int i = 0; i < TEXTS; i++)
        selection[i] = (moe_selection){.ratio = 1};
    moe.all.selection = selection;
    decode(&dense, &dense.all, &expected);
    decode(&moe, &moe.all, &got);
    for (int i = 0; i < TEXTS; i++)
        for (int l = 0; i % 2 == 0 && l < WORDS; l++)
            if (!(fabsf(got.logprob[i][l] - expected.logprob[i][l]) <=
                  tolerance * (1 + fabsf(expected.logprob[i][l]))))
                fail_msg("%s: text %d, label %d: %g, expected %g", name, i, l,
                         got.logprob[i][l], expected.logprob[i][l]);
    for (int i = 1; t == MOE_F32 && i < TEXTS; i += 2) {
        assert_int_equal(got.each[i].n_ids, expected.each[i].n_ids);
        assert_memory_equal(got.ids[i], expected.ids[i],
                            (size_t)got.each[i].n_ids * sizeof(int32_t));
    }
    close_machine(&dense);
    close_machine(&moe);
}

/* Neurons in another order add up in another order; lower weights are off by more. */
static void written_and_read_models_are_their_checkpoints(void **state)
{
    (void)state;
    at_ratio_1_it_is_the_checkpoint(SOURCE, "mini-f32", MOE_F32, 1e-4);
    at_ratio_1_it_is_the_checkpoint(SOURCE, "mini-bf16", MOE_BF16, 0.02);
    at_ratio_1_it_is_the_checkpoint(SOURCE, "mini-int8", MOE_I8, 0.05);
    at_ratio_1_it_is_the_checkpoint(GATED, "gated-f32", MOE_F32, 1e-4);
    at_ratio_1_it_is_the_checkpoint(GATED, "gated-bf16", MOE_BF16, 0.05);
    at_ratio_1_it_is_the_checkpoint(GATED, "gated-int8", MOE_I8, 0.1);
}

/* moefy export writes a dense checkpoint that opens and answers alike. */
static void check_export(const char *source, const char *name)
{
    char command[2048], out[600];
    const char *build = getenv("MOE_BUILD");
    machine before, after;
    answers expected, got;
    t5_moefied_write(source, folder(name), MOE_F32);
    snprintf(out, sizeof out, "%s-dense", folder(name));
    snprintf(command, sizeof command, "rm -rf %s && %s/moefy export %s -o %s > /dev/null", out,
             build ? build : "build/release", folder(name), out);
    assert_int_equal(system(command), 0);
    open_machine(&before, source, 1, NULL);
    open_machine(&after, out, 1, NULL);
    assert_false(moe_model_describe(after.model)->moefied);
    decode(&before, &before.all, &expected);
    decode(&after, &after.all, &got);
    for (int i = 0; i < TEXTS; i++)
        assert_same(&expected, i, &got, i);
    close_machine(&before);
    close_machine(&after);
}

static void exported_models_are_their_checkpoints_to_the_bit(void **state)
{
    (void)state;
    check_export(SOURCE, "export");
    check_export(GATED, "export-gated");
}

/* ---- the same bits ------------------------------------------------------------- */

/* Text i of m alone, wanting what it wants among all. */
static void decode_one(machine *m, int i, const moe_selection *selection, answers *out)
{
    moe_error err;
    int32_t cu[2] = {0, m->cu_seqlens[i + 1] - m->cu_seqlens[i]};
    moe_batch b = {.n_seqs = 1, .cu_seqlens = cu, .token_ids = m->ids + m->cu_seqlens[i],
                   .selection = selection};
    ask(out);
    out->each[0].labels = i % 2 == 0 ? m->labels : NULL;
    assert_int_equal(moe_decode(m->engine, &b, out->each, out->effective, &err), MOE_OK);
}

static void check_same_bits(const char *source, const char *name, moe_dtype t)
{
    static const int threads[] = {1, 2, 3};
    static answers first, again;
    moe_selection selection[TEXTS];
    double quarter = 0;
    t5_moefied_write(source, folder(name), t);
    for (int i = 0; i < TEXTS; i++)
        selection[i] = (moe_selection){.ratio = i % 3 == 2 ? 1 : i % 3 == 1 ? 0.5 : 0.25};
    for (int k = 0; k < 3; k++) {
        machine m;
        /* The last engine takes the texts in several chunks. */
        moe_engine_options small = {.chunk_tokens = k == 2 ? 1 : 0};
        open_machine(&m, folder(name), threads[k], &small);
        int n = moe_model_describe(m.model)->n_experts;
        quarter = (double)((n + 3) / 4) / n;
        m.all.selection = selection;
        decode(&m, &m.all, k == 0 ? &first : &again);
        for (int i = 0; k > 0 && i < TEXTS; i++)
            assert_same(&first, i, &again, i);
        for (int i = 0; i < TEXTS; i++) {
            decode_one(&m, i, &selection[i], &again);
            assert_same(&first, i, &again, 0);
        }
        close_machine(&m);
    }
    assert_true(first.effective[2] == 1);
    assert_true(fabs(first.effective[0] - quarter) < 0.03); /* the last expert is not full */
}

static void answers_are_the_same_bits_alone_and_together(void **state)
{
    (void)state;
    check_same_bits(SOURCE, "bits-f32", MOE_F32);
    check_same_bits(GATED, "bits-gated", MOE_F32);
    check_same_bits(GATED, "bits-gated-int8", MOE_I8);
}

/* All experts selected, by every other text's being sparse, is the dense path's bits. */
static void ratio_1_beside_sparse_texts_is_dense(void **state)
{
    (void)state;
    static answers dense, mixed;
    moe_selection selection[TEXTS];
    machine m;
    t5_moefied_write(SOURCE, folder("ones"), MOE_F32);
    open_machine(&m, folder("ones"), 2, NULL);
    decode(&m, &m.all, &dense);
    for (int i = 0; i < TEXTS; i++)
        selection[i] = (moe_selection){.ratio = i < 3 ? 1 : 0.25};
    m.all.selection = selection;
    decode(&m, &m.all, &mixed);
    for (int i = 0; i < 3; i++)
        assert_same(&dense, i, &mixed, i);
    moe_stats_totals s = moe_stats_read(m.engine);
    assert_true(s.tokens > 0 && s.dense_tokens > s.tokens);
    assert_true(s.neurons_skipped > s.neurons_selected / 8);
    close_machine(&m);
}

/* ---- forced targets and steps ---------------------------------------------------- */

typedef struct { int calls[64], rows[64]; } seen;

static moe_status see(void *ctx, int layer, const float *x, int n_tokens, moe_error *err)
{
    seen *s = ctx;
    (void)x;
    (void)err;
    s->calls[layer]++;
    s->rows[layer] += n_tokens;
    return MOE_OK;
}

/* The batch with each text's targets: a label word, tokenized. */
static void add_targets(machine *m, int32_t *cu, int32_t *ids)
{
    moe_error err;
    cu[0] = 0;
    for (int i = 0; i < TEXTS; i++) {
        const char *word = words[i % WORDS];
        moe_text in = {.text = word, .text_bytes = strlen(word)};
        moe_tokens t;
        assert_int_equal(moe_tokenize(m->model, &in, &t, &err), MOE_OK);
        memcpy(ids + cu[i], t.ids, (size_t)t.n * sizeof *ids);
        cu[i + 1] = cu[i] + t.n;
        moe_tokens_free(&t);
    }
    m->all.cu_targets = cu;
    m->all.target_ids = ids;
}

static void forced_targets_are_as_likely_as_labels(void **state)
{
    (void)state;
    machine m;
    moe_error err;
    seen s = {{0}, {0}};
    moe_engine_options options = {.capture = see, .capture_ctx = &s};
    int32_t cu[TEXTS + 1], ids[64];
    float logprob[64];
    double effective[TEXTS];
    answers a;
    open_machine(&m, SOURCE, 2, &options);
    add_targets(&m, cu, ids);
    moe_output out = {.target_logprob = logprob, .effective_ratio = effective};
    assert_int_equal(moe_forward(m.engine, &m.all, &out, &err), MOE_OK);
    const moe_model_info *info = moe_model_describe(m.model);
    for (int l = 0; l < info->n_layers; l++) {
        bool decoder = l >= info->n_layers - info->n_decoder_layers;
        assert_int_equal(s.rows[l], decoder ? cu[TEXTS] : m.cu_seqlens[TEXTS]);
    }
    decode(&m, &m.all, &a);
    for (int i = 0; i < TEXTS; i += 2) {
        float sum = 0;
        for (int t = cu[i]; t < cu[i + 1]; t++)
            sum += logprob[t];
        assert_true(fabsf(sum - a.logprob[i][i % WORDS]) < 1e-4f);
    }
    close_machine(&m);
}

static void run_steps(machine *m, float *x, float *memory, float *y, float *logits)
{
    moe_error err;
    const moe_model_info *info = moe_model_describe(m->model);
    int encoder = info->n_layers - info->n_decoder_layers;
    assert_int_equal(moe_step_embed(m->engine, &m->all, memory, &err), MOE_OK);
    for (int l = 0; l < encoder; l++) {
        assert_int_equal(moe_step_attention(m->engine, l, &m->all, memory, &err), MOE_OK);
        assert_int_equal(moe_step_ffn(m->engine, l, &m->all, memory, &err), MOE_OK);
    }
    assert_int_equal(moe_step_encoded(m->engine, &m->all, memory, &err), MOE_OK);
    assert_int_equal(moe_step_embed_targets(m->engine, &m->all, x, &err), MOE_OK);
    for (int l = encoder; l < info->n_layers; l++) {
        assert_int_equal(moe_step_attention(m->engine, l, &m->all, x, &err), MOE_E_ARGUMENT);
        m->all.memory = memory;
        assert_int_equal(moe_step_attention(m->engine, l, &m->all, x, &err), MOE_OK);
        assert_int_equal(moe_step_ffn_input(m->engine, l, x, m->all.cu_targets[TEXTS], y, &err),
                         MOE_OK);
        assert_int_equal(moe_step_ffn(m->engine, l, &m->all, x, &err), MOE_OK);
        m->all.memory = NULL;
    }
    assert_int_equal(moe_step_head(m->engine, &m->all, x, logits, &err), MOE_OK);
}

static void steps_give_the_bits_of_the_whole(void **state)
{
    (void)state;
    machine m;
    moe_error err;
    int32_t cu[TEXTS + 1], ids[64];
    float logprob[64];
    moe_selection selection[TEXTS];
    t5_moefied_write(SOURCE, folder("steps"), MOE_F32);
    open_machine(&m, folder("steps"), 2, NULL);
    for (int i = 0; i < TEXTS; i++)
        selection[i] = (moe_selection){.ratio = i % 2 ? 0.3 : 1};
    m.all.selection = selection;
    add_targets(&m, cu, ids);
    const moe_model_info *info = moe_model_describe(m.model);
    size_t d = (size_t)info->d_model, n_vocab = (size_t)info->n_vocab;
    float *states = malloc((size_t)m.cu_seqlens[TEXTS] * d * sizeof *states);
    float *memory = malloc((size_t)m.cu_seqlens[TEXTS] * d * sizeof *memory);
    float *x = malloc((size_t)cu[TEXTS] * d * sizeof *x), *y = malloc((size_t)cu[TEXTS] * d * sizeof *y);
    float *logits = malloc((size_t)cu[TEXTS] * n_vocab * sizeof *logits);
    moe_output out = {.states = states, .target_logprob = logprob};
    assert_int_equal(moe_forward(m.engine, &m.all, &out, &err), MOE_OK);
    run_steps(&m, x, memory, y, logits);
    assert_memory_equal(states, memory, (size_t)m.cu_seqlens[TEXTS] * d * sizeof *states);
    for (int t = 0; t < cu[TEXTS]; t++) {
        double sum = 0;
        for (size_t i = 0; i < n_vocab; i++)
            sum += exp(logits[(size_t)t * n_vocab + i]);
        float expected = (float)(logits[(size_t)t * n_vocab + (size_t)ids[t]] - log(sum));
        assert_true(fabsf(expected - logprob[t]) < 1e-5f * (1 + fabsf(expected)));
    }
    free(states);
    free(memory);
    free(x);
    free(y);
    free(logits);
    close_machine(&m);
}

/* ---- what is refused ---------------------------------------------------------------- */

static void expect(moe_status status, moe_status expected, const moe_error *err,
                   const char *part)
{
    assert_int_equal(status, expected);
    if (!strstr(err->message, part))
        fail_msg("'%s' should hold '%s'", err->message, part);
}

static void bad_labels_are_refused(void **state)
{
    (void)state;
    machine m;
    moe_error err;
    moe_labels *l;
    static char many[600][16];
    const char *list[600];
    open_machine(&m, SOURCE, 1, NULL);
    expect(moe_labels_create(m.model, (const char *[]){"a", " "}, 2, &l, &err), MOE_E_ARGUMENT,
           &err, "label 1, ' ', has no token");
    assert_null(l);
    expect(moe_labels_create(m.model, (const char *[]){"a", "b", "a "}, 3, &l, &err),
           MOE_E_ARGUMENT, &err, "have the same tokens");
    expect(moe_labels_create(m.model, words, 0, &l, &err), MOE_E_ARGUMENT, &err, "0 labels");
    for (int i = 0; i < 600; i++) {
        snprintf(many[i], sizeof many[i], "%d", i + 1000);
        list[i] = many[i];
    }
    expect(moe_labels_create(m.model, list, 600, &l, &err), MOE_E_LIMIT, &err, "600 labels");
    /* One label is another's beginning: both are whole. */
    assert_int_equal(moe_labels_create(m.model, (const char *[]){"a", "a b", "a b c"}, 3, &l,
                                       &err), MOE_OK);
    assert_int_equal(moe_labels_count(l), 3);
    assert_int_equal(moe_labels_tokens(l), 4);
    moe_labels_destroy(l);
    close_machine(&m);
}

static void bad_requests_are_refused(void **state)
{
    (void)state;
    machine m;
    moe_error err;
    answers a;
    int32_t cu[TEXTS + 1], ids[64];
    open_machine(&m, SOURCE, 1, NULL);
    ask(&a);
    a.each[3].max_new_tokens = 0;
    expect(moe_decode(m.engine, &m.all, a.each, NULL, &err), MOE_E_ARGUMENT, &err,
           "sequence 3: max_new_tokens is 0");
    a.each[3].max_new_tokens = 100000;
    expect(moe_decode(m.engine, &m.all, a.each, NULL, &err), MOE_E_ARGUMENT, &err,
           "expected 1 to 512");
    a.each[3] = a.each[2];
    a.each[5].ids = NULL;
    expect(moe_decode(m.engine, &m.all, a.each, NULL, &err), MOE_E_ARGUMENT, &err,
           "sequence 5: no room for ids");
    add_targets(&m, cu, ids);
    ids[0] = 1 << 20;
    moe_output out = {.target_logprob = NULL};
    expect(moe_forward(m.engine, &m.all, &out, &err), MOE_E_ARGUMENT, &err,
           "target id 1048576 at 0");
    cu[2] = cu[1];
    expect(moe_forward(m.engine, &m.all, &out, &err), MOE_E_ARGUMENT, &err, "target id");
    close_machine(&m);
}

/* A decoder that never says </s> is stopped, and says so. */
static void endless_texts_end_at_the_limit(void **state)
{
    (void)state;
    machine m;
    moe_error err;
    answers a;
    open_machine(&m, GATED, 1, NULL);
    ask(&a);
    assert_int_equal(moe_decode(m.engine, &m.all, a.each, NULL, &err), MOE_OK);
    bool endless = false;
    for (int i = 0; i < TEXTS; i++) {
        endless |= !a.each[i].ended;
        assert_true(a.each[i].ended || a.each[i].n_ids == MAX_NEW);
    }
    assert_true(endless);
    close_machine(&m);
}

static void write_text(const char *dir, const char *name, const char *text, size_t n)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fwrite(text, 1, n, f);
    fclose(f);
}

static void a_spiece_model_that_is_none_is_refused(void **state)
{
    (void)state;
    moe_model *m;
    moe_error err;
    t5_moefied_write(GATED, folder("bad"), MOE_F32);
    write_text(folder("bad"), "spiece.model", "not a model at all", 18);
    expect(moe_model_open(folder("bad"), &m, &err), MOE_E_FORMAT, &err, "spiece.model: ");
    write_text(folder("bad"), "spiece.model", "", 0);
    expect(moe_model_open(folder("bad"), &m, &err), MOE_E_FORMAT, &err, "spiece.model: 0 bytes");
    /* One whose pieces the embedding has no rows for. */
    t5_copy_file(SOURCE, folder("bad"), "spiece.model");
    expect(moe_model_open(folder("bad"), &m, &err), MOE_E_FORMAT, &err, "8000 pieces");
    char path[600];
    snprintf(path, sizeof path, "%s/spiece.model", folder("bad"));
    remove(path);
    expect(moe_model_open(folder("bad"), &m, &err), MOE_E_IO, &err, "spiece.model: cannot open");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_and_read_models_are_their_checkpoints),
        cmocka_unit_test(exported_models_are_their_checkpoints_to_the_bit),
        cmocka_unit_test(answers_are_the_same_bits_alone_and_together),
        cmocka_unit_test(ratio_1_beside_sparse_texts_is_dense),
        cmocka_unit_test(forced_targets_are_as_likely_as_labels),
        cmocka_unit_test(steps_give_the_bits_of_the_whole),
        cmocka_unit_test(bad_labels_are_refused),
        cmocka_unit_test(bad_requests_are_refused),
        cmocka_unit_test(endless_texts_end_at_the_limit),
        cmocka_unit_test(a_spiece_model_that_is_none_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

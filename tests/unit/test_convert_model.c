/* moefy convert and export from end to end on a tiny model: every split and
 * router, layers left dense, silent layers, and the way back. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "convert/calibration.h"
#include "convert/capture.h"
#include "convert/cli.h"
#include "convert/router.h"
#include "convert/split.h"
#include "engine/model/model.h"
#include "engine/model/safetensors.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tiny_text.h"

enum { MAX_ARGS = 24 };

/* Runs a subcommand in this process; what it prints goes nowhere. */
static int moefy(int (*command)(int, char **), const char *line)
{
    char *argv[MAX_ARGS], *copy = strdup(line), *rest = copy;
    int argc = 0;
    for (char *word; (word = strtok_r(rest, " ", &rest)) && argc < MAX_ARGS - 1; )
        argv[argc++] = word;
    argv[argc] = NULL;
    fflush(stdout);
    FILE *kept = stdout, *nowhere = fopen("/dev/null", "w");
    stdout = nowhere;
    int code = command(argc, argv);
    stdout = kept;
    fclose(nowhere);
    free(copy);
    return code;
}

static int convert(const char *out, const char *options)
{
    char line[16384];
    snprintf(line, sizeof line, "convert %s -o %s --calibrate %s %s", in_tmp("source"),
             out, in_tmp("text.tsv"), options);
    return moefy(cmd_convert, line);
}

static int make_source(void **state)
{
    (void)state;
    tiny_model_write(in_tmp("source"), 3);
    write_sentences(in_tmp("text.tsv"), 300);
    return 0;
}

static moe_model *open_model(const char *dir)
{
    moe_model *m = NULL;
    moe_error err;
    if (moe_model_open(dir, &m, &err) != MOE_OK)
        fail_msg("%s", err.message);
    return m;
}

/* Logits of two sentences at a ratio. */
enum { N_LOGITS = 2 * TINY_LABELS };
static void run(const char *dir, double ratio, float *logits)
{
    static const int32_t bounds[] = {0, 6, 16};
    int32_t ids[16];
    for (int i = 0; i < 16; i++)
        ids[i] = 2 + (i * 7) % 50;
    const moe_selection selection[2] = {{ratio, MOE_SELECT_ROUTER},
                                        {ratio, MOE_SELECT_ROUTER}};
    moe_model *m = open_model(dir);
    moe_pool *pool;
    moe_engine *e;
    assert_int_equal(moe_pool_create(1, &pool, NULL), MOE_OK);
    assert_int_equal(moe_engine_create(m, pool, NULL, &e, NULL), MOE_OK);
    const moe_batch batch = {.n_seqs = 2, .cu_seqlens = bounds, .token_ids = ids,
                             .selection = selection};
    moe_output out = {.logits = logits};
    assert_int_equal(moe_forward(e, &batch, &out, NULL), MOE_OK);
    moe_engine_destroy(e);
    moe_pool_destroy(pool);
    moe_model_close(m);
}

static void expect_close(const float *a, const float *b, double tolerance)
{
    for (int i = 0; i < N_LOGITS; i++)
        if (!(fabs((double)a[i] - b[i]) <= tolerance))
            fail_msg("logit %d: %g and %g", i, (double)a[i], (double)b[i]);
}

static void check_router(const moe_router *r, const char *kind)
{
    assert_true(r->present);
    assert_int_equal(r->n_linears, strcmp(kind, "mlp") ? 1 : 2);
    assert_int_equal(r->normalize, !strcmp(kind, "mlp"));
    double sum = 0;
    for (int e = 0; e < TINY_EXPERTS; e++)
        sum += r->frequency[e];
    assert_true(fabs(sum - 1) < 1e-5);
}

static void every_split_and_router_computes_the_source_at_ratio_one(void **state)
{
    (void)state;
    float dense[N_LOGITS], full[N_LOGITS], part[N_LOGITS];
    run(in_tmp("source"), 1, dense);
    for (int s = 0; split_kinds[s].name; s++)
        for (int r = 0; router_kinds[r].name; r++) {
            char options[128];
            const char *out = in_tmp("moefied");
            snprintf(options, sizeof options, "--split %s --router %s",
                     split_kinds[s].name, router_kinds[r].name);
            assert_int_equal(convert(out, options), EXIT_DONE);
            moe_model *m = open_model(out);
            assert_true(m->info.moefied);
            assert_string_equal(m->info.split, split_kinds[s].name);
            assert_string_equal(m->info.router, router_kinds[r].name);
            assert_int_equal(m->info.n_ratio_rows, 14);
            for (int l = 0; l < TINY_LAYERS; l++)
                check_router(&m->weights.layers[l].router, router_kinds[r].name);
            moe_model_close(m);
            run(out, 1, full);
            run(out, 0.34, part);
            /* Sums run in another order: rounding, nothing more. */
            expect_close(full, dense, 1e-4);
            for (int i = 0; i < N_LOGITS; i++)
                assert_true(isfinite(part[i]));
        }
}

static void layers_not_asked_for_stay_dense(void **state)
{
    (void)state;
    const char *out = in_tmp("partly");
    float dense[N_LOGITS], full[N_LOGITS];
    assert_int_equal(convert(out, "--layers 1"), EXIT_DONE);
    moe_model *m = open_model(out);
    assert_false(m->weights.layers[0].router.present);
    assert_null(m->weights.layers[0].ffn.neurons);
    assert_true(m->weights.layers[1].router.present);
    for (int i = 0; i < m->info.n_ratio_rows; i++) {
        const moe_ratio_row *row = &m->info.ratio_rows[i];
        assert_int_equal(row->experts[0], TINY_EXPERTS);
        assert_int_equal(row->experts[1], fmax(1, round(row->ratio * TINY_EXPERTS)));
    }
    moe_model_close(m);
    run(in_tmp("source"), 1, dense);
    run(out, 1, full);
    expect_close(full, dense, 1e-4);
    assert_int_equal(convert(out, "--layers 0,1-1"), EXIT_DONE);
    static const char *const wrong[] = {"2", "1-0", "a", "0,", "0-", "-1", "0-9", "0 1"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char options[64];
        snprintf(options, sizeof options, "--layers=%s", wrong[i]);
        assert_int_equal(convert(out, options), EXIT_USAGE);
    }
}

static void expect_same_file(const char *a, const char *b, const char *name, bool same)
{
    size_t n = 0, k = 0;
    char *x = file_bytes(a, name, &n), *y = file_bytes(b, name, &k);
    assert_true(x && y);
    assert_int_equal(n == k && !memcmp(x, y, n), same);
    free(x);
    free(y);
}

static void a_seed_gives_the_same_bytes_for_any_threads(void **state)
{
    (void)state;
    const char *one = in_tmp("one"), *five = in_tmp("five"), *other = in_tmp("other");
    assert_int_equal(convert(one, "--threads 1 --seed 4"), EXIT_DONE);
    assert_int_equal(convert(five, "--threads 5 --seed 4"), EXIT_DONE);
    assert_int_equal(convert(other, "--threads 1 --seed 5"), EXIT_DONE);
    expect_same_file(one, five, "model.safetensors", true);
    expect_same_file(one, five, "config.json", true);
    expect_same_file(one, five, "README.md", true);
    expect_same_file(one, in_tmp("source"), "vocab.txt", true);
    expect_same_file(one, other, "model.safetensors", false);
}

/* Layer 1 never fires, in layer 0 three neurons of four don't. */
static void silent_layers_convert(void **state)
{
    (void)state;
    tiny_weights w;
    float dense[N_LOGITS], full[N_LOGITS], part[N_LOGITS];
    tiny_make(&w, 3);
    float *b0 = (float *)tiny_part(&w, 0, "intermediate.dense.bias");
    float *b1 = (float *)tiny_part(&w, 1, "intermediate.dense.bias");
    for (int n = 0; n < TINY_D_FF; n++) {
        b0[n] = n % 4 ? -1e4f : b0[n];
        b1[n] = -1e4f;
    }
    const char *source = in_tmp("silent"), *out = in_tmp("silent-moefied");
    tiny_write_safetensors(source, &w);
    tiny_write_config(source, NULL);
    tiny_write_vocab(source);
    tiny_free(&w);
    run(source, 1, dense);
    for (int s = 0; split_kinds[s].name; s++) {
        char line[16384];
        snprintf(line, sizeof line, "convert %s -o %s --calibrate %s --split %s", source,
                 out, in_tmp("text.tsv"), split_kinds[s].name);
        assert_int_equal(moefy(cmd_convert, line), EXIT_DONE);
        run(out, 1, full);
        run(out, 0.34, part);
        expect_close(full, dense, 1e-4);
        /* One expert holds the twenty that fire: sparse is dense. */
        if (!strcmp(split_kinds[s].name, "coactivation") ||
            !strcmp(split_kinds[s].name, "em"))
            expect_close(part, dense, 1e-4);
    }
}

static void exports_hold_the_source_bit_for_bit(void **state)
{
    (void)state;
    const char *out = in_tmp("for-export"), *dense = in_tmp("dense");
    char line[16384];
    safetensors *a, *b;
    snprintf(line, sizeof line, "rm -rf %s", dense);
    assert_int_equal(system(line), 0);
    assert_int_equal(convert(out, "--split random --router random"), EXIT_DONE);
    snprintf(line, sizeof line, "export %s -o %s", out, dense);
    assert_int_equal(moefy(cmd_export, line), EXIT_DONE);
    assert_int_equal(moefy(cmd_export, line), EXIT_FAILED); /* it is there now */
    assert_int_equal(safetensors_open(in_tmp("source"), &a, NULL), MOE_OK);
    assert_int_equal(safetensors_open(dense, &b, NULL), MOE_OK);
    tiny_weights w;
    tiny_make(&w, 3);
    for (int i = 0; i < w.n; i++) {
        const st_tensor *x = safetensors_find(a, w.tensors[i].name);
        const st_tensor *y = safetensors_find(b, w.tensors[i].name);
        assert_non_null(x);
        assert_non_null(y);
        assert_int_equal(x->n_dims, y->n_dims);
        assert_int_equal(x->bytes, y->bytes);
        assert_memory_equal(x->data, y->data, x->bytes);
    }
    tiny_free(&w);
    safetensors_close(a);
    safetensors_close(b);
    moe_model *m = open_model(dense);
    assert_false(m->info.moefied);
    moe_model_close(m);
    float before[N_LOGITS], after[N_LOGITS];
    run(in_tmp("source"), 1, before);
    run(dense, 1, after);
    assert_memory_equal(before, after, sizeof before);
    expect_same_file(dense, in_tmp("source"), "vocab.txt", true);
}

/* Keeps what enters one layer. */
typedef struct { int layer; float *x; } watcher;
static moe_status watch(void *ctx, int layer, const float *x, int n, moe_error *err)
{
    (void)err;
    watcher *w = ctx;
    if (layer == w->layer)
        memcpy(w->x, x, (size_t)n * TINY_D * sizeof *x);
    return MOE_OK;
}

static void captured_rows_are_those_of_each_sequence_alone(void **state)
{
    (void)state;
    moe_model *m = open_model(in_tmp("source"));
    moe_pool *pool;
    moe_engine *e;
    dataset data;
    capture c;
    progress bar;
    const bool wanted[TINY_LAYERS] = {false, true};
    static float rows[TINY_POSITIONS * TINY_D];
    watcher w = {1, rows};
    const moe_engine_options options = {.capture = watch, .capture_ctx = &w};
    const float *x;
    assert_int_equal(moe_pool_create(2, &pool, NULL), MOE_OK);
    assert_int_equal(moe_engine_create(m, pool, &options, &e, NULL), MOE_OK);
    assert_int_equal(dataset_read(in_tmp("text.tsv"), 0, &data, NULL), MOE_OK);
    assert_int_equal(capture_run(m, pool, &data, 1 << 20, wanted, getenv("MOE_TMP"), &bar,
                                 &c, NULL), MOE_OK);
    assert_int_equal(c.n_seqs, data.n_rows);
    assert_true(c.n_tokens > 2048); /* several chunks of the engine */
    assert_int_equal(capture_map(&c, 1, &x, NULL), MOE_OK);
    for (int s = 0; s < c.n_seqs; s++) {
        const moe_text text = {.text = data.rows[s].text,
                               .text_bytes = data.rows[s].text_bytes};
        moe_tokens tokens;
        float logits[TINY_LABELS];
        assert_int_equal(moe_tokenize(m, &text, &tokens, NULL), MOE_OK);
        const int32_t bounds[2] = {0, tokens.n};
        assert_int_equal(c.cu_seqlens[s + 1] - c.cu_seqlens[s], tokens.n);
        const moe_batch batch = {.n_seqs = 1, .cu_seqlens = bounds,
                                 .token_ids = tokens.ids};
        moe_output out = {.logits = logits};
        assert_int_equal(moe_forward(e, &batch, &out, NULL), MOE_OK);
        assert_memory_equal(x + (size_t)c.cu_seqlens[s] * TINY_D, rows,
                            (size_t)tokens.n * TINY_D * sizeof *rows);
        moe_tokens_free(&tokens);
    }
    capture_close(&c);
    dataset_free(&data);
    moe_engine_destroy(e);
    moe_pool_destroy(pool);
    moe_model_close(m);
}

static void rows_are_chosen_evenly_within_the_limit(void **state)
{
    (void)state;
    int32_t length[1000], chosen[1000];
    for (int i = 0; i < 1000; i++)
        length[i] = 5 + i % 40; /* 24,500 in all */
    for (int limit = 45; limit < 30000; limit = limit * 3 / 2) {
        int n = calibration_choose(length, 1000, limit, chosen), sum = 0;
        for (int j = 0; j < n; j++) {
            sum += length[chosen[j]];
            if (j > 0)
                assert_in_range(chosen[j] - chosen[j - 1], 1000 / n, 1000 / n + 1);
        }
        assert_true(sum <= limit);
        assert_true(sum > 0.8 * limit || n == 1000 || limit < 500);
    }
    assert_int_equal(calibration_choose(length, 1000, 24500, chosen), 1000);
    assert_int_equal(calibration_choose(length, 1000, 7, chosen), 1);
    assert_int_equal(length[chosen[0]], 5);
    assert_int_equal(calibration_choose(length, 1000, 4, chosen), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_split_and_router_computes_the_source_at_ratio_one),
        cmocka_unit_test(layers_not_asked_for_stay_dense),
        cmocka_unit_test(a_seed_gives_the_same_bytes_for_any_threads),
        cmocka_unit_test(silent_layers_convert),
        cmocka_unit_test(exports_hold_the_source_bit_for_bit),
        cmocka_unit_test(captured_rows_are_those_of_each_sequence_alone),
        cmocka_unit_test(rows_are_chosen_evenly_within_the_limit),
    };
    return cmocka_run_group_tests(tests, make_source, NULL);
}

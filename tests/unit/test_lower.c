/* Weights made bf16 and int8: each value against its formula, and a model of them
 * written, opened, run and exported. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/model/lower.h"
#include "engine/model/model.h"
#include "engine/model/pack.h"
#include "tests/support/tiny_model.h"

enum { SEED = 7 };

static uint16_t bits_of(uint32_t wide)
{
    float x;
    memcpy(&x, &wide, sizeof x);
    return lower_bf16(x);
}

static void bf16_rounds_to_the_nearest_even(void **state)
{
    (void)state;
    assert_int_equal(bits_of(0x3f800000), 0x3f80);
    assert_int_equal(bits_of(0x3f808000), 0x3f80); /* a tie, down to even */
    assert_int_equal(bits_of(0x3f818000), 0x3f82); /* a tie, up to even */
    assert_int_equal(bits_of(0x3f808001), 0x3f81);
    assert_int_equal(bits_of(0xbf80ffff), 0xbf81);
    assert_int_equal(bits_of(0x7f7fffff), 0x7f80); /* the largest float: infinity */
    assert_int_equal(bits_of(0x7f800001) & 0x7f80, 0x7f80);
    assert_true(bits_of(0x7f800001) & 0x7f); /* a NaN stays one */
}

static void int8_scales_cut_outliers_off_where_that_is_closer(void **state)
{
    enum { N = 2, K = 400 };
    static float rows[N * K], packed[32 * K], back[N * K], importance[K];
    moe_error err;
    (void)state;
    for (int i = 0; i < K; i++) {
        rows[i] = (float)(i % 100 - 50) / 50;         /* even: nothing to cut off */
        rows[K + i] = i ? (float)(i % 7 - 3) / 400 : 1.27f; /* one outlier */
        importance[i] = i ? 1 : 1e-6f;                /* that hardly counts */
    }
    pack_linear(rows, N, K, packed);
    const moe_linear f32 = {.n = N, .k = K, .w = packed};
    moe_linear plain, weighed;
    assert_int_equal(lower_linear(&f32, MOE_I8, NULL, &plain, &err), MOE_OK);
    assert_int_equal(lower_linear(&f32, MOE_I8, importance, &weighed, &err), MOE_OK);
    assert_float_equal(plain.scale[0], 1.0 / 127, 1e-3);
    assert_float_equal(plain.scale[1], 1.27 / 127, 1e-6); /* the outlier's error counts most */
    assert_true(weighed.scale[1] < 0.7f * plain.scale[1]);
    unpack_linear(&plain, back);
    for (int i = 0; i < N * K; i++)
        assert_true(fabsf(back[i] - rows[i]) <= 0.5001f * plain.scale[i / K]);
    int sum = 0;
    for (int i = 0; i < K; i++)
        sum += (int)lrintf(back[i] / plain.scale[0]);
    assert_int_equal(plain.offset[0], 128 * sum);
    lower_linear_release(&plain);
    lower_linear_release(&weighed);
}

/* Puts name in place of "f32". */
static void named_dtype(const char *name, char out[4096])
{
    static const char text[] = TINY_MOEFICATION;
    const char *at = strstr(text, "f32");
    snprintf(out, 4096, "%.*s%s%s", (int)(at - text), text, name, at + 3);
}

/* Puts a value over number `at` of a tensor of fp32 in dir's file. */
static void spoil(const char *dir, const char *tensor, long at, float value)
{
    static char header[65536];
    char path[TINY_PATH], key[128];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    FILE *f = fopen(path, "r+b");
    uint64_t bytes;
    assert_int_equal(fread(&bytes, 8, 1, f), 1);
    assert_int_equal(fread(header, 1, bytes, f), bytes);
    snprintf(key, sizeof key, "\"%s\"", tensor);
    const char *entry = strstr(strstr(header, key), "\"data_offsets\":[");
    long begin = atol(entry + strlen("\"data_offsets\":["));
    fseek(f, 8 + (long)bytes + begin + 4 * at, SEEK_SET);
    fwrite(&value, 4, 1, f);
    fclose(f);
}

/* Writes the tiny network made lower to dir. */
static void write_lower(const char *dir, moe_dtype t)
{
    static tiny_moefied m;
    char moefication[4096], path[TINY_PATH];
    moe_error err;
    mkdir(dir, 0777);
    named_dtype(lower_name(t), moefication);
    tiny_moefied_make(&m, SEED);
    tiny_write_config(dir, moefication);
    tiny_write_vocab(dir);
    for (int l = 0; l < TINY_LAYERS; l++) {
        moe_layer f32 = m.layers[l], *to = &m.layers[l];
        assert_int_equal(lower_linear(&f32.qkv, t, NULL, &to->qkv, &err), MOE_OK);
        assert_int_equal(lower_linear(&f32.attention_out, t, NULL, &to->attention_out, &err),
                         MOE_OK);
        assert_int_equal(lower_ffn(&f32.ffn, t, NULL, NULL, &to->ffn, &err), MOE_OK);
    }
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(moefied_write_tensors(path, &m.w, &err), MOE_OK);
    for (int l = 0; l < TINY_LAYERS; l++) {
        lower_linear_release(&m.layers[l].qkv);
        lower_linear_release(&m.layers[l].attention_out);
        lower_ffn_release(&m.layers[l].ffn);
    }
    tiny_moefied_free(&m);
}

static const char *in_tmp(const char *name)
{
    static char path[TINY_PATH];
    snprintf(path, sizeof path, "%s/%s", getenv("MOE_TMP"), name);
    return path;
}

/* Logits of one fixed sequence at a ratio. */
static void run(const moe_model *m, double ratio, float *logits)
{
    static const int32_t ids[] = {2, 9, 17, 33, 20, 3}, bounds[] = {0, 6};
    moe_error err;
    moe_pool *pool;
    moe_engine *e;
    moe_selection how = {.ratio = ratio};
    moe_batch b = {.n_seqs = 1, .cu_seqlens = bounds, .token_ids = ids, .selection = &how};
    moe_output out = {.logits = logits};
    assert_int_equal(moe_pool_create(2, &pool, &err), MOE_OK);
    assert_int_equal(moe_engine_create(m, pool, NULL, &e, &err), MOE_OK);
    assert_int_equal(moe_forward(e, &b, &out, &err), MOE_OK);
    moe_engine_destroy(e);
    moe_pool_destroy(pool);
}

static moe_model *open_model(const char *dir)
{
    moe_error err;
    moe_model *m;
    if (moe_model_open(dir, &m, &err) != MOE_OK)
        fail_msg("%s", err.message);
    return m;
}

static void lower_models_open_and_answer_nearly_the_same(void **state)
{
    static const moe_dtype dtypes[] = {MOE_BF16, MOE_I8};
    float f32[TINY_LABELS], low[TINY_LABELS];
    (void)state;
    const char *dir = in_tmp("f32");
    mkdir(dir, 0777);
    tiny_moefied_write(dir, SEED);
    moe_model *source = open_model(dir);
    for (int i = 0; i < 2; i++) {
        dir = in_tmp(lower_name(dtypes[i]));
        write_lower(dir, dtypes[i]);
        moe_model *m = open_model(dir);
        assert_string_equal(moe_model_describe(m)->dtype, lower_name(dtypes[i]));
        for (double ratio = 0.5; ratio <= 1; ratio += 0.5) {
            run(source, ratio, f32);
            run(m, ratio, low);
            for (int l = 0; l < TINY_LABELS; l++)
                assert_float_equal(low[l], f32[l], 0.05);
            assert_true(memcmp(low, f32, sizeof low) != 0);
        }
        moe_model_close(m);
    }
    moe_model_close(source);
}

static void expect_refused(const char *dir, const char *part)
{
    moe_error err;
    moe_model *m;
    moe_status status = moe_model_open(dir, &m, &err);
    if (status != MOE_E_FORMAT || !strstr(err.message, part) || !strstr(err.message, dir))
        fail_msg("status %d, '%s' should hold '%s'", status, err.message, part);
}

static void what_is_wrong_with_a_lower_file_is_told(void **state)
{
    char moefication[4096];
    const char *dir = in_tmp("bad");
    (void)state;
    write_lower(dir, MOE_I8);
    spoil(dir, "layers.1.qkv.scale", 3, NAN);
    expect_refused(dir, "tensor 'layers.1.qkv.scale': value 3 of 160 is nan");
    spoil(dir, "layers.1.qkv.scale", 3, 0.01f);
    spoil(dir, "layers.1.ffn.scale2", 0, -1);
    expect_refused(dir, "tensor 'layers.1.ffn.scale2': value 0 of 64 is -1");
    named_dtype("bf16", moefication); /* the config says one thing, the file another */
    tiny_write_config(dir, moefication);
    expect_refused(dir, "has shape [");
    named_dtype("f32", moefication);
    tiny_write_config(dir, moefication);
    expect_refused(dir, "has shape [");
    write_lower(dir, MOE_BF16);
    named_dtype("int8", moefication);
    tiny_write_config(dir, moefication);
    expect_refused(dir, "has shape [");
    named_dtype("int4", moefication);
    tiny_write_config(dir, moefication);
    moe_error err;
    moe_model *m;
    assert_int_equal(moe_model_open(dir, &m, &err), MOE_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "expected \"f32\", \"bf16\" or \"int8\""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bf16_rounds_to_the_nearest_even),
        cmocka_unit_test(int8_scales_cut_outliers_off_where_that_is_closer),
        cmocka_unit_test(lower_models_open_and_answer_nearly_the_same),
        cmocka_unit_test(what_is_wrong_with_a_lower_file_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

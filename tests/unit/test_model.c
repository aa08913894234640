/* test_model.c: directories open to the weights that they hold, whichever way
 * these are stored. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/model/dtype.h"
#include "engine/model/model.h"
#include "engine/model/safetensors.h"
#include "engine/model/sha256.h"
#include "tests/support/tiny_model.h"

static const char shipped[] = "models/minilm-sst2-relu";
static const unsigned seed = 7;

static const char *in_tmp(const char *name)
{
    static char path[4][4096];
    static int next;
    char *to = path[next++ % 4];
    snprintf(to, sizeof path[0], "%s/%s", getenv("MOE_TMP"), name);
    return to;
}

static moe_model *open_model(const char *dir)
{
    moe_model *m = NULL;
    moe_error err = {0};
    if (moe_model_open(dir, &m, &err))
        fail_msg("%s", err.message);
    return m;
}

static void expect_floats(const char *what, const float *a, const float *b, size_t n)
{
    if (memcmp(a, b, n * sizeof *a) != 0)
        fail_msg("%s differ", what);
}

static void expect_linear(const char *what, const moe_linear *a, const moe_linear *b)
{
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->k, b->k);
    assert_int_equal((uintptr_t)a->w % 64, 0);
    expect_floats(what, a->w, b->w, pack_linear_floats(a->n, a->k));
    expect_floats(what, a->b, b->b, (size_t)a->n);
}

static void expect_norm(const char *what, const moe_norm *a, const moe_norm *b)
{
    assert_int_equal(a->d, b->d);
    assert_true(a->eps == b->eps);
    expect_floats(what, a->gamma, b->gamma, (size_t)a->d);
    expect_floats(what, a->beta, b->beta, (size_t)a->d);
}

/* Equal as fp32, whatever they are stored in. */
static void expect_table(const moe_table *a, const moe_table *b)
{
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->d, b->d);
    size_t n = (size_t)a->n * (size_t)a->d;
    float *x = malloc(n * sizeof *x), *y = malloc(n * sizeof *y);
    dtype_to_f32(a->dtype, a->rows, n, x);
    dtype_to_f32(b->dtype, b->rows, n, y);
    expect_floats("table", x, y, n);
    free(x);
    free(y);
}

/* Same neurons in source order, however they are placed. */
static void expect_ffn(const moe_ffn *a, const moe_ffn *b)
{
    assert_int_equal(a->d, b->d);
    assert_int_equal(a->d_ff, b->d_ff);
    assert_int_equal(a->n_experts, b->n_experts);
    assert_int_equal(a->act, b->act);
    size_t n = (size_t)a->d * (size_t)a->d_ff;
    float *x = malloc(n * sizeof *x), *y = malloc(n * sizeof *y);
    unpack_w1(a, x);
    unpack_w1(b, y);
    expect_floats("w1", x, y, n);
    unpack_b1(a, x);
    unpack_b1(b, y);
    expect_floats("b1", x, y, (size_t)a->d_ff);
    unpack_w2(a, x);
    unpack_w2(b, y);
    expect_floats("w2", x, y, n);
    expect_floats("b2", a->b2, b->b2, (size_t)a->d);
    free(x);
    free(y);
}

static void expect_same_network(const moe_weights *a, const moe_weights *b)
{
    expect_table(&a->words, &b->words);
    expect_table(&a->positions, &b->positions);
    expect_table(&a->types, &b->types);
    expect_norm("embed_norm", &a->embed_norm, &b->embed_norm);
    assert_int_equal(a->n_layers, b->n_layers);
    for (int l = 0; l < a->n_layers; l++) {
        const moe_layer *x = &a->layers[l], *y = &b->layers[l];
        expect_linear("qkv", &x->qkv, &y->qkv);
        expect_linear("attention_out", &x->attention_out, &y->attention_out);
        expect_norm("attention_norm", &x->attention_norm, &y->attention_norm);
        expect_ffn(&x->ffn, &y->ffn);
        expect_norm("ffn_norm", &x->ffn_norm, &y->ffn_norm);
    }
    expect_linear("pooler", &a->pooler, &b->pooler);
    expect_linear("classifier", &a->classifier, &b->classifier);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void the_shipped_checkpoint_opens_and_describes_itself(void **state)
{
    (void)state;
    double start = seconds();
    moe_model *m = open_model(shipped);
    print_message("opened in %.0f ms\n", 1e3 * (seconds() - start));
    const moe_model_info *i = moe_model_describe(m);
    assert_string_equal(i->dir, shipped);
    assert_string_equal(i->architecture, "BertForSequenceClassification");
    assert_int_equal(i->task, MOE_TASK_CLASSIFY);
    assert_false(i->moefied);
    assert_int_equal(i->n_layers, 6);
    assert_int_equal(i->d_model, 384);
    assert_int_equal(i->n_heads, 12);
    assert_int_equal(i->d_ff, 1536);
    assert_int_equal(i->n_experts, 48);
    assert_int_equal(i->n_vocab, 30522);
    assert_int_equal(i->max_tokens, 512);
    assert_int_equal(i->n_labels, 2);
    assert_string_equal(i->labels[0], "negative");
    assert_string_equal(i->labels[1], "positive");
    assert_string_equal(i->activation, "relu");
    assert_string_equal(i->router, "");
    assert_string_equal(i->moefication_json, "");
    assert_int_equal(i->n_ratio_rows, 0);
    assert_true(fabsf(m->attention_scale - 1.0f / sqrtf(32)) < 1e-7f);
    assert_int_equal(m->weights.words.dtype, MOE_F16);
    assert_false(m->weights.layers[5].router.present);
    assert_null(m->weights.layers[5].ffn.neurons);
    moe_model_close(m);
    moe_model_close(NULL);
}

/* ---- the same tensors, stored otherwise -------------------------------- */

enum { MAX_COPIES = 200 };

/* Writes n tensors of the shipped checkpoint as `dtype`. strip: leave the prefix
 * "bert." out. align: start the data on a multiple of 8, else on an odd byte. */
static void write_copy(const char *path, const st_tensor *const *t, int n, moe_dtype dtype,
                       bool strip, bool align)
{
    static char header[64 * 1024];
    size_t at = 0, offset = 0;
    for (int i = 0; i < n; i++) {
        char shape[200];
        const char *name = t[i]->name + (strip && strncmp(t[i]->name, "bert.", 5) == 0 ? 5 : 0);
        size_t bytes = t[i]->bytes / 2 * moe_dtype_bytes(dtype);
        at += (size_t)snprintf(header + at, sizeof header - at,
                               "%c\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                               i ? ',' : '{', name, moe_dtype_name(dtype),
                               st_shape_text(t[i]->dims, t[i]->n_dims, shape, sizeof shape),
                               offset, offset + bytes);
        offset += bytes;
    }
    header[at++] = '}';
    while (at % 8 != (align ? 0 : 5))
        header[at++] = ' ';
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    uint64_t length = at;
    fwrite(&length, 8, 1, f);
    fwrite(header, 1, at, f);
    for (int i = 0; i < n; i++) {
        size_t values = t[i]->bytes / 2;
        float *x = malloc(values * sizeof *x);
        dtype_to_f32(MOE_F16, t[i]->data, values, x);
        if (dtype == MOE_F16)
            fwrite(t[i]->data, 1, t[i]->bytes, f);
        else if (dtype == MOE_F32)
            fwrite(x, 4, values, f);
        else { /* the upper halves */
            uint16_t *u = (uint16_t *)x;
            for (size_t j = 0; j < values; j++)
                u[j] = u[2 * j + 1];
            fwrite(u, 2, values, f);
        }
        free(x);
    }
    assert_int_equal(fclose(f), 0);
}

static void copy_small_files(const char *to)
{
    const char *names[] = {"config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char from[4096], path[4096];
        snprintf(from, sizeof from, "%s/%s", shipped, names[i]);
        snprintf(path, sizeof path, "%s/%s", to, names[i]);
        char *real = realpath(from, NULL);
        assert_non_null(real);
        unlink(path);
        assert_int_equal(symlink(real, path), 0);
        free(real);
    }
}

static int shipped_tensors(safetensors **s, const st_tensor **t)
{
    static const char *const names[] = {
        "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight",
        "embeddings.token_type_embeddings.weight", "embeddings.LayerNorm.weight",
        "embeddings.LayerNorm.bias", "pooler.dense.weight", "pooler.dense.bias"};
    static const char *const parts[] = {
        "attention.self.query", "attention.self.key", "attention.self.value",
        "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense",
        "output.dense", "output.LayerNorm"};
    char name[160];
    int n = 0;
    assert_int_equal(safetensors_open(shipped, s, NULL), MOE_OK);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(name, sizeof name, "bert.%s", names[i]);
        t[n++] = safetensors_find(*s, name);
    }
    for (int l = 0; l < 6; l++)
        for (size_t i = 0; i < 2 * sizeof parts / sizeof *parts; i++) {
            snprintf(name, sizeof name, "bert.encoder.layer.%d.%s.%s", l, parts[i / 2],
                     i % 2 ? "bias" : "weight");
            t[n++] = safetensors_find(*s, name);
        }
    t[n++] = safetensors_find(*s, "classifier.weight");
    t[n++] = safetensors_find(*s, "classifier.bias");
    for (int i = 0; i < n; i++)
        assert_non_null(t[i]);
    return n;
}

static void f32_and_misaligned_copies_hold_the_same_weights(void **state)
{
    (void)state;
    const st_tensor *t[MAX_COPIES];
    safetensors *s;
    int n = shipped_tensors(&s, t);
    const char *dir = in_tmp("copy");
    char path[8192];
    mkdir(dir, 0777);
    copy_small_files(dir);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    moe_model *source = open_model(shipped);
    for (int misaligned = 0; misaligned < 2; misaligned++) {
        write_copy(path, t, n, misaligned ? MOE_F16 : MOE_F32, misaligned, !misaligned);
        moe_model *m = open_model(dir);
        assert_int_equal((uintptr_t)m->weights.words.rows % 4, 0);
        expect_same_network(&m->weights, &source->weights);
        moe_model_close(m);
    }
    moe_model_close(source);
    safetensors_close(s);
    unlink(path);
}

static void two_shards_hold_the_same_weights(void **state)
{
    (void)state;
    const st_tensor *t[MAX_COPIES];
    safetensors *s;
    int n = shipped_tensors(&s, t), half = n / 3;
    const char *dir = in_tmp("shards");
    char path[8192], index[8192];
    mkdir(dir, 0777);
    copy_small_files(dir);
    snprintf(path, sizeof path, "%s/model-1-of-2.safetensors", dir);
    write_copy(path, t, half, MOE_F16, false, true);
    snprintf(path, sizeof path, "%s/model-2-of-2.safetensors", dir);
    write_copy(path, t + half, n - half, MOE_F16, false, true);
    snprintf(index, sizeof index, "%s/model.safetensors.index.json", dir);
    FILE *f = fopen(index, "w");
    fprintf(f, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (int i = 0; i < n; i++)
        fprintf(f, "%s\"%s\":\"model-%d-of-2.safetensors\"", i ? "," : "", t[i]->name,
                i < half ? 1 : 2);
    fprintf(f, "}}");
    fclose(f);
    moe_model *source = open_model(shipped), *m = open_model(dir);
    expect_same_network(&m->weights, &source->weights);
    moe_model_close(m);
    moe_model_close(source);
    safetensors_close(s);
}

static void bf16_weights_become_the_floats_they_stand_for(void **state)
{
    (void)state;
    const st_tensor *t[MAX_COPIES];
    safetensors *s;
    int n = shipped_tensors(&s, t);
    const char *dir = in_tmp("bf16");
    char path[8192];
    mkdir(dir, 0777);
    copy_small_files(dir);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    write_copy(path, t, n, MOE_BF16, false, true);
    moe_model *source = open_model(shipped), *m = open_model(dir);
    assert_int_equal(m->weights.words.dtype, MOE_BF16);
    const moe_linear *a = &source->weights.layers[3].qkv, *b = &m->weights.layers[3].qkv;
    const float *before = a->w, *after = b->w;
    for (size_t i = 0; i < pack_linear_floats(a->n, a->k); i++) {
        uint32_t bits;
        float cut;
        memcpy(&bits, &before[i], 4);
        bits &= 0xffff0000u;
        memcpy(&cut, &bits, 4);
        assert_true(cut == after[i]);
    }
    moe_model_close(m);
    moe_model_close(source);
    safetensors_close(s);
    unlink(path);
}

/* ---- MoEfied --------------------------------------------------------------- */

static void a_tiny_model_and_its_moefied_form_are_one_network(void **state)
{
    (void)state;
    const char *plain = in_tmp("tiny"), *moefied = in_tmp("tiny-moefied");
    print_message("seed %u\n", seed);
    tiny_model_write(plain, seed);
    tiny_moefied_write(moefied, seed);
    moe_model *a = open_model(plain), *b = open_model(moefied);
    expect_same_network(&a->weights, &b->weights);
    const moe_model_info *i = moe_model_describe(b);
    assert_true(i->moefied);
    assert_int_equal(i->n_experts, 3);
    assert_int_equal(i->d_ff, 80);
    assert_int_equal(i->max_tokens, 40);
    assert_string_equal(i->router, "mlp");
    assert_string_equal(i->split, "random");
    assert_int_equal(i->n_ratio_rows, 3);
    assert_true(i->ratio_rows[1].ratio == 0.5);
    assert_int_equal(i->ratio_rows[1].experts[1], 2);
    assert_non_null(strstr(i->moefication_json, "\"provenance\""));
    moe_model_close(a);
    moe_model_close(b);
}

static void routers_and_neurons_come_back_as_written(void **state)
{
    (void)state;
    static tiny_moefied t;
    const char *dir = in_tmp("tiny-moefied");
    tiny_moefied_make(&t, seed + 1);
    tiny_moefied_write(dir, seed + 1);
    moe_model *m = open_model(dir);
    for (int l = 0; l < TINY_LAYERS; l++) {
        const moe_router *a = &t.layers[l].router, *b = &m->weights.layers[l].router;
        assert_true(b->present && b->normalize);
        assert_int_equal(b->n_linears, 2);
        expect_linear("first", &b->first, &a->first);
        expect_linear("second", &b->second, &a->second);
        expect_floats("frequency", b->frequency, a->frequency, TINY_EXPERTS);
        assert_memory_equal(m->weights.layers[l].ffn.neurons, t.layers[l].ffn.neurons,
                            96 * sizeof(int32_t));
    }
    moe_model_close(m);
    tiny_moefied_free(&t);
}

static void a_layer_may_stay_dense_and_a_router_without_bias(void **state)
{
    (void)state;
    static tiny_moefied t;
    const char *dir = in_tmp("tiny-half");
    char path[8192];
    tiny_moefied_make(&t, seed);
    t.layers[0].router.second.b = NULL;
    t.layers[1].router.present = false;
    tiny_write_vocab(dir);
    tiny_write_config(dir,
        "{\"format_version\":1,\"expert_size\":32,\"n_experts\":3,\"dtype\":\"f32\","
        "\"split\":\"s\",\"router\":{\"kind\":\"mlp\",\"normalize\":true,\"linears\":2,"
        "\"width\":10},\"layers\":[0],\"ratio_table\":["
        "{\"ratio\":0.5,\"experts\":[1,3]},{\"ratio\":1,\"experts\":[3,3]}]}");
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    moe_error err;
    if (moefied_write_tensors(path, &t.w, &err))
        fail_msg("%s", err.message);
    moe_model *m = open_model(dir);
    assert_true(m->weights.layers[0].router.present);
    assert_null(m->weights.layers[0].router.second.b);
    assert_false(m->weights.layers[1].router.present);
    assert_null(m->weights.layers[1].ffn.neurons);
    moe_model_close(m);
    tiny_moefied_free(&t);
}

/* Every tensor on its own alignment, packed ones on 64 bytes at least, no hole
 * (safetensors_open refuses those), data on a page. */
static void a_moefied_file_is_laid_out_for_mapping(void **state)
{
    (void)state;
    const char *dir = in_tmp("tiny-moefied");
    char path[8192];
    tiny_moefied_write(dir, seed);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    FILE *f = fopen(path, "rb");
    static char bytes[1 << 20];
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    assert_true(n < sizeof bytes);
    st_header h;
    assert_int_equal(st_header_parse(path, bytes, n, n, &h, NULL), MOE_OK);
    assert_int_equal(h.offset[0] % 4096, 0);
    for (int i = 0; i < h.n; i++) {
        size_t own = h.tensors[i].bytes & -h.tensors[i].bytes;
        assert_int_equal(h.offset[i] % (own > 4096 ? 4096 : own), 0);
        if (strstr(h.tensors[i].name, ".packed") || strstr(h.tensors[i].name, ".ffn.w"))
            assert_int_equal(h.offset[i] % 128, 0);
    }
    st_header_free(&h);
}

/* ---- SHA-256 ------------------------------------------------------------------ */

static void expect_hash(const char *text, size_t repeat, const char *expected)
{
    const char *path = in_tmp("hash");
    FILE *f = fopen(path, "wb");
    for (size_t i = 0; i < repeat; i++)
        fputs(text, f);
    fclose(f);
    char hex[65];
    assert_int_equal(file_sha256(path, hex, NULL), MOE_OK);
    assert_string_equal(hex, expected);
    unlink(path);
}

static void sha256_gives_the_standard_vectors(void **state)
{
    (void)state;
    expect_hash("", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    expect_hash("abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    expect_hash("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    expect_hash("a", 1000000,
                "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    expect_hash("a", 64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
    char hex[65];
    moe_error err;
    assert_int_equal(file_sha256(in_tmp("none"), hex, &err), MOE_E_IO);
    assert_non_null(strstr(err.message, "none: cannot open"));
    assert_int_equal(file_sha256(getenv("MOE_TMP"), hex, &err), MOE_E_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_shipped_checkpoint_opens_and_describes_itself),
        cmocka_unit_test(f32_and_misaligned_copies_hold_the_same_weights),
        cmocka_unit_test(two_shards_hold_the_same_weights),
        cmocka_unit_test(bf16_weights_become_the_floats_they_stand_for),
        cmocka_unit_test(a_tiny_model_and_its_moefied_form_are_one_network),
        cmocka_unit_test(routers_and_neurons_come_back_as_written),
        cmocka_unit_test(a_layer_may_stay_dense_and_a_router_without_bias),
        cmocka_unit_test(a_moefied_file_is_laid_out_for_mapping),
        cmocka_unit_test(sha256_gives_the_standard_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_model_bad.c: model directories that are broken are refused, with the
 * file and tensor in the message, and nothing half-written is left behind. */
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/model/safetensors.h"
#include "tests/support/tiny_model.h"

static const unsigned seed = 11;

static const char *dir(void)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/bad", getenv("MOE_TMP"));
    return path;
}

static const char *weights_path(void)
{
    static char path[8192];
    snprintf(path, sizeof path, "%s/model.safetensors", dir());
    return path;
}

static void expect_open_fails(moe_status code, const char *part, const char *part2)
{
    moe_model *m = (moe_model *)1;
    moe_error err = {0};
    moe_status status = moe_model_open(dir(), &m, &err);
    if (status != code || strncmp(err.message, dir(), strlen(dir())) != 0 ||
        !strstr(err.message, part) || !strstr(err.message, part2))
        fail_msg("status %d, expected %d: '%s' should hold '%s' and '%s'", status, code,
                 err.message, part, part2);
    assert_null(m);
}

/* Overwrites value i (of 4 bytes) of a tensor in the file. */
static void overwrite(const char *tensor, size_t i, const void *value)
{
    static char bytes[1 << 20];
    FILE *f = fopen(weights_path(), "r+b");
    assert_non_null(f);
    size_t n = fread(bytes, 1, sizeof bytes, f);
    st_header h;
    assert_int_equal(st_header_parse("f", bytes, n, n, &h, NULL), MOE_OK);
    int j = 0;
    while (j < h.n && strcmp(h.tensors[j].name, tensor) != 0)
        j++;
    assert_true(j < h.n);
    fseek(f, (long)(h.offset[j] + 4 * i), SEEK_SET);
    assert_int_equal(fwrite(value, 4, 1, f), 1);
    assert_int_equal(fclose(f), 0);
    st_header_free(&h);
}

static const char ffn_up[] = "bert.encoder.layer.1.intermediate.dense.weight";

static tiny_tensor *tensor_of(tiny_weights *w, const char *name)
{
    for (int i = 0; i < w->n; i++)
        if (strcmp(w->tensors[i].name, name) == 0)
            return &w->tensors[i];
    fail_msg("no tensor '%s'", name);
    return NULL;
}

static void write_plain(tiny_weights *w)
{
    tiny_write_safetensors(dir(), w);
    tiny_write_config(dir(), NULL);
    tiny_write_vocab(dir());
}

static void a_missing_tensor_is_named(void **state)
{
    (void)state;
    const char *names[] = {"bert.embeddings.word_embeddings.weight", ffn_up,
                           "bert.pooler.dense.bias", "classifier.weight",
                           "bert.encoder.layer.0.attention.self.value.bias"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        tiny_weights w;
        tiny_make(&w, seed);
        tensor_of(&w, names[i])->name[0] = 'X';
        write_plain(&w);
        char part[256];
        snprintf(part, sizeof part, "tensor '%s' is missing, expected [", names[i]);
        expect_open_fails(MOE_E_FORMAT, part, "");
        tiny_free(&w);
    }
}

static void a_wrong_shape_is_named_with_both_shapes(void **state)
{
    (void)state;
    tiny_weights w;
    tiny_make(&w, seed);
    tiny_tensor *t = tensor_of(&w, ffn_up);
    t->dims[0] = TINY_D;
    t->dims[1] = TINY_D_FF;
    write_plain(&w);
    expect_open_fails(MOE_E_FORMAT, ffn_up, "has shape [48, 80], expected [80, 48]");
    t->dims[0] = TINY_D_FF * TINY_D;
    t->n_dims = 1;
    write_plain(&w);
    expect_open_fails(MOE_E_FORMAT, ffn_up, "has shape [3840], expected [80, 48]");
    tiny_free(&w);
}

static void nan_and_infinity_are_found_in_any_weight(void **state)
{
    (void)state;
    tiny_weights w;
    tiny_make(&w, seed);
    for (int i = 0; i < w.n; i++) {
        tiny_tensor *t = &w.tensors[i];
        float kept = t->data[1];
        t->data[1] = i % 2 ? NAN : -INFINITY;
        write_plain(&w);
        char part[256];
        snprintf(part, sizeof part, "tensor '%s': value 1 of", t->name);
        expect_open_fails(MOE_E_FORMAT, part, "model.safetensors");
        t->data[1] = kept;
    }
    tiny_free(&w);
}

static void an_integer_weight_is_refused(void **state)
{
    (void)state;
    tiny_model_write(dir(), seed);
    FILE *f = fopen(weights_path(), "r+b");
    static char head[4096];
    assert_int_equal(fread(head, 1, sizeof head, f), sizeof head);
    char *at = memmem(head, sizeof head, "\"F32\"", 5); /* of the first tensor */
    assert_non_null(at);
    fseek(f, at - head, SEEK_SET);
    fwrite("\"I32\"", 1, 5, f);
    fclose(f);
    expect_open_fails(MOE_E_UNSUPPORTED, "word_embeddings.weight' is of I32", "expected F32, F16");
}

static void a_truncated_file_is_refused_at_any_length(void **state)
{
    (void)state;
    for (int moefied = 0; moefied < 2; moefied++) {
        for (int i = 0; i < 40; i++) {
            if (moefied)
                tiny_moefied_write(dir(), seed);
            else
                tiny_model_write(dir(), seed);
            struct stat st;
            assert_int_equal(stat(weights_path(), &st), 0);
            assert_int_equal(truncate(weights_path(), st.st_size * i / 40), 0);
            expect_open_fails(MOE_E_FORMAT, "model.safetensors", "");
        }
    }
}

/* Opens or is refused with a message; the sanitizers see the rest. */
static void flipped_bits_never_crash(void **state)
{
    (void)state;
    unsigned random = seed;
    print_message("seed %u\n", seed);
    for (int i = 0; i < 400; i++) {
        if (i == 0)
            tiny_model_write(dir(), seed);
        else if (i == 200)
            tiny_moefied_write(dir(), seed);
        struct stat st;
        assert_int_equal(stat(weights_path(), &st), 0);
        random = random * 1664525u + 1013904223u;
        /* Half of them in the first 4 KB, of the header. */
        long place = (long)((random >> 4) % (i % 2 ? 4096u : (unsigned)st.st_size));
        FILE *f = fopen(weights_path(), "r+b");
        assert_non_null(f);
        fseek(f, place, SEEK_SET);
        int byte = fgetc(f);
        fseek(f, place, SEEK_SET);
        fputc(byte ^ 1 << (random & 7), f);
        assert_int_equal(fclose(f), 0);
        moe_model *m;
        moe_error err = {0};
        if (moe_model_open(dir(), &m, &err))
            assert_int_equal(strncmp(err.message, dir(), strlen(dir())), 0);
        moe_model_close(m);
        f = fopen(weights_path(), "r+b");
        fseek(f, place, SEEK_SET);
        fputc(byte, f);
        assert_int_equal(fclose(f), 0);
    }
    moe_model *m;
    assert_int_equal(moe_model_open(dir(), &m, NULL), MOE_OK); /* all bits are back */
    moe_model_close(m);
}

static void a_missing_file_of_the_directory_is_named(void **state)
{
    (void)state;
    char path[8192];
    tiny_model_write(dir(), seed);
    unlink(weights_path());
    expect_open_fails(MOE_E_IO, "expected model.safetensors", "");
    tiny_model_write(dir(), seed);
    snprintf(path, sizeof path, "%s/config.json", dir());
    unlink(path);
    expect_open_fails(MOE_E_IO, "config.json: cannot open", "");
    tiny_model_write(dir(), seed);
    snprintf(path, sizeof path, "%s/vocab.txt", dir());
    unlink(path);
    expect_open_fails(MOE_E_IO, "", "");
}

/* ---- MoEfied --------------------------------------------------------------- */

static void nan_in_a_router_is_refused(void **state)
{
    (void)state;
    const char *names[] = {"layers.1.router.first.packed", "layers.0.router.first.bias",
                           "layers.1.router.second.packed", "layers.0.router.second.bias",
                           "layers.0.router.frequency"};
    const float odd = NAN;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        tiny_moefied_write(dir(), seed);
        overwrite(names[i], 2, &odd);
        char part[256];
        snprintf(part, sizeof part, "tensor '%s': value 2 of", names[i]);
        expect_open_fails(MOE_E_FORMAT, part, "nan, expected a finite number");
    }
}

static void neurons_must_be_a_permutation(void **state)
{
    (void)state;
    static tiny_moefied t;
    tiny_moefied_make(&t, seed);
    const int32_t *neurons = t.layers[1].ffn.neurons;
    int real = neurons[0] >= 0 ? 0 : 1, other = real + 1;
    while (neurons[other] < 0)
        other++;
    const struct { int32_t value; const char *part; } cases[] = {
        {80, "has neuron 80, expected each of [0, 80) once"},
        {-2, "has neuron -2, expected each of [0, 80) once"},
        {INT32_MIN, "has neuron -2147483648"},
        {-1, "has 79 neurons, expected each of [0, 80) once"},
        {neurons[other], "again, expected each of [0, 80) once"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tiny_moefied_write(dir(), seed);
        overwrite("layers.1.ffn.neurons", (size_t)real, &cases[i].value);
        expect_open_fails(MOE_E_FORMAT, "tensor 'layers.1.ffn.neurons': ", cases[i].part);
    }
    tiny_moefied_free(&t);
}

/* A config that tells of another network than the tensors'. */
static void config_and_tensors_must_agree(void **state)
{
    (void)state;
    const struct { const char *from, *to, *part; } cases[] = {
        {"\"hidden_size\":48", "\"hidden_size\":52", "has shape [60, 48], expected [60, 52]"},
        {"\"vocab_size\":60", "\"vocab_size\":61", "has shape [60, 48], expected [61, 48]"},
        {"\"width\":10", "\"width\":33", "router.first.packed' has shape [1, 48, 32], expected [2, 48, 32]"},
        {"\"width\":10", "\"width\":11", "router.first.bias' has shape [10], expected [11]"},
        {"\"linears\":2", "\"linears\":1", "router.first.bias' has shape [10], expected [3]"},
        {"\"2\":\"odd\"},", "\"2\":\"odd\",\"3\":\"x\"},", "classifier.bias' has shape [3], expected [4]"},
        {"\"intermediate_size\":80", "\"intermediate_size\":79", "has neuron 79, expected each of [0, 79)"},
        {"\"type_vocab_size\":2", "\"type_vocab_size\":3", "token_type_embeddings.weight' has shape"},
    };
    char path[8192], text[8192];
    snprintf(path, sizeof path, "%s/config.json", dir());
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tiny_moefied_write(dir(), seed);
        FILE *f = fopen(path, "rb");
        size_t n = fread(text, 1, sizeof text - 1, f);
        fclose(f);
        text[n] = '\0';
        char *at = strstr(text, cases[i].from);
        assert_non_null(at);
        f = fopen(path, "wb");
        fprintf(f, "%.*s%s%s", (int)(at - text), text, cases[i].to, at + strlen(cases[i].from));
        fclose(f);
        expect_open_fails(MOE_E_FORMAT, cases[i].part, "tensor '");
    }
}

/* A plain checkpoint beside a MoEfied config, and the other way round. */
static void the_two_kinds_of_directory_are_not_mixed_up(void **state)
{
    (void)state;
    tiny_model_write(dir(), seed);
    tiny_write_config(dir(), TINY_MOEFICATION);
    expect_open_fails(MOE_E_FORMAT, "model.safetensors: tensor '", "expected");
    tiny_moefied_write(dir(), seed);
    tiny_write_config(dir(), NULL);
    expect_open_fails(MOE_E_FORMAT, "tensor 'bert.encoder.layer.0.attention.self.query.weight'",
                      "is missing");
}

/* ---- writing --------------------------------------------------------------- */

/* Counts the files of a directory, or removes them and counts none. */
static int files_in(const char *path, bool remove_them)
{
    int n = 0;
    DIR *d = opendir(path);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.' && (!remove_them || unlinkat(dirfd(d), e->d_name, 0)))
            n++;
    closedir(d);
    return n;
}

static void expect_write_fails(const moe_weights *w, const char *path, moe_status code,
                               const char *part)
{
    moe_error err = {0};
    moe_status status = moefied_write_tensors(path, w, &err);
    if (status != code || !strstr(err.message, part) || !strstr(err.message, path))
        fail_msg("status %d, expected %d: '%s' should hold '%s'", status, code, err.message,
                 part);
}

static void a_failed_write_leaves_nothing_behind(void **state)
{
    (void)state;
    static tiny_moefied t;
    char out[8192], path[8300];
    snprintf(out, sizeof out, "%s/out", getenv("MOE_TMP"));
    snprintf(path, sizeof path, "%s/model.safetensors", out);
    mkdir(out, 0777);
    assert_int_equal(files_in(out, true), 0);
    tiny_moefied_make(&t, seed);
    expect_write_fails(&t.w, "/no/such/dir/model.safetensors", MOE_E_IO, "cannot create");

    const float *kept = t.layers[1].ffn.w1;
    t.layers[1].ffn.w1 = NULL;
    expect_write_fails(&t.w, path, MOE_E_ARGUMENT, "tensor 'layers.1.ffn.w1' has no values");
    t.layers[1].ffn.w1 = kept;
    float *frequency = (float *)(uintptr_t)t.layers[0].router.frequency;
    frequency[1] = INFINITY;
    expect_write_fails(&t.w, path, MOE_E_FORMAT, "layers.0.router.frequency");
    frequency[1] = 0.5f;
    assert_int_equal(files_in(out, false), 0);

    /* A full disk, as far as a limit on the size of files can play one. */
    struct rlimit limit, small;
    getrlimit(RLIMIT_FSIZE, &limit);
    small = (struct rlimit){64 * 1024, limit.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    expect_write_fails(&t.w, path, MOE_E_IO, "cannot write: File too large");
    setrlimit(RLIMIT_FSIZE, &limit);
    assert_int_equal(files_in(out, false), 0);

    assert_int_equal(moefied_write_tensors(path, &t.w, NULL), MOE_OK);
    assert_int_equal(files_in(out, false), 1);
    tiny_moefied_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_tensor_is_named),
        cmocka_unit_test(a_wrong_shape_is_named_with_both_shapes),
        cmocka_unit_test(nan_and_infinity_are_found_in_any_weight),
        cmocka_unit_test(an_integer_weight_is_refused),
        cmocka_unit_test(a_truncated_file_is_refused_at_any_length),
        cmocka_unit_test(flipped_bits_never_crash),
        cmocka_unit_test(a_missing_file_of_the_directory_is_named),
        cmocka_unit_test(nan_in_a_router_is_refused),
        cmocka_unit_test(neurons_must_be_a_permutation),
        cmocka_unit_test(config_and_tensors_must_agree),
        cmocka_unit_test(the_two_kinds_of_directory_are_not_mixed_up),
        cmocka_unit_test(a_failed_write_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

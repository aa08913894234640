/* moefy relufy as a command, on a tiny GELU model: the checkpoint it writes, what it
 * repairs, the same bytes for any number of threads, wrong arguments and poor text,
 * and nothing left behind by what fails. */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cjson/cJSON.h>
#include <cmocka.h>

#include "engine/model/model.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tiny_text.h"

static char output[1 << 16]; /* stdout and stderr of the last command */

/* Runs "moefy LINE" in a shell, after `before`, in MOE_TMP; returns its exit code. */
static int moefy_after(const char *before, const char *line)
{
    char command[16384], *build = realpath(getenv("MOE_BUILD"), NULL);
    snprintf(command, sizeof command, "cd '%s' && exec 2>&1; %s '%s/moefy' %s",
             getenv("MOE_TMP"), before, build, line);
    free(build);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t n = fread(output, 1, sizeof output - 1, f);
    output[n] = 0;
    int status = pclose(f);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void expect(const char *line, int code, const char *message)
{
    int got = moefy_after("", line);
    if (got != code || !strstr(output, message))
        fail_msg("moefy %s: exit %d, expected %d; printed '%s', expected '%s'", line, got,
                 code, output, message);
}

static void shell(const char *command)
{
    char line[8192];
    snprintf(line, sizeof line, "cd '%s' && %s", getenv("MOE_TMP"), command);
    assert_int_equal(system(line), 0);
}

/* Names in MOE_TMP that begin with `prefix`. */
static int count_names(const char *prefix)
{
    int n = 0;
    DIR *d = opendir(getenv("MOE_TMP"));
    assert_non_null(d);
    for (struct dirent *entry; (entry = readdir(d)); )
        n += !strncmp(entry->d_name, prefix, strlen(prefix));
    closedir(d);
    return n;
}

/* The tiny model with GELU (source), the same weights under ReLU (swapped), and one
 * MoEfied. */
static int make_source(void **state)
{
    (void)state;
    shell("rm -rf ./*");
    tiny_model_write(in_tmp("source"), 3);
    tiny_moefied_write(in_tmp("moefied"), 3);
    shell("cp -r source swapped && sed -i 's/\"relu\"/\"gelu\"/' source/config.json && "
          "grep -q '\"gelu\"' source/config.json");
    write_sentences(in_tmp("text.tsv"), 300);
    return 0;
}

/* Logits of four sequences. */
enum { SEQS = 4, N_LOGITS = SEQS * TINY_LABELS };
static void run(const char *dir, float *logits)
{
    static const int32_t bounds[SEQS + 1] = {0, 6, 16, 25, 30};
    int32_t ids[30];
    moe_model *m;
    moe_pool *pool = NULL;
    moe_engine *e = NULL;
    moe_error err;
    for (int i = 0; i < 30; i++)
        ids[i] = 5 + (i * 7) % 50;
    for (int s = 0; s < SEQS; s++) { /* [CLS] ... [SEP] */
        ids[bounds[s]] = 2;
        ids[bounds[s + 1] - 1] = 3;
    }
    if (moe_model_open(dir, &m, &err) || moe_pool_create(1, &pool, &err) ||
        moe_engine_create(m, pool, NULL, &e, &err))
        fail_msg("%s", err.message);
    const moe_batch batch = {.n_seqs = SEQS, .cu_seqlens = bounds, .token_ids = ids};
    moe_output out = {.logits = logits};
    assert_int_equal(moe_forward(e, &batch, &out, &err), MOE_OK);
    moe_engine_destroy(e);
    moe_pool_destroy(pool);
    moe_model_close(m);
}

static double distance(const float *a, const float *b)
{
    double sum = 0;
    for (int i = 0; i < N_LOGITS; i++)
        sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sqrt(sum);
}

static double number(const cJSON *object, const char *key)
{
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsNumber(j))
        fail_msg("'%s' is no number", key);
    return j->valuedouble;
}

static cJSON *read_config(const char *dir)
{
    size_t n;
    char *bytes = file_bytes(dir, "config.json", &n);
    assert_non_null(bytes);
    cJSON *j = cJSON_Parse(bytes);
    assert_non_null(j);
    free(bytes);
    return j;
}

static void a_tiny_gelu_model_becomes_a_relu_one_that_does_the_same(void **state)
{
    (void)state;
    float source[N_LOGITS], swapped[N_LOGITS], trained[N_LOGITS];
    expect("relufy source -o relu --calibrate text.tsv --epochs 60", 0, "next: moefy convert");
    run(in_tmp("source"), source);
    run(in_tmp("swapped"), swapped);
    run(in_tmp("relu"), trained);
    if (!(distance(source, trained) < 0.5 * distance(source, swapped)))
        fail_msg("%g from the source, %g as it is", distance(source, trained),
                 distance(source, swapped));
    cJSON *config = read_config(in_tmp("relu"));
    const cJSON *made = cJSON_GetObjectItem(config, "relufication"), *layer;
    assert_string_equal(cJSON_GetObjectItem(config, "hidden_act")->valuestring, "relu");
    assert_string_equal(cJSON_GetObjectItem(made, "source_activation")->valuestring, "gelu");
    assert_float_equal(number(made, "epochs"), 60, 0);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(made, "layers")), TINY_LAYERS);
    cJSON_ArrayForEach(layer, cJSON_GetObjectItem(made, "layers"))
        assert_true(number(cJSON_GetObjectItem(layer, "trained"), "error") <
                    number(cJSON_GetObjectItem(layer, "swapped"), "error"));
    assert_non_null(cJSON_GetObjectItem(cJSON_GetObjectItem(made, "source"),
                                        "weights_sha256"));
    cJSON_Delete(config);
    shell("cmp source/vocab.txt relu/vocab.txt");
    expect("convert relu -o relu-moe --calibrate text.tsv", 0, "");
    expect("run relu-moe --ratio 0.34 'a b'", 0, "");
    expect("export relu-moe -o back", 0, "");
    shell("cmp relu/model.safetensors back/model.safetensors");
}

static void threads_change_no_bit_and_seeds_do(void **state)
{
    (void)state;
    expect("relufy source -o one --calibrate text.tsv --threads 1", 0, "");
    expect("relufy source -o three --calibrate text.tsv --threads 3", 0, "");
    shell("cmp one/model.safetensors three/model.safetensors && "
          "cmp one/config.json three/config.json");
    expect("relufy source -o other --calibrate text.tsv --seed 2", 0, "");
    shell("! cmp -s one/model.safetensors other/model.safetensors");
}

static void wrong_arguments_are_usage_errors_that_say_what_is_allowed(void **state)
{
    (void)state;
#define WITH "relufy source -o out --calibrate text.tsv "
    expect("relufy", 2, "relufy needs the checkpoint");
    expect("relufy source --calibrate text.tsv", 2, "needs -o OUT");
    expect("relufy source -o out", 2, "needs --calibrate FILE");
    expect(WITH "--epochs 0", 2, "--epochs is '0', expected a whole number from 1");
    expect(WITH "--density-penalty -1", 2, "--density-penalty is '-1', expected a number");
    expect(WITH "--density-penalty much", 2, "--density-penalty is 'much'");
    expect(WITH "--density-penalty nan", 2, "--density-penalty is 'nan'");
    expect(WITH "--seed 99999999999999999", 2, "--seed");
    expect(WITH "--max-tokens 0", 2, "--max-tokens");
    assert_int_equal(count_names("out"), 0);
}

static void models_and_text_that_do_not_fit_are_named(void **state)
{
    (void)state;
    expect("relufy nowhere -o out --calibrate text.tsv", 1, "nowhere");
    expect("relufy swapped -o out --calibrate text.tsv", 1,
           "swapped: its FFNs are ReLU already; moefy convert takes it as it is");
    expect("relufy moefied -o out --calibrate text.tsv", 1, "moefied: is MoEfied already");
    expect("relufy source -o out --calibrate nowhere.tsv", 1, "nowhere.tsv");
    write_text(in_tmp("blank.jsonl"), "{\"text\":\"\"}\n{\"text\":\"  \"}\n");
    expect("relufy source -o out --calibrate blank.jsonl", 1,
           "blank.jsonl: 2 rows, but none holds text");
    expect("relufy source -o out --calibrate text.tsv --max-tokens 2", 1,
           "text.tsv: its shortest row has");
    expect("relufy source -o source --calibrate text.tsv", 1,
           "source: exists and is not empty");
    assert_int_equal(count_names("out"), 0);
}

/* Opening a model refuses what is not finite; what overflows shows here. */
static void a_layer_that_overflows_is_named(void **state)
{
    (void)state;
    tiny_weights w;
    tiny_make(&w, 3);
    float *w2 = (float *)tiny_part(&w, 1, "output.dense.weight");
    for (int i = 0; i < TINY_D * TINY_D_FF; i++)
        w2[i] = 3e38f;
    shell("cp -r source broken");
    tiny_write_safetensors(in_tmp("broken"), &w);
    tiny_free(&w);
    expect("relufy broken -o out --calibrate text.tsv", 1,
           "layer 1: a value of calibration token 0 is not finite");
    assert_int_equal(count_names("out"), 0);
}

/* Little or odd text makes a sound model, and a note where it is doubtful. */
static void poor_text_does_with_a_note(void **state)
{
    (void)state;
    write_text(in_tmp("one.jsonl"), "{\"text\":\"a\"}\n");
    write_text(in_tmp("strange.jsonl"),
               "{\"text\":\"\xd1\x8f \xd0\xb5 \xd1\x89\"}\n{\"text\":\"\"}\n"
               "{\"text\":\"\xe4\xb8\xad\xe6\x96\x87\", \"text_pair\":\"b\"}\n");
    write_sentences(in_tmp("ten.tsv"), 10);
    shell("(head -1 text.tsv; for i in $(seq 200); do echo 'a b c d\t1'; done) > same.tsv");
    static const char *const files[] = {"one.jsonl", "strange.jsonl", "ten.tsv", "same.tsv"};
    for (int i = 0; i < 4; i++) {
        char line[256];
        snprintf(line, sizeof line,
                 "relufy source -o poor --calibrate %s --density-penalty 0.1", files[i]);
        expect(line, 0, "or more make a better model");
        assert_int_equal(!strstr(output, "are not in the model's vocabulary"), i != 1);
        assert_null(strstr(output, "nan"));
        expect("run poor 'a b'", 0, "");
        shell("rm -r poor");
    }
}

static void json_is_one_object_and_nothing_else(void **state)
{
    (void)state;
    assert_int_equal(moefy_after("exec 2>/dev/null;", "relufy source -o out-json "
                                 "--calibrate text.tsv --epochs 1 --json"), 0);
    assert_true(strchr(output, '\n') == output + strlen(output) - 1);
    cJSON *j = cJSON_Parse(output);
    assert_non_null(j);
    assert_string_equal(cJSON_GetObjectItem(j, "output")->valuestring, "out-json");
    const cJSON *layer = cJSON_GetArrayItem(cJSON_GetObjectItem(j, "layers"), 1);
    assert_float_equal(number(layer, "layer"), 1, 0);
    assert_true(number(cJSON_GetObjectItem(layer, "trained"), "active") > 0);
    assert_true(number(j, "tokens") > 0 && number(j, "seconds") > 0);
    cJSON_Delete(j);
}

/* A limit on the size of files stands for a full disk. */
static void a_full_disk_leaves_nothing_behind(void **state)
{
    (void)state;
    static const char *const options[] = {"", "--max-tokens 100"};
    static const char *const messages[] = {"calibration rows", "model.safetensors"};
    for (int i = 0; i < 2; i++) {
        char line[256];
        snprintf(line, sizeof line, "relufy source -o full --calibrate text.tsv %s",
                 options[i]);
        assert_int_equal(moefy_after("trap '' XFSZ; ulimit -f 200;", line), 1);
        if (!strstr(output, messages[i]))
            fail_msg("%s: %s", line, output);
        assert_int_equal(count_names("full"), 0);
    }
}

static void pause_ms(long ms)
{
    const struct timespec t = {0, ms * 1000000};
    nanosleep(&t, NULL);
}

/* Waits until the output's temporary directory is there, interrupts, and sees moefy
 * die of the signal with nothing left. */
static void a_signal_leaves_nothing_behind(void **state)
{
    (void)state;
    char moefy_path[4096];
    snprintf(moefy_path, sizeof moefy_path, "%s/moefy", getenv("MOE_BUILD"));
    pid_t child = fork();
    if (child == 0) {
        freopen("/dev/null", "w", stderr);
        execl(moefy_path, "moefy", "relufy", in_tmp("source"), "-o", in_tmp("cut"),
              "--calibrate", in_tmp("text.tsv"), "--epochs", "1000", (char *)NULL);
        _exit(127);
    }
    for (int waited = 0; count_names("cut.tmp") == 0 && waited < 10000; waited += 10)
        pause_ms(10);
    assert_int_equal(count_names("cut.tmp"), 1);
    pause_ms(100);
    int status;
    kill(child, SIGINT);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGINT);
    assert_int_equal(count_names("cut"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tiny_gelu_model_becomes_a_relu_one_that_does_the_same),
        cmocka_unit_test(threads_change_no_bit_and_seeds_do),
        cmocka_unit_test(wrong_arguments_are_usage_errors_that_say_what_is_allowed),
        cmocka_unit_test(models_and_text_that_do_not_fit_are_named),
        cmocka_unit_test(a_layer_that_overflows_is_named),
        cmocka_unit_test(poor_text_does_with_a_note),
        cmocka_unit_test(json_is_one_object_and_nothing_else),
        cmocka_unit_test(a_full_disk_leaves_nothing_behind),
        cmocka_unit_test(a_signal_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, make_source, NULL);
}

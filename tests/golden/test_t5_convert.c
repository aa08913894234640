/* moefy convert and eval of a text-to-text model: both halves cut, the directory serves,
 * agrees with its source, and goes back to a dense checkpoint. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "tests/support/sanitized.h"

#define SOURCE "models/t5-mini-glue"
#define CALIBRATION "tests/data/sst2_calibration.tsv"
#define DEV "tests/data/sst2_dev.tsv"
#if SANITIZED
#define MUCH_TEXT "--max-tokens 400 --shift none"
#define LITTLE_TEXT "--max-tokens 200 --shift none"
#else
#define MUCH_TEXT "--max-tokens 6000"
#define LITTLE_TEXT "--max-tokens 1500"
#endif

/* Runs moefy with the arguments; its standard output into out. Returns the exit status. */
static int moefy(char *out, size_t room, const char *format, ...)
{
    char arguments[2048], command[4096];
    const char *build = getenv("MOE_BUILD"), *tmp = getenv("MOE_TMP");
    va_list args;
    va_start(args, format);
    vsnprintf(arguments, sizeof arguments, format, args);
    va_end(args);
    snprintf(command, sizeof command, "T=%s; %s/moefy %s 2>$T/stderr", tmp ? tmp : "/tmp",
             build ? build : "build/release", arguments);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t n = fread(out, 1, room - 1, f);
    out[n] = '\0';
    return pclose(f) / 256;
}

static char out[1 << 20];

static double number(const cJSON *row, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(row, key);
    assert_true(cJSON_IsNumber(v));
    return v->valuedouble;
}

static void a_converted_model_agrees_with_its_source(void **state)
{
    (void)state;
    assert_int_equal(moefy(out, sizeof out, "convert " SOURCE " -o $T/moe --calibrate " CALIBRATION
                           " --task sst2 " MUCH_TEXT " --json"), 0);
    cJSON *j = cJSON_Parse(out);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(j, "layers")), 8);
    cJSON_Delete(j);
    assert_int_equal(moefy(out, sizeof out, "eval $T/moe --data " DEV " --task sst2 --limit %d "
                           "--ratio 1,0.25 --json", SANITIZED ? 10 : 60), 0);
    j = cJSON_Parse(out);
    const cJSON *rows = cJSON_GetObjectItem(j, "results");
    const cJSON *dense = cJSON_GetArrayItem(rows, 0), *sparse = cJSON_GetArrayItem(rows, 1);
    assert_true(number(dense, "agreement") == 1);
    assert_true(number(dense, "effective_ratio") == 1);
    assert_true(SANITIZED || number(dense, "accuracy") > 0.6);
    assert_true(number(sparse, "effective_ratio") < 0.26);
    assert_true(SANITIZED || number(sparse, "agreement") > 0.9);
    cJSON_Delete(j);
}

/* What is printed for a text is the same from the source, the MoEfied one at ratio 1 and
 * its dense export. */
static void export_brings_the_source_back(void **state)
{
    (void)state;
    static char first[65536], second[65536], third[65536];
    static const char ask[] = "--task sst2 \"a charming journey\" --json";
    assert_int_equal(moefy(out, sizeof out, "export $T/moe -o $T/dense"), 0);
    assert_int_equal(moefy(first, sizeof first, "run " SOURCE " %s", ask), 0);
    assert_int_equal(moefy(second, sizeof second, "run $T/dense %s", ask), 0);
    assert_string_equal(first, second);
    assert_int_equal(moefy(third, sizeof third, "run $T/moe %s", ask), 0);
    cJSON *a = cJSON_Parse(first), *b = cJSON_Parse(third);
    assert_true(cJSON_Compare(cJSON_GetObjectItem(a, "generated_ids"),
                              cJSON_GetObjectItem(b, "generated_ids"), true));
    cJSON_Delete(a);
    cJSON_Delete(b);
}

static void wrong_rows_are_refused(void **state)
{
    (void)state;
    assert_int_equal(moefy(out, sizeof out, "eval " SOURCE " --data " DEV " --ratio 1"), 1);
    assert_int_equal(moefy(out, sizeof out, "eval " SOURCE " --data " DEV " --ratio 1 "
                           "--task nothing"), 1);
    assert_int_equal(moefy(out, sizeof out, "run " SOURCE " --task mrpc \"no pair\""), 1);
    assert_int_equal(moefy(out, sizeof out, "run models/minilm-sst2-relu --task sst2 \"x\""), 1);
}

/* A file in MOE_TMP. */
static void write_file(const char *name, const char *text)
{
    char path[4096];
    const char *tmp = getenv("MOE_TMP");
    snprintf(path, sizeof path, "%s/%s", tmp ? tmp : "/tmp", name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

/* The task of a file calibrates, is stated by the model that is written, and serves it. */
static void tasks_of_a_file_become_the_models_own(void **state)
{
    (void)state;
    write_file("tasks.json", "{\"tasks\": [{\"name\": \"mood\", \"kind\": \"classification\", "
               "\"template\": \"sst2 sentence: {text}\", \"labels\": [\"negative\", "
               "\"positive\"]}]}");
    assert_int_equal(moefy(out, sizeof out, "convert " SOURCE " -o $T/moe --calibrate " CALIBRATION
                           " --tasks $T/tasks.json --task mood --max-tokens 1000 --split random "
                           "--router avgk --json"), 0);
    static char own[65536], known[65536];
    assert_int_equal(moefy(own, sizeof own, "run $T/moe --task mood \"a fine film\" --json"), 0);
    assert_int_equal(moefy(known, sizeof known, "run $T/moe --task sst2 \"a fine film\" --json"),
                     0);
    cJSON *a = cJSON_Parse(own), *b = cJSON_Parse(known);
    assert_non_null(cJSON_GetObjectItem(a, "scores"));
    assert_true(cJSON_Compare(cJSON_GetObjectItem(a, "scores"), cJSON_GetObjectItem(b, "scores"),
                              true));
    cJSON_Delete(a);
    cJSON_Delete(b);
}

static void assert_refused(const char *file, const char *source, const char *why)
{
    static char said[4096];
    write_file("bad.json", file);
    assert_int_equal(moefy(out, sizeof out, "convert %s -o $T/moe2 --calibrate " CALIBRATION
                           " --tasks $T/bad.json --task mood", source), 1);
    char command[4096];
    snprintf(command, sizeof command, "%s/stderr", getenv("MOE_TMP"));
    FILE *f = fopen(command, "r");
    assert_non_null(f);
    said[fread(said, 1, sizeof said - 1, f)] = 0;
    fclose(f);
    if (!strstr(said, why))
        fail_msg("printed '%s', expected '%s'", said, why);
}

static void wrong_tasks_are_refused(void **state)
{
    (void)state;
    assert_refused("[]", SOURCE, "tasks");
    assert_refused("{\"tasks\": 3}", SOURCE, "is not a list of at most 64");
    assert_refused("{\"tasks\": [{\"name\": \"mood\", \"kind\": \"text\", \"template\": "
                   "\"{txt}\"}]}", SOURCE, "{txt}");
    assert_refused("{\"tasks\": []}", "models/minilm-sst2-relu", "no text-to-text model");
}

#define GATED "tests/data/t5-v1_1-gated-gelu"

/* Ids generated for the golden rows. */
static cJSON *generated(const char *dir)
{
    cJSON *all = cJSON_CreateArray();
    assert_int_equal(moefy(out, sizeof out, "run %s --input " GATED "/golden.jsonl "
                           "--max-new-tokens 6", dir), 0);
    for (char *line = strtok(out, "\n"); line; line = strtok(NULL, "\n")) {
        cJSON *j = cJSON_Parse(line);
        cJSON_AddItemToArray(all, cJSON_DetachItemFromObject(j, "generated_ids"));
        cJSON_Delete(j);
    }
    assert_true(cJSON_GetArraySize(all) > 20);
    return all;
}

/* Gate and up are cut together: all experts are the source; below that they are fewer. */
static void gated_ffns_are_cut(void **state)
{
    (void)state;
    assert_int_equal(moefy(out, sizeof out, "convert " GATED " -o $T/moe --calibrate " CALIBRATION
                           " --task sst2 " LITTLE_TEXT " --json"), 0);
    cJSON *source = generated(GATED), *all = generated("$T/moe");
    assert_true(cJSON_Compare(source, all, true));
    cJSON_Delete(source);
    cJSON_Delete(all);
    assert_int_equal(moefy(out, sizeof out, "eval $T/moe --data " DEV " --task sst2 --limit 40 "
                           "--ratio 0.4 --json"), 0);
    cJSON *j = cJSON_Parse(out);
    const cJSON *row = cJSON_GetArrayItem(cJSON_GetObjectItem(j, "results"), 0);
    assert_true(number(row, "effective_ratio") < 0.5 && number(row, "kl") < 0.1);
    cJSON_Delete(j);
}

/* Of both halves, the cross-attention and the words' logits. */
static void weights_become_int8(void **state)
{
    (void)state;
    double accuracy[2];
    static const char *const dirs[] = {SOURCE, "$T/moe"};
    assert_int_equal(moefy(out, sizeof out, "convert " SOURCE " -o $T/moe --calibrate " CALIBRATION
                           " --task sst2 " LITTLE_TEXT " --split random --router avgk "
                           "--dtype int8 --json"), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(moefy(out, sizeof out, "eval %s --data " DEV " --task sst2 --limit %d "
                               "--ratio 1 --json", dirs[i], SANITIZED ? 5 : 100), 0);
        cJSON *j = cJSON_Parse(out);
        accuracy[i] = number(cJSON_GetArrayItem(cJSON_GetObjectItem(j, "results"), 0),
                             "accuracy");
        cJSON_Delete(j);
    }
    assert_true(accuracy[0] - accuracy[1] < 0.03 && accuracy[1] - accuracy[0] < 0.03);
}

static int clean(void **state)
{
    (void)state;
    const char *tmp = getenv("MOE_TMP");
    char command[1024];
    snprintf(command, sizeof command, "rm -rf %s/moe %s/moe.resume %s/dense", tmp ? tmp : "/tmp",
             tmp ? tmp : "/tmp", tmp ? tmp : "/tmp");
    return system(command) != 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_converted_model_agrees_with_its_source),
        cmocka_unit_test(export_brings_the_source_back),
        cmocka_unit_test(wrong_rows_are_refused),
        cmocka_unit_test(tasks_of_a_file_become_the_models_own),
        cmocka_unit_test(wrong_tasks_are_refused),
        cmocka_unit_test_setup(gated_ffns_are_cut, clean),
        cmocka_unit_test_setup(weights_become_int8, clean),
    };
    return cmocka_run_group_tests(tests, clean, clean);
}

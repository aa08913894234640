/* moefy_cli.h: what tests of the program moefy share: running it, and judging its
 * exit code, its one line on stderr and its JSON. Include it in one file. */
#ifndef TESTS_SUPPORT_MOEFY_CLI_H
#define TESTS_SUPPORT_MOEFY_CLI_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "engine/model/moefied.h"
#include "engine/model/pack.h"
#include "tests/support/command.h"
#include "tests/support/sanitized.h"
#include "tests/support/tiny_model.h"

#define MODEL "models/minilm-sst2-relu"

/* moefy with arguments; in SHELL "$P" is the program. */
#define MOEFY(...) command_run("moefy", "\"$P\" " __VA_ARGS__)
#define SHELL(...) command_run("moefy", __VA_ARGS__)

/* Directories; tiny_dynamic follows thresholds unless told, and has mean counts too. */
static char scratch[4096], tiny[4200], tiny_moe[4200], tiny_dynamic[4200];

/* Makes the tiny models. */
static inline void moefy_set_up(void)
{
    snprintf(scratch, sizeof scratch, "%s", getenv("MOE_TMP"));
    snprintf(tiny, sizeof tiny, "%s/tiny", scratch);
    snprintf(tiny_moe, sizeof tiny_moe, "%s/tiny-moe", scratch);
    snprintf(tiny_dynamic, sizeof tiny_dynamic, "%s/tiny-dynamic", scratch);
    tiny_model_write(tiny, 5);
    tiny_moefied_write(tiny_moe, 5);
    tiny_moefied_write_as(tiny_dynamic, 5, TINY_MEANS("threshold"));
}

/* A file of scratch. */
static inline void write_file(const char *name, const char *text)
{
    char path[8192];
    snprintf(path, sizeof path, "%s/%s", scratch, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

/* Ends with the code, one line on stderr that says `with`; frees r. */
static inline void assert_fails(command_result r, int code, const char *with)
{
    if (r.code != code || !strstr(r.err, with) || strncmp(r.err, "moefy: ", 7) ||
        strchr(r.err, '\n') != r.err + strlen(r.err) - 1)
        fail_msg("exit code %d with '%s', expected %d and '%s' in one line", r.code, r.err,
                 code, with);
    command_free(&r);
}

static inline void assert_done(const command_result *r)
{
    if (r->code != 0 || *r->err)
        fail_msg("exit code %d, stderr '%s'", r->code, r->err);
}

/* The tiny network with one label: scratch/regression. */
static inline void write_regression_model(void)
{
    char dir[4200];
    static const char old_labels[] = "\"id2label\":{\"0\":\"bad\",\"1\":\"good\",\"2\":\"odd\"},"
                                     "\"label2id\":{\"bad\":0,\"good\":1,\"odd\":2}";
    tiny_weights w;
    snprintf(dir, sizeof dir, "%s/regression", scratch);
    tiny_make(&w, 5);
    for (int i = 0; i < w.n; i++)
        if (strncmp(w.tensors[i].name, "classifier.", 11) == 0)
            w.tensors[i].dims[0] = 1; /* its first row */
    tiny_write_safetensors(dir, &w);
    tiny_write_vocab(dir);
    tiny_free(&w);
    tiny_write_config(dir, NULL);
    command_result r = SHELL("cd '%s' && grep -cF '%s' config.json && sed -i 's/%s/"
                             "\"problem_type\":\"regression\",\"id2label\":{\"0\":\"score\"}/' "
                             "config.json", dir, old_labels, old_labels);
    assert_done(&r);
    command_free(&r);
}

/* The one JSON object that a command printed; frees r. */
static inline cJSON *one_object(command_result r)
{
    assert_done(&r);
    assert_ptr_equal(strchr(r.out, '\n'), r.out + strlen(r.out) - 1);
    cJSON *j = cJSON_Parse(r.out);
    if (!j)
        fail_msg("not JSON: '%s'", r.out);
    command_free(&r);
    return j;
}

static inline double number(const cJSON *object, const char *key)
{
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsNumber(j))
        fail_msg("'%s' is no number", key);
    return j->valuedouble;
}

static inline const char *text(const cJSON *object, const char *key)
{
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsString(j))
        fail_msg("'%s' is no string", key);
    return j->valuestring;
}

static inline const cJSON *list(const cJSON *object, const char *key, int n)
{
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsArray(j) || (n >= 0 && cJSON_GetArraySize(j) != n))
        fail_msg("'%s' is no list of %d", key, n);
    return j;
}

static inline void assert_same_list(const cJSON *a, const cJSON *b, const char *key, double tolerance,
                             int line)
{
    const cJSON *x = list(a, key, -1), *y = list(b, key, cJSON_GetArraySize(x));
    for (x = x->child, y = y->child; x; x = x->next, y = y->next)
        if (!(fabs(x->valuedouble - y->valuedouble) <= tolerance))
            fail_msg("line %d: %s has %.9g, expected %.9g", line, key, x->valuedouble,
                     y->valuedouble);
}

#endif

/* The program moefy itself, as a user runs it: its answers against the golden
 * ones, its exit codes, and one line on stderr for whatever goes wrong. */
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
#define ALL_GOLDEN "tests/data/golden/minilm-sst2-relu.jsonl"
#define DEV "tests/data/sst2_dev.tsv"

enum { GOLDEN_ROWS = SANITIZED ? 40 : 184, DEV_ROWS = SANITIZED ? 12 : 872 };
static const int dev_correct = SANITIZED ? 11 : 778; /* 0.8922, the card's accuracy */

static char scratch[4096], tiny[4200], tiny_moe[4200]; /* directories */
static char golden_path[4200];

/* moefy with arguments; "$P" in the line is the program. */
#define MOEFY(...) command_run("moefy", "\"$P\" " __VA_ARGS__)
#define SHELL(...) command_run("moefy", __VA_ARGS__)

/* Copies the golden file, or its first short rows, to golden_path. */
static void copy_golden(void)
{
    snprintf(golden_path, sizeof golden_path, "%s/golden.jsonl", scratch);
    command_result r = SHELL("awk 'length < %d' " ALL_GOLDEN " | head -%d >'%s'",
                             SANITIZED ? 300 : 1 << 20, GOLDEN_ROWS, golden_path);
    assert_int_equal(r.code, 0);
    command_free(&r);
}

static int set_up(void **state)
{
    (void)state;
    snprintf(scratch, sizeof scratch, "%s", getenv("MOE_TMP"));
    snprintf(tiny, sizeof tiny, "%s/tiny", scratch);
    snprintf(tiny_moe, sizeof tiny_moe, "%s/tiny-moe", scratch);
    tiny_model_write(tiny, 5);
    tiny_moefied_write(tiny_moe, 5);
    copy_golden();
    return 0;
}

static void write_file(const char *name, const char *text)
{
    char path[8192];
    snprintf(path, sizeof path, "%s/%s", scratch, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

/* ---- judging ---------------------------------------------------------------- */

/* Ends with the code, one line on stderr that says `with`; frees r. */
static void assert_fails(command_result r, int code, const char *with)
{
    if (r.code != code || !strstr(r.err, with) || strncmp(r.err, "moefy: ", 7) ||
        strchr(r.err, '\n') != r.err + strlen(r.err) - 1)
        fail_msg("exit code %d with '%s', expected %d and '%s' in one line", r.code, r.err,
                 code, with);
    command_free(&r);
}

static void assert_done(const command_result *r)
{
    if (r->code != 0 || *r->err)
        fail_msg("exit code %d, stderr '%s'", r->code, r->err);
}

/* The one JSON object that a command printed; frees r. */
static cJSON *one_object(command_result r)
{
    assert_done(&r);
    assert_ptr_equal(strchr(r.out, '\n'), r.out + strlen(r.out) - 1);
    cJSON *j = cJSON_Parse(r.out);
    if (!j)
        fail_msg("not JSON: '%s'", r.out);
    command_free(&r);
    return j;
}

static double number(const cJSON *object, const char *key)
{
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsNumber(j))
        fail_msg("'%s' is no number", key);
    return j->valuedouble;
}

static const char *text(const cJSON *object, const char *key)
{
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsString(j))
        fail_msg("'%s' is no string", key);
    return j->valuestring;
}

static const cJSON *list(const cJSON *object, const char *key, int n)
{
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsArray(j) || (n >= 0 && cJSON_GetArraySize(j) != n))
        fail_msg("'%s' is no list of %d", key, n);
    return j;
}

static void assert_same_list(const cJSON *a, const cJSON *b, const char *key, double tolerance,
                             int line)
{
    const cJSON *x = list(a, key, -1), *y = list(b, key, cJSON_GetArraySize(x));
    for (x = x->child, y = y->child; x; x = x->next, y = y->next)
        if (!(fabs(x->valuedouble - y->valuedouble) <= tolerance))
            fail_msg("line %d: %s has %.9g, expected %.9g", line, key, x->valuedouble,
                     y->valuedouble);
}

typedef void (*check_pair)(const cJSON *answer, const cJSON *golden, int line);

/* Compares each line of what was printed with the golden file's; frees r. */
static void for_each_golden(command_result r, check_pair check)
{
    FILE *f = fopen(golden_path, "r");
    char *line = NULL, *at = r.out;
    size_t room = 0;
    int n = 0;
    assert_non_null(f);
    assert_done(&r);
    while (getline(&line, &room, f) > 0) {
        char *end = strchr(at, '\n');
        assert_non_null(end);
        *end = 0;
        cJSON *answer = cJSON_Parse(at), *golden = cJSON_Parse(line);
        assert_non_null(answer);
        assert_non_null(golden);
        check(answer, golden, ++n);
        cJSON_Delete(answer);
        cJSON_Delete(golden);
        at = end + 1;
    }
    assert_int_equal(n, GOLDEN_ROWS);
    assert_string_equal(at, "");
    free(line);
    fclose(f);
    command_free(&r);
}

/* ---- the program ------------------------------------------------------------ */

static void help_lists_every_command_with_a_line(void **state)
{
    (void)state;
    static const char *const names[] = {"convert", "eval", "bench", "run", "inspect",
                                        "tokenize", "export"};
    command_result all = MOEFY("--help");
    assert_done(&all);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char start[64];
        snprintf(start, sizeof start, "\n  %s ", names[i]);
        assert_non_null(strstr(all.out, start));
        command_result r = MOEFY("%s --help", names[i]);
        assert_done(&r);
        snprintf(start, sizeof start, "usage: moefy %s ", names[i]);
        assert_memory_equal(r.out, start, strlen(start));
        command_free(&r);
    }
    command_free(&all);
}

static void version_is_printed(void **state)
{
    (void)state;
    command_result r = MOEFY("--version");
    assert_done(&r);
    assert_string_equal(r.out, "moefy " MOE_VERSION "\n");
    command_free(&r);
}

static void wrong_commands_are_usage_errors(void **state)
{
    (void)state;
    assert_fails(MOEFY(""), 2, "which command?");
    assert_fails(MOEFY("evl"), 2, "unknown command 'evl', did you mean: eval");
    assert_fails(MOEFY("token x"), 2, "did you mean: tokenize");
    assert_fails(MOEFY("quantise"), 2, "expected one of: convert, eval");
    assert_fails(MOEFY("''"), 2, "unknown command ''");
}

static void a_full_disk_is_a_failure(void **state)
{
    (void)state;
    assert_fails(MOEFY("--help >/dev/full"), 1, "No space left on device");
    assert_fails(MOEFY("inspect %s >/dev/full", tiny), 1, "No space left on device");
    assert_fails(MOEFY("tokenize %s --json abc >/dev/full", tiny), 1, "No space left on device");
}

/* ---- run --------------------------------------------------------------------- */

static void check_run(const cJSON *answer, const cJSON *golden, int line)
{
    assert_same_list(answer, golden, "ids", 0, line);
    assert_same_list(answer, golden, "type_ids", 0, line);
    assert_same_list(answer, golden, "logits", 1e-4, line);
    const cJSON *scores = list(answer, "scores", 2);
    const cJSON *first = scores->child, *second = first->next;
    assert_true(number(first, "score") >= number(second, "score"));
    assert_true(fabs(number(first, "score") + number(second, "score") - 1) < 1e-6);
    double logit = strcmp(text(first, "label"), "negative") == 0
                       ? list(answer, "logits", 2)->child->valuedouble
                       : list(answer, "logits", 2)->child->next->valuedouble;
    assert_true(number(first, "logit") == logit);
    assert_true(number(answer, "ratio") == 1 && number(answer, "effective_ratio") == 1);
}

static void run_answers_a_file_as_transformers_does(void **state)
{
    (void)state;
    for_each_golden(MOEFY("run " MODEL " --input '%s'", golden_path), check_run);
}

static void run_gives_the_same_bits_for_a_text_alone(void **state)
{
    (void)state;
    command_result file = SHELL("head -3 " ALL_GOLDEN " | \"$P\" run " MODEL " --input - | tail -1");
    cJSON *in_batch = one_object(file);
    cJSON *alone = one_object(MOEFY("run " MODEL " --json --threads 1 'allows us to hope that "
                                    "nolan is poised to embark a major career as a commercial "
                                    "yet inventive filmmaker .'"));
    assert_same_list(alone, in_batch, "ids", 0, 3);
    assert_same_list(alone, in_batch, "logits", 0, 3); /* nine digits are all of a float */
    assert_string_equal(text(alone, "task"), "text-classification");
    cJSON_Delete(in_batch);
    cJSON_Delete(alone);
}

static void run_shows_people_a_table(void **state)
{
    (void)state;
    command_result r = MOEFY("run " MODEL " 'a charming and often affecting journey .'");
    assert_done(&r);
    assert_memory_equal(r.out, "positive  0.99", 14);
    assert_non_null(strstr(r.out, "\nnegative  0.00"));
    assert_non_null(strstr(r.out, "ratio 1: 100.0% of the FFN neurons"));
    assert_null(strchr(r.out, '\033')); /* no colours in a pipe */
    command_free(&r);
}

static void run_follows_the_ratio(void **state)
{
    (void)state;
    cJSON *dense = one_object(MOEFY("run %s --json 'abc' 'xyz'", tiny_moe));
    cJSON *sparse = one_object(MOEFY("run %s --json --ratio 0.34 'abc' 'xyz'", tiny_moe));
    assert_true(number(dense, "effective_ratio") == 1);
    assert_true(number(sparse, "ratio") == 0.34);
    double effective = number(sparse, "effective_ratio"); /* one expert of three, some dead */
    assert_true(effective > 0.2 && effective <= 32.0 / 80);
    assert_same_list(sparse, dense, "ids", 0, 1);
    assert_true(list(dense, "logits", 3)->child->valuedouble !=
                list(sparse, "logits", 3)->child->valuedouble);
    cJSON_Delete(dense);
    cJSON_Delete(sparse);
    command_result r = MOEFY("run %s --ratio 0.5 abc", tiny);
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.err, "is not MoEfied and runs dense"));
    command_free(&r);
}

static void a_broken_row_is_told_after_the_answers_before_it(void **state)
{
    (void)state;
    command_result r = SHELL("printf '{\"text\":\"a\"}\\n\\n{\"text\":\"b\"}\\n{\"txt\":1}\\n"
                             "{\"text\":\"c\"}\\n' | \"$P\" run %s --input -", tiny);
    int lines = 0;
    for (const char *c = r.out; *c; c++)
        lines += *c == '\n';
    assert_int_equal(lines, 2);
    assert_fails(r, 1, "standard input:4: key 'text' is missing");
    assert_fails(SHELL("printf '{\"text\":\"\\377\"}' | \"$P\" run %s --input -", tiny), 1,
                 "standard input:1: byte 9 is 0xFF, expected UTF-8");
    assert_fails(MOEFY("run %s --input %s/nothing", tiny, scratch), 1, "No such file");
}

static void a_line_without_end_is_refused(void **state)
{
    (void)state;
    assert_fails(SHELL("(echo '{\"text\":\"a\"}'; head -c 20000000 /dev/zero) | "
                       "\"$P\" tokenize %s --input - >/dev/null", tiny), 1,
                 "standard input:2: a line of more than 16777216 bytes");
}

static void wrong_options_of_run_are_usage_errors(void **state)
{
    (void)state;
    static const char *const bad[] = {"0", "1.5", "nan", "x", "", "-1", "1,0.5"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_fails(MOEFY("run %s --ratio '%s' text", tiny, bad[i]), 2, "run: --ratio");
    assert_fails(MOEFY("run"), 2, "needs the directory of a model");
    assert_fails(MOEFY("run %s", tiny), 2, "needs either a text or --input");
    assert_fails(MOEFY("run %s text --input x", tiny), 2, "needs either a text or --input");
    assert_fails(MOEFY("run %s a b c", tiny), 2, "unexpected argument 'c'");
    assert_fails(MOEFY("run %s/nothing text", scratch), 1, "nothing");
}

static void an_empty_file_has_no_answers(void **state)
{
    (void)state;
    command_result r = MOEFY("run %s --input /dev/null", tiny);
    assert_done(&r);
    assert_string_equal(r.out, "");
    command_free(&r);
}

static void a_writer_that_waits_gets_its_answer(void **state)
{
    (void)state;
    int to[2], from[2];
    char program[8192], byte;
    assert_int_equal(pipe(to) | pipe(from), 0);
    snprintf(program, sizeof program, "%s/moefy", getenv("MOE_BUILD"));
    pid_t child = fork();
    if (child == 0) {
        dup2(to[0], STDIN_FILENO);
        dup2(from[1], STDOUT_FILENO);
        close(to[1]);
        execl(program, "moefy", "run", tiny, "--input", "-", (char *)NULL);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    for (int i = 0; i < 3; i++) { /* an answer before the next question */
        const char *question = "{\"text\":\"abc\"}\n";
        assert_int_equal(write(to[1], question, strlen(question)), strlen(question));
        do
            assert_int_equal(read(from[0], &byte, 1), 1);
        while (byte != '\n');
    }
    close(to[1]);
    assert_int_equal(read(from[0], &byte, 1), 0);
    close(from[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* ---- tokenize ---------------------------------------------------------------- */

static void check_tokens(const cJSON *answer, const cJSON *golden, int line)
{
    assert_same_list(answer, golden, "ids", 0, line);
    assert_same_list(answer, golden, "type_ids", 0, line);
    int n = cJSON_GetArraySize(list(answer, "ids", -1));
    assert_string_equal(list(answer, "tokens", n)->child->valuestring, "[CLS]");
    const cJSON *span;
    cJSON_ArrayForEach(span, list(answer, "offsets", n))
        assert_true(span->child->valuedouble <= span->child->next->valuedouble);
}

static void tokenize_shows_what_transformers_makes_of_a_file(void **state)
{
    (void)state;
    for_each_golden(MOEFY("tokenize " MODEL " --input '%s'", golden_path), check_tokens);
}

static void offsets_count_code_points(void **state)
{
    (void)state;
    cJSON *j = one_object(MOEFY("tokenize " MODEL " --json '\303\251t\303\251 ok' 'ok'"));
    static const char *const tokens[] = {"[CLS]", "et", "##e", "ok", "[SEP]", "ok", "[SEP]"};
    static const int offsets[][2] = {{0, 0}, {0, 2}, {2, 3}, {4, 6}, {0, 0}, {0, 2}, {0, 0}};
    const cJSON *token = list(j, "tokens", 7)->child, *span = list(j, "offsets", 7)->child;
    for (int i = 0; i < 7; i++, token = token->next, span = span->next) {
        assert_string_equal(token->valuestring, tokens[i]);
        assert_int_equal(span->child->valueint, offsets[i][0]);
        assert_int_equal(span->child->next->valueint, offsets[i][1]);
    }
    cJSON_Delete(j);
    command_result r = MOEFY("tokenize " MODEL " 'unflinchingly'");
    assert_done(&r);
    assert_non_null(strstr(r.out, "##fl\n"));
    command_free(&r);
}

static void tokens_cut_off_are_counted(void **state)
{
    (void)state;
    cJSON *j = one_object(MOEFY("tokenize %s --json \"$(printf 'a %%.0s' $(seq 100))\"", tiny));
    list(j, "ids", TINY_POSITIONS);
    assert_true(number(j, "truncated") == 100 + 2 - TINY_POSITIONS);
    cJSON_Delete(j);
}

/* ---- eval -------------------------------------------------------------------- */

static void dense_accuracy_is_the_cards(void **state)
{
    (void)state;
    cJSON *j = one_object(MOEFY("eval " MODEL " --data " DEV " --ratio 1 --json --limit %d",
                                DEV_ROWS));
    assert_string_equal(text(j, "model"), MODEL);
    assert_string_equal(text(j, "task"), "text-classification");
    assert_true(number(j, "examples") == DEV_ROWS);
    const cJSON *r = list(j, "results", 1)->child;
    assert_true(fabs(number(r, "accuracy") - (double)dev_correct / DEV_ROWS) < 1e-6);
    assert_true(number(r, "agreement") == 1 && number(r, "kl") == 0 && number(r, "mass") == 1);
    assert_true(number(r, "ratio") == 1 && number(r, "effective_ratio") == 1);
    cJSON_Delete(j);
}

static void the_order_of_rows_does_not_matter(void **state)
{
    (void)state;
    command_result r = SHELL(
        "cd %s && head -%d '%s/" DEV "' > a.tsv && (head -1 a.tsv; tail -n +2 a.tsv | tac) "
        "> b.tsv && cd '%s' && for f in a b; do \"$P\" eval " MODEL " --data %s/$f.tsv "
        "--selection oracle --ratio 0.5,1,0.125 --json | sed 's/.*\"examples\"//'; done",
        scratch, SANITIZED ? 8 : 61, getenv("PWD"), getenv("PWD"), scratch);
    assert_done(&r);
    char *second = strchr(r.out, '\n') + 1;
    assert_int_equal(strlen(second), second - r.out);
    assert_memory_equal(r.out, second, strlen(second));
    command_free(&r);
}

static void what_a_ratio_costs_is_measured(void **state)
{
    (void)state;
    write_file("tiny.jsonl", "{\"text\":\"abc\",\"label\":\"good\"}\n"
                             "{\"text\":\"the fox\",\"text_pair\":\"x\",\"label\":2}\n"
                             "{\"text\":\"q\",\"label\":\"bad\"}\n");
    cJSON *j = one_object(MOEFY("eval %s --data %s/tiny.jsonl --ratio 0.34,1 --json", tiny_moe,
                                scratch));
    const cJSON *sparse = list(j, "results", 2)->child, *dense = sparse->next;
    assert_true(number(sparse, "kl") > 0);
    assert_true(number(sparse, "mass") > 0 && number(sparse, "mass") < 1);
    assert_true(number(sparse, "effective_ratio") < 0.41);
    assert_true(number(sparse, "agreement") >= 0 && number(sparse, "accuracy") <= 1);
    assert_true(number(dense, "kl") == 0 && number(dense, "mass") == 1);
    cJSON_Delete(j);
    j = one_object(MOEFY("eval %s --data %s/tiny.jsonl --ratio 0.34 --json --selection oracle",
                         tiny_moe, scratch));
    double best = number(list(j, "results", 1)->child, "mass");
    cJSON_Delete(j);
    j = one_object(MOEFY("eval %s --data %s/tiny.jsonl --ratio 0.34 --json --selection random",
                         tiny_moe, scratch));
    assert_true(best > number(list(j, "results", 1)->child, "mass"));
    cJSON_Delete(j);
    command_result r = MOEFY("eval %s --data %s/tiny.jsonl", tiny_moe, scratch);
    assert_done(&r);
    assert_non_null(strstr(r.out, "100.00% [43.9, 100.0]")); /* 3 of 3, by Wilson */
    command_free(&r);
}

static void text_without_labels_still_gives_fidelity(void **state)
{
    (void)state;
    write_file("plain.tsv", "sentence\nabc\nxyz q\n");
    cJSON *j = one_object(MOEFY("eval %s --data %s/plain.tsv --ratio 0.5 --json", tiny_moe,
                                scratch));
    const cJSON *r = list(j, "results", 1)->child;
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(r, "accuracy")));
    assert_true(number(r, "kl") >= 0);
    cJSON_Delete(j);
}

static void wrong_labels_are_told_with_their_line(void **state)
{
    (void)state;
    write_file("bad1.tsv", "sentence\tlabel\na\tgood\nb\tgreat\n");
    write_file("bad2.jsonl", "{\"text\":\"a\",\"label\":0}\n{\"text\":\"b\"}\n");
    write_file("bad3.tsv", "sentence\tlabel\na\tgood\nb\n");
    write_file("bad4.tsv", "a\tgood\nb\tbad\n");
    assert_fails(MOEFY("eval %s --data %s/bad1.tsv --ratio 1", tiny, scratch), 1,
                 "bad1.tsv:3: label 'great', expected one of the model's");
    assert_fails(MOEFY("eval %s --data %s/bad2.jsonl --ratio 1", tiny, scratch), 1,
                 "bad2.jsonl:2: row lacks a label, line 1 has one");
    assert_fails(MOEFY("eval %s --data %s/bad3.tsv --ratio 1", tiny, scratch), 1,
                 "bad3.tsv:3: expected 2 columns");
    assert_fails(MOEFY("eval %s --data %s/bad4.tsv --ratio 1", tiny, scratch), 1,
                 "bad4.tsv:1: expected a header");
    command_result r = MOEFY("eval %s --data %s/bad1.tsv --ratio 1 --limit 1", tiny, scratch);
    assert_done(&r);
    command_free(&r);
}

static void eval_says_what_a_model_cannot_do(void **state)
{
    (void)state;
    assert_fails(MOEFY("eval %s --data " DEV " --ratio 0.5", tiny), 1, "is not MoEfied");
    assert_fails(MOEFY("eval %s", tiny), 2, "needs --data");
    assert_fails(MOEFY("eval %s --data x --selection best", tiny), 2, "expected one of: router");
    assert_fails(MOEFY("eval %s --data x --ratio 0.5,2", tiny), 2, "--ratio is '0.5,2'");
}

/* The tiny network with one label: scratch/regression. */
static void write_regression_model(void)
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

static void a_regression_is_judged_by_correlation(void **state)
{
    (void)state;
    write_regression_model();
    write_file("scores.jsonl", "{\"text\":\"abc\",\"label\":5.0}\n{\"text\":\"q\",\"label\":1.5}\n"
                               "{\"text\":\"zz x\",\"label\":-3e-1}\n");
    cJSON *j = one_object(MOEFY("eval %s/regression --data %s/scores.jsonl --ratio 1,0.34 "
                                "--selection random --json", scratch, scratch));
    const cJSON *dense = list(j, "results", 2)->child, *sparse = dense->next;
    assert_string_equal(text(j, "task"), "regression");
    assert_true(fabs(number(dense, "pearson")) <= 1 && fabs(number(dense, "spearman")) <= 1);
    assert_true(number(dense, "mean_abs_difference") == 0);
    assert_true(number(sparse, "mean_abs_difference") > 0);
    cJSON_Delete(j);
    write_file("words.tsv", "sentence\tlabel\na\t1\nb\tgood\n");
    assert_fails(MOEFY("eval %s/regression --data %s/words.tsv --ratio 1", scratch, scratch), 1,
                 "words.tsv:3: label 'good', expected a number");
    command_result r = MOEFY("run %s/regression abc", scratch);
    assert_done(&r);
    assert_memory_equal(r.out, "score", 5);
    assert_non_null(strstr(r.out, "ratio 1: "));
    command_free(&r);
}

/* ---- inspect and bench -------------------------------------------------------- */

static void inspect_tells_what_a_model_is(void **state)
{
    (void)state;
    cJSON *j = one_object(MOEFY("inspect %s --json", tiny_moe));
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(j, "moefied")));
    assert_true(number(j, "n_experts") == TINY_EXPERTS && number(j, "d_ff") == TINY_D_FF);
    assert_string_equal(text(j, "router"), "mlp");
    list(j, "labels", 3);
    list(j, "layers", 2);
    const cJSON *row = list(j, "ratio_table", 3)->child->next;
    assert_true(number(row, "ratio") == 0.5);
    assert_true(list(row, "experts", 2)->child->next->valueint == 2);
    assert_true(number(cJSON_GetObjectItem(j, "moefication"), "format_version") == 1);
    const cJSON *file = list(j, "files", 3)->child;
    assert_string_equal(text(file, "name"), "config.json");
    assert_true(number(file, "bytes") > 100);
    cJSON_Delete(j);
    command_result r = MOEFY("inspect %s", tiny_moe);
    assert_done(&r);
    assert_non_null(strstr(r.out, "3 of 32 neurons in each layer; split by random, router mlp"));
    assert_non_null(strstr(r.out, "     0.5     1    2    1.50"));
    command_free(&r);
    r = MOEFY("inspect " MODEL);
    assert_done(&r);
    assert_non_null(strstr(r.out, "not MoEfied"));
    command_free(&r);
}

static void bench_times_shapes_and_models(void **state)
{
    (void)state;
    cJSON *j = one_object(MOEFY("bench --shape minilm --batch 1,2 --seq 4 --ratio 1,0.25 "
                                "--runs 2 --threads 2 --json"));
    assert_true(number(j, "threads") == 2);
    assert_true(number(cJSON_GetObjectItem(j, "peak"), "gflops") > 0);
    assert_true(*text(j, "isa"));
    const cJSON *row;
    cJSON_ArrayForEach(row, list(j, "results", 4)) {
        const cJSON *ms = cJSON_GetObjectItem(row, "ms");
        assert_true(number(ms, "min") > 0 && number(ms, "min") <= number(ms, "median"));
        assert_true(number(ms, "median") <= number(ms, "p90"));
        assert_true(number(row, "gflops") > 0 && number(row, "runs") == 2);
        assert_string_equal(text(row, "dtype"), "f32");
        assert_true(number(row, "effective_ratio") == number(row, "ratio"));
    }
    cJSON_Delete(j);
    static const char *const layers[] = {"ffn", "attention", "linear"};
    for (int i = 0; i < 3; i++) {
        command_result r = MOEFY("bench %s --layer %s --batch 2 --seq 3 --runs 1", tiny_moe,
                                 layers[i]);
        assert_done(&r);
        assert_non_null(strstr(r.out, "\n    2      3       1 "));
        command_free(&r);
    }
    j = one_object(MOEFY("bench %s --batch 3 --seq 40 --ratio 0.34 --runs 1 --json", tiny_moe));
    cJSON_Delete(j);
    command_result r = MOEFY("bench --peak");
    assert_done(&r);
    assert_non_null(strstr(r.out, "GF/s"));
    command_free(&r);
}

static void wrong_options_of_bench_are_told(void **state)
{
    (void)state;
    assert_fails(MOEFY("bench"), 2, "needs either the directory of a model or --shape");
    assert_fails(MOEFY("bench --shape gpt"), 2, "expected one of: t5-large-enc4");
    assert_fails(MOEFY("bench --shape minilm --dtype int8"), 2, "--dtype is 'int8'");
    assert_fails(MOEFY("bench --shape minilm --seq 513"), 1, "takes at most 512 tokens");
    assert_fails(MOEFY("bench --shape minilm --batch 0"), 2, "--batch is '0'");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(help_lists_every_command_with_a_line),
        cmocka_unit_test(version_is_printed),
        cmocka_unit_test(wrong_commands_are_usage_errors),
        cmocka_unit_test(a_full_disk_is_a_failure),
        cmocka_unit_test(run_answers_a_file_as_transformers_does),
        cmocka_unit_test(run_gives_the_same_bits_for_a_text_alone),
        cmocka_unit_test(run_shows_people_a_table),
        cmocka_unit_test(run_follows_the_ratio),
        cmocka_unit_test(a_broken_row_is_told_after_the_answers_before_it),
        cmocka_unit_test(a_line_without_end_is_refused),
        cmocka_unit_test(wrong_options_of_run_are_usage_errors),
        cmocka_unit_test(an_empty_file_has_no_answers),
        cmocka_unit_test(a_writer_that_waits_gets_its_answer),
        cmocka_unit_test(tokenize_shows_what_transformers_makes_of_a_file),
        cmocka_unit_test(offsets_count_code_points),
        cmocka_unit_test(tokens_cut_off_are_counted),
        cmocka_unit_test(dense_accuracy_is_the_cards),
        cmocka_unit_test(the_order_of_rows_does_not_matter),
        cmocka_unit_test(what_a_ratio_costs_is_measured),
        cmocka_unit_test(text_without_labels_still_gives_fidelity),
        cmocka_unit_test(wrong_labels_are_told_with_their_line),
        cmocka_unit_test(eval_says_what_a_model_cannot_do),
        cmocka_unit_test(a_regression_is_judged_by_correlation),
        cmocka_unit_test(inspect_tells_what_a_model_is),
        cmocka_unit_test(bench_times_shapes_and_models),
        cmocka_unit_test(wrong_options_of_bench_are_told),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}

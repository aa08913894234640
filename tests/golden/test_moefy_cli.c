/* The program moefy itself, as a user runs it: its answers to texts against the
 * golden ones, its exit codes, and one line on stderr for whatever goes wrong. */
#include <poll.h>
#include <signal.h>

#include "tests/support/moefy_cli.h"

#define ALL_GOLDEN "tests/data/golden/minilm-sst2-relu.jsonl"
enum { GOLDEN_ROWS = SANITIZED ? 16 : 184, PATIENCE_MS = 60000 };

static char golden_path[4200];

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
    moefy_set_up();
    copy_golden();
    return 0;
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
    assert_fails(MOEFY("tokenize %s --input '%s' >/dev/full", tiny, golden_path), 1,
                 "standard output: ");
    assert_fails(MOEFY("run %s --input '%s' >/dev/full", tiny, golden_path), 1,
                 "No space left on device");
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
        do {
            struct pollfd answer = {.fd = from[0], .events = POLLIN};
            if (poll(&answer, 1, PATIENCE_MS) != 1) {
                kill(child, SIGKILL);
                fail_msg("no answer within %d ms", PATIENCE_MS);
            }
            assert_int_equal(read(from[0], &byte, 1), 1);
        } while (byte != '\n');
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
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}

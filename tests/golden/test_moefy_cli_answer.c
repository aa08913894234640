/* moefy on a model that answers questions: run, eval, and what it refuses. */
#include "tests/support/moefy_cli.h"

#define SQUAD "models/minilm-squad-relu"
#define FEW "tests/data/squad_few.json"
#define GOLDEN "tests/data/golden/minilm-squad-relu.jsonl"
enum { GOLDEN_ROWS = SANITIZED ? 3 : 25 };

static int set_up(void **state)
{
    (void)state;
    moefy_set_up();
    return 0;
}

static void one_question_is_answered(void **state)
{
    (void)state;
    cJSON *j = one_object(MOEFY("run " SQUAD " --json 'Who wrote it?' 'Ann wrote it in May.'"));
    assert_string_equal(text(j, "task"), "question-answering");
    assert_string_equal(text(j, "answer"), "Ann");
    assert_true(number(j, "start") == 0 && number(j, "end") == 3);
    assert_true(number(j, "score") > 0.5 && number(j, "effective_ratio") == 1);
    const cJSON *window = list(j, "windows", 1)->child;
    const cJSON *ids = list(window, "ids", -1);
    assert_non_null(list(window, "start", cJSON_GetArraySize(ids)));
    assert_non_null(list(window, "end", cJSON_GetArraySize(ids)));
    cJSON_Delete(j);
    command_result r = MOEFY("run " SQUAD " 'Who wrote it?' 'Ann wrote it in May.'");
    assert_done(&r);
    assert_ptr_equal(strstr(r.out, "Ann\n"), r.out);
    command_free(&r);
}

/* The golden file's rows are questions and contexts, and stand as they are. */
static void a_stream_gets_the_pipelines_answers(void **state)
{
    (void)state;
    command_result r = SHELL("head -%d " GOLDEN " | \"$P\" run " SQUAD " --input -", GOLDEN_ROWS);
    FILE *f = fopen(GOLDEN, "r");
    char *line = NULL, *at = r.out;
    size_t room = 0;
    assert_done(&r);
    for (int i = 0; i < GOLDEN_ROWS; i++) {
        assert_true(getline(&line, &room, f) > 0);
        cJSON *want = cJSON_Parse(line), *got = cJSON_Parse(at);
        const cJSON *answer = cJSON_GetObjectItem(want, "answer");
        assert_non_null(got);
        assert_string_equal(text(got, "answer"), text(answer, "answer"));
        assert_true(number(got, "start") == number(answer, "start"));
        assert_true(fabs(number(got, "score") - number(answer, "score")) < 1e-3);
        const cJSON *x = list(got, "windows", -1)->child, *y = list(want, "windows", -1)->child;
        for (; y; x = x->next, y = y->next) {
            assert_same_list(x, y, "ids", 0, i);
            assert_same_list(x, y, "start", 1e-3, i);
            assert_same_list(x, y, "end", 1e-3, i);
        }
        assert_null(x);
        cJSON_Delete(want);
        cJSON_Delete(got);
        at = strchr(at, '\n') + 1;
    }
    assert_int_equal(*at, 0);
    free(line);
    fclose(f);
    command_free(&r);
}

/* Among questions, in their order: what is no question gets the logits of its tokens. */
static void a_text_gets_where_answers_start_and_end(void **state)
{
    (void)state;
    static const char rows[] =
        "{\"text\": \"one two\"}\n{\"question\": \"Who?\", \"context\": \"Ann.\"}\n"
        "{\"text\": \"one\", \"text_pair\": \"two three\"}\n";
    static const int tokens[] = {4, 0, 6};
    write_file("rows.jsonl", rows);
    command_result r = MOEFY("run " SQUAD " --input %s/rows.jsonl", scratch);
    char *at = r.out;
    assert_done(&r);
    for (int i = 0; i < 3; i++) {
        cJSON *j = cJSON_Parse(at);
        assert_non_null(j);
        if (tokens[i]) {
            list(j, "ids", tokens[i]);
            list(j, "start", tokens[i]);
            list(j, "end", tokens[i]);
        } else {
            assert_string_equal(text(j, "answer"), "Ann");
        }
        cJSON_Delete(j);
        at = strchr(at, '\n') + 1;
    }
    assert_int_equal(*at, 0);
    command_free(&r);
}

static void questions_are_scored_as_squad_does(void **state)
{
    (void)state;
    cJSON *j = one_object(MOEFY("eval " SQUAD " --data " FEW " --ratio 1,0.5 --selection oracle "
                                "--json --limit %d", SANITIZED ? 4 : 26));
    assert_string_equal(text(j, "task"), "question-answering");
    const cJSON *dense = list(j, "results", 2)->child, *sparse = dense->next;
    if (!SANITIZED) { /* as a script that follows SQuAD's own scores them */
        assert_true(fabs(number(dense, "exact_match") - 11.0 / 26) < 1e-6);
        assert_true(fabs(number(dense, "f1") - 0.603885) < 1e-5);
    }
    assert_true(number(dense, "agreement") == 1 && number(dense, "kl") == 0);
    assert_true(number(dense, "mean_abs_difference") == 0);
    assert_true(number(sparse, "kl") > 0 && number(sparse, "mean_abs_difference") > 0);
    assert_true(number(sparse, "effective_ratio") < 0.51);
    cJSON_Delete(j);
}

static void what_does_not_fit_the_task_is_told(void **state)
{
    (void)state;
    assert_fails(MOEFY("run " SQUAD " 'Who?'"), 1, "expected a question and a context");
    assert_fails(MOEFY("eval " SQUAD " --data tests/data/sst2_dev.tsv --ratio 1"), 1,
                 "expected questions in SQuAD's JSON");
    assert_fails(SHELL("echo '{\"question\":\"q\"}' | \"$P\" run " SQUAD " --input -"), 1,
                 "standard input:1: key 'context' is missing");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_question_is_answered),
        cmocka_unit_test(a_stream_gets_the_pipelines_answers),
        cmocka_unit_test(a_text_gets_where_answers_start_and_end),
        cmocka_unit_test(questions_are_scored_as_squad_does),
        cmocka_unit_test(what_does_not_fit_the_task_is_told),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}

/* moefy's measuring commands as a user runs them: eval and inspect. */
#include "tests/support/moefy_cli.h"

#define DEV "tests/data/sst2_dev.tsv"
enum { DEV_ROWS = SANITIZED ? 12 : 872 };
static const int dev_correct = SANITIZED ? 11 : 778; /* 0.8922, the card's accuracy */

static int set_up(void **state)
{
    (void)state;
    moefy_set_up();
    return 0;
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
        "head -%d " DEV " > '%s/a.tsv'; (head -1 '%s/a.tsv'; tail -n +2 '%s/a.tsv' | tac) "
        "> '%s/b.tsv'; for f in a b; do \"$P\" eval " MODEL " --data '%s'/$f.tsv "
        "--selection oracle --ratio 0.5,1,0.125 --json | sed 's/.*\"examples\"//'; done",
        SANITIZED ? 8 : 61, scratch, scratch, scratch, scratch, scratch);
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

/* The JSON of eval on scratch/some.jsonl with further options. */
static cJSON *eval_some(const char *model, const char *options)
{
    return one_object(MOEFY("eval %s --data %s/some.jsonl --json %s", model, scratch, options));
}

static double effective(const cJSON *j)
{
    return number(list(j, "results", 1)->child, "effective_ratio");
}

static void a_policy_is_the_models_own_or_as_told(void **state)
{
    (void)state;
    write_file("some.jsonl", "{\"text\":\"abc\"}\n{\"text\":\"the fox\",\"text_pair\":\"x\"}\n");
    cJSON *own = eval_some(tiny_dynamic, "--ratio 0.5");
    cJSON *threshold = eval_some(tiny_dynamic, "--ratio 0.5 --policy threshold");
    cJSON *topk = eval_some(tiny_dynamic, "--ratio 0.5 --policy topk");
    cJSON *plain = eval_some(tiny_moe, "--ratio 0.5");
    cJSON *control = eval_some(tiny_dynamic, "--ratio 0.5 --selection oracle");
    assert_string_equal(text(own, "policy"), "threshold");
    assert_string_equal(text(threshold, "policy"), "threshold");
    assert_string_equal(text(topk, "policy"), "topk");
    assert_string_equal(text(plain, "policy"), "topk");
    assert_string_equal(text(control, "policy"), "topk");
    assert_true(effective(own) == effective(threshold));
    assert_true(effective(own) != effective(topk));
    assert_true(effective(plain) == effective(topk));
    cJSON *sequence = eval_some(tiny_dynamic, "--ratio 0.5 --policy sequence");
    assert_string_equal(text(sequence, "policy"), "sequence");
    assert_true(effective(sequence) != effective(topk));
    assert_true(effective(sequence) != effective(threshold));
    cJSON *const all[] = {own, threshold, topk, plain, control, sequence};
    for (int i = 0; i < 6; i++)
        cJSON_Delete(all[i]);
    command_result r = MOEFY("eval %s --data %s/some.jsonl --ratio 0.5", tiny_dynamic, scratch);
    assert_done(&r);
    assert_non_null(strstr(r.out, "experts chosen by the router, threshold, "));
    command_free(&r);
}

static void run_follows_a_policy_too(void **state)
{
    (void)state;
    cJSON *topk = one_object(MOEFY("run %s --ratio 0.5 --policy topk --json abc", tiny_dynamic));
    cJSON *plain = one_object(MOEFY("run %s --ratio 0.5 --json abc", tiny_moe));
    cJSON *own = one_object(MOEFY("run %s --ratio 0.5 --json abc", tiny_dynamic));
    assert_true(cJSON_Compare(topk, plain, true));
    assert_string_equal(text(topk, "policy"), "topk");
    assert_string_equal(text(own, "policy"), "threshold");
    assert_true(number(own, "effective_ratio") != number(topk, "effective_ratio"));
    cJSON_Delete(topk);
    cJSON_Delete(plain);
    cJSON_Delete(own);
    command_result r = MOEFY("run %s --ratio 0.5 --policy=threshold abc", tiny_dynamic);
    assert_done(&r);
    assert_non_null(strstr(r.out, "ratio 0.5 by threshold: "));
    command_free(&r);
    r = MOEFY("run %s --ratio 0.5 --policy=sequence abc", tiny_dynamic);
    assert_done(&r);
    assert_non_null(strstr(r.out, "ratio 0.5 by sequence: "));
    command_free(&r);
}

static void a_policy_that_cannot_be_followed_is_told(void **state)
{
    (void)state;
    write_file("some.jsonl", "{\"text\":\"abc\"}\n");
    assert_fails(MOEFY("eval %s --data %s/some.jsonl --policy threshold", tiny_moe, scratch), 1,
                 "tiny-moe: has no thresholds: expected --policy topk");
    assert_fails(MOEFY("run %s --policy threshold abc", tiny_moe), 1, "has no thresholds");
    assert_fails(MOEFY("run " MODEL " --policy threshold abc"), 1, "has no thresholds");
    assert_fails(MOEFY("eval %s --data x --backend tpu", tiny_dynamic), 2,
                 "expected one of: auto, cpu, cuda");
    assert_fails(MOEFY("bench %s --seq 4 --backend cuda", tiny_dynamic), 1,
                 "backend cuda: this build has none");
    assert_fails(MOEFY("eval %s --data x --policy best", tiny_dynamic), 2,
                 "--policy is 'best', expected one of: topk, threshold, sequence");
    assert_fails(MOEFY("run %s --policy model abc", tiny_dynamic), 2, "--policy is 'model'");
    assert_fails(MOEFY("eval %s --data x --policy threshold --selection random", tiny_dynamic),
                 2, "--policy threshold: expected --selection router");
    assert_fails(MOEFY("eval %s --data x --policy sequence --selection oracle", tiny_dynamic),
                 2, "--policy sequence: expected --selection router");
    assert_fails(MOEFY("run %s --policy sequence abc", tiny_moe), 1,
                 "tiny-moe: has no mean_experts: expected --policy topk");
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

/* ---- inspect ------------------------------------------------------------------ */

static void inspect_tells_what_a_model_is(void **state)
{
    (void)state;
    cJSON *j = one_object(MOEFY("inspect %s --json", tiny_moe));
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(j, "moefied")));
    assert_true(number(j, "n_experts") == TINY_EXPERTS && number(j, "d_ff") == TINY_D_FF);
    assert_string_equal(text(j, "router"), "mlp");
    list(j, "labels", 3);
    list(j, "layers", 2);
    assert_string_equal(text(j, "policy"), "topk");
    const cJSON *row = list(j, "ratio_table", 3)->child->next;
    assert_null(cJSON_GetObjectItem(row, "thresholds"));
    assert_true(number(row, "ratio") == 0.5);
    assert_true(list(row, "experts", 2)->child->next->valueint == 2);
    assert_true(number(cJSON_GetObjectItem(j, "moefication"), "format_version") == 1);
    const cJSON *file = list(j, "files", 3)->child;
    assert_string_equal(text(file, "name"), "config.json");
    assert_true(number(file, "bytes") > 100);
    cJSON_Delete(j);
    j = one_object(MOEFY("inspect %s --json", tiny_dynamic));
    assert_string_equal(text(j, "policy"), "threshold");
    row = list(j, "ratio_table", 3)->child->next;
    assert_float_equal(list(row, "thresholds", 2)->child->valuedouble, 0.1, 1e-7);
    assert_true(list(row, "thresholds", 2)->child->next->valuedouble == 0);
    assert_float_equal(list(row, "mean_experts", 2)->child->valuedouble, 1.3, 1e-7);
    cJSON_Delete(j);
    command_result r = MOEFY("inspect %s", tiny_dynamic);
    assert_done(&r);
    assert_non_null(strstr(r.out, "  policy      threshold, or sequence where asked for\n"));
    command_free(&r);
    r = MOEFY("inspect %s", tiny_moe);
    assert_done(&r);
    assert_non_null(strstr(r.out, "  policy      topk\n"));
    assert_non_null(strstr(r.out, "3 of 32 neurons in each layer; split by random, router mlp"));
    assert_non_null(strstr(r.out, "     0.5     1    2    1.50"));
    command_free(&r);
    r = MOEFY("inspect " MODEL);
    assert_done(&r);
    assert_non_null(strstr(r.out, "not MoEfied"));
    command_free(&r);
}

static void inspect_draws_the_stored_curve(void **state)
{
    (void)state;
    command_result r = MOEFY("inspect %s", tiny_moe);
    assert_done(&r);
    assert_null(strstr(r.out, "agreement with dense")); /* there is none */
    command_free(&r);
    r = SHELL("cd '%s' && rm -rf stored && cp -r '%s' stored && sed -i 's/\"provenance\"/"
              "\"fidelity\":[{\"ratio\":0.25,\"agreement\":0.8,\"kl\":0.1},{\"ratio\":0.5,"
              "\"agreement\":0.9,\"kl\":0.1}],\"provenance\"/' stored/config.json && "
              "\"$P\" inspect stored", scratch, tiny_moe);
    assert_done(&r);
    assert_non_null(strstr(r.out, "\nagreement with dense, as the conversion measured it"));
    /* 0.8 is the line's start, 0.9 its middle; 0.25 is no row of the ratio table. */
    assert_non_null(strstr(r.out, "    0.25  |A.......................................|    80.0%\n"));
    assert_non_null(strstr(r.out, "     0.5  |....................A...................|    90.0%"
                                  "            1   2\n"));
    assert_null(strchr(r.out, '\033'));
    command_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_accuracy_is_the_cards),
        cmocka_unit_test(the_order_of_rows_does_not_matter),
        cmocka_unit_test(what_a_ratio_costs_is_measured),
        cmocka_unit_test(a_policy_is_the_models_own_or_as_told),
        cmocka_unit_test(run_follows_a_policy_too),
        cmocka_unit_test(a_policy_that_cannot_be_followed_is_told),
        cmocka_unit_test(text_without_labels_still_gives_fidelity),
        cmocka_unit_test(wrong_labels_are_told_with_their_line),
        cmocka_unit_test(eval_says_what_a_model_cannot_do),
        cmocka_unit_test(a_regression_is_judged_by_correlation),
        cmocka_unit_test(inspect_tells_what_a_model_is),
        cmocka_unit_test(inspect_draws_the_stored_curve),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}

/* moefy report as a user runs it: the page, its figures as JSON, bad input, and a file
 * that is whole or not there. */
#include "tests/support/moefy_cli.h"
#include "tests/support/markup.h"

static int set_up(void **state)
{
    (void)state;
    moefy_set_up();
    write_file("rows.tsv", "sentence\tlabel\nabc\tgood\nthe fox ran\tbad\nq\todd\n. , !\tbad\n"
                           "zebra xyz\tgood\nan odd one\todd\n");
    write_file("plain.tsv", "sentence\nabc\n\nxyz q\n  \n");
    return 0;
}

/* A file of scratch as text; free() it. */
static char *read_scratch(const char *name)
{
    char path[8192];
    snprintf(path, sizeof path, "%s/%s", scratch, name);
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("%s is not there", path);
    char *bytes = command_read_all(f);
    fclose(f);
    return bytes;
}

static void assert_well_formed(const char *page)
{
    const char *fault = markup_fault(page);
    if (fault)
        fail_msg("not well-formed at '%.80s'", fault);
}

static void assert_has_cards(const char *page, const char *const *ids)
{
    for (; *ids; ids++) {
        char id[64];
        snprintf(id, sizeof id, "<figure class=\"card\" id=\"%s\">", *ids);
        const char *card = strstr(page, id);
        if (!card)
            fail_msg("no chart '%s'", *ids);
        const char *end = strstr(card, "</figure>"), *parts[] = {
            "<h3>", "<svg class=\"chart\"", "<text class=\"label\"", "<ul class=\"legend\">",
            "<details>", "<td>"};
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
            if (!strstr(card, parts[i]) || strstr(card, parts[i]) > end)
                fail_msg("chart '%s' lacks its %s", *ids, parts[i]);
    }
}

static const char *const layer_cards[] = {"activated", "frequency", "similarity", "edge-cut",
                                          "router-accuracy", "mass", NULL};

static void a_report_is_one_page_that_needs_nothing_else(void **state)
{
    (void)state;
    static const char *const cards[] = {"agreement", "kl", "accuracy", "mass-by-ratio", NULL};
    static const char *const foreign[] = {"<script", "http:", "https:", "src=", "url(", "@import"};
    command_result r = MOEFY("report %s --data %s/rows.tsv -o %s/r.html", tiny_moe, scratch,
                             scratch);
    assert_done(&r);
    assert_non_null(strstr(r.out, "r.html: "));
    command_free(&r);
    char *page = read_scratch("r.html");
    assert_well_formed(page);
    assert_has_cards(page, cards);
    assert_has_cards(page, layer_cards);
    assert_non_null(strstr(page, "id=\"budgets\""));
    assert_non_null(strstr(page, "id=\"facts\""));
    assert_non_null(strstr(page, "tiny_model.h")); /* the provenance's tool */
    assert_non_null(strstr(page, "prefers-color-scheme:dark"));
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        assert_null(strstr(page, foreign[i]));
    free(page);
}

static void the_same_input_gives_the_same_bytes(void **state)
{
    (void)state;
    command_result r = SHELL(
        "cd '%s' && for t in 1 3; do \"$P\" report '%s' --data rows.tsv --threads $t -o t$t.html "
        "--json > t$t.json || exit 1; done; cmp t1.html t3.html && cmp t1.json t3.json",
        scratch, tiny_moe);
    assert_done(&r);
    command_free(&r);
}

static const cJSON *series(const cJSON *report, const char *name)
{
    const cJSON *s;
    cJSON_ArrayForEach(s, cJSON_GetObjectItem(report, "fidelity"))
        if (strcmp(text(s, "name"), name) == 0)
            return s;
    fail_msg("no series '%s'", name);
    return NULL;
}

static void its_fidelity_is_what_eval_measures(void **state)
{
    (void)state;
    static const char *const names[] = {"router", "oracle", "random", "frequency"};
    cJSON *report = one_object(MOEFY("report %s --data %s/rows.tsv --json", tiny_moe, scratch));
    assert_true(number(report, "rows") == 6 && number(report, "rows_read") == 6);
    for (int i = 0; i < 4; i++) {
        cJSON *eval = one_object(MOEFY("eval %s --data %s/rows.tsv --ratio "
                                       "0.0625,0.125,0.2,0.25,0.375,0.5,0.75,1 --json "
                                       "--selection %s", tiny_moe, scratch, names[i]));
        const cJSON *a = list(series(report, names[i]), "rows", 8)->child;
        const cJSON *b = list(eval, "results", 8)->child;
        for (; a; a = a->next, b = b->next) {
            static const char *const keys[] = {"ratio", "effective_ratio", "agreement", "kl",
                                               "accuracy", "mass"};
            for (int k = 0; k < 6; k++)
                assert_true(number(a, keys[k]) == number(b, keys[k]));
        }
        cJSON_Delete(eval);
    }
    cJSON_Delete(report);
}

static void layers_are_told_as_numbers_too(void **state)
{
    (void)state;
    cJSON *report = one_object(MOEFY("report %s --data %s/rows.tsv --json", tiny_moe, scratch));
    const cJSON *layer;
    assert_true(number(report, "selection_ratio") == 0.34); /* of the table's rows */
    cJSON_ArrayForEach(layer, list(report, "layers", TINY_LAYERS)) {
        double chosen = 0;
        const cJSON *share;
        cJSON_ArrayForEach(share, list(layer, "selection_frequency", TINY_EXPERTS))
            chosen += share->valuedouble;
        assert_true(fabs(chosen - number(layer, "experts_selected")) < 1e-4);
        assert_true(number(layer, "edge_cut") > 0 && number(layer, "edge_cut") < 1);
        assert_true(number(layer, "mass_router") <= number(layer, "mass_oracle"));
        assert_true(number(layer, "router_accuracy") <= 1);
        const cJSON *cdf = list(layer, "active_cdf", 61);
        double before = 0;
        cJSON_ArrayForEach(share, cdf) {
            assert_true(share->valuedouble >= before);
            before = share->valuedouble;
        }
        assert_true(before == 1);
    }
    list(report, "ratio_table", 3);
    assert_true(number(cJSON_GetObjectItem(report, "moefication"), "n_experts") == TINY_EXPERTS);
    cJSON_Delete(report);
}

static void text_without_labels_has_no_accuracy(void **state)
{
    (void)state;
    command_result r = SHELL("cd '%s' && \"$P\" report '%s' --data plain.tsv -o plain.html",
                             scratch, tiny_moe);
    assert_done(&r);
    assert_non_null(strstr(r.out, "2 rows")); /* the empty ones are none */
    command_free(&r);
    char *page = read_scratch("plain.html");
    assert_well_formed(page);
    assert_non_null(strstr(page, "id=\"agreement\""));
    assert_null(strstr(page, "id=\"accuracy\""));
    free(page);
}

static void the_stored_curve_is_drawn_beside(void **state)
{
    (void)state;
    command_result r = SHELL(
        "cd '%s' && rm -rf stored && cp -r '%s' stored && sed -i 's/\"provenance\"/\"fidelity\":"
        "[{\"ratio\":0.25,\"agreement\":0.875,\"kl\":0.125},{\"ratio\":0.5,\"agreement\":0.9375,"
        "\"kl\":0.0625}],\"provenance\"/' stored/config.json && \"$P\" report stored --data rows.tsv "
        "-o stored.html --json", scratch, tiny_moe);
    cJSON *report = one_object(r);
    const cJSON *stored = series(report, "stored, topk");
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(stored, "stored")));
    assert_true(number(list(stored, "rows", 2)->child, "agreement") == 0.875);
    assert_true(number(list(stored, "rows", 2)->child, "effective_ratio") == 0.25);
    cJSON_Delete(report);
    char *page = read_scratch("stored.html");
    assert_well_formed(page);
    assert_non_null(strstr(page, "<title>stored, topk: 0.25, 87.5%</title>"));
    free(page);
}

static void a_regression_shows_differences(void **state)
{
    (void)state;
    write_regression_model();
    write_file("scores.tsv", "sentence\tlabel\nabc\t5.0\nq\t1.5\nzz x\t-3e-1\nfox\t2\n");
    command_result r = SHELL(
        "cd '%s' && \"$P\" convert regression -o score-moe --calibrate scores.tsv --split random "
        ">/dev/null 2>&1 && \"$P\" report score-moe --data scores.tsv -o score.html --json", scratch);
    cJSON *report = one_object(r);
    assert_string_equal(text(report, "task"), "regression");
    const cJSON *rows = list(series(report, "random"), "rows", 8);
    assert_true(number(rows->child, "mean_abs_difference") > 0);
    cJSON_Delete(report);
    static const char *const cards[] = {"difference", "pearson", "mass-by-ratio", NULL};
    char *page = read_scratch("score.html");
    assert_well_formed(page);
    assert_has_cards(page, cards);
    assert_has_cards(page, layer_cards);
    free(page);
}

static void names_from_outside_are_escaped(void **state)
{
    (void)state;
    command_result r = SHELL(
        "cd '%s' && cp rows.tsv '<img src=x>&.tsv' && rm -rf '<i>' && cp -r '%s' '<i>' && \"$P\" "
        "report '<i>' --data '<img src=x>&.tsv' -o names.html >/dev/null", scratch, tiny_moe);
    assert_done(&r);
    command_free(&r);
    char *page = read_scratch("names.html");
    assert_well_formed(page);
    assert_null(strstr(page, "<img"));
    assert_null(strstr(page, "<i>"));
    assert_non_null(strstr(page, "&lt;img src=x&gt;&amp;.tsv"));
    free(page);
}

static void what_cannot_be_reported_is_told_in_one_line(void **state)
{
    (void)state;
    command_result r = SHELL("cd '%s' && rm -f *.tmp.* x.html", scratch);
    command_free(&r);
    write_file("blank.tsv", "sentence\tlabel\n \tgood\n  \tbad\n");
    write_file("odd.tsv", "sentence\tlabel\nabc\tgreat\n");
    assert_fails(MOEFY("report %s --data %s/rows.tsv -o %s/x.html", tiny, scratch, scratch), 1,
                 "is not MoEfied");
    assert_fails(MOEFY("report %s/none --data %s/rows.tsv -o %s/x.html", scratch, scratch, scratch),
                 1, "none");
    assert_fails(MOEFY("report %s --data %s/blank.tsv -o %s/x.html", tiny_moe, scratch, scratch), 1,
                 "blank.tsv: 2 rows, but none holds text");
    assert_fails(MOEFY("report %s --data %s/odd.tsv -o %s/x.html", tiny_moe, scratch, scratch), 1,
                 "odd.tsv:2: label 'great'");
    assert_fails(MOEFY("report %s --data %s/none.tsv -o %s/x.html", tiny_moe, scratch, scratch), 1,
                 "none.tsv");
    assert_fails(MOEFY("report %s --data %s/rows.tsv -o %s/no/x.html", tiny_moe, scratch, scratch),
                 1, "no/x.html: cannot be written: No such file");
    assert_fails(MOEFY("report %s --data %s/rows.tsv -o %s", tiny_moe, scratch, scratch), 1,
                 "is there and not a file");
    assert_fails(MOEFY("report %s --data %s/rows.tsv -o /dev/null", tiny_moe, scratch), 1,
                 "/dev/null: is there and not a file");
    assert_fails(MOEFY("report %s --data x", tiny_moe), 2, "needs -o OUT.html");
    assert_fails(MOEFY("report %s -o x.html", tiny_moe), 2, "needs --data FILE");
    assert_fails(MOEFY("report --data x -o x.html"), 2, "needs the directory of a model");
    r = SHELL("cd '%s' && ls | grep -E 'x\\.html|\\.tmp\\.' ; true", scratch);
    assert_string_equal(r.out, ""); /* nothing is left behind */
    command_free(&r);
}

static void several_labels_a_row_are_refused(void **state)
{
    (void)state;
    command_result r = SHELL("cd '%s' && rm -rf multi && cp -r '%s' multi && sed -i "
                             "'s/\"hidden_act\"/\"problem_type\":\"multi_label_classification\",&/' "
                             "multi/config.json", scratch, tiny_moe);
    assert_done(&r);
    command_free(&r);
    assert_fails(MOEFY("report %s/multi --data %s/rows.tsv --json", scratch, scratch), 1,
                 "report measures one label a row");
}

static void a_page_is_replaced_whole_or_not_at_all(void **state)
{
    (void)state;
    write_file("kept.html", "old");
    assert_fails(MOEFY("report %s --data %s/odd.tsv -o %s/kept.html", tiny_moe, scratch, scratch), 1,
                 "label 'great'");
    char *page = read_scratch("kept.html");
    assert_string_equal(page, "old");
    free(page);
    command_result r = SHELL("cd '%s' && ln -sf kept.html link.html && \"$P\" report '%s' --data "
                             "rows.tsv -o link.html >/dev/null && test -L link.html && "
                             "head -c 15 kept.html", scratch, tiny_moe);
    assert_done(&r);
    assert_string_equal(r.out, "<!DOCTYPE html>");
    command_free(&r);
}

/* SIGTERM, as a shell starts its background jobs with SIGINT ignored. */
static void a_signal_leaves_nothing_behind(void **state)
{
    (void)state;
    command_result r = SHELL(
        "cd '%s' && rm -f sig.html* && (cat rows.tsv; for i in $(seq 800); do tail -n +2 rows.tsv; "
        "done) > long.tsv && { \"$P\" report '%s' --data long.tsv -o sig.html & } && pid=$! && "
        "until ls sig.html.tmp.* >/dev/null 2>&1; do kill -0 $pid || exit 9; sleep 0.01; done && "
        "kill -TERM $pid; wait $pid; echo $?; ls sig.html* 2>/dev/null", scratch, tiny_moe);
    assert_non_null(strstr(r.err, "moefy: interrupted by signal 15\n"));
    assert_string_equal(r.out, "143\n");
    command_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_report_is_one_page_that_needs_nothing_else),
        cmocka_unit_test(the_same_input_gives_the_same_bytes),
        cmocka_unit_test(its_fidelity_is_what_eval_measures),
        cmocka_unit_test(layers_are_told_as_numbers_too),
        cmocka_unit_test(text_without_labels_has_no_accuracy),
        cmocka_unit_test(the_stored_curve_is_drawn_beside),
        cmocka_unit_test(a_regression_shows_differences),
        cmocka_unit_test(names_from_outside_are_escaped),
        cmocka_unit_test(what_cannot_be_reported_is_told_in_one_line),
        cmocka_unit_test(several_labels_a_row_are_refused),
        cmocka_unit_test(a_page_is_replaced_whole_or_not_at_all),
        cmocka_unit_test(a_signal_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}

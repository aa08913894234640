/* SQuAD's files and SQuAD's scores. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/metrics.h"
#include "convert/squad.h"

/* ---- scores ---------------------------------------------------------------- */

static double exact(const char *answer, const char *right)
{
    return squad_exact(answer, strlen(answer), &right, 1);
}

static double f1(const char *answer, const char *right)
{
    return squad_f1(answer, strlen(answer), &right, 1);
}

static void case_punctuation_and_articles_do_not_count(void **state)
{
    (void)state;
    assert_true(exact("The  Broncos.", "broncos") == 1);
    assert_true(exact("an a the", "") == 1);
    assert_true(exact("Denver Broncos", "broncos") == 0);
    assert_true(exact("theatre", "atre") == 0);
    assert_true(exact("U.S.", "us") == 1);
    assert_true(exact("d\xc3\xa9j\xc3\xa0 vu", "D\xc3\xa9j\xc3\xa0-vu") == 0); /* one word */
    assert_true(exact("24\xe2\x80\x93" "10", "24\xe2\x80\x93" "10") == 1);
}

static void f1_counts_shared_words_once_each(void **state)
{
    (void)state;
    assert_float_equal(f1("the Denver Broncos", "Broncos"), 2.0 / 3, 1e-12);
    assert_float_equal(f1("b b c", "b c c"), 2.0 * 2 / 6, 1e-12);
    assert_true(f1("x", "y") == 0);
    assert_true(f1("", "y") == 0);
    assert_true(f1("the", "a") == 1);
}

static void the_best_of_several_counts_and_none_means_no_answer(void **state)
{
    static const char *const right[] = {"ten", "10 points", "points"};
    (void)state;
    assert_true(squad_exact("Points", 6, right, 3) == 1);
    assert_float_equal(squad_f1("ten points", 10, right, 3), 2.0 / 3, 1e-12);
    assert_true(squad_exact("", 0, NULL, 0) == 1);
    assert_true(squad_f1("ten", 3, NULL, 0) == 0);
}

/* [label][said], by hand: 3 right of label 1, 2 missed, 1 false alarm, 4 right of 0. */
static void f1_and_matthews_follow_their_formulas(void **state)
{
    static const double hits[2][2] = {{4, 1}, {2, 3}}, constant[2][2] = {{4, 0}, {2, 0}};
    (void)state;
    assert_float_equal(f1_score(hits), 6.0 / 9, 1e-12);
    assert_float_equal(matthews(hits), (3.0 * 4 - 1 * 2) / 24.494897427831781, 1e-12);
    assert_true(f1_score(constant) == 0 && matthews(constant) == 0);
}

/* ---- files ------------------------------------------------------------------ */

static const char *write_file(const char *name, const char *text)
{
    static char path[4200];
    snprintf(path, sizeof path, "%s/%s", getenv("MOE_TMP"), name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return path;
}

static void questions_become_rows(void **state)
{
    dataset d;
    moe_error err;
    (void)state;
    const char *path = write_file("v2.json",
        "{\"version\":\"v2.0\",\"data\":[{\"title\":\"t\",\"paragraphs\":[{\"context\":\"c one\","
        "\"qas\":[{\"id\":\"1\",\"question\":\"q1\",\"answers\":[{\"text\":\"c\",\"answer_start\":0},"
        "{\"text\":\"one\"}]},{\"question\":\"q2\",\"answers\":[],\"is_impossible\":true,"
        "\"plausible_answers\":[]}]},{\"context\":\"c two\",\"qas\":[{\"question\":\"q3\","
        "\"answers\":[{\"text\":\"two\"}]}]}]}]}\n");
    assert_int_equal(dataset_read(path, 0, &d, &err), MOE_OK);
    assert_int_equal(d.n_rows, 3);
    assert_true(d.has_answers && d.some_unanswerable && !d.has_labels);
    assert_string_equal(d.rows[0].text, "q1");
    assert_string_equal(d.rows[1].pair, "c one");
    assert_int_equal(d.rows[0].n_answers, 2);
    assert_string_equal(d.rows[0].answers[1], "one");
    assert_int_equal(d.rows[1].n_answers, 0);
    assert_string_equal(d.rows[2].answers[0], "two");
    dataset_free(&d);
    assert_int_equal(dataset_read(path, 1, &d, &err), MOE_OK);
    assert_int_equal(d.n_rows, 1);
    assert_false(d.some_unanswerable);
    dataset_free(&d);
}

static void what_is_broken_is_named(void **state)
{
    static const struct { const char *text, *says; } cases[] = {
        {"{\"data\":3}", "'data' is missing or of another type"},
        {"{\"version\":\"1\"}", "'data' is missing"},
        {"{\"data\":[{}]}", "'paragraphs' is missing"},
        {"{\"data\":[{\"paragraphs\":[]},{\"paragraphs\":[{\"qas\":[]}]}]}",
         "data[1].paragraphs[0].qas[0]: 'context' is missing"},
        {"{\"data\":[{\"paragraphs\":[{\"context\":\"c\",\"qas\":[{\"question\":1,\"answers\":[]}]}]}]}",
         "'question' is missing or of another type"},
        {"{\"data\":[{\"paragraphs\":[{\"context\":\"c\",\"qas\":[{\"question\":\"q\",\"answers\":"
         "[{\"text\":\"a\"},{}]}]}]}]}", "'answers: text' is missing"},
        {"{\"data\":[]}", "no rows"},
        {"{\"data\":[", "not JSON"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        dataset d;
        moe_error err;
        const char *path = write_file("broken.json", cases[i].text);
        if (dataset_read(path, 0, &d, &err) != MOE_E_FORMAT || !strstr(err.message, cases[i].says) ||
            !strstr(err.message, path))
            fail_msg("'%s' should hold '%s'", err.message, cases[i].says);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(case_punctuation_and_articles_do_not_count),
        cmocka_unit_test(f1_counts_shared_words_once_each),
        cmocka_unit_test(the_best_of_several_counts_and_none_means_no_answer),
        cmocka_unit_test(f1_and_matthews_follow_their_formulas),
        cmocka_unit_test(questions_become_rows),
        cmocka_unit_test(what_is_broken_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Tests of convert/cli: options reach their variables, and a wrong one is named
 * in one line on stderr with the exit code of a usage error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "convert/cli.h"

typedef struct {
    const char *name, *out;
    int n;
    uint64_t seed;
    bool json;
    const char *positional[2];
    int n_positional, code;
    char said[1024]; /* on stdout and stderr */
} parsed;

/* Runs fn(ctx) with stdout and stderr going to said. */
static void listen(void (*fn)(void *), void *ctx, char *said, size_t size)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    fflush(stdout);
    int out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO);
    dup2(fileno(file), STDOUT_FILENO);
    dup2(fileno(file), STDERR_FILENO);
    fn(ctx);
    fflush(stdout);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    close(out);
    close(err);
    rewind(file);
    said[fread(said, 1, size - 1, file)] = 0;
    fclose(file);
}

typedef struct { parsed *p; int argc; char **argv; } call;

static void do_parse(void *ctx)
{
    call *c = ctx;
    parsed *p = c->p;
    const cli_option options[] = {
        {"--name", OPT_STRING, &p->name, 0, 0, "TEXT", "a text"},
        {"-o", OPT_STRING, &p->out, 0, 0, "OUT", "where to"},
        {"--n", OPT_INT, &p->n, -3, 40, "N", "a number"},
        {"--seed", OPT_UINT64, &p->seed, 0, 0, "N", "a seed"},
        {"--json", OPT_FLAG, &p->json, 0, 0, NULL, "JSON"},
        {.name = NULL},
    };
    p->code = cli_parse("moefy test [options] A B\nSecond line.", options, c->argc, c->argv,
                        2, p->positional, &p->n_positional);
}

/* Parses a NULL-terminated list of arguments behind "test". */
static parsed parse(const char *const *arguments)
{
    parsed p = {.n = 5, .code = -2};
    char *argv[16] = {"test"};
    int argc = 1;
    for (; arguments[argc - 1]; argc++)
        argv[argc] = (char *)arguments[argc - 1];
    listen(do_parse, &(call){&p, argc, argv}, p.said, sizeof p.said);
    return p;
}
#define PARSE(...) parse((const char *const[]){__VA_ARGS__, NULL})

static void assert_refused(parsed p, const char *with)
{
    assert_int_equal(p.code, EXIT_USAGE);
    if (!strstr(p.said, with))
        fail_msg("'%s' does not say '%s'", p.said, with);
    assert_ptr_equal(strchr(p.said, '\n'), p.said + strlen(p.said) - 1); /* one line */
}

static void options_and_texts_may_be_mixed(void **state)
{
    (void)state;
    parsed p = PARSE("first", "--n", "7", "-o", "dir", "--json", "--name=a=b", "--seed",
                     "18446744073709551615", "second");
    assert_int_equal(p.code, -1);
    assert_string_equal(p.said, "");
    assert_int_equal(p.n, 7);
    assert_string_equal(p.out, "dir");
    assert_string_equal(p.name, "a=b");
    assert_true(p.json && p.seed == UINT64_MAX);
    assert_int_equal(p.n_positional, 2);
    assert_string_equal(p.positional[0], "first");
    assert_string_equal(p.positional[1], "second");
}

static void what_is_not_given_keeps_its_value(void **state)
{
    (void)state;
    parsed p = PARSE("only");
    assert_int_equal(p.n, 5);
    assert_null(p.name);
    assert_false(p.json);
}

static void two_dashes_end_the_options(void **state)
{
    (void)state;
    parsed p = PARSE("--", "--json", "-");
    assert_int_equal(p.code, -1);
    assert_false(p.json);
    assert_string_equal(p.positional[0], "--json");
    assert_string_equal(p.positional[1], "-");
}

static void a_value_may_begin_with_a_dash(void **state)
{
    (void)state;
    parsed p = PARSE("--n", "-3", "--name", "-", "-");
    assert_int_equal(p.code, -1);
    assert_int_equal(p.n, -3);
    assert_string_equal(p.name, "-");
    assert_string_equal(p.positional[0], "-");
}

static void numbers_out_of_range_are_named_with_the_range(void **state)
{
    (void)state;
    static const char *const bad[] = {"41", "-4", "x", "", "1x", "1.5", "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_refused(PARSE("--n", bad[i]), "expected a whole number from -3 to 40");
    assert_refused(PARSE("--seed", "-1"), "--seed is '-1'");
    assert_refused(PARSE("--seed=18446744073709551616"), "18446744073709551616");
}

static void an_unknown_option_is_named_with_its_neighbour(void **state)
{
    (void)state;
    assert_refused(PARSE("--jsno"), "unknown option '--jsno', did you mean --json?");
    assert_refused(PARSE("--nmae=3"), "did you mean --name?");
    assert_refused(PARSE("--quantum"), "unknown option '--quantum'");
}

static void missing_and_superfluous_values_are_named(void **state)
{
    (void)state;
    assert_refused(PARSE("--name"), "--name needs a value");
    assert_refused(PARSE("--json=1"), "--json takes no value");
    assert_refused(PARSE("a", "b", "c"), "unexpected argument 'c'");
}

static void help_lists_every_option(void **state)
{
    (void)state;
    parsed p = PARSE("--nothing", "--help");
    assert_int_equal(p.code, EXIT_USAGE); /* the first mistake comes first */
    p = PARSE("--help", "--nothing");
    assert_int_equal(p.code, EXIT_DONE);
    static const char *const lines[] = {"usage: moefy test", "--name TEXT  a text", "-o OUT",
                                        "--seed N", "--json", "--help"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        assert_non_null(strstr(p.said, lines[i]));
}

/* ---- lists ---------------------------------------------------------------- */

typedef struct { const char *text; double ratios[4]; int ints[4]; int n; } list;

static void do_ratios(void *ctx)
{
    list *l = ctx;
    l->n = cli_ratios("test", "--ratio", l->text, 4, l->ratios);
}

static void do_ints(void *ctx)
{
    list *l = ctx;
    l->n = cli_ints("test", "--batch", l->text, 1, 64, 4, l->ints);
}

static list read_list(void (*fn)(void *), const char *text)
{
    char said[1024];
    list l = {.text = text};
    listen(fn, &l, said, sizeof said);
    assert_true((l.n == 0) == (strncmp(said, "moefy: test: --", 15) == 0));
    return l;
}

static void ratios_are_read_from_a_list(void **state)
{
    (void)state;
    list l = read_list(do_ratios, "1,0.5,.25,1e-3");
    assert_int_equal(l.n, 4);
    assert_true(l.ratios[0] == 1 && l.ratios[1] == 0.5 && l.ratios[2] == 0.25 &&
                l.ratios[3] == 1e-3);
}

static void wrong_ratios_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"", ",", "1,", ",1", "0", "-0.5", "1.01", "nan", "inf",
                                      "x", "1;2", "0.5 0.25", "1,1,1,1,1", "0.5,,1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (read_list(do_ratios, bad[i]).n != 0)
            fail_msg("'%s' was taken", bad[i]);
}

static void whole_numbers_are_read_from_a_list(void **state)
{
    (void)state;
    list l = read_list(do_ints, "1,64");
    assert_int_equal(l.n, 2);
    assert_int_equal(l.ints[1], 64);
    assert_int_equal(read_list(do_ints, "65").n, 0);
    assert_int_equal(read_list(do_ints, "0").n, 0);
    assert_int_equal(read_list(do_ints, "1.5").n, 0);
    assert_int_equal(read_list(do_ints, "1,1e99").n, 0);
}

static void do_choose(void *ctx)
{
    static const char *const names[] = {"router", "oracle", NULL};
    list *l = ctx;
    l->n = cli_choice("test", "--selection", l->text, names);
}

static void a_wrong_choice_is_answered_with_all_of_them(void **state)
{
    (void)state;
    char said[1024];
    list l = {.text = "oracle"};
    listen(do_choose, &l, said, sizeof said);
    assert_int_equal(l.n, 1);
    l.text = "oracl";
    listen(do_choose, &l, said, sizeof said);
    assert_int_equal(l.n, -1);
    assert_non_null(strstr(said, "expected one of: router, oracle"));
}

static void distance_counts_edits(void **state)
{
    (void)state;
    assert_int_equal(cli_distance("", "abc"), 3);
    assert_int_equal(cli_distance("kitten", "sitting"), 3);
    assert_int_equal(cli_distance("eval", "eval"), 0);
    assert_int_equal(cli_distance("evla", "eval"), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_and_texts_may_be_mixed),
        cmocka_unit_test(what_is_not_given_keeps_its_value),
        cmocka_unit_test(two_dashes_end_the_options),
        cmocka_unit_test(a_value_may_begin_with_a_dash),
        cmocka_unit_test(numbers_out_of_range_are_named_with_the_range),
        cmocka_unit_test(an_unknown_option_is_named_with_its_neighbour),
        cmocka_unit_test(missing_and_superfluous_values_are_named),
        cmocka_unit_test(help_lists_every_option),
        cmocka_unit_test(ratios_are_read_from_a_list),
        cmocka_unit_test(wrong_ratios_are_refused),
        cmocka_unit_test(whole_numbers_are_read_from_a_list),
        cmocka_unit_test(a_wrong_choice_is_answered_with_all_of_them),
        cmocka_unit_test(distance_counts_edits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

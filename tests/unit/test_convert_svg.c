/* Round ticks, places, numbers and text as charts write them, and charts that are
 * well-formed whatever they are given. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "convert/svg.h"
#include "tests/support/markup.h"

static void expect_ticks(svg_axis a, int want, const double *expected, int n)
{
    double tick[SVG_MAX_TICKS];
    assert_int_equal(svg_ticks(&a, want, tick), n);
    for (int i = 0; i < n; i++)
        assert_true(fabs(tick[i] - expected[i]) <= 1e-12 * fabs(expected[i]));
}

static void ticks_are_round(void **state)
{
    (void)state;
    expect_ticks((svg_axis){.min = 0, .max = 1}, 6, (double[]){0, 0.2, 0.4, 0.6, 0.8, 1}, 6);
    expect_ticks((svg_axis){.min = -0.03, .max = 0.07}, 6,
                 (double[]){-0.02, 0, 0.02, 0.04, 0.06}, 5);
    expect_ticks((svg_axis){.min = 823, .max = 4011}, 5, (double[]){1000, 2000, 3000, 4000}, 4);
    expect_ticks((svg_axis){.min = 0.8, .max = 1, .kind = SVG_PERCENT}, 6,
                 (double[]){0.8, 0.85, 0.9, 0.95, 1}, 5);
    expect_ticks((svg_axis){.min = 0, .max = 2, .kind = SVG_WHOLE}, 6, (double[]){0, 1, 2}, 3);
}

static void log_ticks_are_powers_of_ten(void **state)
{
    (void)state;
    expect_ticks((svg_axis){.log = true, .min = 1e-4, .max = 1}, 6,
                 (double[]){1e-4, 1e-3, 1e-2, 1e-1, 1}, 5);
    expect_ticks((svg_axis){.log = true, .min = 0.1, .max = 1}, 6,
                 (double[]){0.1, 0.2, 0.5, 1}, 4);
    expect_ticks((svg_axis){.log = true, .min = 1e-12, .max = 1}, 6,
                 (double[]){1e-12, 1e-9, 1e-6, 1e-3, 1}, 5);
}

static void wanted_ticks_come_alone(void **state)
{
    (void)state;
    const double ticks[] = {0.0625, 0.125, 0.25, 0.5, 1};
    expect_ticks((svg_axis){.log = true, .min = 0.1, .max = 1, .ticks = ticks, .n_ticks = 5}, 6,
                 ticks + 1, 4);
}

static void expect_ends(svg_axis a, double low, double high, double min, double max)
{
    svg_axis_fit(&a, low, high);
    if (!(fabs(a.min - min) < 1e-9 && fabs(a.max - max) < 1e-9))
        fail_msg("[%g, %g] became [%g, %g], expected [%g, %g]", low, high, a.min, a.max, min, max);
}

static void ends_go_out_to_a_tick_and_never_meet(void **state)
{
    (void)state;
    const svg_axis open = {.min = NAN, .max = NAN};
    svg_axis log = open, from_zero = open, share = open;
    log.log = true;
    from_zero.min = 0;
    share.kind = SVG_PERCENT;
    expect_ends(open, 0.03, 0.93, 0, 1);
    expect_ends(open, -0.03, 0.93, -0.2, 1);
    expect_ends(share, 0.82, 1, 0.8, 1);
    expect_ends(log, 0.0003, 0.3, 0.0001, 1);
    expect_ends(from_zero, 0.4, 0.7, 0, 0.8);
    const double constants[] = {0, 1, -3, 1e-9, 1e9};
    for (int i = 0; i < 5; i++) {
        svg_axis a = open;
        svg_axis_fit(&a, constants[i], constants[i]);
        assert_true(a.min < a.max && a.min <= constants[i] && a.max >= constants[i]);
    }
    svg_axis nothing = open, log_nothing = log;
    svg_axis_fit(&nothing, INFINITY, -INFINITY);
    svg_axis_fit(&log_nothing, INFINITY, -INFINITY);
    assert_true(nothing.min < nothing.max && log_nothing.min < log_nothing.max);
    assert_true(log_nothing.min > 0);
}

static void values_lie_between_the_ends(void **state)
{
    (void)state;
    const svg_axis line = {.min = 2, .max = 4}, log = {.log = true, .min = 0.0625, .max = 1};
    assert_true(svg_place(&line, 2.5, 100, 0) == 75);
    assert_true(fabs(svg_place(&log, 0.25, 0, 80) - 40) < 1e-9);
}

static void expect_written(svg_kind kind, double value, int digits, const char *expected)
{
    char text[32];
    svg_value(kind, value, digits, text, sizeof text);
    assert_string_equal(text, expected);
}

static void values_are_written_short(void **state)
{
    (void)state;
    expect_written(SVG_PERCENT, 0.125, 4, "12.5%");
    expect_written(SVG_PERCENT, 1, 4, "100%");
    expect_written(SVG_NUMBER, 0.0625, 4, "0.0625");
    expect_written(SVG_WHOLE, 47, 4, "47");
    expect_written(SVG_NUMBER, NAN, 4, "\xE2\x80\x93");
}

static void expect_escaped(const char *text, size_t n, const char *expected)
{
    char *out = NULL;
    size_t size;
    FILE *to = open_memstream(&out, &size);
    svg_escape_n(to, text, n);
    fclose(to);
    assert_string_equal(out, expected);
    free(out);
}

static void text_from_outside_cannot_become_markup(void **state)
{
    (void)state;
    expect_escaped("<b a=\"x\">&'", 12, "&lt;b a=&quot;x&quot;&gt;&amp;&#39;\xEF\xBF\xBD");
    expect_escaped("a\x01\x7F\xFF\xC2\x85z", 7, "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz");
    expect_escaped("\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", 9, "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
    expect_escaped("\xEF\xBF\xBE\xED\xA0\x80", 6,
                   "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
}

/* The chart and its legend in one element; free() it. */
static char *drawn(const svg_chart *c)
{
    char *out = NULL;
    size_t size;
    FILE *to = open_memstream(&out, &size);
    fputs("<div>", to);
    svg_draw(to, c);
    svg_legend(to, c);
    fputs("</div>", to);
    fclose(to);
    const char *fault = markup_fault(out);
    if (fault)
        fail_msg("not well-formed at '%.60s'", fault);
    assert_null(strstr(out, "nan"));
    assert_null(strstr(out, "inf"));
    return out;
}

static int count(const char *text, const char *what)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, what)); at += strlen(what))
        n++;
    return n;
}

static void a_line_breaks_where_a_value_is_missing(void **state)
{
    (void)state;
    const double x[] = {0, 1, 2, 3, 4}, y[] = {1, 2, NAN, 3, 1};
    const svg_series s[] = {
        {.name = "a <b>", .x = x, .y = y, .n = 5, .look = SVG_LINE, .low = x, .high = x},
        {.name = "thin", .x = x, .y = x, .n = 5, .look = SVG_FAINT_LINE, .style = {3, 0}}};
    const svg_rule rule = {"level & more", 2};
    const svg_chart c = {.title = "t \"q\"", .series = s, .n_series = 2, .rules = &rule,
                         .n_rules = 1, .x = {.label = "x", .min = NAN, .max = NAN},
                         .y = {.label = "y", .min = NAN, .max = NAN}};
    char *out = drawn(&c);
    const char *line = strstr(out, "class=\"line c0\"");
    assert_non_null(line);
    const char *path = strstr(line, " d=\"") + 4;
    char d[200];
    snprintf(d, sizeof d, "%.*s", (int)strcspn(path, "\""), path);
    assert_int_equal(count(d, "M"), 2); /* two pieces, two points each */
    assert_int_equal(count(d, "L"), 2);
    assert_int_equal(count(out, "a &lt;b&gt;: "), 4); /* a marker for each point there */
    assert_int_equal(count(out, "<b>"), 0);
    assert_int_equal(count(out, "<li>"), 3);
    assert_int_equal(count(out, "level &amp; more"), 2);
    free(out);
}

static void bars_are_as_long_as_their_values(void **state)
{
    (void)state;
    const double a[] = {0.25, 0.5}, b[] = {NAN, 1};
    const char *const names[] = {"0", "1"};
    const svg_series s[] = {{.name = "a", .y = a, .n = 2, .look = SVG_BAR},
                            {.name = "b", .y = b, .n = 2, .look = SVG_HOLLOW_BAR},
                            {.name = "c", .y = a, .n = 2, .look = SVG_TICK}};
    const svg_chart c = {.title = "bars", .series = s, .n_series = 3, .category = names,
                         .x = {.label = "x", .min = NAN, .max = NAN},
                         .y = {.label = "y", .kind = SVG_PERCENT, .min = 0, .max = 1}};
    char *out = drawn(&c);
    double height[3];
    const char *at = out;
    assert_int_equal(count(out, "<rect class=\"bar") + count(out, "<rect class=\"hollow"), 3 + 2);
    for (int i = 0; i < 3; i++) {
        at = strstr(at, " height=\"") + 9;
        height[i] = atof(at);
    }
    assert_true(fabs(height[1] - 2 * height[0]) < 0.11 && fabs(height[2] - 4 * height[0]) < 0.21);
    assert_int_equal(count(out, "class=\"level"), 2 + 1);
    free(out);
}

static void charts_of_nothing_are_drawn_too(void **state)
{
    (void)state;
    const double none[] = {NAN, NAN}, one[] = {3};
    const svg_series series[] = {{.name = "none", .x = none, .y = none, .n = 2},
                                 {.name = "one", .x = one, .y = one, .n = 1},
                                 {.name = "empty"}};
    for (int n = 0; n <= 3; n++)
        for (int log = 0; log < 2; log++) {
            svg_chart c = {.title = "", .series = series, .n_series = n,
                           .x = {.label = "", .min = NAN, .max = NAN},
                           .y = {.label = "", .min = NAN, .max = NAN}};
            c.x.log = c.y.log = log;
            free(drawn(&c));
        }
}

/* The reader that the tests trust must not let everything through. */
static void broken_markup_is_noticed(void **state)
{
    (void)state;
    assert_null(markup_fault("<!DOCTYPE html>\n<a b=\"c\"><d/>x &amp; y</a>\n"));
    static const char *const broken[] = {"<a>", "<a></b>", "<a><b></a></b>", "<a b=c/>",
                                         "<a>&nbsp;</a>", "<a>x < y</a>", "<a/><b/>", "x",
                                         "<a b=\"<\"/>", "</a>", ""};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++)
        assert_non_null(markup_fault(broken[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ticks_are_round),
        cmocka_unit_test(log_ticks_are_powers_of_ten),
        cmocka_unit_test(wanted_ticks_come_alone),
        cmocka_unit_test(ends_go_out_to_a_tick_and_never_meet),
        cmocka_unit_test(values_lie_between_the_ends),
        cmocka_unit_test(values_are_written_short),
        cmocka_unit_test(text_from_outside_cannot_become_markup),
        cmocka_unit_test(a_line_breaks_where_a_value_is_missing),
        cmocka_unit_test(bars_are_as_long_as_their_values),
        cmocka_unit_test(charts_of_nothing_are_drawn_too),
        cmocka_unit_test(broken_markup_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

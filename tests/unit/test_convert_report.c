/* The page of made-up figures: larger than any that a test could measure, with holes,
 * and with names that look like markup. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "convert/report.h"
#include "tests/support/markup.h"

enum { MAX_LAYERS = 300, EXPERTS = 700, D_FF = EXPERTS * 32, ROWS = 1000 };

typedef struct {
    moe_model_info info;
    moe_ratio_row rows[ROWS];
    int experts[MAX_LAYERS];
    layer_figures layers[MAX_LAYERS];
    figures f;
} made_up;

static made_up m;

/* n_layers layers of which every routed_every-th has experts. */
static const figures *make(int n_layers, int routed_every, bool regress)
{
    memset(&m, 0, sizeof m);
    m.info = (moe_model_info){
        .dir = "/models/<b>&'mine\"", .architecture = "Bert", .moefied = true,
        .task = regress ? MOE_TASK_REGRESS : MOE_TASK_CLASSIFY, .n_layers = n_layers,
        .d_model = 64, .d_ff = D_FF, .n_experts = EXPERTS, .expert_size = 32,
        .router = "mlp", .split = "random", .activation = "relu", .dtype = "f32",
        .n_ratio_rows = ROWS, .ratio_rows = m.rows,
        .moefication_json = "{\"split\":\"random\",\"provenance\":{\"source\":{\"name\":"
                            "\"<script>alert(1)</script>\"},\"layers\":[1,[2,3]]},"
                            "\"ratio_table\":[{\"ratio\":1}],\"a<b\":null}"};
    for (int l = 0; l < n_layers; l++) {
        m.experts[l] = 1 + l % EXPERTS;
        layer_figures *to = &m.layers[l];
        *to = (layer_figures){.index = l, .routed = l % routed_every == 0, .n_tokens = 100,
                              .d_ff = D_FF, .n_experts = EXPERTS, .k_selected = 5, .k_judged = 3,
                              .most = {8, 0.5, 0.25}, .least = {8, NAN, NAN}, .cut = NAN,
                              .cut_random = 0.9, .picked = 0.5, .mass_router = 0.6,
                              .mass_oracle = 0.7, .active = 0.01};
        to->firing = calloc(D_FF + 1, sizeof *to->firing);
        to->selected = calloc(EXPERTS, sizeof *to->selected);
        to->firing[l % 50] = 100;
        to->selected[l % EXPERTS] = 1;
    }
    for (int i = 0; i < ROWS; i++)
        m.rows[i] = (moe_ratio_row){(i + 1.0) / ROWS, m.experts};
    m.f = (figures){.info = &m.info, .data_name = "a/<data>&.tsv", .data_sha256 = "00",
                    .regress = regress, .labelled = true, .n_rows_read = 2000000, .n_rows = 1500,
                    .n_tokens = 65000, .n_layers = n_layers, .layers = m.layers,
                    .selected_ratio = 0.25, .cdf_max = 50.0 / D_FF};
    return &m.f;
}

static void add_curve(const char *name, bool stored, int n, double agreement)
{
    fidelity *s = &m.f.series[m.f.n_series++];
    *s = (fidelity){.stored = stored, .n = n, .at = calloc((size_t)n, sizeof *s->at)};
    snprintf(s->name, sizeof s->name, "%s", name);
    for (int i = 0; i < n; i++) {
        const double ratio = (i + 1.0) / n;
        s->at[i] = (evaluation){.ratio = ratio, .effective_ratio = ratio, .n = 100, .n_agree = 97,
                                .n_correct = 88, .agreement = agreement, .kl = ratio < 1 ? 0.1 : 0,
                                .accuracy = stored ? NAN : 0.88, .mass = 0.7, .pearson = 0.9,
                                .mean_abs_difference = 0.3};
    }
}

/* The page, well-formed; free() it. */
static char *page(size_t *size)
{
    char *out = NULL;
    FILE *to = open_memstream(&out, size);
    assert_true(report_write(to, &m.f));
    fclose(to);
    const char *fault = markup_fault(out);
    if (fault)
        fail_msg("not well-formed at '%.80s'", fault);
    assert_null(strstr(out, ">nan"));
    assert_null(strstr(out, " nan"));
    assert_null(strstr(out, "Mnan"));
    figures owned = m.f; /* layers is not from the heap */
    for (int i = 0; i < owned.n_series; i++)
        free(owned.series[i].at);
    for (int l = 0; l < owned.n_layers; l++)
        layer_figures_free(&owned.layers[l]);
    return out;
}

static int count(const char *text, const char *what)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, what)); at += strlen(what))
        n++;
    return n;
}

static void a_huge_model_still_makes_a_small_page(void **state)
{
    (void)state;
    size_t size;
    make(MAX_LAYERS, 1, false);
    add_curve("router", false, 64, 0.97);
    for (int i = 1; i < MAX_SERIES; i++)
        add_curve("stored, <x>", true, 64, 0.9);
    char *out = page(&size);
    assert_true(size < 1000000);
    assert_int_equal(count(out, "layers between"), 2); /* one entry per chart of curves */
    assert_non_null(strstr(out, "layer 0<"));
    assert_non_null(strstr(out, "layer 299<"));
    assert_non_null(strstr(out, "1,500 of its 2,000,000 rows"));
    free(out);
}

static void names_are_never_markup(void **state)
{
    (void)state;
    size_t size;
    make(2, 1, false);
    add_curve("router", false, 4, 0.97);
    char *out = page(&size);
    assert_int_equal(count(out, "<script"), 0);
    assert_int_equal(count(out, "<b>&'"), 0);
    assert_non_null(strstr(out, "&lt;b&gt;&amp;&#39;mine&quot;"));
    assert_non_null(strstr(out, "&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert_non_null(strstr(out, "&lt;data&gt;&amp;.tsv"));
    assert_non_null(strstr(out, "a&lt;b"));
    free(out);
}

static void layers_without_experts_and_regressions_have_their_own_charts(void **state)
{
    (void)state;
    size_t size;
    make(7, 3, true); /* layers 0, 3 and 6 have experts */
    add_curve("router", false, 4, NAN);
    char *out = page(&size);
    assert_non_null(strstr(out, "id=\"difference\""));
    assert_non_null(strstr(out, "id=\"pearson\""));
    assert_null(strstr(out, "id=\"agreement\""));
    const char *cut = strstr(out, "id=\"edge-cut\"");
    assert_non_null(cut);
    const char *rows = strstr(cut, "<tbody>");
    assert_memory_equal(strstr(rows, "<th scope=\"row\">"), "<th scope=\"row\">0<", 18);
    char *end = strstr((char *)rows, "</tbody>");
    *end = 0;
    assert_int_equal(count(rows, "<tr>"), 3);
    free(out);
    make(2, 1, false);
    m.layers[0].routed = m.layers[1].routed = false;
    add_curve("router", false, 4, 0.5);
    out = page(&size);
    assert_non_null(strstr(out, "id=\"activated\""));
    assert_null(strstr(out, "id=\"edge-cut\""));
    free(out);
}

static void drawn_layers_are_spread_over_all(void **state)
{
    (void)state;
    int layer[REPORT_MAX_LAYERS];
    make(MAX_LAYERS, 1, false);
    assert_int_equal(report_choose_layers(&m.f, true, layer), REPORT_MAX_LAYERS);
    assert_int_equal(layer[0], 0);
    assert_int_equal(layer[REPORT_MAX_LAYERS - 1], MAX_LAYERS - 1);
    for (int i = 1; i < REPORT_MAX_LAYERS; i++)
        assert_in_range(layer[i] - layer[i - 1], 6, 7);
    for (int l = 0; l < MAX_LAYERS; l++)
        layer_figures_free(&m.layers[l]);
    make(5, 2, false);
    assert_int_equal(report_choose_layers(&m.f, true, layer), 3);
    assert_int_equal(layer[1], 2);
    assert_int_equal(report_choose_layers(&m.f, false, layer), 5);
    for (int l = 0; l < 5; l++)
        layer_figures_free(&m.layers[l]);
}

static void stored_curves_are_told_apart_by_policy(void **state)
{
    (void)state;
    const moe_model_info info = {
        .moefication_json = "{\"fidelity\":[{\"ratio\":0.25,\"agreement\":0.9},"
                            "{\"policy\":\"threshold\",\"ratio\":0.25,\"effective_ratio\":0.26,"
                            "\"agreement\":0.95,\"kl\":0.5},{\"policy\":\"topk\",\"ratio\":0.5},"
                            "{\"policy\":\"third\",\"ratio\":1}]}"};
    fidelity series[2];
    int n = 0;
    assert_int_equal(fidelity_stored(&info, 2, series, &n, NULL), MOE_OK);
    assert_int_equal(n, 2); /* no room for the third */
    assert_string_equal(series[0].name, "stored, topk");
    assert_string_equal(series[1].name, "stored, threshold");
    assert_int_equal(series[0].n, 2);
    assert_int_equal(series[1].n, 1);
    assert_true(series[0].at[0].effective_ratio == 0.25 && isnan(series[0].at[0].kl));
    assert_true(series[0].at[1].ratio == 0.5 && isnan(series[0].at[1].agreement));
    assert_true(series[1].at[0].effective_ratio == 0.26 && series[1].at[0].kl == 0.5);
    free(series[0].at);
    free(series[1].at);
    const moe_model_info plain = {.moefication_json = ""};
    n = 0;
    assert_int_equal(fidelity_stored(&plain, 2, series, &n, NULL), MOE_OK);
    assert_int_equal(n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_huge_model_still_makes_a_small_page),
        cmocka_unit_test(names_are_never_markup),
        cmocka_unit_test(layers_without_experts_and_regressions_have_their_own_charts),
        cmocka_unit_test(stored_curves_are_told_apart_by_policy),
        cmocka_unit_test(drawn_layers_are_spread_over_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What analyse_layer says of a planted layer, against the definitions written out by
 * brute force: pairs of neurons, pairs of tokens, sorted scores. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "convert/analysis.h"
#include "tests/unit/convert_planted.h"

enum { TOKENS = 300, K = 3 };

/* A planted layer, a split by its groups (or a random one), a random router. */
typedef struct {
    planted p;
    int32_t neurons[N_NEURONS + 32], expert[N_NEURONS];
    router_rows router;
} scene;

static void open_scene(scene *s, int threads, bool by_groups)
{
    plant_cofiring(&s->p, TOKENS, threads);
    rng r = rng_stream(31, 0, 0);
    for (int n = 0; n < N_NEURONS; n++)
        s->expert[n] = s->p.group_of[n];
    if (!by_groups)
        rng_shuffle(&r, s->expert, N_NEURONS);
    layer_list_neurons(&s->p.l, s->expert, s->neurons);
    assert_int_equal(router_rows_alloc(1, s->p.l.d, 0, N_GROUPS, &s->router, NULL), MOE_OK);
    for (int i = 0; i < N_GROUPS * s->p.l.d; i++) /* near the groups' own directions */
        s->router.first[i] = (float)(rng_normal(&r) +
                                     3 * (s->expert[i % s->p.l.d] == i / s->p.l.d));
}

static void close_scene(scene *s)
{
    router_rows_free(&s->router);
    planted_free(&s->p);
}

static layer_figures analyse(const scene *s)
{
    layer_figures f;
    assert_int_equal(analyse_layer(&s->p.l, s->neurons, &s->router, K, &f, NULL), MOE_OK);
    return f;
}

/* h of W1 = identity, b1 = 0: the positive part of x. */
static double h_of(const scene *s, int t, int n)
{
    const double x = s->p.x[t * N_NEURONS + n];
    return x > 0 ? x : 0;
}

static void assert_near(double a, double b, double tolerance)
{
    if (!(fabs(a - b) <= tolerance))
        fail_msg("%.9g, expected %.9g", a, b);
}

static void firing_neurons_are_counted(void **state)
{
    (void)state;
    scene s;
    open_scene(&s, 2, true);
    for (int t = 0; t < TOKENS; t++) /* neuron 7 never fires */
        s.p.x[t * N_NEURONS + 7] = -1;
    const layer_figures f = analyse(&s);
    int64_t firing[N_NEURONS + 1] = {0}, all = 0;
    bool ever[N_NEURONS] = {false};
    int dead = 0, most = 0, at_most = 0;
    for (int t = 0; t < TOKENS; t++) {
        int n_firing = 0;
        for (int n = 0; n < N_NEURONS; n++) {
            n_firing += h_of(&s, t, n) > 0;
            ever[n] |= h_of(&s, t, n) > 0;
        }
        firing[n_firing]++;
        all += n_firing;
        most = n_firing > most ? n_firing : most;
        at_most += n_firing <= N_NEURONS / 8;
    }
    for (int n = 0; n < N_NEURONS; n++)
        dead += !ever[n];
    assert_true(dead >= 1 && at_most > 0 && at_most < TOKENS);
    assert_memory_equal(f.firing, firing, sizeof firing);
    assert_int_equal(f.dead, dead);
    assert_near(f.active, (double)all / N_NEURONS / TOKENS, 1e-12);
    assert_near(layer_firing_max(&f), (double)most / N_NEURONS, 0);
    assert_near(layer_firing_cdf(&f, 0.125), (double)at_most / TOKENS, 0);
    assert_near(layer_firing_cdf(&f, 1), 1, 0);
    layer_figures_free((layer_figures *)&f);
    close_scene(&s);
}

/* The share of sum h_n h_m over pairs that lies between experts, pair by pair. */
static double brute_cut(const scene *s)
{
    double all = 0, cut = 0;
    for (int t = 0; t < TOKENS; t++)
        for (int n = 0; n < N_NEURONS; n++)
            for (int m = 0; m < n && h_of(s, t, n) > 0; m++) {
                const double w = h_of(s, t, n) * h_of(s, t, m);
                all += w;
                cut += s->expert[n] == s->expert[m] ? 0 : w;
            }
    return cut / all;
}

static void the_edge_cut_is_that_of_all_pairs(void **state)
{
    (void)state;
    scene s;
    for (int by_groups = 0; by_groups < 2; by_groups++) {
        open_scene(&s, 2, by_groups);
        layer_figures f = analyse(&s);
        assert_near(f.cut, brute_cut(&s), 1e-5); /* h h in float */
        assert_true(by_groups ? f.cut < 0.45 : f.cut > 0.8);
        layer_figures_free(&f);
        close_scene(&s);
    }
}

static void a_random_split_cuts_what_is_expected_of_it(void **state)
{
    (void)state;
    enum { SPLITS = 60 };
    scene s;
    double mean = 0;
    open_scene(&s, 2, false);
    rng r = rng_stream(8, 0, 0);
    layer_figures f = {0};
    for (int i = 0; i < SPLITS; i++) {
        rng_shuffle(&r, s.expert, N_NEURONS);
        layer_list_neurons(&s.p.l, s.expert, s.neurons);
        layer_figures_free(&f);
        f = analyse(&s);
        mean += f.cut / SPLITS;
    }
    assert_near(f.cut_random, 1 - 8.0 * 32 * 31 / (256.0 * 255), 1e-12);
    assert_near(mean, f.cut_random, 0.01); /* 0.003 is one standard error at most */
    layer_figures_free(&f);
    close_scene(&s);
}

/* in [N_GROUPS]: whether each of the scores is among the k largest. */
static void mark_best(const double *score, int k, bool *in)
{
    for (int e = 0; e < N_GROUPS; e++) {
        int above = 0;
        for (int o = 0; o < N_GROUPS; o++)
            above += score[o] > score[e] || (score[o] == score[e] && o < e);
        in[e] = above < k;
    }
}

static void scores_of(const scene *s, int t, double *score)
{
    for (int e = 0; e < N_GROUPS; e++) {
        score[e] = 0;
        for (int i = 0; i < N_NEURONS; i++)
            score[e] += (double)s->router.first[e * N_NEURONS + i] * s->p.x[t * N_NEURONS + i];
    }
}

static void mass_of(const scene *s, int t, double *mass)
{
    for (int e = 0; e < N_GROUPS; e++)
        mass[e] = 0;
    for (int n = 0; n < N_NEURONS; n++)
        mass[s->expert[n]] += h_of(s, t, n);
}

static void the_router_is_judged_against_the_most_active_experts(void **state)
{
    (void)state;
    scene s;
    open_scene(&s, 2, true);
    const layer_figures f = analyse(&s);
    double all = 0, by_router = 0, by_mass = 0, picked = 0, pickable = 0;
    for (int t = 0; t < TOKENS; t++) {
        double score[N_GROUPS], mass[N_GROUPS];
        bool router[N_GROUPS], oracle[N_GROUPS];
        scores_of(&s, t, score);
        mass_of(&s, t, mass);
        mark_best(score, f.k_judged, router);
        mark_best(mass, f.k_judged, oracle);
        for (int e = 0; e < N_GROUPS; e++) {
            all += mass[e];
            by_router += router[e] ? mass[e] : 0;
            by_mass += oracle[e] ? mass[e] : 0;
            pickable += oracle[e] && mass[e] > 0;
            picked += oracle[e] && mass[e] > 0 && router[e];
        }
    }
    assert_int_equal(f.k_judged, 2); /* a fifth of 8, rounded */
    assert_near(f.picked, picked / pickable, 1e-12);
    assert_near(f.mass_router, by_router / all, 1e-5);
    assert_near(f.mass_oracle, by_mass / all, 1e-5);
    assert_true(f.mass_router > 0.5 && f.mass_router < f.mass_oracle && f.mass_oracle < 1);
    layer_figures_free((layer_figures *)&f);
    close_scene(&s);
}

static bool selected[TOKENS][N_GROUPS];

static double cosine(const scene *s, int a, int b)
{
    double ab = 0, aa = 0, bb = 0;
    for (int i = 0; i < N_NEURONS; i++) {
        const double x = s->p.x[a * N_NEURONS + i], y = s->p.x[b * N_NEURONS + i];
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    return ab / sqrt(aa * bb);
}

/* Over pairs of different tokens, one of expert e and one of expert o. */
static double mean_cosine(const scene *s, int e, int o)
{
    double sum = 0, pairs = 0;
    for (int a = 0; a < TOKENS; a++)
        for (int b = 0; b < TOKENS; b++)
            if (a != b && selected[a][e] && selected[b][o]) {
                sum += cosine(s, a, b);
                pairs++;
            }
    return sum / pairs;
}

/* n experts of `order`, from first on. */
static void check_group(const scene *s, const similarity *group, const int *order, int first,
                        int n)
{
    double self = 0, inter = 0;
    for (int i = first; i < first + n; i++) {
        self += mean_cosine(s, order[i], order[i]) / n;
        for (int j = first; j < i; j++)
            inter += mean_cosine(s, order[i], order[j]) / (n * (n - 1) / 2);
    }
    assert_int_equal(group->n_experts, n);
    assert_near(group->self, self, 1e-5);
    assert_near(group->inter, inter, 1e-5);
}

/* Of eight experts, four are the most selected and four the least. */
static void inputs_are_compared_pair_by_pair(void **state)
{
    (void)state;
    scene s;
    int order[N_GROUPS];
    open_scene(&s, 2, true);
    const layer_figures f = analyse(&s);
    for (int e = 0; e < N_GROUPS; e++)
        order[e] = e;
    for (int t = 0; t < TOKENS; t++) {
        double score[N_GROUPS];
        scores_of(&s, t, score);
        mark_best(score, K, selected[t]);
    }
    for (int e = 0; e < N_GROUPS; e++) {
        int tokens = 0;
        for (int t = 0; t < TOKENS; t++)
            tokens += selected[t][e];
        assert_near(f.selected[e], (double)tokens / TOKENS, 1e-12);
    }
    for (int i = 0; i < N_GROUPS; i++) /* by frequency, descending */
        for (int j = i + 1; j < N_GROUPS; j++)
            if (f.selected[order[j]] > f.selected[order[i]]) {
                const int swap = order[i];
                order[i] = order[j];
                order[j] = swap;
            }
    check_group(&s, &f.most, order, 0, 4);
    check_group(&s, &f.least, order, 4, 4);
    assert_true(f.most.self > f.most.inter);
    layer_figures_free((layer_figures *)&f);
    close_scene(&s);
}

static void padding_may_stand_anywhere(void **state)
{
    (void)state;
    scene s;
    open_scene(&s, 1, true);
    const layer_figures plain = analyse(&s);
    /* One more expert than is full: a hole at the start of each of the nine. */
    int32_t spread[N_NEURONS + 32];
    int at = 0;
    for (int i = 0; i < N_NEURONS + 32; i++)
        spread[i] = i % 32 < 3 || at == N_NEURONS ? -1 : at++;
    s.p.l.n_experts = N_GROUPS + 1;
    router_rows router;
    assert_int_equal(router_rows_alloc(1, N_NEURONS, 0, N_GROUPS + 1, &router, NULL), MOE_OK);
    layer_figures f;
    assert_int_equal(analyse_layer(&s.p.l, spread, &router, K, &f, NULL), MOE_OK);
    double together = 0; /* eight experts of 29 and one of 24 */
    together = 8 * 29.0 * 28 + 24.0 * 23;
    assert_near(f.cut_random, 1 - together / (256.0 * 255), 1e-12);
    assert_near(f.active, plain.active, 1e-12);
    assert_near(f.selected[0], 1, 0); /* all scores alike: the first K experts */
    assert_near(f.selected[K], 0, 0);
    layer_figures_free(&f);
    layer_figures_free((layer_figures *)&plain);
    router_rows_free(&router);
    close_scene(&s);
}

static void a_silent_layer_and_rows_of_zero_have_no_cosine(void **state)
{
    (void)state;
    scene s;
    open_scene(&s, 2, true);
    memset(s.p.x, 0, TOKENS * N_NEURONS * sizeof *s.p.x);
    layer_figures f = analyse(&s);
    assert_true(isnan(f.cut) && isnan(f.picked) && isnan(f.most.self) && isnan(f.least.inter));
    assert_near(f.mass_router, 1, 0);
    assert_int_equal(f.dead, N_NEURONS);
    assert_near(layer_firing_max(&f), 0, 0);
    assert_near(layer_firing_cdf(&f, 0), 1, 0);
    layer_figures_free(&f);
    close_scene(&s);
}

static void a_dense_layer_shows_its_neurons_only(void **state)
{
    (void)state;
    scene s;
    open_scene(&s, 2, true);
    layer_figures routed = analyse(&s), f;
    assert_int_equal(analyse_layer(&s.p.l, NULL, NULL, 0, &f, NULL), MOE_OK);
    assert_false(f.routed);
    assert_int_equal(f.n_experts, 0);
    assert_near(f.active, routed.active, 0);
    assert_memory_equal(f.firing, routed.firing, (N_NEURONS + 1) * sizeof *f.firing);
    layer_figures_free(&f);
    layer_figures_free(&routed);
    close_scene(&s);
}

static void threads_do_not_change_a_bit(void **state)
{
    (void)state;
    scene one, three;
    open_scene(&one, 1, false);
    open_scene(&three, 3, false);
    layer_figures a = analyse(&one), b = analyse(&three);
    assert_memory_equal(a.firing, b.firing, (N_NEURONS + 1) * sizeof *a.firing);
    assert_memory_equal(a.selected, b.selected, N_GROUPS * sizeof *a.selected);
    assert_memory_equal(&a.most, &b.most, sizeof a.most);
    assert_memory_equal(&a.least, &b.least, sizeof a.least);
    assert_true(a.cut == b.cut && a.picked == b.picked && a.mass_router == b.mass_router &&
                a.mass_oracle == b.mass_oracle && a.active == b.active);
    layer_figures_free(&a);
    layer_figures_free(&b);
    close_scene(&one);
    close_scene(&three);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(firing_neurons_are_counted),
        cmocka_unit_test(the_edge_cut_is_that_of_all_pairs),
        cmocka_unit_test(a_random_split_cuts_what_is_expected_of_it),
        cmocka_unit_test(the_router_is_judged_against_the_most_active_experts),
        cmocka_unit_test(inputs_are_compared_pair_by_pair),
        cmocka_unit_test(padding_may_stand_anywhere),
        cmocka_unit_test(a_silent_layer_and_rows_of_zero_have_no_cosine),
        cmocka_unit_test(a_dense_layer_shows_its_neurons_only),
        cmocka_unit_test(threads_do_not_change_a_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

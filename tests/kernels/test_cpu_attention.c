/* Attention on every ISA against softmax and sums in double precision. */
#include "engine/cpu/kernels.h"
#include "tests/kernels/harness.h"

typedef struct { int n_seqs, d, n_heads; const int32_t *lengths; } attention_case;

static moe_backend_shape shape_of(int d, int n_heads, int max_seq)
{
    return (moe_backend_shape){.max_tokens = 4096, .max_seq = max_seq, .d_model = d,
                               .n_heads = n_heads, .n_experts = 1};
}

/* Queries, keys and values side by side, of as many tokens each. */
static moe_attention self_attention(const float *qkv, int d, int n_heads, float scale,
                                    const int32_t *cu_seqlens, int n_seqs, float *y)
{
    return (moe_attention){
        .n_seqs = n_seqs, .n_heads = n_heads, .head = d / n_heads, .cu_q = cu_seqlens,
        .cu_k = cu_seqlens, .q = qkv, .k = qkv + d, .v = qkv + 2 * d, .ldq = 3 * (size_t)d,
        .ldkv = 3 * (size_t)d, .scale = scale, .y = y, .ldy = (size_t)d,
    };
}

static void attend(const machine *m, const float *qkv, int d, int n_heads, float scale,
                   const int32_t *cu_seqlens, int n_seqs, float *y)
{
    moe_attention a = self_attention(qkv, d, n_heads, scale, cu_seqlens, n_seqs, y);
    m->b->ops->attention(m->b, &a);
}

/* One output row of one head; tolerance: out, the bound on its elements' error. */
static void plain_attention(const float *qkv, int d, int head, int column, float scale, int s,
                            int i, double *y, double *tolerance)
{
    double *weight = malloc((size_t)s * sizeof *weight), max = -INFINITY, sum = 0, most = 0;
    double slack = 0;
    size_t ld = 3 * (size_t)d;
    for (int j = 0; j < s; j++) {
        double dot = 0, magnitude = 0;
        for (int c = 0; c < head; c++) {
            double term = (double)qkv[(size_t)i * ld + (size_t)(column + c)] *
                          qkv[(size_t)j * ld + (size_t)(d + column + c)];
            dot += term;
            magnitude += fabs(term);
        }
        weight[j] = scale * dot;
        slack = fmax(slack, scale * magnitude);
        max = fmax(max, weight[j]);
    }
    for (int j = 0; j < s; j++)
        sum += weight[j] = exp(weight[j] - max);
    for (int c = 0; c < head; c++) {
        y[c] = 0;
        for (int j = 0; j < s; j++) {
            double v = qkv[(size_t)j * ld + (size_t)(2 * d + column + c)];
            y[c] += weight[j] / sum * v;
            most = fmax(most, fabs(v));
        }
    }
    /* A score errs by head roundings of its magnitude, and a weight relatively by
     * as much; the sums over the keys add a rounding for each. */
    *tolerance = (2 * (head + 2) * slack + s + 8) * (double)FLT_EPSILON * most;
    free(weight);
}

static void check_attention(const machine *m, const attention_case *a, float magnitude, rng *r)
{
    int32_t cu_seqlens[16] = {0};
    for (int i = 0; i < a->n_seqs; i++)
        cu_seqlens[i + 1] = cu_seqlens[i] + a->lengths[i];
    int n = cu_seqlens[a->n_seqs], head = a->d / a->n_heads;
    float *qkv = random_floats(r, 3 * (size_t)n * (size_t)a->d, magnitude);
    float *y = random_floats(r, (size_t)n * (size_t)a->d, NAN);
    float scale = 1 / sqrtf((float)head);
    attend(m, qkv, a->d, a->n_heads, scale, cu_seqlens, a->n_seqs, y);
    for (int sequence = 0; sequence < a->n_seqs; sequence++) {
        int s = a->lengths[sequence], step = s > 100 ? 41 : s > 40 ? 7 : 1;
        for (int h = 0; h < a->n_heads; h++)
            for (int i = 0; i < s; i += step) {
                double expected[256], tolerance;
                const float *at = qkv + 3 * (size_t)cu_seqlens[sequence] * (size_t)a->d;
                plain_attention(at, a->d, head, h * head, scale, s, i, expected, &tolerance);
                for (int c = 0; c < head; c++)
                    assert_near(y[(size_t)(cu_seqlens[sequence] + i) * (size_t)a->d +
                                  (size_t)(h * head + c)],
                                expected[c], tolerance, m->b->isa, i, h * head + c);
            }
    }
    guarded_release();
}

static void ragged_sequences_match_double_precision(void **state)
{
    (void)state;
    static const int32_t mixed[] = {1, 0, 7, 33, 2, 128, 0, 64, 31}, one[] = {1}, none[] = {0};
    static const int32_t odd[] = {5, 24, 25, 47, 97}, large[] = {700}, two[] = {300, 130};
    static const attention_case cases[] = {
        {9, 384, 12, mixed}, {9, 64, 1, mixed}, {9, 48, 4, mixed}, {9, 32, 2, mixed},
        {1, 384, 12, one}, {1, 384, 12, none}, {0, 384, 12, NULL}, {5, 39, 3, odd},
        {1, 64, 2, large}, {2, 128, 2, two}, {5, 4, 4, odd}, {5, 96, 1, odd},
    };
    for (int isa = 0; isa < N_ISAS; isa++)
        for (int n_threads = 1; n_threads <= 3; n_threads += 2)
            for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
                machine m;
                moe_backend_shape shape = shape_of(cases[i].d, cases[i].n_heads, 700);
                if (!machine_open(&m, all_isas[isa], n_threads, &shape))
                    continue;
                rng r = rng_seed(100 + i);
                check_attention(&m, &cases[i], 1, &r);
                machine_close(&m);
            }
}

/* Scores of hundreds: without the maximum taken off, exp would overflow. */
static void large_scores_do_not_overflow(void **state)
{
    (void)state;
    static const int32_t lengths[] = {50, 3};
    static const attention_case c = {2, 64, 2, lengths};
    moe_backend_shape shape = shape_of(64, 2, 64);
    for (int isa = 0; isa < N_ISAS; isa++) {
        machine m;
        if (!machine_open(&m, all_isas[isa], 2, &shape))
            continue;
        rng r = rng_seed(5);
        check_attention(&m, &c, 12, &r);
        machine_close(&m);
    }
}

/* Any length, and scores so far below zero that a stray 0 among them would win. */
static void softmax_matches_double_precision(void **state)
{
    (void)state;
    for (int isa = 0; isa < N_ISAS; isa++) {
        const cpu_kernels *kernels = cpu_kernels_find(all_isas[isa]);
        if (!kernels)
            continue;
        rng r = rng_seed(19);
        for (int n = 1; n < 70; n++) {
            float *row = random_floats(&r, (size_t)n, 4);
            double expected[70], sum = 0;
            for (int i = 0; i < n; i++) {
                row[i] += n % 3 == 0 ? -500.0f : n % 3 == 1 ? 500.0f : 0;
                sum += expected[i] = exp(0.5 * ((double)row[i] - row[0]));
            }
            float inverse = kernels->softmax(row, n, 0.5f);
            /* Relative: exp and the sum; an error of the shift is common to all. */
            for (int i = 0; i < n; i++)
                assert_near(row[i] * inverse, expected[i] / sum,
                            20 * (double)FLT_EPSILON * expected[i] / sum, kernels->isa, n, i);
            guarded_release();
        }
    }
}

static void a_sequence_has_the_same_bits_in_any_batch_on_any_threads(void **state)
{
    (void)state;
    enum { D = 96, HEADS = 3, N = 240 };
    static const int32_t cu_seqlens[] = {0, 61, 61, 190, 240};
    static const int threads[] = {1, 2, 3, 7};
    moe_backend_shape shape = shape_of(D, HEADS, 256);
    for (int isa = 0; isa < N_ISAS; isa++) {
        rng r = rng_seed(3);
        float *qkv = random_floats(&r, 3 * N * D, 1);
        float *all = guarded_floats(N * D), *alone = guarded_floats(N * D);
        for (int i = 0; i < 4; i++) {
            machine m;
            if (!machine_open(&m, all_isas[isa], threads[i], &shape))
                break;
            if (i == 0)
                attend(&m, qkv, D, HEADS, 0.2f, cu_seqlens, 4, all);
            for (int s = 0; s < 4; s++) {
                int first = cu_seqlens[s];
                int32_t own[] = {0, cu_seqlens[s + 1] - first};
                attend(&m, qkv + 3 * first * D, D, HEADS, 0.2f, own, 1, alone + first * D);
            }
            assert_same_bits(all, alone, N * D, m.b->isa);
            machine_close(&m);
        }
        guarded_release();
    }
}

/* One output element with everything at once: queries apart from their keys, bias,
 * and keys that are not seen. */
static double plain_element(const moe_attention *a, int sequence, int h, int i, int c)
{
    int n_q = a->cu_q[sequence + 1] - a->cu_q[sequence];
    int n_k = a->cu_k[sequence + 1] - a->cu_k[sequence], position = n_k - n_q + i;
    int seen = a->causal ? position + 1 : n_k;
    const float *q = a->q + (size_t)(a->cu_q[sequence] + i) * a->ldq + h * a->head;
    const float *k = a->k + (size_t)a->cu_k[sequence] * a->ldkv + h * a->head;
    const float *v = a->v + (size_t)a->cu_k[sequence] * a->ldkv + h * a->head;
    double sum = 0, y = 0;
    for (int t = 0; t < seen; t++) {
        double score = 0;
        for (int x = 0; x < a->head; x++)
            score += (double)q[x] * k[(size_t)t * a->ldkv + (size_t)x];
        score *= a->scale;
        if (a->bias)
            score += a->bias[h * (2 * a->span - 1) + t - position + a->span - 1];
        sum += exp(score);
        y += exp(score) * v[(size_t)t * a->ldkv + (size_t)c];
    }
    return y / sum;
}

static void queries_of_their_own_see_what_they_may_with_a_bias(void **state)
{
    (void)state;
    enum { HEADS = 3, HEAD = 20, SEQS = 5, SPAN = 90, LDQ = 64, LDKV = 131, LDY = 70 };
    static const int32_t cu_q[] = {0, 1, 1, 4, 70, 75}, cu_k[] = {0, 80, 83, 90, 156, 161};
    moe_backend_shape shape = shape_of(HEADS * HEAD, HEADS, 90);
    for (int isa = 0; isa < N_ISAS; isa++)
        for (int form = 0; form < 4; form++) {
            machine m;
            if (!machine_open(&m, all_isas[isa], 1 + 2 * (form % 2), &shape))
                continue;
            rng r = rng_seed(7 + (uint64_t)form);
            float *kv = random_floats(&r, 161 * LDKV, 1);
            float *bias = random_floats(&r, HEADS * (2 * SPAN - 1), 2);
            moe_attention a = {
                .n_seqs = SEQS, .n_heads = HEADS, .head = HEAD, .cu_q = cu_q, .cu_k = cu_k,
                .q = random_floats(&r, 75 * LDQ, 1), .k = kv, .v = kv + HEADS * HEAD,
                .ldq = LDQ, .ldkv = LDKV, .scale = form < 2 ? 1 : 0.3f, .causal = form % 2,
                .bias = form < 2 ? bias : NULL, .span = SPAN,
                .y = random_floats(&r, 75 * LDY, NAN), .ldy = LDY,
            };
            m.b->ops->attention(m.b, &a);
            for (int s = 0; s < SEQS; s++)
                for (int i = 0; i < cu_q[s + 1] - cu_q[s]; i++)
                    for (int x = 0; x < HEADS * HEAD; x++) /* scores within 22, values 1 */
                        assert_near(a.y[(size_t)(cu_q[s] + i) * LDY + (size_t)x],
                                    plain_element(&a, s, x / HEAD, i, x % HEAD),
                                    (2 * (HEAD + 2) * 22 + 98) * (double)FLT_EPSILON, m.b->isa, i,
                                    x);
            for (int i = 0; i < 75; i++) /* columns past the heads stay */
                assert_true(isnan(a.y[(size_t)i * LDY + HEADS * HEAD]));
            guarded_release();
            machine_close(&m);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ragged_sequences_match_double_precision),
        cmocka_unit_test(large_scores_do_not_overflow),
        cmocka_unit_test(softmax_matches_double_precision),
        cmocka_unit_test(a_sequence_has_the_same_bits_in_any_batch_on_any_threads),
        cmocka_unit_test(queries_of_their_own_see_what_they_may_with_a_bias),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

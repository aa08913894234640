/* moefy bench as a user runs it, at sizes that take no time: that it works and adds
 * up, never how fast it is. */
#include "tests/support/moefy_cli.h"

static void bench_times_shapes(void **state)
{
    (void)state;
    cJSON *j = one_object(MOEFY("bench --shape minilm --batch 1,2 --seq 4 --ratio 1,0.25 "
                                "--runs 2 --threads 2 --json"));
    assert_true(number(j, "threads") == 2);
    assert_true(number(cJSON_GetObjectItem(j, "peak"), "gflops") > 0);
    assert_true(*text(j, "isa"));
    double dense_bytes = 0;
    const cJSON *row;
    cJSON_ArrayForEach(row, list(j, "results", 4)) {
        const cJSON *ms = cJSON_GetObjectItem(row, "ms");
        assert_true(number(ms, "min") > 0 && number(ms, "min") <= number(ms, "median"));
        assert_true(number(ms, "median") <= number(ms, "p90"));
        assert_true(number(row, "gflops") > 0 && number(row, "runs") == 2);
        assert_string_equal(text(row, "dtype"), "f32");
        assert_true(number(row, "effective_ratio") == number(row, "ratio"));
        if (number(row, "ratio") == 1)
            dense_bytes = number(row, "weight_bytes");
        else /* four or eight tokens leave some experts out */
            assert_true(number(row, "weight_bytes") < dense_bytes);
    }
    /* Per layer 4 d d of attention and 8 d d of the FFN, fp32. */
    assert_true(dense_bytes == 4.0 * 6 * 12 * 384 * 384);
    cJSON_Delete(j);
}

static void bench_times_models_and_single_operations(void **state)
{
    (void)state;
    static const char *const layers[] = {"ffn", "attention", "linear"};
    for (int i = 0; i < 3; i++) {
        command_result r = MOEFY("bench %s --layer %s --batch 2 --seq 3 --runs 1", tiny_moe,
                                 layers[i]);
        assert_done(&r);
        assert_non_null(strstr(r.out, "\n    2      3       1 "));
        command_free(&r);
    }
    cJSON_Delete(one_object(MOEFY("bench %s --batch 3 --seq 40 --ratio 0.34 --runs 1 --json",
                                  tiny_moe)));
}

static void bench_runs_on_real_text(void **state)
{
    (void)state;
    write_file("bench.tsv", "sentence\tlabel\na good b\t1\nbad\t0\n");
    command_result r = MOEFY("bench %s --data %s/bench.tsv --batch 3 --seq 0,7 --ratio 0.5 "
                             "--runs 1", tiny_moe, scratch);
    assert_done(&r);
    assert_non_null(strstr(r.out, "real text, the model's own routing\n"));
    assert_non_null(strstr(r.out, "\n    3      0     0.5 "));
    assert_non_null(strstr(r.out, "\n    3      7     0.5 "));
    command_free(&r);
    r = MOEFY("bench %s --routing random --data %s/bench.tsv --batch 1 --seq 5 --runs 1",
              tiny_moe, scratch);
    assert_done(&r);
    assert_non_null(strstr(r.out, "uniformly random experts\n"));
    command_free(&r);
}

static void bench_runs_on_given_tokens(void **state)
{
    (void)state;
    write_file("ids", "1 2 3\n\n4 5\r\n");
    cJSON *j = one_object(MOEFY("bench %s --tokens %s/ids --ratio 1 --runs 1 --json", tiny_moe,
                                scratch));
    const cJSON *row = list(j, "results", 1)->child;
    assert_true(number(row, "batch") == 2 && number(row, "seq") == 0);
    cJSON_Delete(j);
    write_file("ids", "1 2 three\n");
    assert_fails(MOEFY("bench %s --tokens %s/ids", tiny_moe, scratch), 1,
                 "ids:1: token 3: expected a number below");
    write_file("ids", "1 2\n3 99999999999999999999\n");
    assert_fails(MOEFY("bench %s --tokens %s/ids", tiny_moe, scratch), 1, "ids:2: token 2");
    write_file("ids", "\n");
    assert_fails(MOEFY("bench %s --tokens %s/ids", tiny_moe, scratch), 1, "has no tokens");
}

static void bench_runs_when_its_driver_says(void **state)
{
    (void)state;
    command_result r = SHELL("printf '1\\n0\\n' | \"$P\" bench %s --drive --batch 1 --seq 2,3 "
                             "--ratio 1", tiny_moe);
    double first = 0, second = 0;
    assert_done(&r);
    assert_int_equal(sscanf(r.out, "ready\n%lf\n%lf\n", &first, &second), 2);
    assert_true(first > 0 && second > 0);
    command_free(&r);
    assert_fails(SHELL("echo 2 | \"$P\" bench %s --drive --batch 1 --seq 2,3 --ratio 1", tiny_moe),
                 1, "standard input: expected an index below 2");
}

static void bench_measures_the_machine(void **state)
{
    (void)state;
    command_result r = MOEFY("bench --peak");
    assert_done(&r);
    assert_non_null(strstr(r.out, "GF/s f32"));
    assert_non_null(strstr(r.out, "GB/s read past the caches"));
    command_free(&r);
    cJSON *j = one_object(MOEFY("bench --peak --json"));
    const cJSON *row;
    assert_true(number(j, "memory_read_gbytes_s") > 0);
    cJSON_ArrayForEach(row, list(j, "peaks", -1))
        assert_true(*text(row, "isa") && *text(row, "dtype") && number(row, "gflops") > 0);
    cJSON_Delete(j);
}

/* Weights that one token's step reads: of 4 layers 6 d d of attention and its share of
 * 2 d d_ff, and lm_head once; fp32. */
static void bench_times_a_decoders_step(void **state)
{
    (void)state;
    const double layers = 4, d = 256, d_ff = 1024, words = 8192;
    cJSON *j = one_object(MOEFY("bench models/t5-mini-glue --layer step --batch 1,2 --seq 5 "
                                "--ratio 1,0.25 --runs 1 --json"));
    const cJSON *row;
    assert_string_equal(text(j, "layer"), "step");
    cJSON_ArrayForEach(row, list(j, "results", 4)) {
        double ratio = number(row, "ratio");
        assert_true(number(cJSON_GetObjectItem(row, "ms"), "min") > 0);
        assert_true(number(row, "effective_ratio") == ratio);
        assert_true(number(row, "weight_bytes") ==
                    4 * (layers * (6 * d * d + 2 * d * d_ff * ratio) + words * d));
    }
    cJSON_Delete(j);
    assert_fails(MOEFY("bench models/t5-mini-glue"), 1, "found --layer model, expected step");
    assert_fails(MOEFY("bench %s --layer step", tiny_moe), 1, "expected any but step");
    assert_fails(MOEFY("bench --shape minilm --layer step"), 2, "text-to-text model's directory");
}

static void wrong_options_of_bench_are_told(void **state)
{
    (void)state;
    assert_fails(MOEFY("bench"), 2, "needs either the directory of a model or --shape");
    assert_fails(MOEFY("bench --shape gpt"), 2, "expected one of: t5-large-enc4");
    assert_fails(MOEFY("bench --shape minilm --dtype int4"), 2, "--dtype is 'int4'");
    assert_fails(MOEFY("bench --shape minilm --seq 513"), 1, "takes at most 512 tokens");
    assert_fails(MOEFY("bench --shape minilm --batch 0"), 2, "--batch is '0'");
    assert_fails(MOEFY("bench --shape minilm --seq 0"), 2, "--seq is '0'");
    assert_fails(MOEFY("bench --shape minilm --routing best"), 2, "--routing is 'best'");
    assert_fails(MOEFY("bench --shape minilm --data x.tsv"), 2, "whole models from a directory");
    assert_fails(MOEFY("bench %s --data x.tsv --tokens y", tiny_moe), 2, "found both");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bench_times_shapes),
        cmocka_unit_test(bench_times_models_and_single_operations),
        cmocka_unit_test(bench_runs_on_real_text),
        cmocka_unit_test(bench_runs_on_given_tokens),
        cmocka_unit_test(bench_runs_when_its_driver_says),
        cmocka_unit_test(bench_times_a_decoders_step),
        cmocka_unit_test(bench_measures_the_machine),
        cmocka_unit_test(wrong_options_of_bench_are_told),
    };
    moefy_set_up();
    return cmocka_run_group_tests(tests, NULL, NULL);
}

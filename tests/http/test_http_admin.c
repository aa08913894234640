/* test_http_admin.c: models, routing, latency, metrics, health, the index. */
#include "engine/model/moefied.h"
#include "engine/model/pack.h"
#include "tests/http/harness.h"
#include "tests/support/tiny_model.h"

static moefied tiny;

static int start(void **state)
{
    static char moe[4200], plain[4200];
    (void)state;
    curl_global_init(CURL_GLOBAL_ALL);
    tiny_moefied_write(tmp_path("tiny-admin"), 8);
    tiny_model_write(tmp_path("tiny-admin-plain"), 8);
    snprintf(moe, sizeof moe, "moe=%s", tmp_path("tiny-admin"));
    snprintf(plain, sizeof plain, "plain=%s", tmp_path("tiny-admin-plain"));
    moefied_start(&tiny, "admin", "--model", moe, "--model", plain, "--log", "json", NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    moefied_stop(&tiny);
    return 0;
}

/* Every sample line but those of the process, of scraping itself, and of what
 * is never zero. */
static bool may_move(const char *line)
{
    static const char *const names[] = {
        "process_", "moefied_build_info", "moefied_connections", "moefied_requests_active",
        "moefied_routing_dead", "moefied_request_duration_seconds_bucket{route=\"/metrics\"",
        "moefied_request_duration_seconds_sum{route=\"/metrics\"",
        "moefied_request_duration_seconds_count{route=\"/metrics\"",
        "moefied_requests_total{route=\"/metrics\"",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strncmp(line, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

static int count_series(const char *text, bool zero)
{
    int n = 0;
    for (const char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        if (*line == '#' || *line == '\n')
            continue;
        n++;
        const char *end = strchr(line, '\n'), *value = end;
        while (value > line && value[-1] != ' ')
            value--;
        if (zero && !may_move(line) && strtod(value, NULL) != 0)
            fail_msg("not zero at the start: %.*s", (int)(end - line), line);
    }
    return n;
}

/* Runs first: nothing was asked yet. */
static void every_series_is_there_at_zero_before_the_first_request(void **state)
{
    (void)state;
    answer before = get(&tiny, "/metrics");
    expect_status(&before, 200, "metrics");
    assert_non_null(strstr(header(&before, "Content-Type"), "text/plain"));
    int n = count_series(before.body, true);
    assert_true(n > 100);
    static const char *const bodies[] = {"{\"inputs\":\"a b\",\"ratio\":0.34}", "{\"inputs\":[", "{\"inputs\":\"c\"}"};
    for (int i = 0; i < 3; i++) {
        answer a = classify(&tiny, bodies[i]);
        answer_free(&a);
    }
    answer after = get(&tiny, "/metrics");
    assert_int_equal(count_series(after.body, false), n);
    answer_free(&before);
    answer_free(&after);
}

static void counters_move_with_requests(void **state)
{
    (void)state;
    settle(&tiny);
    double ok = metric(&tiny, "moefied_requests_total{route=\"/v1/classify\",code=\"200\"}");
    double selected = metric(&tiny, "moefied_ffn_neurons_selected_total{model=\"moe\"}");
    double skipped = metric(&tiny, "moefied_ffn_neurons_skipped_total{model=\"moe\"}");
    double tokens = metric(&tiny, "moefied_tokens_total{model=\"moe\",ratio=\"0.25-0.5\"}");
    answer a = classify(&tiny, "{\"inputs\":[\"a b c\",\"d\"],\"ratio\":0.5}"); /* 5 + 3 tokens */
    double effective = number_at(&a, "ratio.effective"), all = 8 * 2 * TINY_D_FF;
    answer_free(&a);
    settle(&tiny);
    assert_float_equal(metric(&tiny, "moefied_requests_total{route=\"/v1/classify\",code=\"200\"}"), ok + 1, 0);
    assert_float_equal(metric(&tiny, "moefied_tokens_total{model=\"moe\",ratio=\"0.25-0.5\"}"), tokens + 8, 0);
    double chosen = metric(&tiny, "moefied_ffn_neurons_selected_total{model=\"moe\"}") - selected;
    double left = metric(&tiny, "moefied_ffn_neurons_skipped_total{model=\"moe\"}") - skipped;
    assert_float_equal(chosen + left, all, 0);
    assert_float_equal(chosen / all, effective, 1e-5);
    assert_true(metric(&tiny, "moefied_queue_seconds_count{model=\"moe\",ratio=\"0.25-0.5\"}") >= 1);
    assert_true(metric(&tiny, "moefied_compute_seconds_sum{model=\"moe\",ratio=\"0.25-0.5\"}") > 0);
    assert_true(metric(&tiny, "moefied_batch_tokens_count{model=\"moe\"}") >= 1);
    assert_true(metric(&tiny, "moefied_request_duration_seconds_count{route=\"/v1/classify\"}") >= 1);
    assert_true(metric(&tiny, "process_resident_memory_bytes") > 1e6);
}

static void promtool_finds_nothing(void **state)
{
    (void)state;
    if (system("promtool --version >/dev/null 2>&1") != 0) {
        print_message("promtool is not installed: skipped\n");
        skip();
    }
    answer a = get(&tiny, "/metrics");
    const char *path = tmp_path("metrics.txt");
    char command[8400];
    FILE *f = fopen(path, "w");
    fputs(a.body, f);
    fclose(f);
    snprintf(command, sizeof command, "promtool check metrics <'%s' >'%s.out' 2>&1", path, path);
    if (system(command) != 0) {
        print_file(tmp_path("metrics.txt.out"));
        fail_msg("promtool check metrics");
    }
    answer_free(&a);
}

/* The probe needs a sample, an idle moment and 1% of the uptime. */
static void the_speedup_over_dense_is_measured_when_idle(void **state)
{
    (void)state;
    answer a = classify(&tiny, "{\"inputs\":\"a b c\",\"ratio\":0.34}");
    answer_free(&a);
    wait_for_metric(&tiny, "moefied_probes_total{model=\"moe\",ratio=\"0.25-0.5\"}", 1);
    assert_true(metric(&tiny, "moefied_speedup_over_dense_ratio{model=\"moe\",ratio=\"0.25-0.5\"}") > 0);
    double probing = metric(&tiny, "moefied_probe_seconds_total{model=\"moe\"}");
    double up = (double)time(NULL) - metric(&tiny, "process_start_time_seconds") + 1;
    assert_true(probing > 0);
    if (probing > up / 100 * 1.5) /* an estimate admits a run: it may be somewhat off */
        fail_msg("probing took %g s of %g s", probing, up);
}

static void models_are_listed_and_described(void **state)
{
    (void)state;
    answer a = get(&tiny, "/v1/models");
    assert_string_equal(string_at(&a, "default"), "moe");
    assert_string_equal(string_at(&a, "models.1.name"), "plain");
    assert_true(cJSON_IsFalse(at(&a, "models.1.moefied")));
    assert_string_equal(string_at(&a, "models.0.policy"), "topk");
    assert_string_equal(string_at(&a, "models.1.policy"), "");
    answer_free(&a);
    a = get(&tiny, "/v1/models/moe");
    expect_status(&a, 200, "moe");
    assert_string_equal(string_at(&a, "task"), "text-classification");
    assert_string_equal(string_at(&a, "labels.2"), "odd");
    assert_int_equal(number_at(&a, "layers"), TINY_LAYERS);
    assert_int_equal(number_at(&a, "experts"), TINY_EXPERTS);
    assert_int_equal(number_at(&a, "limits.max_tokens"), TINY_POSITIONS);
    assert_int_equal(number_at(&a, "ratios.1.experts.1"), 2);
    assert_float_equal(number_at(&a, "ratios.0.ratio"), 0.34, 0);
    answer_free(&a);
}

static void routing_is_counted_shown_and_reset(void **state)
{
    (void)state;
    answer a = call(&tiny, "DELETE", "/v1/models/moe/routing", NULL);
    expect_status(&a, 200, "reset");
    answer_free(&a);
    a = get(&tiny, "/v1/models/moe/routing");
    assert_int_equal(number_at(&a, "tokens"), 0);
    answer_free(&a);
    a = classify(&tiny, "{\"inputs\":\"a b c d\",\"ratio\":0.34}"); /* 6 tokens, one expert each */
    answer_free(&a);
    a = classify(&tiny, "{\"inputs\":\"a\",\"ratio\":1}");
    answer_free(&a);
    a = get(&tiny, "/v1/models/moe/routing");
    assert_int_equal(number_at(&a, "tokens"), 6);
    assert_int_equal(number_at(&a, "dense_tokens"), 3);
    assert_int_equal(cJSON_GetArraySize(at(&a, "layers")), TINY_LAYERS);
    for (int l = 0; l < TINY_LAYERS; l++) {
        double sum = 0, share = 0;
        char path[64];
        for (int e = 0; e < TINY_EXPERTS; e++) {
            snprintf(path, sizeof path, "layers.%d.experts.%d.tokens", l, e);
            sum += number_at(&a, path);
            snprintf(path, sizeof path, "layers.%d.experts.%d.share", l, e);
            share += number_at(&a, path);
        }
        assert_float_equal(sum, l < TINY_LAYERS - 1 ? 6 : 1, 0); /* the head reads one */
        assert_float_equal(share, 1, 1e-5);
        snprintf(path, sizeof path, "layers.%d.entropy_bits", l);
        assert_true(number_at(&a, path) >= 0);
        snprintf(path, sizeof path, "layers.%d.gini", l);
        assert_true(number_at(&a, path) >= 0);
        snprintf(path, sizeof path, "layers.%d.dead_experts", l);
        assert_true(number_at(&a, path) >= 0);
    }
    answer_free(&a);
    a = get(&tiny, "/v1/models/moe/routing?layer=1");
    assert_int_equal(cJSON_GetArraySize(at(&a, "layers")), 1);
    assert_int_equal(number_at(&a, "layers.0.layer"), 1);
    answer_free(&a);
}

static void latency_is_told_by_ratio(void **state)
{
    static const char *const parts[] = {"queue", "compute", "total"};
    (void)state;
    answer a = get(&tiny, "/v1/models/plain/latency");
    assert_int_equal(number_at(&a, "ratios.5.total.count"), 0);
    answer_free(&a);
    for (int i = 0; i < 10; i++) {
        a = classify(&tiny, "{\"inputs\":\"a\",\"model\":\"plain\"}");
        answer_free(&a);
    }
    a = get(&tiny, "/v1/models/plain/latency");
    assert_int_equal(cJSON_GetArraySize(at(&a, "ratios")), 6);
    assert_string_equal(string_at(&a, "ratios.5.ratio"), "1");
    for (int i = 0; i < 3; i++) {
        char path[64];
        snprintf(path, sizeof path, "ratios.5.%s.count", parts[i]);
        assert_int_equal(number_at(&a, path), 10);
        snprintf(path, sizeof path, "ratios.5.%s.p50", parts[i]);
        double p50 = number_at(&a, path);
        snprintf(path, sizeof path, "ratios.5.%s.p99", parts[i]);
        assert_true(number_at(&a, path) >= p50);
    }
    answer_free(&a);
}

static void health_and_index_answer_get_and_head(void **state)
{
    static const char *const paths[] = {"/", "/health", "/v2/health/live", "/v2/health/ready",
                                        "/metrics", "/v1/models"};
    (void)state;
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        answer a = get(&tiny, paths[i]), h = call(&tiny, "HEAD", paths[i], NULL);
        expect_status(&a, 200, paths[i]);
        expect_status(&h, 200, paths[i]);
        assert_int_equal(h.body_bytes, 0);
        assert_true(atoi(header(&h, "Content-Length")) > 0);
        assert_string_equal(header(&a, "X-Moe-Ratio"), "1");
        answer_free(&a);
        answer_free(&h);
    }
}

static void each_request_leaves_one_line_in_the_log(void **state)
{
    static const char id[] = "X-Request-Id: log-me";
    const char *headers[] = {id, NULL};
    char line[4096];
    int found = 0;
    (void)state;
    answer a = call_with(&tiny, NULL, "/v1/classify", "{\"inputs\":\"a\",\"ratio\":0.5}", 26, headers);
    answer_free(&a);
    sleep_ms(50); /* the line is written after the answer */
    FILE *f = fopen(tiny.errors, "r");
    while (f && fgets(line, sizeof line, f)) {
        cJSON *j = cJSON_Parse(line);
        if (!j)
            fail_msg("not JSON: %s", line);
        if (strcmp(cJSON_GetObjectItem(j, "id")->valuestring, "log-me") == 0) {
            found++;
            assert_int_equal(cJSON_GetObjectItem(j, "status")->valueint, 200);
            assert_string_equal(cJSON_GetObjectItem(j, "model")->valuestring, "moe");
            assert_int_equal(cJSON_GetObjectItem(j, "tokens")->valueint, 3);
        }
        cJSON_Delete(j);
    }
    if (f)
        fclose(f);
    assert_int_equal(found, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_series_is_there_at_zero_before_the_first_request),
        cmocka_unit_test(counters_move_with_requests),
        cmocka_unit_test(promtool_finds_nothing),
        cmocka_unit_test(the_speedup_over_dense_is_measured_when_idle),
        cmocka_unit_test(models_are_listed_and_described),
        cmocka_unit_test(routing_is_counted_shown_and_reset),
        cmocka_unit_test(latency_is_told_by_ratio),
        cmocka_unit_test(health_and_index_answer_get_and_head),
        cmocka_unit_test(each_request_leaves_one_line_in_the_log),
    };
    return cmocka_run_group_tests(tests, start, stop);
}

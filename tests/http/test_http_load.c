/* test_http_load.c: many clients at once, clients that leave, a full queue. */
#include "engine/model/moefied.h"
#include "engine/model/pack.h"
#include "tests/http/harness.h"
#include "tests/support/tiny_model.h"

static moefied tiny;

static int start(void **state)
{
    static char arg[4200];
    (void)state;
    curl_global_init(CURL_GLOBAL_ALL);
    tiny_moefied_write(tmp_path("tiny-load"), 7);
    snprintf(arg, sizeof arg, "moe=%s", tmp_path("tiny-load"));
    moefied_start(&tiny, "load", "--model", arg, "--batch-tokens", "64", NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    moefied_stop(&tiny);
    return 0;
}

/* ---- the same bytes alone and in a crowd --------------------------------- */

enum { THREADS = 8, ROUNDS = 30, BODIES = 24 };

static char bodies[BODIES][400], expected[BODIES][4000];

/* The part of an answer that must not depend on anything but the request. */
static void constant_part(const answer *a, char out[4000])
{
    char *results = cJSON_PrintUnformatted(at(a, "results")), *ratio = cJSON_PrintUnformatted(at(a, "ratio"));
    snprintf(out, 4000, "%s %s", results, ratio);
    free(results);
    free(ratio);
}

static void make_bodies(void)
{
    static const double ratios[] = {1, 0.5, 0.34, 0.05};
    unsigned seed = 99;
    for (int i = 0; i < BODIES; i++) {
        char *p = bodies[i] + sprintf(bodies[i], "{\"ratio\":%g,\"inputs\":[", ratios[i % 4]);
        for (int k = 0; k <= i % 3; k++) {
            p += sprintf(p, "%s\"", k ? "," : "");
            for (int w = rand_r(&seed) % 40; w >= 0; w--)
                p += sprintf(p, "%c ", 'a' + rand_r(&seed) % 26);
            p += sprintf(p, "\"");
        }
        strcpy(p, "]}");
    }
}

static void *compare_answers(void *arg)
{
    char found[4000];
    int offset = *(int *)arg;
    for (int i = 0; i < ROUNDS; i++) {
        int k = (offset * 5 + i * 7) % BODIES;
        answer a = classify(&tiny, bodies[k]);
        if (a.status != 200) {
            print_error("status %d: %s\n", a.status, a.body ? a.body : "");
            *(int *)arg = -1;
        } else {
            constant_part(&a, found);
            if (strcmp(found, expected[k]) != 0) {
                print_error("%s gave %s, alone %s\n", bodies[k], found, expected[k]);
                *(int *)arg = -1;
            }
        }
        answer_free(&a);
    }
    return NULL;
}

static void a_crowd_gets_the_same_bytes_as_one_client(void **state)
{
    pthread_t threads[THREADS];
    int offsets[THREADS];
    (void)state;
    make_bodies();
    for (int i = 0; i < BODIES; i++) {
        answer a = classify(&tiny, bodies[i]);
        expect_status(&a, 200, bodies[i]);
        constant_part(&a, expected[i]);
        answer_free(&a);
    }
    for (int i = 0; i < THREADS; i++) {
        offsets[i] = i;
        pthread_create(&threads[i], NULL, compare_answers, &offsets[i]);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < THREADS; i++)
        assert_int_not_equal(offsets[i], -1);
}

static void a_list_longer_than_a_batch_is_answered_whole(void **state)
{
    (void)state;
    char *body = long_body(100, 9, 0.5); /* 100 x 38 tokens, 64 a batch */
    answer one = classify(&tiny, "{\"ratio\":0.5,\"inputs\":\"good good good good good good good good good \"}");
    answer all = classify(&tiny, body);
    expect_status(&all, 200, "100 texts");
    assert_int_equal(cJSON_GetArraySize(at(&all, "results")), 100);
    for (int i = 0; i < 100; i += 33) {
        char path[32];
        snprintf(path, sizeof path, "results.%d", i);
        assert_true(cJSON_Compare(at(&all, path), at(&one, "results.0"), 1));
    }
    answer_free(&one);
    answer_free(&all);
    free(body);
}

/* ---- connections ---------------------------------------------------------- */

static void a_connection_serves_many_requests(void **state)
{
    bool closed;
    (void)state;
    int fd = raw_connect(&tiny);
    for (int i = 0; i < 20; i++) {
        raw_post(fd, "/v1/classify", "{\"inputs\":\"a\"}");
        char *got = raw_read(fd, "timing_ms", 1, 10000, &closed);
        if (closed || !strstr(got, "200 OK"))
            fail_msg("request %d: %s", i, got);
        free(got);
    }
    close(fd);
}

static void pipelined_requests_are_answered_in_order(void **state)
{
    bool closed;
    char all[4096], *p = all;
    (void)state;
    int fd = raw_connect(&tiny);
    for (int i = 0; i < 6; i++) {
        const char *body = i % 2 ? "{\"inputs\":[]}" : "{\"inputs\":\"a b c\",\"ratio\":0.5}";
        p += sprintf(p, "POST /v1/classify HTTP/1.1\r\nHost: x\r\nX-Request-Id: id%d\r\n"
                     "Content-Length: %zu\r\n\r\n%s", i, strlen(body), body);
    }
    raw_send(fd, all, (size_t)(p - all));
    char *got = raw_read(fd, "X-Request-Id", 6, 10000, &closed);
    const char *last = got;
    for (int i = 0; i < 6; i++) {
        char id[32];
        snprintf(id, sizeof id, "X-Request-Id: id%d", i);
        const char *here = strstr(got, id);
        if (!here || here < last)
            fail_msg("answer %d is missing or out of order: %s", i, got);
        last = here;
    }
    assert_int_equal(count_text(got, "HTTP/1.1 200"), 3);
    assert_int_equal(count_text(got, "HTTP/1.1 422"), 3);
    free(got);
    close(fd);
}

static void clients_that_reset_do_no_harm(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        int fd = raw_connect(&tiny);
        struct linger reset = {1, 0};
        raw_post(fd, i % 2 ? "/v1/classify" : "/metrics", "{\"inputs\":[\"a\",\"b\"],\"ratio\":0.5}");
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(fd);
    }
    answer a = classify(&tiny, "{\"inputs\":\"a\"}");
    expect_status(&a, 200, "after the resets");
    answer_free(&a);
    settle(&tiny);
    assert_float_equal(metric(&tiny, "moefied_queue_depth{model=\"moe\"}"), 0, 0);
}

/* ---- a slow model --------------------------------------------------------- */

static void a_full_queue_gives_429_and_says_when_to_come_back(void **state)
{
    moefied m;
    background slow;
    (void)state;
    moefied_start(&m, "full", "--model", MINILM, SMALL_BATCHES, "--queue-inputs", "60",
                  "--max-inputs", "60", NULL);
    char *body = busy_body(&m, 2), *more = long_body(60, 1, 1);
    background_call(&slow, &m, "/v1/classify", body);
    wait_for_metric(&m, DEPTH, 2);
    answer a = classify(&m, more); /* 60 texts do not fit beside any other */
    expect_status(&a, 429, "a list for a full queue");
    assert_string_equal(string_at(&a, "error.type"), "overloaded");
    int seconds = atoi(header(&a, "Retry-After"));
    assert_true(seconds >= 1 && seconds <= 60);
    answer_free(&a);
    a = call(&m, NULL, "/predict", "{\"inputs\":\"a\"}");
    expect_status(&a, 200, "one text still fits");
    answer_free(&a);
    pthread_join(slow.thread, NULL);
    expect_status(&slow.a, 200, "the slow one");
    answer_free(&slow.a);
    a = classify(&m, more);
    expect_status(&a, 200, "once there is room");
    answer_free(&a);
    assert_float_equal(metric(&m, "moefied_requests_total{route=\"/v1/classify\",code=\"429\"}"), 1, 0);
    free(body);
    free(more);
    moefied_stop(&m);
}

static void a_request_that_waited_too_long_is_told(void **state)
{
    moefied m;
    background slow;
    (void)state;
    moefied_start(&m, "late", "--model", MINILM, SMALL_BATCHES, "--request-timeout-ms", "500", NULL);
    char *body = busy_body(&m, 4), *also = long_body(2, 490, 1);
    background_call(&slow, &m, "/v1/classify", body);
    wait_for_metric(&m, DEPTH, 2);
    answer a = classify(&m, also); /* long, so it queues behind */
    expect_status(&a, 503, "a request past its deadline");
    assert_string_equal(string_at(&a, "error.type"), "timeout");
    assert_true(strlen(header(&a, "Retry-After")) > 0);
    answer_free(&a);
    pthread_join(slow.thread, NULL);
    expect_status(&slow.a, 200, "one that began in time");
    answer_free(&slow.a);
    free(body);
    free(also);
    moefied_stop(&m);
}

static void a_client_that_left_costs_no_computing(void **state)
{
    moefied m;
    background slow;
    (void)state;
    moefied_start(&m, "gone", "--model", MINILM, SMALL_BATCHES, NULL);
    char *body = busy_body(&m, 2), *lost = long_body(60, 490, 1);
    background_call(&slow, &m, "/v1/classify", body);
    wait_for_metric(&m, DEPTH, 2);
    double computed = metric(&m, "moefied_batch_inputs_sum{model=\"minilm-sst2-relu\"}") +
                      metric(&m, DEPTH);
    int fd = raw_connect(&m);
    raw_post(fd, "/v1/classify", lost);
    wait_for_metric(&m, DEPTH, BUSY_TEXTS + 1); /* more than the slow one's */
    close(fd);
    pthread_join(slow.thread, NULL);
    expect_status(&slow.a, 200, "the one that stayed");
    answer_free(&slow.a);
    wait_for_metric(&m, "moefied_requests_total{route=\"/v1/classify\",code=\"499\"}", 1);
    /* What ran or waited before it came, and the batch in flight at that time. */
    double now = metric(&m, "moefied_batch_inputs_sum{model=\"minilm-sst2-relu\"}");
    assert_true(now <= computed + 4);
    assert_float_equal(metric(&m, DEPTH), 0, 0);
    free(body);
    free(lost);
    moefied_stop(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_crowd_gets_the_same_bytes_as_one_client),
        cmocka_unit_test(a_list_longer_than_a_batch_is_answered_whole),
        cmocka_unit_test(a_connection_serves_many_requests),
        cmocka_unit_test(pipelined_requests_are_answered_in_order),
        cmocka_unit_test(clients_that_reset_do_no_harm),
        cmocka_unit_test(a_full_queue_gives_429_and_says_when_to_come_back),
        cmocka_unit_test(a_request_that_waited_too_long_is_told),
        cmocka_unit_test(a_client_that_left_costs_no_computing),
    };
    return cmocka_run_group_tests(tests, start, stop);
}

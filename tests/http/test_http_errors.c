/* test_http_errors.c: every refusal has its code, its shape and leaves the
 * server as it was. */
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
    tiny_moefied_write(tmp_path("tiny-errors"), 6);
    snprintf(arg, sizeof arg, "moe=%s", tmp_path("tiny-errors"));
    moefied_start(&tiny, "errors", "--model", arg, "--max-body-bytes", "4096", "--max-inputs", "8",
                  "--max-json-depth", "6", "--header-bytes", "4096", "--idle-seconds", "1",
                  "--queue-tokens", "150", "--max-connections", "64", NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    moefied_stop(&tiny);
    return 0;
}

static int still_answers(void **state)
{
    (void)state;
    answer a = classify(&tiny, "{\"inputs\":\"a\"}");
    expect_status(&a, 200, "a sound request");
    answer_free(&a);
    return 0;
}

static void every_error_has_its_code_and_shape(void **state)
{
    static const struct { const char *method, *path, *body; int status; const char *type; } cases[] = {
        {NULL, "/v1/classify", "{\"inputs\":", 400, "malformed_json"},
        {NULL, "/v1/classify", "", 400, "malformed_json"},
        {NULL, "/v1/classify", "{\"inputs\":\"\xff\"}", 400, "malformed_json"},
        {NULL, "/v1/classify", "{\"inputs\":[[[[[[[]]]]]]]}", 400, "malformed_json"},
        {NULL, "/v1/classify", "{\"inputs\":\"a\",\"ratio\":0}", 422, "invalid_value"},
        {NULL, "/v1/classify", "{\"inputs\":\"a\",\"ratio\":NaN}", 422, "invalid_value"},
        {NULL, "/v1/classify", "{\"inputs\":\"a\",\"ratio\":1.5}", 422, "invalid_value"},
        {NULL, "/v1/classify", "{\"inputs\":\"a\",\"ratio\":\"x\"}", 422, "invalid_value"},
        {NULL, "/v1/classify", "{\"inputs\":[]}", 422, "empty"},
        {NULL, "/v1/classify", "{\"inputs\":[\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\"]}", 422, "too_many_inputs"},
        {NULL, "/v1/classify", "{\"input\":\"a\"}", 422, "unknown_key"},
        {NULL, "/v1/classify", "{\"inputs\":\"a\",\"model\":\"none\"}", 404, "not_found"},
        {NULL, "/v1/models/none", NULL, 404, "not_found"},
        {NULL, "/v1/models/none/latency", NULL, 404, "not_found"},
        {NULL, "/v1/models/", NULL, 404, "not_found"},
        {NULL, "/nowhere", NULL, 404, "not_found"},
        {NULL, "//", NULL, 404, "not_found"},
        {NULL, "/v1/classify/", "{\"inputs\":\"a\"}", 404, "not_found"},
        {NULL, "/%00%ff", NULL, 404, "not_found"},
        {NULL, "/v1/models/moe/routing?layer=2", NULL, 404, "not_found"},
        {NULL, "/v1/models/moe/routing?layer=-1", NULL, 422, "invalid_value"},
        {NULL, "/v1/models/moe/routing?layer=x", NULL, 422, "invalid_value"},
        {NULL, "/v1/models/moe/routing?layer=", NULL, 422, "invalid_value"},
        {NULL, "/v1/classify", NULL, 405, "method_not_allowed"},
        {"DELETE", "/v1/models/moe", NULL, 405, "method_not_allowed"},
        {"PUT", "/v1/classify", "{\"inputs\":\"a\"}", 405, "method_not_allowed"},
        {"BREW", "/health", NULL, 405, "method_not_allowed"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        answer a = call(&tiny, cases[i].method, cases[i].path, cases[i].body);
        expect_status(&a, cases[i].status, cases[i].body ? cases[i].body : cases[i].path);
        assert_string_equal(string_at(&a, "error.type"), cases[i].type);
        assert_true(strlen(string_at(&a, "error.message")) > 0);
        assert_string_equal(header(&a, "X-Moe-Ratio"), "1");
        assert_true(strlen(header(&a, "X-Request-Id")) > 0);
        if (cases[i].status == 405)
            assert_true(strlen(header(&a, "Allow")) > 0);
        answer_free(&a);
    }
}

static void malformed_json_names_the_byte(void **state)
{
    (void)state;
    answer a = classify(&tiny, "{\"inputs\":\"a\",}");
    assert_non_null(strstr(string_at(&a, "error.message"), "byte 14"));
    answer_free(&a);
}

static void allow_names_the_methods_of_the_path(void **state)
{
    (void)state;
    answer a = call(&tiny, "PUT", "/v1/models/moe/routing", "{}");
    assert_string_equal(header(&a, "Allow"), "GET, HEAD, DELETE");
    answer_free(&a);
    a = get(&tiny, "/predict");
    assert_string_equal(header(&a, "Allow"), "POST");
    answer_free(&a);
}

static void predict_errors_are_those_of_text_embeddings_inference(void **state)
{
    static const struct { const char *body; int status; const char *type; } cases[] = {
        {"{", 400, "Validation"},
        {"{\"inputs\":[]}", 422, "Empty"},
        {"{\"inputs\":[1]}", 422, "Validation"},
        {"{\"inputs\":\"a\",\"truncation_direction\":\"up\"}", 422, "Validation"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        answer a = call(&tiny, NULL, "/predict", cases[i].body);
        expect_status(&a, cases[i].status, cases[i].body);
        assert_string_equal(string_at(&a, "error_type"), cases[i].type);
        assert_true(strlen(string_at(&a, "error")) > 0);
        answer_free(&a);
    }
}

static void a_wrong_ratio_header_is_refused(void **state)
{
    static const char *const values[] = {"0", "NaN", "1.5", "x", "-1", "0x1", "1e999"};
    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        char line[64];
        snprintf(line, sizeof line, "X-Moe-Ratio: %s", values[i]);
        const char *headers[] = {line, NULL};
        answer a = call_with(&tiny, NULL, "/predict", "{\"inputs\":\"a\"}", 14, headers);
        expect_status(&a, 422, line);
        answer_free(&a);
    }
}

static void a_body_over_the_limit_gets_413(void **state)
{
    char *body = malloc(5000);
    (void)state;
    memset(body, ' ', 5000);
    memcpy(body, "{\"inputs\":\"a\"}", 14);
    answer a = call_with(&tiny, NULL, "/v1/classify", body, 4096, NULL);
    expect_status(&a, 200, "at the limit");
    answer_free(&a);
    a = call_with(&tiny, NULL, "/v1/classify", body, 4097, NULL);
    expect_status(&a, 413, "over the limit");
    assert_string_equal(string_at(&a, "error.type"), "body_too_large");
    answer_free(&a);
    const char *chunked[] = {"Transfer-Encoding: chunked", NULL};
    a = call_with(&tiny, NULL, "/v1/classify", body, 5000, chunked);
    expect_status(&a, 413, "chunked");
    answer_free(&a);
    free(body);
}

/* The answer comes although the gigabyte that was announced never does. */
static void an_announced_giant_is_refused_unread(void **state)
{
    static const char head[] = "POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n{";
    bool closed;
    (void)state;
    int fd = raw_connect(&tiny);
    raw_send(fd, head, sizeof head - 1);
    char *got = raw_read(fd, "body_too_large", 1, 5000, &closed);
    assert_int_equal(strncmp(got, "HTTP/1.1 413", 12), 0);
    free(got);
    close(fd);
}

static void an_endless_body_is_cut_off(void **state)
{
    static const char head[] = "POST /v1/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    static const char chunk[] = "400\r\n";
    char piece[1024 + 8];
    bool closed;
    (void)state;
    int fd = raw_connect(&tiny);
    raw_send(fd, head, sizeof head - 1);
    memcpy(piece, chunk, 5);
    memset(piece + 5, 'x', 1024);
    memcpy(piece + 5 + 1024, "\r\n", 2);
    for (int i = 0; i < 64; i++)
        raw_send(fd, piece, 5 + 1024 + 2);
    char *got = raw_read(fd, NULL, 0, 5000, &closed);
    assert_true(closed);
    free(got);
    close(fd);
}

static void a_request_larger_than_the_queue_is_refused_for_good(void **state)
{
    (void)state;
    char *body = long_body(5, 30, 1); /* "good" is four tokens: 5 x 40 after the cut */
    answer a = classify(&tiny, body);
    expect_status(&a, 422, "200 tokens into a queue of 150");
    assert_string_equal(string_at(&a, "error.type"), "too_many_tokens");
    answer_free(&a);
    free(body);
    assert_float_equal(metric(&tiny, "moefied_queue_depth{model=\"moe\"}"), 0, 0);
    assert_float_equal(metric(&tiny, "moefied_queue_tokens{model=\"moe\"}"), 0, 0);
}

static void headers_are_bounded(void **state)
{
    char head[9000];
    bool closed;
    (void)state;
    int n = sprintf(head, "GET /health HTTP/1.1\r\nHost: x\r\nX-Long: ");
    memset(head + n, 'y', 8000);
    memcpy(head + n + 8000, "\r\n\r\n", 4);
    int fd = raw_connect(&tiny);
    raw_send(fd, head, (size_t)n + 8004);
    char *got = raw_read(fd, NULL, 0, 5000, &closed);
    assert_true(closed);
    assert_null(strstr(got, "200 OK"));
    free(got);
    close(fd);
}

static void garbage_gets_no_further(void **state)
{
    static const char *const garbage[] = {
        "\x16\x03\x01\x02\x01\x01\xfc\x03\x03 tls hello\r\n\r\n", "\r\n\r\n\r\n\r\n", "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n", "POST /v1/classify HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        "POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "POST /v1/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "\xff\xfe\xfd\xfc",
    };
    bool closed;
    (void)state;
    for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++) {
        int fd = raw_connect(&tiny);
        raw_send(fd, garbage[i], strlen(garbage[i]));
        shutdown(fd, SHUT_WR);
        char *got = raw_read(fd, NULL, 0, 5000, &closed);
        if (!closed || strstr(got, " 200 "))
            fail_msg("garbage %zu: %s '%s'", i, closed ? "closed" : "open", got);
        free(got);
        close(fd);
    }
}

static void a_client_that_stops_halfway_is_let_go(void **state)
{
    static const char *const halves[] = {
        "POST /v1/cla", "POST /v1/classify HTTP/1.1\r\nHost: x\r\nConte",
        "POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"inputs\":",
    };
    bool closed;
    (void)state;
    for (size_t i = 0; i < 3; i++) { /* gone at once */
        int fd = raw_connect(&tiny);
        raw_send(fd, halves[i], strlen(halves[i]));
        close(fd);
    }
    int fds[3];
    for (size_t i = 0; i < 3; i++) { /* silent: --idle-seconds 1 */
        fds[i] = raw_connect(&tiny);
        raw_send(fds[i], halves[i], strlen(halves[i]));
    }
    for (size_t i = 0; i < 3; i++) {
        char *got = raw_read(fds[i], NULL, 0, 8000, &closed);
        assert_true(closed);
        free(got);
        close(fds[i]);
    }
}

static void only_so_many_connections_are_served_at_once(void **state)
{
    enum { MANY = 80 };
    int fds[MANY];
    bool closed;
    (void)state;
    for (int i = 0; i < MANY; i++)
        fds[i] = raw_connect(&tiny);
    sleep_ms(100);
    for (int i = 0; i < MANY; i++)
        close(fds[i]);
    int fd = raw_connect(&tiny);
    raw_post(fd, "/v1/classify", "{\"inputs\":\"a\"}");
    char *got = raw_read(fd, "timing_ms", 1, 10000, &closed);
    assert_non_null(strstr(got, "200 OK"));
    free(got);
    close(fd);
}

static void refusals_are_counted(void **state)
{
    (void)state;
    settle(&tiny);
    assert_true(metric(&tiny, "moefied_requests_total{route=\"/v1/classify\",code=\"413\"}") >= 4);
    assert_true(metric(&tiny, "moefied_requests_total{route=\"/v1/classify\",code=\"400\"}") >= 4);
    assert_true(metric(&tiny, "moefied_requests_total{route=\"/predict\",code=\"422\"}") >= 6);
    assert_true(metric(&tiny, "moefied_requests_total{route=\"other\",code=\"404\"}") >= 4);
}

#define STORY(f) cmocka_unit_test_teardown(f, still_answers)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORY(every_error_has_its_code_and_shape),
        STORY(malformed_json_names_the_byte),
        STORY(allow_names_the_methods_of_the_path),
        STORY(predict_errors_are_those_of_text_embeddings_inference),
        STORY(a_wrong_ratio_header_is_refused),
        STORY(a_body_over_the_limit_gets_413),
        STORY(an_announced_giant_is_refused_unread),
        STORY(an_endless_body_is_cut_off),
        STORY(a_request_larger_than_the_queue_is_refused_for_good),
        STORY(headers_are_bounded),
        STORY(garbage_gets_no_further),
        STORY(a_client_that_stops_halfway_is_let_go),
        STORY(only_so_many_connections_are_served_at_once),
        STORY(refusals_are_counted),
    };
    return cmocka_run_group_tests(tests, start, stop);
}

/* Tests of convert/dataset: rows come out as they were written, and whatever is
 * wrong with a file is told with its file and line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "convert/dataset.h"
#include "engine/model/sha256.h"

static char path[4096];

static void write_n(const char *name, const char *bytes, size_t n)
{
    snprintf(path, sizeof path, "%s/%s", getenv("MOE_TMP"), name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static dataset read_n(const char *name, const char *bytes, size_t n, int limit)
{
    dataset d;
    moe_error err = {.message = ""};
    write_n(name, bytes, n);
    if (dataset_read(path, limit, &d, &err) != MOE_OK)
        fail_msg("%s", err.message);
    return d;
}

static dataset read_text(const char *name, const char *text)
{
    return read_n(name, text, strlen(text), 0);
}

static void assert_refused_n(const char *name, const char *bytes, size_t n, const char *with)
{
    dataset d;
    moe_error err = {.message = ""};
    write_n(name, bytes, n);
    moe_status status = dataset_read(path, 0, &d, &err);
    assert_int_equal(status, MOE_E_FORMAT);
    assert_int_equal(d.n_rows, 0);
    assert_null(d.rows);
    if (strncmp(err.message, path, strlen(path)) || !strstr(err.message, with))
        fail_msg("'%s' does not name %s and say '%s'", err.message, path, with);
}

static void assert_refused(const char *name, const char *text, const char *with)
{
    assert_refused_n(name, text, strlen(text), with);
}

static void assert_row(const dataset *d, int i, const char *text, const char *pair,
                       const char *label, int line)
{
    const dataset_row *r = &d->rows[i];
    assert_string_equal(r->text, text);
    assert_int_equal(r->text_bytes, strlen(text));
    if (pair) {
        assert_string_equal(r->pair, pair);
        assert_int_equal(r->pair_bytes, strlen(pair));
    } else {
        assert_null(r->pair);
    }
    if (label)
        assert_string_equal(r->label, label);
    else
        assert_null(r->label);
    assert_int_equal(r->line, line);
}

static void the_dev_set_is_read_whole(void **state)
{
    (void)state;
    dataset d;
    moe_error err;
    assert_int_equal(dataset_read("tests/data/sst2_dev.tsv", 0, &d, &err), MOE_OK);
    assert_int_equal(d.n_rows, 872);
    assert_true(d.has_labels);
    assert_row(&d, 1, "unflinchingly bleak and desperate ", NULL, "0", 3);
    assert_int_equal(d.rows[871].line, 873);
    dataset_free(&d);
    assert_int_equal(dataset_read("tests/data/sst2_dev.tsv", 10, &d, &err), MOE_OK);
    assert_int_equal(d.n_rows, 10);
    dataset_free(&d);
}

static void pairs_are_found_by_the_header(void **state)
{
    (void)state;
    dataset d = read_text("pairs.tsv", "idx\tsentence1\tsentence2\tlabel\r\n"
                                       "7\tone\ttwo\tyes\r\n"
                                       "8\tthree\t\tno");
    assert_int_equal(d.n_rows, 2);
    assert_row(&d, 0, "one", "two", "yes", 2);
    assert_row(&d, 1, "three", "", "no", 3);
    dataset_free(&d);
}

static void quotes_in_tsv_are_text(void **state)
{
    (void)state;
    dataset d = read_text("quotes.tsv", "\xEF\xBB\xBFsentence\tlabel\n\"a \"\"b\"\t1\n\n");
    assert_int_equal(d.n_rows, 1);
    assert_row(&d, 0, "\"a \"\"b\"", NULL, "1", 2);
    dataset_free(&d);
}

static void text_without_labels_is_read_too(void **state)
{
    (void)state;
    dataset d = read_text("unlabelled.tsv", "sentence\na\nb\n");
    assert_int_equal(d.n_rows, 2);
    assert_false(d.has_labels);
    dataset_free(&d);
}

static void jsonl_rows_keep_every_byte(void **state)
{
    (void)state;
    dataset d = read_text("rows.jsonl",
        "{\"text\": \"a\\tb\\n\", \"label\": \"positive\"}\n"
        "\n"
        "{\"text\": \"\", \"text_pair\": \"p\", \"label\": 5.0, \"extra\": [1]}\r\n"
        "{\"label\": 2.75, \"text\": \"x\\u0000y\", \"text_pair\": null}");
    assert_int_equal(d.n_rows, 3);
    assert_true(d.has_labels);
    assert_row(&d, 0, "a\tb\n", NULL, "positive", 1);
    assert_row(&d, 1, "", "p", "5", 3);
    assert_int_equal(d.rows[2].text_bytes, 3);
    assert_memory_equal(d.rows[2].text, "x\0y", 4);
    assert_string_equal(d.rows[2].label, "2.75");
    assert_null(d.rows[2].pair);
    dataset_free(&d);
}

static void one_row_without_label_is_told(void **state)
{
    (void)state;
    dataset d = read_text("some.jsonl", "{\"text\":\"a\",\"label\":1}\n{\"text\":\"b\"}\n");
    assert_false(d.has_labels);
    assert_non_null(d.rows[0].label);
    assert_null(d.rows[1].label);
    dataset_free(&d);
}

static void jsonl_is_known_by_its_brace_too(void **state)
{
    (void)state;
    dataset d = read_text("rows.txt", " \n{\"text\":\"a\"}\n");
    assert_row(&d, 0, "a", NULL, NULL, 2);
    dataset_free(&d);
}

static void limit_stops_before_a_later_broken_row(void **state)
{
    (void)state;
    const char *text = "{\"text\":\"a\"}\n{\"text\":\"b\"}\nbroken\n";
    dataset d = read_n("limit.jsonl", text, strlen(text), 2);
    assert_int_equal(d.n_rows, 2);
    dataset_free(&d);
}

static void the_hash_is_that_of_the_file(void **state)
{
    (void)state;
    static const struct { size_t n; const char *hex; } known[] = { /* of sha256sum, 'a' x n */
        {0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318"},
        {56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a"},
        {64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb"},
        {1000, "41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3"},
    };
    char hex[65], bytes[1000];
    memset(bytes, 'a', sizeof bytes);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        bytes_sha256(bytes, known[i].n, hex);
        assert_string_equal(hex, known[i].hex);
    }
    const char *text = "sentence\na\nb\n";
    dataset d = read_n("hash.tsv", text, strlen(text), 1);
    bytes_sha256(text, strlen(text), hex);
    assert_string_equal(d.sha256, hex);
    dataset_free(&d);
}

static void broken_tsv_is_told_with_its_line(void **state)
{
    (void)state;
    assert_refused("e.tsv", "", "the file is empty");
    assert_refused("e.tsv", "sentence\tlabel\n", "no rows");
    assert_refused("e.tsv", "a nice film\t1\n", ":1: expected a header with 'sentence'");
    assert_refused("e.tsv", "sentence1\tlabel\na\t1\n", ":1: expected a header");
    assert_refused("e.tsv", "sentence\tlabel\na\t1\nb\n", ":3: expected 2 columns");
    assert_refused("e.tsv", "sentence\tlabel\na\t1\t2\n", "found 3");
    assert_refused("e.tsv", "sentence\tlabel\na\t1\nb\t\n", ":3: the label is empty");
    assert_refused("e.tsv", "sentence\nok\nb\xC3(\n", ":3: byte 1 is 0xC3, expected UTF-8");
    assert_refused_n("e.tsv", "sentence\na\0b\n", 13, ":2: byte 1 is 0x00");
}

static void too_many_columns_are_refused(void **state)
{
    (void)state;
    dataset d;
    moe_error err;
    char header[200];
    memset(header, '\t', sizeof header);
    header[sizeof header - 1] = '\n';
    write_n("wide.tsv", header, sizeof header);
    assert_int_equal(dataset_read(path, 0, &d, &err), MOE_E_LIMIT);
    assert_non_null(strstr(err.message, "200 columns"));
}

static void broken_jsonl_is_told_with_its_line(void **state)
{
    (void)state;
    assert_refused("e.jsonl", "", "no rows");
    assert_refused("e.jsonl", "\n \n", "no rows");
    assert_refused("e.jsonl", "hello\n", ":1: expected a JSON object, found 'hello'");
    assert_refused("e.jsonl", "{\"text\":\"a\"}\n[1]\n", ":2: expected a JSON object");
    assert_refused("e.jsonl", "{\"text\":\"a\"", ":1: expected a JSON object");
    assert_refused("e.jsonl", "{\"txt\":\"a\"}", ":1: key 'text' is missing");
    assert_refused("e.jsonl", "{\"text\":3}", ":1: key 'text' is of another type");
    assert_refused("e.jsonl", "{\"text\":\"a\",\"text_pair\":[]}", "key 'text_pair'");
    assert_refused("e.jsonl", "{\"text\":\"a\",\"label\":true}", "key 'label'");
    assert_refused("e.jsonl", "{\"text\":\"\xFF\"}", ":1: byte 9 is 0xFF");
    assert_refused_n("e.jsonl", "{\"text\":\"a\0\"}", 13, ":1: expected a JSON object");
}

static void a_file_that_cannot_be_read_is_told(void **state)
{
    (void)state;
    dataset d;
    moe_error err;
    assert_int_equal(dataset_read("/nonexistent/file.tsv", 0, &d, &err), MOE_E_IO);
    assert_string_equal(err.message, "/nonexistent/file.tsv: No such file or directory");
    assert_int_equal(dataset_read(getenv("MOE_TMP"), 0, &d, &err), MOE_E_IO);
    assert_non_null(strstr(err.message, "Is a directory"));
}

static void labels_are_names_or_numbers(void **state)
{
    (void)state;
    static const char *const names[] = {"negative", "positive", "0x"};
    moe_model_info info = {.n_labels = 3, .labels = names};
    static const struct { const char *label; int id; } cases[] = {
        {"positive", 1}, {"0", 0}, {"2", 2}, {"3", -1}, {"-1", -1}, {"+1", -1}, {" 1", -1},
        {"1.0", -1}, {"", -1}, {NULL, -1}, {"Positive", -1}, {"0x", 2},
        {"99999999999999999999", -1}, {"4294967296", -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(dataset_label_id(&(dataset_row){.label = cases[i].label}, &info),
                         cases[i].id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_dev_set_is_read_whole),
        cmocka_unit_test(pairs_are_found_by_the_header),
        cmocka_unit_test(quotes_in_tsv_are_text),
        cmocka_unit_test(text_without_labels_is_read_too),
        cmocka_unit_test(jsonl_rows_keep_every_byte),
        cmocka_unit_test(one_row_without_label_is_told),
        cmocka_unit_test(jsonl_is_known_by_its_brace_too),
        cmocka_unit_test(limit_stops_before_a_later_broken_row),
        cmocka_unit_test(the_hash_is_that_of_the_file),
        cmocka_unit_test(broken_tsv_is_told_with_its_line),
        cmocka_unit_test(too_many_columns_are_refused),
        cmocka_unit_test(broken_jsonl_is_told_with_its_line),
        cmocka_unit_test(a_file_that_cannot_be_read_is_told),
        cmocka_unit_test(labels_are_names_or_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_safetensors.c: good files open as they are, and files that lie are
 * refused with a message that names file and tensor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/model/dtype.h"
#include "engine/model/safetensors.h"

static const char *dir(void)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/st", getenv("MOE_TMP"));
    mkdir(path, 0777);
    return path;
}

static void write_bytes(const char *name, const void *bytes, size_t n)
{
    char path[8192];
    snprintf(path, sizeof path, "%s/%s", dir(), name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void forget(const char *name)
{
    char path[8192];
    snprintf(path, sizeof path, "%s/%s", dir(), name);
    unlink(path);
}

/* A file of the header's text and n_data bytes 0, 1, 2, ... */
static void write_file(const char *name, const char *header, size_t n_data)
{
    char bytes[8192];
    uint64_t length = strlen(header);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < n_data; i++)
        bytes[8 + length + i] = (char)i;
    write_bytes(name, bytes, 8 + length + n_data);
}

static void expect_open_fails(moe_status code, const char *part, const char *part2)
{
    safetensors *s = (safetensors *)1;
    moe_error err = {0};
    moe_status status = safetensors_open(dir(), &s, &err);
    if (status != code || !strstr(err.message, part) || !strstr(err.message, part2))
        fail_msg("status %d, expected %d: '%s' should hold '%s' and '%s'", status, code,
                 err.message, part, part2);
    assert_null(s);
}

/* A single file with this header is refused, and the message says why. */
static void expect_refused(const char *header, size_t n_data, const char *part)
{
    write_file("model.safetensors", header, n_data);
    expect_open_fails(MOE_E_FORMAT, "model.safetensors", part);
}

#define T(name, dtype, shape, begin, end) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" begin "," end "]}"

static void a_good_file_opens_with_its_tensors_in_place(void **state)
{
    (void)state;
    write_file("model.safetensors",
               "{\"__metadata__\":{\"format\":\"pt\"}," T("b", "F16", "2,3", "8", "20") ","
               T("a", "F32", "2", "0", "8") "," T("scalar", "U8", "", "20", "21") ","
               T("none", "F32", "0,7", "21", "21") "}", 21);
    safetensors *s;
    moe_error err;
    assert_int_equal(safetensors_open(dir(), &s, &err), MOE_OK);
    const st_tensor *a = safetensors_find(s, "a"), *b = safetensors_find(s, "b");
    assert_non_null(a);
    assert_non_null(b);
    assert_null(safetensors_find(s, "c"));
    assert_null(safetensors_find(s, "__metadata__"));
    assert_int_equal(a->dtype, MOE_F32);
    assert_int_equal(a->n_dims, 1);
    assert_int_equal(a->dims[0], 2);
    assert_int_equal(((const char *)a->data)[1], 1);
    assert_int_equal(b->dtype, MOE_F16);
    assert_int_equal(b->dims[1], 3);
    assert_int_equal(b->bytes, 12);
    assert_int_equal(*(const char *)b->data, 8);
    assert_int_equal(safetensors_find(s, "scalar")->bytes, 1);
    assert_int_equal(safetensors_find(s, "none")->bytes, 0);
    safetensors_close(s);
}

static void lying_headers_are_refused(void **state)
{
    (void)state;
    expect_refused("[]", 0, "not a JSON object");
    expect_refused("{\"a\":", 0, "byte");
    expect_refused("{\"a\":1}", 0, "tensor 'a': not a JSON object");
    expect_refused("{\"a\":{}}", 0, "tensor 'a': dtype is missing");
    expect_refused("{\"a\":{\"dtype\":\"F32\"}}", 0, "tensor 'a': shape is missing");
    expect_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "tensor 'a': data_offsets");
    expect_refused("{" T("a", "F32", "1", "0", "4") "}", 3, "at most the 3 bytes");
    expect_refused("{" T("a", "F32", "1", "0", "4") "}", 5, "end at byte 4");
    expect_refused("{" T("a", "F32", "1", "4", "0") "}", 4, "tensor 'a': data_offsets are [4, 0]");
    expect_refused("{" T("a", "F32", "2", "0", "4") "}", 4, "span 4 bytes, expected 8 for F32 [2]");
    expect_refused("{" T("a", "F32", "-1", "0", "4") "}", 4, "tensor 'a': a dimension is -1");
    expect_refused("{" T("a", "F32", "1.5", "0", "4") "}", 4, "a dimension is 1.5");
    expect_refused("{" T("a", "F32", "1e18", "0", "4") "}", 4, "a dimension is 1e+18");
    expect_refused("{" T("a", "F32", "\"1\"", "0", "4") "}", 4, "a dimension");
    expect_refused("{" T("a", "F32", "1,1,1,1,1,1,1,1,1", "0", "4") "}", 4, "at most 8");
    expect_refused("{" T("a", "F32", "4294967296,4294967296,4", "0", "4") "}", 4, "2^64");
    expect_refused("{" T("a", "F32", "4503599627370496,4503599627370496", "0", "4") "}", 4, "2^64");
    expect_refused("{" T("", "F32", "1", "0", "4") "}", 4, "length of the name is 0");
    expect_refused("{" T("a", "F32", "1", "0", "4") "," T("b", "F32", "1", "2", "6") "}", 6,
                   "tensor 'b' begins at byte 2 of the data, expected 4: it overlaps");
    expect_refused("{" T("a", "F32", "1", "0", "4") "," T("b", "F32", "1", "5", "9") "}", 9,
                   "tensor 'b' begins at byte 5 of the data, expected 4: a hole");
    expect_refused("{" T("a", "F32", "1", "1", "5") "}", 5, "expected 0: a hole");
    expect_refused("{" T("a", "F32", "1", "0", "4") "," T("a", "F32", "1", "4", "8") "}", 8,
                   "tensor 'a' is there twice");
    write_file("model.safetensors", "{" T("a", "F64", "1", "0", "8") "}", 8);
    expect_open_fails(MOE_E_UNSUPPORTED, "tensor 'a': dtype is \"F64\"", "expected F32");
}

static void lying_lengths_and_truncated_files_are_refused(void **state)
{
    (void)state;
    char bytes[64] = {0};
    write_bytes("model.safetensors", bytes, 0);
    expect_open_fails(MOE_E_FORMAT, "model.safetensors: 0 bytes", "at least 10");
    write_bytes("model.safetensors", bytes, 7);
    expect_open_fails(MOE_E_FORMAT, "model.safetensors: 7 bytes", "at least 10");
    write_bytes("model.safetensors", bytes, 16);
    expect_open_fails(MOE_E_FORMAT, "model.safetensors: header", "empty");
    bytes[7] = (char)0x80; /* 2^63 */
    write_bytes("model.safetensors", bytes, sizeof bytes);
    expect_open_fails(MOE_E_FORMAT, "header is of 9223372036854775808 bytes", "100000000");
    memset(bytes, 0xff, 8);
    write_bytes("model.safetensors", bytes, sizeof bytes);
    expect_open_fails(MOE_E_FORMAT, "header is of 18446744073709551615 bytes", "100000000");
    memset(bytes, 0, 8);
    bytes[0] = 57; /* one more than there is */
    write_bytes("model.safetensors", bytes, sizeof bytes);
    expect_open_fails(MOE_E_FORMAT, "header is of 57 bytes", "the file has 64");
}

/* No bit of the header may be flipped into a crash or a read past the file. */
static void flipped_bits_and_every_truncation_end_in_a_status(void **state)
{
    (void)state;
    const char *header = "{" T("a", "F32", "2,1", "0", "8") "," T("b", "BF16", "3", "8", "14") "}";
    unsigned char good[256], bytes[256];
    uint64_t length = strlen(header);
    size_t n = 8 + length + 14;
    memset(good, 7, sizeof good);
    memcpy(good, &length, 8);
    memcpy(good + 8, header, length);
    for (size_t bit = 0; bit < 8 * (8 + length); bit++) {
        memcpy(bytes, good, n);
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        st_header h;
        moe_error err = {0};
        if (st_header_parse("f", bytes, n, n, &h, &err) == MOE_OK)
            st_header_free(&h); /* a letter of a name */
        else
            assert_int_equal(strncmp(err.message, "f: ", 3), 0);
    }
    for (size_t cut = 0; cut < n; cut++) {
        st_header h;
        unsigned char *exact = malloc(cut ? cut : 1); /* asan sees a byte too far */
        memcpy(exact, good, cut);
        assert_int_not_equal(st_header_parse("f", exact, cut, cut, &h, NULL), MOE_OK);
        free(exact);
    }
}

static void a_missing_checkpoint_names_both_files_it_could_be(void **state)
{
    (void)state;
    forget("model.safetensors");
    forget("model.safetensors.index.json");
    expect_open_fails(MOE_E_IO, dir(), "model.safetensors.index.json");
    char path[8192];
    snprintf(path, sizeof path, "%s/model.safetensors", dir());
    mkdir(path, 0777);
    expect_open_fails(MOE_E_IO, "model.safetensors", "not a regular file");
    rmdir(path);
}

static void expect_index_refused(const char *index, moe_status code, const char *part)
{
    write_bytes("model.safetensors.index.json", index, strlen(index));
    expect_open_fails(code, dir(), part);
}

static void an_index_must_agree_with_its_shards(void **state)
{
    (void)state;
    forget("model.safetensors");
    write_file("s1", "{" T("a", "F32", "1", "0", "4") "}", 4);
    write_file("s2", "{" T("b", "F32", "1", "0", "4") "," T("c", "U8", "1", "4", "5") "}", 5);
    const char *good = "{\"weight_map\":{\"a\":\"s1\",\"c\":\"s2\",\"b\":\"s2\"}}";
    write_bytes("model.safetensors.index.json", good, strlen(good));
    safetensors *s;
    moe_error err;
    assert_int_equal(safetensors_open(dir(), &s, &err), MOE_OK);
    assert_non_null(strstr(safetensors_find(s, "c")->path, "/s2"));
    assert_int_equal(*(const char *)safetensors_find(s, "c")->data, 4);
    safetensors_close(s);

    expect_index_refused("{}", MOE_E_FORMAT, "weight_map is missing");
    expect_index_refused("[1]", MOE_E_FORMAT, "weight_map is missing");
    expect_index_refused("{\"weight_map\":{}}", MOE_E_FORMAT, "names no file");
    expect_index_refused("{\"weight_map\":{\"a\":7}}", MOE_E_FORMAT, "tensor 'a' is in \"\"");
    expect_index_refused("{\"weight_map\":{\"a\":\"../s1\"}}", MOE_E_FORMAT, "\"../s1\"");
    expect_index_refused("{\"weight_map\":{\"a\":\"..\"}}", MOE_E_FORMAT, "without a directory");
    expect_index_refused("{\"weight_map\":{\"a\":\"/etc/passwd\"}}", MOE_E_FORMAT, "/etc/passwd");
    expect_index_refused("{\"weight_map\":{\"a\":\"s9\"}}", MOE_E_IO, "/s9: cannot open");
    expect_index_refused("{\"weight_map\":{\"a\":\"s1\",\"x\":\"s1\"}}", MOE_E_FORMAT,
                         "tensor 'x' is expected in s1, found in none");
    expect_index_refused("{\"weight_map\":{\"a\":\"s2\",\"b\":\"s1\",\"c\":\"s2\"}}", MOE_E_FORMAT,
                         "tensor 'a' is expected in s2, found in s1");
    expect_index_refused("{\"weight_map\":{\"a\":\"s1\",\"b\":\"s2\"}}", MOE_E_FORMAT,
                         "weight_map has 2 tensors, the files that it names 3");
    write_file("s3", "{" T("a", "F32", "1", "0", "4") "}", 4);
    expect_index_refused("{\"weight_map\":{\"a\":\"s1\",\"z\":\"s3\"}}", MOE_E_FORMAT,
                         "tensor 'a' is there twice");
    forget("model.safetensors.index.json");
}

/* ---- number formats ----------------------------------------------------- */

/* A half by its definition, in double. */
static double half_value(unsigned h)
{
    int exponent = (int)(h >> 10 & 31), fraction = (int)(h & 1023);
    double v = exponent ? (1024 + fraction) * 0x1p-10 : fraction * 0x1p-9;
    for (int i = 15; i < exponent; i++)
        v *= 2;
    for (int i = exponent ? exponent : 0; i < 15; i++)
        v /= 2;
    return h & 0x8000 ? -v : v;
}

static void every_half_and_bfloat_converts_exactly(void **state)
{
    (void)state;
    uint16_t *all = malloc(65536 * sizeof *all);
    float *f = malloc(65536 * sizeof *f);
    assert_non_null(all);
    assert_non_null(f);
    for (unsigned i = 0; i < 65536; i++)
        all[i] = (uint16_t)i;
    dtype_to_f32(MOE_F16, all, 65536, f);
    for (unsigned i = 0; i < 65536; i++) {
        if ((i & 0x7c00) != 0x7c00)
            assert_true((double)f[i] == half_value(i));
        else if (i & 0x3ff)
            assert_true(f[i] != f[i]);
        else
            assert_true(f[i] * 0.0f != 0.0f);
    }
    dtype_to_f32(MOE_BF16, all, 65536, f);
    for (unsigned i = 0; i < 65536; i++) {
        uint32_t bits;
        memcpy(&bits, &f[i], sizeof bits);
        assert_int_equal(bits, i << 16);
    }
    free(all);
    free(f);
}

static void the_first_value_that_is_not_finite_is_found(void **state)
{
    (void)state;
    enum { N = 10001 };
    const struct { moe_dtype t; uint32_t largest, odd[3]; } kinds[] = {
        {MOE_F32, 0x7f7fffff, {0x7f800000, 0xff800000, 0x7fc00001}},
        {MOE_F16, 0x7bff, {0x7c00, 0xfc00, 0x7e01}},
        {MOE_BF16, 0x7f7f, {0x7f80, 0xff80, 0xff81}},
    };
    const size_t places[] = {0, 4095, 4096, 8191, N - 1};
    unsigned char *v = malloc(N * 4 + 1);
    assert_non_null(v);
    for (size_t k = 0; k < 3; k++) {
        size_t bytes = moe_dtype_bytes(kinds[k].t);
        for (size_t i = 0; i < N; i++) /* unaligned on purpose */
            memcpy(v + 1 + i * bytes, &kinds[k].largest, bytes);
        assert_int_equal(dtype_first_not_finite(kinds[k].t, v + 1, N), N);
        for (size_t p = 0; p < 5; p++)
            for (size_t o = 0; o < 3; o++) {
                memcpy(v + 1 + places[p] * bytes, &kinds[k].odd[o], bytes);
                assert_int_equal(dtype_first_not_finite(kinds[k].t, v + 1, N), places[p]);
                memcpy(v + 1 + places[p] * bytes, &kinds[k].largest, bytes);
            }
    }
    free(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_file_opens_with_its_tensors_in_place),
        cmocka_unit_test(lying_headers_are_refused),
        cmocka_unit_test(lying_lengths_and_truncated_files_are_refused),
        cmocka_unit_test(flipped_bits_and_every_truncation_end_in_a_status),
        cmocka_unit_test(a_missing_checkpoint_names_both_files_it_could_be),
        cmocka_unit_test(an_index_must_agree_with_its_shards),
        cmocka_unit_test(every_half_and_bfloat_converts_exactly),
        cmocka_unit_test(the_first_value_that_is_not_finite_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

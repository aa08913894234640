/* json.c: reading JSON from outside into cJSON, with bounds.
 *
 * cJSON recurses up to 1000 levels and allocates a node per value, so one scan
 * over the bytes comes first: it tracks strings and brackets, refuses deep
 * nesting and bounds the number of values before anything is allocated. Then
 * cJSON parses, and what follows the value must be white space.
 *
 * Look-ups take the path for their messages. A number must be finite; cJSON
 * keeps doubles, so whole numbers are exact up to 2^53. */
#include "engine/model/json.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    JSON_MAX_DEPTH = 64,
    JSON_MAX_VALUES = 4 << 20, /* about 80 bytes each once parsed */
    JSON_MAX_NUMBER = 60,      /* characters; cJSON cuts longer ones */
};

/* Walks over a string from its opening quote; returns the index past its
 * closing one, or n. */
static size_t skip_string(const char *s, size_t n, size_t i)
{
    for (i++; i < n && s[i] != '"'; i++)
        if (s[i] == '\\')
            i++;
    return i < n ? i + 1 : n;
}

static bool is_number_char(char c)
{
    return (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' ||
           c == 'e' || c == 'E';
}

/* Bounds depth, values and the length of numbers before cJSON sees them. */
static moe_status scan(const char *what, const char *s, size_t n, moe_error *err)
{
    int depth = 0, values = 0;
    size_t number = 0; /* characters of the number that ends before i */
    for (size_t i = 0; i < n;) {
        char c = s[i];
        number = is_number_char(c) ? number + 1 : 0;
        if (number > JSON_MAX_NUMBER)
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: byte %zu: a number of more than %d characters",
                            what, i, JSON_MAX_NUMBER);
        if (c == '{' || c == '[')
            depth++;
        else if (c == '}' || c == ']')
            depth--;
        if (depth > JSON_MAX_DEPTH)
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: byte %zu: JSON nested deeper than %d", what, i,
                            JSON_MAX_DEPTH);
        if ((c == ',' || c == '{' || c == '[') && ++values > JSON_MAX_VALUES)
            return moe_fail(err, MOE_E_FORMAT, "%s: byte %zu: more than %d JSON values",
                            what, i, JSON_MAX_VALUES);
        i = c == '"' ? skip_string(s, n, i) : i + 1;
    }
    return MOE_OK;
}

moe_status json_parse(const char *what, const char *bytes, size_t n, cJSON **out,
                      moe_error *err)
{
    *out = NULL;
    if (n == 0)
        return moe_fail(err, MOE_E_FORMAT, "%s: byte 0: empty, expected JSON", what);
    moe_status status = scan(what, bytes, n, err);
    if (status)
        return status;
    const char *end = NULL;
    cJSON *root = cJSON_ParseWithLengthOpts(bytes, n, &end, 0);
    size_t at = end >= bytes && end <= bytes + n ? (size_t)(end - bytes) : 0;
    if (!root)
        return moe_fail(err, MOE_E_FORMAT, "%s: byte %zu: malformed JSON", what, at);
    while (at < n && (bytes[at] == ' ' || bytes[at] == '\t' || bytes[at] == '\n' ||
                      bytes[at] == '\r'))
        at++;
    if (at < n) {
        cJSON_Delete(root);
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: byte %zu: something follows the JSON value", what, at);
    }
    *out = root;
    return MOE_OK;
}

/* Reads exactly n bytes; a file that shrank meanwhile is an I/O error. */
static moe_status read_all(int fd, const char *path, char *bytes, size_t n,
                           moe_error *err)
{
    for (size_t got = 0; got < n;) {
        ssize_t r = read(fd, bytes + got, n - got);
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return moe_fail(err, MOE_E_IO, "%s: read failed at byte %zu of %zu: %s",
                            path, got, n, r < 0 ? strerror(errno) : "file ended");
        got += (size_t)r;
    }
    return MOE_OK;
}

moe_status json_read_file(const char *path, size_t max_bytes, cJSON **out,
                          moe_error *err)
{
    *out = NULL;
    char *bytes = NULL;
    moe_status status;
    struct stat st;
    /* O_NONBLOCK: a FIFO must be refused, not waited for. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st)) {
        status = moe_fail(err, MOE_E_IO, "%s: cannot open: %s", path, strerror(errno));
        goto done;
    }
    if (!S_ISREG(st.st_mode)) {
        status = moe_fail(err, MOE_E_IO, "%s: not a regular file", path);
        goto done;
    }
    if ((uintmax_t)st.st_size > max_bytes) {
        status = moe_fail(err, MOE_E_FORMAT,
                          "%s: %jd bytes of JSON, expected at most %zu", path,
                          (intmax_t)st.st_size, max_bytes);
        goto done;
    }
    size_t n = (size_t)st.st_size;
    bytes = malloc(n ? n : 1);
    if (!bytes) {
        status = moe_fail(err, MOE_E_MEMORY, "%s: out of memory for %zu bytes", path, n);
        goto done;
    }
    status = read_all(fd, path, bytes, n, err);
    if (!status)
        status = json_parse(path, bytes, n, out, err);
done:
    free(bytes);
    if (fd >= 0)
        close(fd);
    return status;
}

/* ---- look-ups --------------------------------------------------------- */

/* A value for a message: short, whatever it is. */
static const char *found(const cJSON *v, char *text, size_t size)
{
    if (!v)
        snprintf(text, size, "nothing");
    else if (cJSON_IsString(v))
        snprintf(text, size, "\"%.60s\"", v->valuestring);
    else if (cJSON_IsNumber(v))
        snprintf(text, size, "%.16g", v->valuedouble);
    else if (cJSON_IsBool(v))
        snprintf(text, size, "%s", cJSON_IsTrue(v) ? "true" : "false");
    else if (cJSON_IsNull(v))
        snprintf(text, size, "null");
    else
        snprintf(text, size, "%s", cJSON_IsArray(v) ? "an array" : "an object");
    return text;
}

static const cJSON *lookup(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

static bool is_absent(const cJSON *v)
{
    return !v || cJSON_IsNull(v);
}

moe_status json_int(const cJSON *object, const char *path, const char *key,
                    int64_t min, int64_t max, int64_t *out, moe_error *err)
{
    const cJSON *v = lookup(object, key);
    char text[80];
    /* 2^53: past it a double no longer tells whole numbers apart. */
    if (cJSON_IsNumber(v) && fabs(v->valuedouble) <= 9007199254740992.0 &&
        v->valuedouble == floor(v->valuedouble) &&
        (int64_t)v->valuedouble >= min && (int64_t)v->valuedouble <= max) {
        *out = (int64_t)v->valuedouble;
        return MOE_OK;
    }
    return moe_fail(err, MOE_E_FORMAT,
                    "%s: %s is %s, expected a whole number in [%" PRId64 ", %" PRId64 "]",
                    path, key, found(v, text, sizeof text), min, max);
}

moe_status json_int_or(const cJSON *object, const char *path, const char *key,
                       int64_t min, int64_t max, int64_t missing, int64_t *out,
                       moe_error *err)
{
    if (is_absent(lookup(object, key))) {
        *out = missing;
        return MOE_OK;
    }
    return json_int(object, path, key, min, max, out, err);
}

moe_status json_number_or(const cJSON *object, const char *path, const char *key,
                          double min, double max, double missing, double *out,
                          moe_error *err)
{
    const cJSON *v = lookup(object, key);
    char text[80];
    if (is_absent(v)) {
        *out = missing;
        return MOE_OK;
    }
    if (cJSON_IsNumber(v) && v->valuedouble >= min && v->valuedouble <= max) {
        *out = v->valuedouble;
        return MOE_OK;
    }
    return moe_fail(err, MOE_E_FORMAT, "%s: %s is %s, expected a number in [%g, %g]",
                    path, key, found(v, text, sizeof text), min, max);
}

moe_status json_bool_or(const cJSON *object, const char *path, const char *key,
                        bool missing, bool *out, moe_error *err)
{
    const cJSON *v = lookup(object, key);
    char text[80];
    if (is_absent(v)) {
        *out = missing;
        return MOE_OK;
    }
    if (cJSON_IsBool(v)) {
        *out = cJSON_IsTrue(v);
        return MOE_OK;
    }
    return moe_fail(err, MOE_E_FORMAT, "%s: %s is %s, expected true or false", path,
                    key, found(v, text, sizeof text));
}

moe_status json_string_or(const cJSON *object, const char *path, const char *key,
                          const char *missing, const char **out, moe_error *err)
{
    const cJSON *v = lookup(object, key);
    char text[80];
    if (is_absent(v)) {
        *out = missing;
        return MOE_OK;
    }
    if (cJSON_IsString(v)) {
        *out = v->valuestring;
        return MOE_OK;
    }
    return moe_fail(err, MOE_E_FORMAT, "%s: %s is %s, expected a string", path, key,
                    found(v, text, sizeof text));
}

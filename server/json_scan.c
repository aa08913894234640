/* json_scan.c: a validating JSON scanner, recursive descent with a depth bound. */
#include "server/json_scan.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    const unsigned char *s;
    size_t n, at;
    int depth, values;
    const json_limits *limits;
    json_fault *fault;
    json_verdict verdict;
} scanner;

static bool scan_value(scanner *c);

/* Records the fault at `byte`; always false. */
static bool fault(scanner *c, json_verdict verdict, size_t byte, const char *what)
{
    c->verdict = verdict;
    c->fault->byte = byte;
    snprintf(c->fault->message, sizeof c->fault->message, "%s", what);
    return false;
}

/* "expected WHAT, found ..." at the current byte; always false. */
static bool expected(scanner *c, const char *what)
{
    char text[sizeof c->fault->message];
    if (c->at >= c->n)
        snprintf(text, sizeof text, "expected %s, found the end", what);
    else if (c->s[c->at] > 0x20 && c->s[c->at] < 0x7f)
        snprintf(text, sizeof text, "expected %s, found '%c'", what, c->s[c->at]);
    else
        snprintf(text, sizeof text, "expected %s, found 0x%02x", what, c->s[c->at]);
    return fault(c, JSON_MALFORMED, c->at, text);
}

static void skip_space(scanner *c)
{
    while (c->at < c->n && (c->s[c->at] == ' ' || c->s[c->at] == '\t' ||
                            c->s[c->at] == '\n' || c->s[c->at] == '\r'))
        c->at++;
}

static bool next_is(const scanner *c, unsigned char byte)
{
    return c->at < c->n && c->s[c->at] == byte;
}

/* Length of the UTF-8 sequence at s (n bytes left), 0 if it is not one:
 * overlong forms, surrogates and code points over U+10FFFF are not. */
static size_t utf8_length(const unsigned char *s, size_t n)
{
    size_t length = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2
                  : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;
    if (length == 0 || length > n)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    bool bad = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
               (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f);
    return bad ? 0 : length;
}

/* Four hex digits at `at`; -1 if they are not. */
static int hex4(const scanner *c, size_t at)
{
    int v = 0;
    if (c->n - at < 4 || at > c->n)
        return -1;
    for (size_t i = at; i < at + 4; i++) {
        int d = c->s[i];
        d = d >= '0' && d <= '9' ? d - '0' : (d | 32) >= 'a' && (d | 32) <= 'f' ? (d | 32) - 'a' + 10 : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

/* The escape whose backslash is at c->at. */
static bool scan_escape(scanner *c)
{
    size_t start = c->at++;
    if (c->at >= c->n || !strchr("\"\\/bfnrtu", c->s[c->at]) || c->s[c->at] == '\0')
        return expected(c, "an escape");
    if (c->s[c->at++] != 'u')
        return true;
    int unit = hex4(c, c->at);
    if (unit < 0)
        return fault(c, JSON_MALFORMED, start, "expected four hex digits after \\u");
    c->at += 4;
    if (unit == 0 && !c->limits->allow_nul)
        return fault(c, JSON_REFUSED, start, "\\u0000 is not allowed in a string");
    if (unit >= 0xdc00 && unit <= 0xdfff)
        return fault(c, JSON_MALFORMED, start, "lone surrogate in a string");
    if (unit < 0xd800 || unit > 0xdbff)
        return true;
    int low = c->n - c->at >= 6 && c->s[c->at] == '\\' && c->s[c->at + 1] == 'u'
                  ? hex4(c, c->at + 2) : -1;
    if (low < 0xdc00 || low > 0xdfff)
        return fault(c, JSON_MALFORMED, start, "lone surrogate in a string");
    c->at += 6;
    return true;
}

static bool scan_string(scanner *c)
{
    c->at++; /* the quote */
    while (c->at < c->n && c->s[c->at] != '"') {
        unsigned char byte = c->s[c->at];
        if (byte == '\\') {
            if (!scan_escape(c))
                return false;
        } else if (byte < 0x20) {
            return fault(c, JSON_MALFORMED, c->at, "control character in a string");
        } else {
            size_t length = utf8_length(c->s + c->at, c->n - c->at);
            if (length == 0)
                return fault(c, JSON_MALFORMED, c->at, "invalid UTF-8");
            c->at += length;
        }
    }
    if (c->at >= c->n)
        return expected(c, "'\"'");
    c->at++;
    return true;
}

static bool scan_digits(scanner *c)
{
    size_t start = c->at;
    while (c->at < c->n && c->s[c->at] >= '0' && c->s[c->at] <= '9')
        c->at++;
    return c->at > start || expected(c, "a digit");
}

static bool starts_with(const scanner *c, const char *word)
{
    size_t length = strlen(word);
    return c->n - c->at >= length && memcmp(c->s + c->at, word, length) == 0;
}

/* Longest number text that cJSON reads. */
enum { MAX_NUMBER_BYTES = 60 };

static bool scan_number(scanner *c)
{
    size_t start = c->at;
    if (next_is(c, '-'))
        c->at++;
    if (starts_with(c, "Infinity"))
        return fault(c, JSON_REFUSED, start, "an infinite number");
    if (next_is(c, '0'))
        c->at++;
    else if (!scan_digits(c))
        return false;
    if (next_is(c, '.')) {
        c->at++;
        if (!scan_digits(c))
            return false;
    }
    if (next_is(c, 'e') || next_is(c, 'E')) {
        c->at++;
        if (next_is(c, '+') || next_is(c, '-'))
            c->at++;
        if (!scan_digits(c))
            return false;
    }
    if (c->at - start > MAX_NUMBER_BYTES)
        return fault(c, JSON_REFUSED, start, "a number of over 60 characters");
    return true;
}

static bool scan_member(scanner *c)
{
    if (!next_is(c, '"'))
        return expected(c, "'\"'");
    if (!scan_string(c))
        return false;
    skip_space(c);
    if (!next_is(c, ':'))
        return expected(c, "':'");
    c->at++;
    return scan_value(c);
}

/* An array or object whose bracket is at c->at. */
static bool scan_container(scanner *c, unsigned char close)
{
    if (++c->depth > c->limits->max_depth) {
        char text[96];
        snprintf(text, sizeof text, "nested deeper than %d", c->limits->max_depth);
        return fault(c, JSON_MALFORMED, c->at, text);
    }
    c->at++;
    skip_space(c);
    if (!next_is(c, close)) {
        for (;;) {
            if (!(close == '}' ? scan_member(c) : scan_value(c)))
                return false;
            if (!next_is(c, ','))
                break;
            c->at++;
            skip_space(c);
        }
        if (!next_is(c, close))
            return expected(c, close == '}' ? "',' or '}'" : "',' or ']'");
    }
    c->at++;
    c->depth--;
    return true;
}

static bool scan_word(scanner *c)
{
    static const char *const words[] = {"true", "false", "null"};
    for (int i = 0; i < 3; i++)
        if (starts_with(c, words[i])) {
            c->at += strlen(words[i]);
            return true;
        }
    /* What Python's json.dumps writes for floats that JSON does not have. */
    if (starts_with(c, "NaN"))
        return fault(c, JSON_REFUSED, c->at, "NaN is not a number");
    if (starts_with(c, "Infinity"))
        return fault(c, JSON_REFUSED, c->at, "an infinite number");
    return expected(c, "a value");
}

/* A value with the space around it. */
static bool scan_value(scanner *c)
{
    skip_space(c);
    if (c->at >= c->n)
        return expected(c, "a value");
    if (++c->values > c->limits->max_values) {
        char text[96];
        snprintf(text, sizeof text, "more than %d values", c->limits->max_values);
        return fault(c, JSON_TOO_MANY, c->at, text);
    }
    unsigned char byte = c->s[c->at];
    bool fine = byte == '{' ? scan_container(c, '}')
              : byte == '[' ? scan_container(c, ']')
              : byte == '"' ? scan_string(c)
              : byte == '-' || (byte >= '0' && byte <= '9') ? scan_number(c)
              : scan_word(c);
    skip_space(c);
    return fine;
}

json_verdict json_scan(const char *bytes, size_t n, const json_limits *limits,
                       json_fault *where)
{
    scanner c = {
        .s = (const unsigned char *)bytes, .n = n, .limits = limits, .fault = where,
    };
    *where = (json_fault){0};
    if (scan_value(&c) && c.at < n)
        expected(&c, "the end");
    return c.verdict;
}

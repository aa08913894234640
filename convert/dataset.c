/* dataset.c: reads labelled text whole and cuts it into rows.
 *
 * TSV is cut in place: tabs and newlines become the NULs that end the fields,
 * and rows point into the file's bytes; there is no quoting. A JSONL row owns a
 * block of its own (jsonl.h). A file whose name ends in .jsonl, or whose first
 * byte is '{', is JSONL; any other is TSV. */
#include "convert/dataset.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/jsonl.h"
#include "convert/squad.h"
#include "engine/model/sha256.h"
#include "convert/utf8.h"

enum { MAX_COLUMNS = 64, FIRST_READ = 1 << 16 };
static const size_t max_file_bytes = (size_t)1 << 30;
static const int max_rows = 50000000;

struct dataset_memory {
    char *bytes;     /* the file, a NUL behind it */
    size_t n;
    int room;        /* rows allocated */
    bool rows_own;   /* each row owns its strings */
    squad squad;     /* what the rows of such a file point into */
};

typedef struct { char *at; size_t n; int number; } text_line;

/* ---- reading ------------------------------------------------------------ */

static moe_status read_stream(FILE *from, const char *path, struct dataset_memory *m,
                              moe_error *err)
{
    size_t room = 0;
    for (;;) {
        if (m->n == room) {
            room = room ? room * 2 : FIRST_READ;
            char *larger = room <= max_file_bytes ? realloc(m->bytes, room + 1) : NULL;
            if (!larger && room > max_file_bytes)
                return moe_fail(err, MOE_E_LIMIT, "%s: larger than %zu bytes", path,
                                max_file_bytes);
            if (!larger)
                return moe_fail(err, MOE_E_MEMORY, "%s: out of memory at %zu bytes", path,
                                m->n);
            m->bytes = larger;
        }
        size_t got = fread(m->bytes + m->n, 1, room - m->n, from);
        m->n += got;
        m->bytes[m->n] = 0;
        if (ferror(from))
            return moe_fail(err, MOE_E_IO, "%s: read: %s", path, strerror(errno));
        if (got == 0)
            return MOE_OK;
    }
}

static moe_status read_file(const char *path, struct dataset_memory *m, moe_error *err)
{
    if (strcmp(path, "-") == 0)
        return read_stream(stdin, "standard input", m, err);
    FILE *from = fopen(path, "rb");
    if (!from)
        return moe_fail(err, MOE_E_IO, "%s: %s", path, strerror(errno));
    moe_status status = read_stream(from, path, m, err);
    fclose(from);
    return status;
}

/* ---- rows --------------------------------------------------------------- */

static moe_status add_row(dataset *d, const dataset_row *row, moe_error *err)
{
    struct dataset_memory *m = d->memory;
    if (d->n_rows == m->room) {
        int room = m->room ? m->room * 2 : 1024;
        dataset_row *larger = NULL;
        if (d->n_rows < max_rows)
            larger = realloc(d->rows, (size_t)room * sizeof *larger);
        if (!larger)
            return moe_fail(err, MOE_E_MEMORY, "%s:%d: no room for more than %d rows", d->path,
                            row->line, d->n_rows);
        d->rows = larger;
        m->room = room;
    }
    d->rows[d->n_rows++] = *row;
    d->has_labels &= row->label != NULL;
    return MOE_OK;
}

/* Moves *rest past the next line; false at the end of the bytes. The line is
 * ended by a NUL and has lost its newline and carriage return. */
static bool next_line(char **rest, const char *end, text_line *line)
{
    if (*rest >= end)
        return false;
    char *newline = memchr(*rest, '\n', (size_t)(end - *rest));
    char *stop = newline ? newline : (char *)end;
    line->at = *rest;
    line->number++;
    *rest = stop + 1;
    if (stop > line->at && stop[-1] == '\r')
        stop--;
    *stop = 0;
    line->n = (size_t)(stop - line->at);
    return true;
}

static moe_status read_jsonl(dataset *d, char *bytes, int limit, moe_error *err)
{
    const char *end = d->memory->bytes + d->memory->n;
    text_line line = {0};
    moe_status status = MOE_OK;
    d->memory->rows_own = true;
    while (status == MOE_OK && d->n_rows != limit && next_line(&bytes, end, &line)) {
        dataset_row row;
        if (jsonl_blank(line.at, line.n))
            continue;
        status = jsonl_row(d->path, line.number, line.at, line.n, &row, err);
        if (status == MOE_OK)
            status = add_row(d, &row, err);
        if (status != MOE_OK)
            jsonl_row_free(&row);
    }
    return status;
}

/* ---- TSV ---------------------------------------------------------------- */

typedef struct { int n, text, pair, label; } columns; /* -1: there is none */

/* Cuts a line at its tabs; returns the number of fields, of which at most
 * MAX_COLUMNS are stored. */
static int cut_fields(char *at, char **fields)
{
    int n = 0;
    for (char *c = at; c; n++) {
        char *tab = strchr(c, '\t');
        if (n < MAX_COLUMNS)
            fields[n] = c;
        if (tab)
            *tab++ = 0;
        c = tab;
    }
    return n;
}

static int find_column(char **fields, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcmp(fields[i], name) == 0)
            return i;
    return -1;
}

static moe_status check_line(const dataset *d, const text_line *line, moe_error *err)
{
    size_t good = utf8_well_formed_bytes(line->at, line->n);
    if (good < line->n || strlen(line->at) < line->n) {
        size_t byte = good < line->n ? good : strlen(line->at);
        return moe_fail(err, MOE_E_FORMAT, "%s:%d: byte %zu is 0x%02X, expected UTF-8 text",
                        d->path, line->number, byte, (unsigned char)line->at[byte]);
    }
    return MOE_OK;
}

static moe_status read_header(const dataset *d, text_line *line, columns *out, moe_error *err)
{
    char *fields[MAX_COLUMNS], shown[61];
    moe_status status = check_line(d, line, err);
    if (status != MOE_OK)
        return status;
    snprintf(shown, sizeof shown, "%s", line->at);
    int n = cut_fields(line->at, fields);
    if (n > MAX_COLUMNS)
        return moe_fail(err, MOE_E_LIMIT, "%s:%d: %d columns, at most %d", d->path,
                        line->number, n, MAX_COLUMNS);
    *out = (columns){n, find_column(fields, n, "sentence"), -1,
                     find_column(fields, n, "label")};
    if (out->text < 0) {
        out->text = find_column(fields, n, "sentence1");
        out->pair = find_column(fields, n, "sentence2");
    }
    if (out->text < 0 || (out->pair < 0 && find_column(fields, n, "sentence") < 0))
        return moe_fail(err, MOE_E_FORMAT,
                        "%s:%d: expected a header with 'sentence', or 'sentence1' and "
                        "'sentence2', found '%s'", d->path, line->number, shown);
    return MOE_OK;
}

static moe_status tsv_row(const dataset *d, text_line *line, const columns *c,
                          dataset_row *row, moe_error *err)
{
    char *fields[MAX_COLUMNS];
    moe_status status = check_line(d, line, err);
    if (status != MOE_OK)
        return status;
    int n = cut_fields(line->at, fields);
    if (n != c->n)
        return moe_fail(err, MOE_E_FORMAT, "%s:%d: expected %d columns as in the header, found %d",
                        d->path, line->number, c->n, n);
    *row = (dataset_row){.line = line->number, .text = fields[c->text],
                         .text_bytes = strlen(fields[c->text])};
    if (c->pair >= 0) {
        row->pair = fields[c->pair];
        row->pair_bytes = strlen(row->pair);
    }
    if (c->label >= 0 && *fields[c->label] == 0)
        return moe_fail(err, MOE_E_FORMAT, "%s:%d: the label is empty", d->path, line->number);
    row->label = c->label >= 0 ? fields[c->label] : NULL;
    return MOE_OK;
}

static moe_status read_tsv(dataset *d, char *bytes, int limit, moe_error *err)
{
    const char *end = d->memory->bytes + d->memory->n;
    text_line line = {0};
    columns c = {0};
    if (!next_line(&bytes, end, &line))
        return moe_fail(err, MOE_E_FORMAT, "%s: the file is empty", d->path);
    moe_status status = read_header(d, &line, &c, err);
    while (status == MOE_OK && d->n_rows != limit && next_line(&bytes, end, &line)) {
        dataset_row row;
        if (line.n == 0)
            continue;
        status = tsv_row(d, &line, &c, &row, err);
        if (status == MOE_OK)
            status = add_row(d, &row, err);
    }
    return status;
}

/* ---- the whole ---------------------------------------------------------- */

static bool is_jsonl(const char *path, const char *bytes)
{
    size_t n = strlen(path);
    return (n >= 6 && strcmp(path + n - 6, ".jsonl") == 0) ||
           bytes[strspn(bytes, " \t\r\n")] == '{';
}

/* SQuAD's files are one object over many lines. */
static bool is_squad(const char *path, const char *bytes)
{
    size_t n = strlen(path);
    bytes += strspn(bytes, " \t\r\n");
    if (*bytes != '{' || (n >= 6 && strcmp(path + n - 6, ".jsonl") == 0))
        return false;
    bytes += 1 + strspn(bytes + 1, " \t\r\n");
    return strncmp(bytes, "\"version\"", 9) == 0 || strncmp(bytes, "\"data\"", 6) == 0;
}

static moe_status read_squad(dataset *d, const char *bytes, size_t n, int limit, moe_error *err)
{
    squad *s = &d->memory->squad;
    moe_status status = squad_read(d->path, bytes, n, limit, s, err);
    d->rows = s->rows;
    d->n_rows = s->n_rows;
    d->has_labels = false;
    d->has_answers = true;
    d->some_unanswerable = s->some_unanswerable;
    return status;
}

moe_status dataset_read(const char *path, int limit, dataset *out, moe_error *err)
{
    *out = (dataset){.path = strcmp(path, "-") ? path : "standard input", .has_labels = true};
    out->memory = calloc(1, sizeof *out->memory);
    if (!out->memory)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", path);
    moe_status status = read_file(path, out->memory, err);
    if (status == MOE_OK) {
        char *bytes = out->memory->bytes;
        bytes_sha256(bytes, out->memory->n, out->sha256);
        if (strncmp(bytes, "\xEF\xBB\xBF", 3) == 0)
            bytes += 3; /* a byte order mark is no part of the text */
        if (limit <= 0)
            limit = -1;
        size_t n = out->memory->n - (size_t)(bytes - out->memory->bytes);
        status = is_squad(path, bytes)   ? read_squad(out, bytes, n, limit, err)
                 : is_jsonl(path, bytes) ? read_jsonl(out, bytes, limit, err)
                                         : read_tsv(out, bytes, limit, err);
    }
    if (status == MOE_OK && out->n_rows == 0)
        status = moe_fail(err, MOE_E_FORMAT, "%s: no rows", out->path);
    if (status != MOE_OK)
        dataset_free(out);
    return status;
}

void dataset_free(dataset *d)
{
    for (int i = 0; d->memory && d->memory->rows_own && i < d->n_rows; i++)
        jsonl_row_free(&d->rows[i]);
    if (d->has_answers)
        squad_free(&d->memory->squad); /* the rows too */
    else
        free(d->rows);
    if (d->memory)
        free(d->memory->bytes);
    free(d->memory);
    *d = (dataset){0};
}

int dataset_label_id(const dataset_row *row, const moe_model_info *info)
{
    if (!row->label)
        return -1;
    for (int i = 0; i < info->n_labels; i++)
        if (strcmp(row->label, info->labels[i]) == 0)
            return i;
    char *end;
    errno = 0;
    long value = strtol(row->label, &end, 10);
    bool whole = !errno && end != row->label && *end == 0 && row->label[0] >= '0' &&
                 row->label[0] <= '9';
    return whole && value < info->n_labels ? (int)value : -1;
}

/* cmd_tokenize.c: moefy tokenize - shows what the model sees of a text. One text
 * (or pair) from the command line, or a stream of JSONL rows, a line each. */
#include <stdio.h>
#include <string.h>

#include "convert/cli.h"
#include "convert/json.h"
#include "convert/jsonl.h"
#include "convert/session.h"
#include "convert/table.h"

static const char usage[] =
    "moefy tokenize MODEL \"TEXT\" [\"SECOND TEXT\"]   or   moefy tokenize MODEL --input FILE\n"
    "Shows token ids, types, tokens and the code points they come from. FILE is JSONL\n"
    "(text, text_pair?; - is standard input): one JSON object a line, in order.";

typedef struct {
    const char *input, *positional[3];
    int n_positional;
    bool json;
} arguments;

static json *tokens_json(const moe_model *m, const moe_tokens *t)
{
    json *j = json_object();
    json *ids = json_add(j, "ids", json_array());
    json *types = json_add(j, "type_ids", json_array());
    json *tokens = json_add(j, "tokens", json_array());
    json *offsets = json_add(j, "offsets", json_array());
    for (int i = 0; i < t->n; i++) {
        const char *text = moe_token_text(m, t->ids[i]);
        json *span = json_add(offsets, NULL, json_array());
        json_add_int(ids, NULL, t->ids[i]);
        json_add_int(types, NULL, t->types[i]);
        json_add_string(tokens, NULL, text ? text : "");
        json_add_int(span, NULL, t->spans[i].start);
        json_add_int(span, NULL, t->spans[i].end);
    }
    json_add_int(j, "truncated", t->n_truncated);
    return j;
}

static void print_table(const moe_model *m, const moe_tokens *t)
{
    printf("%s   #      id  type   from    to  token%s\n", table_dim(), table_plain());
    for (int i = 0; i < t->n; i++) {
        const char *text = moe_token_text(m, t->ids[i]);
        printf("%4d  %6d  %4d", i, t->ids[i], t->types[i]);
        if (t->spans[i].which < 0)
            printf("      -     -  ");
        else
            printf("  %5d %5d  ", t->spans[i].start, t->spans[i].end);
        printf("%s\n", text ? text : "");
    }
    printf("\n%d tokens", t->n);
    if (t->n_truncated)
        printf(", %d cut off at the model's limit of %d", t->n_truncated,
               moe_model_describe(m)->max_tokens);
    printf("\n");
}

static moe_status print_row(const moe_model *m, const dataset_row *row, bool as_json,
                            moe_error *err)
{
    moe_tokens t;
    moe_status status = row_tokenize(m, row, true, &t, err);
    if (status != MOE_OK)
        return status;
    if (as_json)
        status = json_answer(tokens_json(m, &t), err);
    else
        print_table(m, &t);
    moe_tokens_free(&t);
    return status;
}

static moe_status print_stream(const moe_model *m, const char *path, moe_error *err)
{
    line_reader lines;
    dataset_row row;
    moe_status status = lines_open(&lines, path, err);
    if (status != MOE_OK)
        return status;
    while ((status = jsonl_next(&lines, &row, err)) == MOE_OK && row.text) {
        status = print_row(m, &row, true, err);
        jsonl_row_free(&row);
        if (status == MOE_OK && !lines_ready(&lines))
            status = cli_flush(err); /* whoever writes may be waiting for the answer */
        if (status != MOE_OK)
            break;
    }
    lines_close(&lines);
    return status;
}

static int parse(int argc, char **argv, arguments *a)
{
    *a = (arguments){0};
    const cli_option options[] = {
        {"--input", OPT_STRING, &a->input, 0, 0, "FILE", "JSONL rows instead of a text"},
        {"--json", OPT_FLAG, &a->json, 0, 0, NULL, "print one JSON object"},
        {.name = NULL},
    };
    int code = cli_parse(usage, options, argc, argv, 3, a->positional, &a->n_positional);
    if (code >= 0)
        return code;
    if (a->n_positional < 1)
        return cli_usage("tokenize: needs the directory of a model");
    if (!a->input == (a->n_positional == 1))
        return cli_usage("tokenize: needs either a text or --input FILE");
    return -1;
}

int cmd_tokenize(int argc, char **argv)
{
    arguments a;
    moe_model *m;
    moe_error err;
    int code = parse(argc, argv, &a);
    if (code >= 0)
        return code;
    if (moe_model_open(a.positional[0], &m, &err) != MOE_OK)
        return cli_failed(&err);
    moe_status status;
    if (a.input) {
        status = print_stream(m, a.input, &err);
    } else {
        const char *text = a.positional[1], *pair = a.n_positional > 2 ? a.positional[2] : NULL;
        dataset_row row = {.text = text, .text_bytes = strlen(text), .pair = pair,
                           .pair_bytes = pair ? strlen(pair) : 0};
        status = print_row(m, &row, a.json, &err);
    }
    moe_model_close(m);
    if (status == MOE_OK)
        return EXIT_DONE;
    fflush(stdout); /* the rows come before the message */
    return cli_failed(&err);
}

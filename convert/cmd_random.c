/* cmd_random.c: moefy random - a checkpoint of a known shape with random weights. */
#include <stdio.h>
#include <string.h>

#include "convert/cli.h"
#include "convert/interrupt.h"
#include "convert/json.h"
#include "convert/random.h"

static const char usage[] =
    "moefy random --shape NAME -o DIR [--seed N] [--tokenizer CHECKPOINT] [--json]\n"
    "Writes a checkpoint of that shape with random weights, in Hugging Face form and\n"
    "fp32: to try what a size costs in memory and time. Its answers mean nothing.\n"
    "DIR must not exist, or be empty.";

static moe_status write_to(const char *dir, const random_shape *shape, const char *tokenizer,
                           uint64_t seed, size_t *bytes, moe_error *err)
{
    outdir out;
    moe_status status = outdir_create(dir, OUTDIR_NEW, &out, err);
    if (status != MOE_OK)
        return status;
    status = random_write(&out, shape, tokenizer, seed, bytes, err);
    if (status == MOE_OK)
        status = interrupt_check(err);
    if (status == MOE_OK)
        status = outdir_commit(&out, err);
    outdir_close(&out);
    return status;
}

static moe_status report(const char *dir, const random_shape *shape, uint64_t seed,
                         size_t bytes, double seconds, bool as_json, moe_error *err)
{
    if (!as_json) {
        printf("%s: %s with random weights, %.1f MB, %.1f s\n", dir, shape->name,
               (double)bytes * 1e-6, seconds);
        return MOE_OK;
    }
    json *j = json_object();
    json_add_string(j, "output", dir);
    json_add_string(j, "shape", shape->name);
    json_add_int(j, "seed", (int64_t)seed);
    json_add_int(j, "weight_bytes", (int64_t)bytes);
    json_add_number(j, "seconds", seconds, 4);
    return json_answer(j, err);
}

/* NULL: wrong, and said so on stderr. */
static const random_shape *find_shape(const char *name)
{
    const char *names[16] = {NULL};
    for (int i = 0; random_shapes[i].name; i++)
        names[i] = random_shapes[i].name;
    int i = cli_choice("random", "--shape", name, names);
    return i < 0 ? NULL : &random_shapes[i];
}

int cmd_random(int argc, char **argv)
{
    const char *out = NULL, *name = NULL, *tokenizer = NULL, *none = NULL;
    int n_positional = 0;
    uint64_t seed = 0;
    bool as_json = false;
    const cli_option options[] = {
        {"--shape", OPT_STRING, &name, 0, 0, "NAME",
         "t5-mini|t5-small|t5-base|t5-large|minilm|bert-base|bert-large"},
        {"-o", OPT_STRING, &out, 0, 0, "DIR", "directory to write"},
        {"--seed", OPT_UINT64, &seed, 0, 0, "N", "of the weights (default 0)"},
        {"--tokenizer", OPT_STRING, &tokenizer, 0, 0, "CHECKPOINT",
         "whose tokenizer to take (default models/t5-mini-glue or models/minilm-sst2-relu)"},
        {"--json", OPT_FLAG, &as_json, 0, 0, NULL, "print one JSON object"},
        {.name = NULL},
    };
    const double start = cli_seconds();
    size_t bytes = 0;
    moe_error err;
    int code = cli_parse(usage, options, argc, argv, 0, &none, &n_positional);
    if (code >= 0)
        return code;
    if (!name || !out)
        return cli_usage("random needs --shape NAME and -o DIR");
    const random_shape *shape = find_shape(name);
    if (!shape)
        return EXIT_USAGE;
    interrupt_begin();
    moe_status status = write_to(out, shape, tokenizer ? tokenizer : shape->tokenizer, seed,
                                 &bytes, &err);
    if (status == MOE_OK)
        status = report(out, shape, seed, bytes, cli_seconds() - start, as_json, &err);
    code = status == MOE_OK ? EXIT_DONE : cli_failed(&err);
    interrupt_end();
    return code;
}

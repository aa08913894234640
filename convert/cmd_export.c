/* cmd_export.c: moefy export - a model back to a dense Hugging Face checkpoint. */
#include <stdio.h>
#include <stdlib.h>

#include "convert/cli.h"
#include "convert/dense.h"
#include "convert/interrupt.h"
#include "convert/json.h"
#include "convert/outdir.h"
#include "convert/write.h"

static const char usage[] =
    "moefy export MODEL -o DIR [--json]\n"
    "Writes MODEL, MoEfied or not, as a dense Hugging Face checkpoint in fp32.\n"
    "DIR must not exist, or be empty.";

static moe_status export_to(const char *dir, const moe_model *m, moe_error *err)
{
    outdir out;
    json *config = NULL;
    moe_status status = cli_refuse_classifier(&m->info, "export", err);
    if (status == MOE_OK)
        status = outdir_create(dir, OUTDIR_NEW, &out, err);
    if (status != MOE_OK)
        return status;
    status = write_read_config(m->info.dir, &config, err);
    if (status == MOE_OK)
        status = dense_write(&out, m, config, err);
    if (status == MOE_OK)
        status = interrupt_check(err);
    if (status == MOE_OK)
        status = outdir_commit(&out, err);
    json_free(config);
    outdir_close(&out);
    return status;
}

static void report(const char *dir, const moe_model *m, double seconds, bool as_json)
{
    if (as_json) {
        json *j = json_object();
        json_add_string(j, "output", dir);
        json_add_string(j, "source", m->info.dir);
        json_add_number(j, "seconds", seconds, 4);
        json_print_line(stdout, j);
        json_free(j);
    } else {
        printf("%s: dense, fp32, %.1f s\n", dir, seconds);
    }
}

int cmd_export(int argc, char **argv)
{
    const char *out = NULL, *source = NULL;
    int n_positional = 0;
    bool as_json = false;
    const cli_option options[] = {
        {"-o", OPT_STRING, &out, 0, 0, "DIR", "directory to write"},
        {"--json", OPT_FLAG, &as_json, 0, 0, NULL, "print one JSON object"},
        {.name = NULL},
    };
    const double start = cli_seconds();
    moe_model *m;
    moe_error err;
    int code = cli_parse(usage, options, argc, argv, 1, &source, &n_positional);
    if (code >= 0)
        return code;
    if (n_positional < 1 || !out)
        return cli_usage("export needs a model and -o DIR: moefy export MODEL -o DIR");
    if (moe_model_open(source, &m, &err) != MOE_OK)
        return cli_failed(&err);
    interrupt_begin();
    moe_status status = export_to(out, m, &err);
    if (status == MOE_OK)
        report(out, m, cli_seconds() - start, as_json);
    else
        code = cli_failed(&err);
    moe_model_close(m);
    interrupt_end();
    return status == MOE_OK ? EXIT_DONE : code;
}

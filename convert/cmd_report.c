/* cmd_report.c: moefy report - the figures of a model as a page: options, and a file
 * that appears whole or not at all.
 *
 * The page is written into OUT.tmp.PID beside OUT, which is made before any work
 * begins: that OUT cannot be written shows at once. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/cli.h"
#include "convert/figures.h"
#include "convert/interrupt.h"
#include "convert/report.h"
#include "convert/table.h"

static const char usage[] =
    "moefy report MODEL --data FILE -o OUT.html [options]\n"
    "Writes one HTML page of charts: how close the MoEfied MODEL stays to the dense one\n"
    "on FILE (TSV with a header, or JSONL; labels are not needed) at a grid of ratios,\n"
    "and what its neurons, experts and routers do there.";

typedef struct {
    const char *model, *data, *out;
    int n_positional, limit, threads;
    bool json;
} arguments;

/* ---- the file -------------------------------------------------------------------- */

typedef struct {
    char *path, *temp; /* temp: NULL where nothing has to be removed */
    FILE *to;
} page;

static moe_status fail_page(moe_error *err, const char *path)
{
    return moe_fail(err, MOE_E_IO, "%s: cannot be written: %s", path, strerror(errno));
}

/* A link is followed; what is there and no file (/dev/null) is not replaced. */
static moe_status page_begin(const char *out, page *p, moe_error *err)
{
    struct stat st;
    *p = (page){.path = realpath(out, NULL)};
    if (!p->path)
        p->path = strdup(out);
    if (!p->path)
        return moe_fail(err, MOE_E_MEMORY, "%s: no memory to write it", out);
    if (stat(p->path, &st) == 0 && !S_ISREG(st.st_mode))
        return moe_fail(err, MOE_E_IO, "%s: is there and not a file", out);
    if (asprintf(&p->temp, "%s.tmp.%ld", p->path, (long)getpid()) < 0) {
        p->temp = NULL;
        return moe_fail(err, MOE_E_MEMORY, "%s: no memory to write it", out);
    }
    const int fd = open(p->temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd >= 0)
        p->to = fdopen(fd, "w");
    if (p->to)
        return MOE_OK;
    const moe_status status = fail_page(err, out);
    if (fd >= 0)
        close(fd);
    return status;
}

static moe_status page_commit(page *p, moe_error *err)
{
    errno = 0;
    const bool written = fflush(p->to) == 0 && !ferror(p->to) && fsync(fileno(p->to)) == 0;
    if (!written || rename(p->temp, p->path) != 0)
        return fail_page(err, p->path);
    free(p->temp);
    p->temp = NULL;
    return MOE_OK;
}

/* Removes what was not committed. */
static void page_end(page *p)
{
    if (p->to)
        fclose(p->to);
    if (p->temp && p->to)
        unlink(p->temp);
    free(p->temp);
    free(p->path);
}

/* ---- the command ------------------------------------------------------------------ */

/* Where captured rows may lie: beside the page, or in $TMPDIR. */
static char *spool_place(const page *p)
{
    const char *temp = getenv("TMPDIR");
    char *copy = strdup(p->path ? p->path : temp && *temp ? temp : "/tmp"), *dir = NULL;
    if (copy)
        dir = strdup(p->path ? dirname(copy) : copy);
    free(copy);
    return dir;
}

static moe_status write_page(const arguments *a, page *p, const figures *f, moe_error *err)
{
    struct stat st;
    char size[32];
    if (!report_write(p->to, f))
        return moe_fail(err, MOE_E_MEMORY, "%s: no memory to write it", a->out);
    moe_status status = page_commit(p, err);
    if (status != MOE_OK || a->json)
        return status;
    table_bytes(fstat(fileno(p->to), &st) == 0 ? (size_t)st.st_size : 0, size, sizeof size);
    printf("%s: %s, %d rows of %s; open it in a browser\n", a->out, size, f->n_rows, a->data);
    return MOE_OK;
}

static moe_status make(const arguments *a, session *s, page *p, moe_error *err)
{
    dataset d;
    figures f;
    char *spool = spool_place(p);
    moe_status status = spool ? dataset_read(a->data, a->limit, &d, err)
                              : moe_fail(err, MOE_E_MEMORY, "no memory for a path");
    if (status == MOE_OK) {
        status = figures_make(s, &d, spool, &f, err);
        if (status == MOE_OK && p->to)
            status = write_page(a, p, &f, err);
        if (status == MOE_OK && a->json)
            status = json_answer(figures_json(&f), err);
        figures_free(&f);
        dataset_free(&d);
    }
    free(spool);
    return status;
}

static int parse(int argc, char **argv, arguments *a)
{
    *a = (arguments){.model = NULL};
    const cli_option options[] = {
        {"--data", OPT_STRING, &a->data, 0, 0, "FILE", "text; - is standard input"},
        {"-o", OPT_STRING, &a->out, 0, 0, "OUT", "the page to write; optional with --json"},
        {"--limit", OPT_INT, &a->limit, 1, INT32_MAX, "N", "use the first N rows only"},
        {"--threads", OPT_INT, &a->threads, 0, 1024, "N",
         "compute threads (default: all that this process may use)"},
        {"--json", OPT_FLAG, &a->json, 0, 0, NULL, "print the figures as one JSON object"},
        {.name = NULL},
    };
    int code = cli_parse(usage, options, argc, argv, 1, &a->model, &a->n_positional);
    if (code >= 0)
        return code;
    if (a->n_positional < 1)
        return cli_usage("report: needs the directory of a model");
    if (!a->data)
        return cli_usage("report: needs --data FILE, text");
    if (!a->out && !a->json)
        return cli_usage("report: needs -o OUT.html, the page to write, or --json");
    return -1;
}

int cmd_report(int argc, char **argv)
{
    arguments a;
    session s;
    page p = {.path = NULL};
    moe_error err;
    int code = parse(argc, argv, &a);
    if (code >= 0)
        return code;
    if (session_open(&s, a.model, MOE_BACKEND_AUTO, a.threads, &err) != MOE_OK)
        return cli_failed(&err);
    interrupt_begin();
    moe_status status = cli_refuse_text(s.info, "report", &err);
    if (status == MOE_OK)
        status = figures_check(s.info, &err);
    if (status == MOE_OK && a.out)
        status = page_begin(a.out, &p, &err);
    if (status == MOE_OK)
        status = make(&a, &s, &p, &err);
    code = status == MOE_OK ? EXIT_DONE : cli_failed(&err);
    page_end(&p);
    session_close(&s);
    interrupt_end();
    return code;
}

/* resume.c: pieces as files: magic, key, the parts' sizes, the parts. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/resume.h"
#include "engine/model/pack.h"

enum { MAX_PARTS = 16 };
static const char magic[8] = "moepiec1";
static const char suffix[] = ".piece", beside_suffix[] = ".piece.tmp";

static char *path_of(const resume *r, const char *name, const char *ending)
{
    char *path;
    return asprintf(&path, "%s/%s%s", r->dir, name, ending) < 0 ? NULL : path;
}

static bool read_exactly(FILE *f, void *bytes, size_t n)
{
    return fread(bytes, 1, n, f) == n;
}

static bool read_piece(FILE *f, const resume *r, const resume_part *parts, int n)
{
    char start[sizeof magic], key[64];
    uint64_t size;
    if (!read_exactly(f, start, sizeof start) || memcmp(start, magic, sizeof magic) ||
        !read_exactly(f, key, sizeof key) || memcmp(key, r->key, sizeof key))
        return false;
    for (int i = 0; i < n; i++)
        if (!read_exactly(f, &size, sizeof size) || size != parts[i].n)
            return false;
    for (int i = 0; i < n; i++)
        if (!read_exactly(f, parts[i].bytes, parts[i].n))
            return false;
    return fgetc(f) == EOF;
}

bool resume_find(resume *r, const char *name, const resume_part *parts, int n)
{
    char *path = path_of(r, name, suffix);
    FILE *f = path ? fopen(path, "rb") : NULL;
    free(path);
    if (!f)
        return false;
    const bool found = read_piece(f, r, parts, n);
    fclose(f);
    r->n_found += found;
    return found;
}

static bool write_piece(FILE *f, const resume *r, const resume_part *parts, int n)
{
    bool ok = fwrite(magic, 1, sizeof magic, f) == sizeof magic &&
              fwrite(r->key, 1, 64, f) == 64;
    for (int i = 0; ok && i < n; i++) {
        const uint64_t size = parts[i].n;
        ok = fwrite(&size, 1, sizeof size, f) == sizeof size;
    }
    for (int i = 0; ok && i < n; i++)
        ok = fwrite(parts[i].bytes, 1, parts[i].n, f) == parts[i].n;
    return ok && fflush(f) == 0 && fsync(fileno(f)) == 0;
}

moe_status resume_keep(const resume *r, const char *name, const resume_part *parts, int n,
                       moe_error *err)
{
    char *path = path_of(r, name, suffix), *beside = path_of(r, name, beside_suffix);
    moe_status status = MOE_OK;
    FILE *f = NULL;
    if (!path || !beside) {
        status = moe_fail(err, MOE_E_MEMORY, "%s: no memory to keep %s", r->dir, name);
    } else if ((mkdir(r->dir, 0777) != 0 && errno != EEXIST) ||
               !(f = fopen(beside, "wb"))) {
        status = moe_fail(err, MOE_E_IO, "%s: cannot keep finished layers: %s", r->dir,
                          strerror(errno));
    } else {
        bool ok = write_piece(f, r, parts, n);
        ok = fclose(f) == 0 && ok && rename(beside, path) == 0;
        if (!ok) {
            status = moe_fail(err, MOE_E_IO, "%s: cannot be written: %s", path,
                              strerror(errno));
            unlink(beside);
        }
    }
    free(path);
    free(beside);
    return status;
}

static bool ends_in(const char *name, const char *ending)
{
    const size_t n = strlen(name), m = strlen(ending);
    return n > m && !strcmp(name + n - m, ending);
}

void resume_clear(const resume *r)
{
    DIR *d = opendir(r->dir);
    if (!d)
        return;
    for (struct dirent *entry; (entry = readdir(d)); )
        if (ends_in(entry->d_name, suffix) || ends_in(entry->d_name, beside_suffix))
            unlinkat(dirfd(d), entry->d_name, 0);
    closedir(d);
    rmdir(r->dir);
}

/* ---- layers -------------------------------------------------------------- */

/* A layer as plain rows, both ways between converted and a piece. */
typedef struct {
    layer_report report;
    router_rows shape;   /* the numbers only */
    router_rows router;
    int32_t *neurons;
    float *frequency;
    resume_part parts[MAX_PARTS];
    int n_parts;
} layer_piece;

static void piece_free(layer_piece *p)
{
    router_rows_free(&p->router);
    free(p->neurons);
    free(p->frequency);
}

static void add_part(layer_piece *p, void *bytes, size_t n)
{
    p->parts[p->n_parts++] = (resume_part){bytes, n};
}

static bool piece_alloc(layer_piece *p, const moe_ffn *f, const router_rows *shape,
                        float *scores, size_t n_scores)
{
    const size_t experts = (size_t)f->n_experts, d = (size_t)f->d;
    const size_t first = shape->n_linears == 2 ? (size_t)shape->n_hidden : experts;
    p->neurons = malloc(experts * MOE_EXPERT_SIZE * sizeof *p->neurons);
    p->frequency = malloc(experts * sizeof *p->frequency);
    if (router_rows_alloc(shape->n_linears, f->d, shape->n_hidden, f->n_experts, &p->router,
                          NULL) != MOE_OK || !p->neurons || !p->frequency)
        return false;
    p->router.normalize = shape->normalize;
    add_part(p, &p->report, sizeof p->report);
    add_part(p, p->neurons, experts * MOE_EXPERT_SIZE * sizeof *p->neurons);
    add_part(p, p->frequency, experts * sizeof *p->frequency);
    add_part(p, p->router.first, first * d * sizeof(float));
    add_part(p, p->router.first_bias, first * sizeof(float));
    if (shape->n_linears == 2) {
        add_part(p, p->router.second, experts * first * sizeof(float));
        add_part(p, p->router.second_bias, experts * sizeof(float));
    }
    add_part(p, scores, n_scores * sizeof *scores);
    return true;
}

static void name_of(char name[64], int stage, int layer, const char *what)
{
    snprintf(name, 64, "layer-%d-%s-%s", layer, stage == 0 ? "dense" : "sparse", what);
}

/* The shape of a router is a piece of its own: the others' sizes follow from it. */
typedef struct { int32_t normalize, n_linears, n_hidden; } router_shape;

bool resume_find_layer(resume *r, int stage, int layer, converted *c, float *scores,
                       size_t n_scores)
{
    const moe_ffn *f = &c->model.weights.layers[layer].ffn;
    char name[64];
    router_shape shape;
    layer_piece p = {.n_parts = 0};
    name_of(name, stage, layer, "shape");
    const int before = r->n_found;
    if (!resume_find(r, name, &(resume_part){&shape, sizeof shape}, 1))
        return false;
    r->n_found = before;
    const router_rows rows = {.normalize = shape.normalize, .n_linears = shape.n_linears,
                              .n_hidden = shape.n_hidden};
    name_of(name, stage, layer, "rows");
    bool found = piece_alloc(&p, f, &rows, scores, n_scores) &&
                 resume_find(r, name, p.parts, p.n_parts) &&
                 converted_put_split(c, layer, p.neurons, p.frequency, NULL) == MOE_OK &&
                 converted_put_router(c, layer, &p.router, NULL) == MOE_OK;
    if (found)
        c->layers[layer] = p.report;
    piece_free(&p);
    return found;
}

moe_status resume_keep_layer(const resume *r, int stage, int layer, const converted *c,
                             const float *scores, size_t n_scores, moe_error *err)
{
    const moe_layer *from = &c->model.weights.layers[layer];
    const moe_router *router = &from->router;
    const bool two = router->n_linears == 2;
    const router_rows rows = {.normalize = router->normalize,
                              .n_linears = router->n_linears,
                              .n_hidden = two ? router->first.n : 0};
    router_shape shape = {rows.normalize, rows.n_linears, rows.n_hidden};
    layer_piece p = {.report = c->layers[layer]};
    char name[64];
    moe_status status = MOE_OK;
    if (!piece_alloc(&p, &from->ffn, &rows, (float *)(uintptr_t)scores, n_scores)) {
        status = moe_fail(err, MOE_E_MEMORY, "no memory to keep layer %d", layer);
    } else {
        memcpy(p.neurons, from->ffn.neurons, p.parts[1].n);
        memcpy(p.frequency, router->frequency, p.parts[2].n);
        unpack_linear(&router->first, p.router.first);
        memcpy(p.router.first_bias, router->first.b, p.parts[4].n);
        if (two) {
            unpack_linear(&router->second, p.router.second);
            memcpy(p.router.second_bias, router->second.b, p.parts[6].n);
        }
        name_of(name, stage, layer, "rows");
        status = resume_keep(r, name, p.parts, p.n_parts, err);
        name_of(name, stage, layer, "shape");
        if (status == MOE_OK)
            status = resume_keep(r, name, &(resume_part){&shape, sizeof shape}, 1, err);
    }
    piece_free(&p);
    return status;
}

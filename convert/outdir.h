/* outdir.h: a directory that appears whole or not at all.
 *
 * Files are written into OUT.tmp.PID beside OUT and synced; commit renames it to
 * OUT. An OUT that exists must be empty, or, where `replace` allows it, a MoEfied
 * directory with nothing in it but what moefy writes: it is exchanged in one
 * step. Any other OUT is refused before work begins. What killed processes left beside
 * it goes when the next one begins. One thread. */
#ifndef CONVERT_OUTDIR_H
#define CONVERT_OUTDIR_H

#include "engine/moe.h"

typedef struct {
    char *path;    /* OUT, symbolic links of its directory resolved */
    char *temp;    /* OUT.tmp.PID; NULL once committed or abandoned */
    bool replace;
    int lock;      /* of temp, held while we live; -1: none */
} outdir;

typedef enum { OUTDIR_NEW, OUTDIR_MAY_REPLACE } outdir_policy;

/* Checks OUT, removes OUT.tmp.* that no process holds, makes the temporary directory. */
moe_status outdir_create(const char *out, outdir_policy policy, outdir *o,
                         moe_error *err);
/* The path of a file in the temporary directory; free() it. NULL: no memory. */
char *outdir_file(const outdir *o, const char *name);
moe_status outdir_write(const outdir *o, const char *name, const char *bytes, size_t n,
                        moe_error *err);
/* Copies the file `name` of directory `from`; none there is no failure. */
moe_status outdir_copy(const outdir *o, const char *from, const char *name,
                       moe_error *err);
moe_status outdir_commit(outdir *o, moe_error *err);
/* Removes what was not committed and frees o; after a commit only frees. */
void outdir_close(outdir *o);

/* Reads a whole file of at most max_bytes; *bytes ends in a NUL not counted in *n
 * and is the caller's. */
moe_status outdir_read_file(const char *path, size_t max_bytes, char **bytes, size_t *n,
                            moe_error *err);

#endif

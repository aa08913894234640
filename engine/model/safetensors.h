/* safetensors.h: the tensors of a checkpoint, mapped and checked, not copied.
 *
 * A checkpoint is DIR/model.safetensors, or the shards that
 * DIR/model.safetensors.index.json names. After a successful open every tensor
 * lies whole within its mapped file, overlaps no other, and its size is its
 * shape times its dtype. The contents are not looked at. Immutable: any thread. */
#ifndef MOE_MODEL_SAFETENSORS_H
#define MOE_MODEL_SAFETENSORS_H

#include "engine/model/weights.h"

enum { ST_MAX_DIMS = 8 };

typedef struct {
    const char *name;
    const char *path;      /* of the file that it lies in, for messages */
    moe_dtype dtype;
    int n_dims;            /* 0: a scalar */
    int64_t dims[ST_MAX_DIMS];
    size_t bytes;
    const void *data;      /* aligned to its dtype only if the file is: see
                              st_is_aligned */
} st_tensor;

typedef struct safetensors safetensors;

/* Maps and checks every file. MOE_E_IO, _FORMAT, _UNSUPPORTED (a dtype that we
 * have no name for), _MEMORY; messages name file and tensor. */
moe_status safetensors_open(const char *dir, safetensors **out, moe_error *err);
void safetensors_close(safetensors *s);
/* NULL if there is none. */
const st_tensor *safetensors_find(const safetensors *s, const char *name);
/* Gives the pages read so far back; the next look at a tensor reads its file again. For
 * files that have been copied and are hardly looked at from then on. */
void safetensors_drop_pages(const safetensors *s);
/* Bytes of all mapped files. */
size_t safetensors_bytes(const safetensors *s);

bool st_is_aligned(const st_tensor *t);
/* Shape as "[2, 384]", for messages; returns text. */
const char *st_shape_text(const int64_t *dims, int n_dims, char *text, size_t size);

/* ---- the header alone, for the fuzzer and the tests -------------------- */

typedef struct {
    int n;
    st_tensor *tensors;    /* [n] by offset; data is NULL, path as given */
    size_t *offset;        /* [n] from the start of the file */
    char *names;           /* all names, behind each other */
} st_header;

/* Checks a file of file_bytes bytes that starts with head[0 .. head_bytes):
 * all of it, or at least 8 bytes and the header. */
moe_status st_header_parse(const char *path, const void *head, size_t head_bytes,
                           size_t file_bytes, st_header *out, moe_error *err);
void st_header_free(st_header *h);

#endif

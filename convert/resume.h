/* resume.h: finished pieces of a conversion, kept beside OUT until it is whole, so that
 * one that was killed goes on where it was when the same command runs again.
 *
 * A piece is a file DIR/NAME that starts with the conversion's key: whatever the result
 * depends on, hashed. Pieces of another key, or cut short, are not there. They are
 * written beside, synced and renamed. One thread. */
#ifndef CONVERT_RESUME_H
#define CONVERT_RESUME_H

#include "convert/converted.h"

typedef struct {
    const char *dir;  /* made when the first piece is kept */
    char key[65];
    int n_found;      /* pieces read so far */
} resume;

/* Bytes of a piece; n is part of what must agree. */
typedef struct { void *bytes; size_t n; } resume_part;

/* Reads or keeps a piece of n parts. find: false where it is not there; what the parts
 * hold is then of no use. */
bool resume_find(resume *r, const char *name, const resume_part *parts, int n);
moe_status resume_keep(const resume *r, const char *name, const resume_part *parts, int n,
                       moe_error *err);
/* Removes every piece and the directory, if it holds nothing else. */
void resume_clear(const resume *r);

/* A layer's split and router as put into c, its report and the scores [n_scores] of its
 * router; stage: 0 before, 1 after the fit to the sparse model. find puts them into c. */
bool resume_find_layer(resume *r, int stage, int layer, converted *c, float *scores,
                       size_t n_scores);
moe_status resume_keep_layer(const resume *r, int stage, int layer, const converted *c,
                             const float *scores, size_t n_scores, moe_error *err);

#endif

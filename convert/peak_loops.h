/* peak_loops.h: the loops that peak.c runs on every thread. */
#ifndef CONVERT_PEAK_LOOPS_H
#define CONVERT_PEAK_LOOPS_H

#include "convert/peak.h"

typedef struct {
    const char *isa, *dtype;
    double operations;        /* of one call of rounds; a multiply-add is two */
    bool (*supported)(void);  /* NULL: not in this build */
    float (*rounds)(void);    /* some microseconds; the value keeps the loop alive */
} peak_loop;

extern const peak_loop peak_loops[PEAK_N];

#endif

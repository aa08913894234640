/* interrupt.h: Ctrl-C while something is half written.
 *
 * Between begin and end, SIGINT, SIGTERM and SIGHUP only raise a flag; long
 * loops ask interrupt_check and unwind like any failure, so that temporary files
 * go. end then lets the signal do what it would have done. */
#ifndef CONVERT_INTERRUPT_H
#define CONVERT_INTERRUPT_H

#include "engine/moe.h"

void interrupt_begin(void);
/* MOE_OK, or MOE_E_IO where a signal has arrived. Any thread. */
moe_status interrupt_check(moe_error *err);
/* Restores the signals' former actions and raises the one that arrived. */
void interrupt_end(void);

#endif

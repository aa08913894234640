/* listen.h: a bound socket from "ADDR:PORT". */
#ifndef SERVER_LISTEN_H
#define SERVER_LISTEN_H

#include "engine/moe.h"

enum { LISTEN_TEXT = 128 };

/* Binds (without listening yet) to ADDR:PORT, [ADDR6]:PORT or NAME:PORT; port
 * 0 takes a free one. *fd is the caller's; address: what was bound, as text.
 * MOE_E_ARGUMENT: not an address. MOE_E_IO: the system refused. */
moe_status listen_bind(const char *where, int *fd, char address[LISTEN_TEXT], moe_error *err);

#endif

/* routes.h: from method and path to a handler. */
#ifndef SERVER_ROUTES_H
#define SERVER_ROUTES_H

#include "server/server.h"

/* The callbacks that http.h wants, with the server as their ctx. */
http_handlers routes_handlers(server *s);

#endif

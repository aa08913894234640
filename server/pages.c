/* pages.c: GET /openapi.json, the API's description in OpenAPI 3.1, and GET /docs, a page
 * that shows it. Both files are part of the program; the page fetches nothing else. */
#include "server/server.h"

/* The files' bytes, put into the read-only data by the assembler. */
#define EMBED(name, file)                                                               \
    __asm__(".section .rodata\n" #name ": .incbin \"" file "\"\n" #name "_end: .byte 0\n"  \
            ".previous\n");                                                             \
    extern const char name[] __asm__(#name), name##_end[] __asm__(#name "_end")

EMBED(page_openapi, MOE_OPENAPI_JSON);
EMBED(page_docs, MOE_DOCS_HTML);

static void answer_page(server *s, http_exchange *x, const char *type, const char *from,
                        const char *end)
{
    buffer b = {0};
    buffer_add(&b, from, (size_t)(end - from));
    answer_text(s, x, 200, type, &b);
}

void handle_openapi(server *s, http_exchange *x, request_state *r)
{
    (void)r;
    answer_page(s, x, "application/json", page_openapi, page_openapi_end);
}

void handle_docs(server *s, http_exchange *x, request_state *r)
{
    (void)r;
    answer_page(s, x, "text/html; charset=utf-8", page_docs, page_docs_end);
}

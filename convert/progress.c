/* progress.c: one line on stderr that says how far a long stage is, drawn only
 * on a terminal and at most ten times a second. One thread. */
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "convert/cli.h"

enum { BAR_WIDTH = 24 };
static const int64_t redraw_ns = 100000000;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

double cli_seconds(void)
{
    return (double)now_ns() * 1e-9;
}

void progress_begin(progress *p, const char *label, int64_t total)
{
    *p = (progress){.label = label, .total = total, .start_ns = now_ns(),
                    .on = isatty(STDERR_FILENO)};
}

static void draw(const progress *p, int64_t done, const char *note)
{
    char bar[BAR_WIDTH + 1];
    double share = p->total > 0 ? (double)done / (double)p->total : 0;
    share = share < 0 ? 0 : share > 1 ? 1 : share;
    int filled = (int)(share * BAR_WIDTH + 0.5);
    for (int i = 0; i < BAR_WIDTH; i++)
        bar[i] = i < filled ? '=' : ' ';
    bar[BAR_WIDTH] = 0;
    fprintf(stderr, "\r\033[K%s [%s] %3d%%  %.1f s%s%s", p->label, bar,
            (int)(share * 100), (double)(p->last_ns - p->start_ns) * 1e-9,
            note ? "  " : "", note ? note : "");
    fflush(stderr);
}

void progress_update(progress *p, int64_t done, const char *note)
{
    int64_t now = p->on ? now_ns() : 0;
    if (!p->on || now - p->last_ns < redraw_ns)
        return;
    p->last_ns = now;
    draw(p, done, note);
}

void progress_end(progress *p)
{
    if (p->on && p->last_ns) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
}

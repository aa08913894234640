/* interrupt.c: one flag that a signal handler may set: the only state of its
 * kind in moefy, for a handler can reach nothing else. */
#include <signal.h>

#include "convert/interrupt.h"

enum { N_SIGNALS = 3 };
static const int signals[N_SIGNALS] = {SIGINT, SIGTERM, SIGHUP};

static volatile sig_atomic_t arrived;
static struct sigaction former[N_SIGNALS];

static void note_signal(int number)
{
    arrived = number;
}

void interrupt_begin(void)
{
    struct sigaction note = {.sa_handler = note_signal, .sa_flags = SA_RESTART};
    sigemptyset(&note.sa_mask);
    arrived = 0;
    for (int i = 0; i < N_SIGNALS; i++) {
        sigaction(signals[i], NULL, &former[i]);
        /* nohup's wish stays: a signal that was ignored stays so. */
        if (former[i].sa_handler != SIG_IGN)
            sigaction(signals[i], &note, NULL);
    }
}

moe_status interrupt_check(moe_error *err)
{
    if (arrived)
        return moe_fail(err, MOE_E_IO, "interrupted by signal %d", (int)arrived);
    return MOE_OK;
}

void interrupt_end(void)
{
    for (int i = 0; i < N_SIGNALS; i++)
        sigaction(signals[i], &former[i], NULL);
    if (arrived)
        raise(arrived);
}

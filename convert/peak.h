/* peak.h: what the machine's multiply-add units reach when nothing else slows
 * them: the ceiling that a speed is a share of. */
#ifndef CONVERT_PEAK_H
#define CONVERT_PEAK_H

#include <stdbool.h>

typedef enum { PEAK_C, PEAK_AVX2, PEAK_AVX512, PEAK_N } peak_isa;

const char *peak_name(peak_isa isa);
bool peak_supported(peak_isa isa);
peak_isa peak_widest(void);

/* Billions of fp32 operations a second (a multiply-add is two) that n_threads
 * reach together in a loop over registers of about `seconds`. 0: a thread could
 * not be made. */
double peak_gflops(peak_isa isa, int n_threads, double seconds);

#endif

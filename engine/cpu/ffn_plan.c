/* ffn_plan.c: how a block of (token, expert) pairs, sorted by expert, is cut into tasks:
 * by rows of one expert for the hidden values, by tokens for the output. */
#include "engine/cpu/cpu.h"
#include "engine/routing/group.h"

void ffn_group(cpu_backend *b, const int32_t *bound, const int32_t *expert, int n_tokens,
               int n_experts)
{
    if (bound) {
        group_by_expert(bound, expert, n_tokens, n_experts, b->row_bound, b->row);
        return;
    }
    for (int e = 0; e <= n_experts; e++)
        b->row_bound[e] = e * n_tokens;
    for (int i = 0; i < n_experts * n_tokens; i++)
        b->row[i] = i % n_tokens;
}

int ffn_plan_hidden(cpu_backend *b, int n_experts)
{
    int n = 0;
    for (int e = 0; e < n_experts; e++) {
        int first = b->row_bound[e], rows = b->row_bound[e + 1] - first;
        int parts = cpu_ceil(rows, CPU_PAIR_ROWS);
        for (int i = 0; i < parts; i++, n++) {
            b->task_expert[n] = e;
            b->task_pair[n] = first + cpu_part(rows, parts, i);
        }
    }
    b->task_expert[n] = n_experts;
    b->task_pair[n] = b->row_bound[n_experts];
    return n;
}

/* First of an expert's pairs, which ascend by token, at or after a token. */
static int32_t find_token(const int32_t *row, int32_t low, int32_t high, int token)
{
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (row[middle] < token)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void ffn_plan_out(cpu_backend *b, int n, int n_tokens, int token_parts)
{
    for (int part = 0; part <= token_parts; part++) {
        int token = cpu_part(n_tokens, token_parts, part);
        for (int e = 0; e < n; e++)
            b->cut[(size_t)part * (size_t)n + (size_t)e] =
                find_token(b->row, b->row_bound[e], b->row_bound[e + 1], token);
    }
}

int ffn_next_expert(const int32_t *cut, const int32_t *cut_end, int e, int n_experts)
{
    do
        e++;
    while (e < n_experts && cut[e] == cut_end[e]);
    return e;
}

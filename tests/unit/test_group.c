/* group_by_expert: a stable counting sort. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "engine/routing/group.h"

static void tokens_stand_in_order_within_their_experts(void **state)
{
    (void)state;
    static const int32_t bound[] = {0, 2, 2, 5, 6}; /* the second token has none */
    static const int32_t expert[] = {1, 3, 0, 1, 3, 1};
    int32_t row_bound[6] = {[5] = -7}, row[7] = {[6] = -7};
    group_by_expert(bound, expert, 4, 4, row_bound, row);
    static const int32_t expected_bound[] = {0, 1, 4, 4, 6, -7};
    static const int32_t expected_row[] = {2, 0, 2, 3, 0, 2, -7};
    assert_memory_equal(row_bound, expected_bound, sizeof expected_bound);
    assert_memory_equal(row, expected_row, sizeof expected_row);
}

static void a_part_of_a_route_counts_tokens_from_its_start(void **state)
{
    (void)state;
    static const int32_t bound[] = {0, 2, 3, 5};
    static const int32_t expert[] = {0, 1, 1, 0, 1};
    int32_t row_bound[3], row[3];
    group_by_expert(bound + 1, expert, 2, 2, row_bound, row);
    static const int32_t expected_bound[] = {0, 1, 3}, expected_row[] = {1, 0, 1};
    assert_memory_equal(row_bound, expected_bound, sizeof expected_bound);
    assert_memory_equal(row, expected_row, sizeof expected_row);
}

static void no_tokens_leave_every_expert_empty(void **state)
{
    (void)state;
    static const int32_t bound[] = {0};
    int32_t row_bound[4] = {9, 9, 9, 9};
    group_by_expert(bound, NULL, 0, 3, row_bound, NULL);
    for (int e = 0; e <= 3; e++)
        assert_int_equal(row_bound[e], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_stand_in_order_within_their_experts),
        cmocka_unit_test(a_part_of_a_route_counts_tokens_from_its_start),
        cmocka_unit_test(no_tokens_leave_every_expert_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_server_queue.c: room, order, batches and the end of the queue. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "server/clock.h"
#include "server/queue.h"

enum { SECOND = 1000000000 };
static const batch_limits wide = {QUEUE_WINDOW, 1 << 20, 1 << 30, SECOND};

/* A job whose sequences have these lengths, reserved and pushed. */
static job *push(queue *q, int n, const int *lengths)
{
    job *j = job_create(n);
    for (int i = 0; i < n; i++) {
        j->sequences[i].tokens.n = lengths[i];
        j->n_tokens += lengths[i];
    }
    assert_true(queue_reserve(q, n, j->n_tokens));
    queue_push(q, j);
    return j;
}

static void room_is_counted_in_texts_and_tokens(void **state)
{
    queue q;
    (void)state;
    queue_init(&q, 4, 100);
    assert_true(queue_reserve(&q, 3, 0));
    assert_false(queue_reserve(&q, 2, 0)); /* a batch does not slip past */
    assert_true(queue_reserve(&q, 1, 100));
    assert_false(queue_reserve(&q, 0, 1));
    queue_release(&q, 2, 60);
    assert_true(queue_reserve(&q, 2, 60));
    assert_false(queue_reserve(&q, 1, 0));
    queue_release(&q, 4, 100);
    assert_int_equal(q.n_sequences, 0);
    assert_int_equal(q.n_tokens, 0);
    queue_destroy(&q);
}

static void a_taken_sequence_gives_its_room_back(void **state)
{
    queue q;
    sequence *batch[QUEUE_WINDOW];
    (void)state;
    queue_init(&q, 2, 20);
    job *j = push(&q, 2, (int[]){8, 12});
    assert_false(queue_reserve(&q, 1, 0));
    assert_int_equal(queue_take(&q, &(batch_limits){1, 100, 10000, SECOND}, 0, batch), 1);
    assert_int_equal(q.n_sequences, 1);
    assert_int_equal(q.n_tokens, 12);
    assert_true(queue_reserve(&q, 1, 8));
    job_free(j); /* its second sequence is never looked at again */
    queue_destroy(&q);
}

static void shorter_texts_go_first_and_equals_in_order(void **state)
{
    queue q;
    sequence *batch[QUEUE_WINDOW];
    (void)state;
    queue_init(&q, 16, 1000);
    job *a = push(&q, 3, (int[]){30, 10, 20}), *b = push(&q, 2, (int[]){10, 5});
    assert_int_equal(queue_take(&q, &wide, 0, batch), 5);
    assert_ptr_equal(batch[0], &b->sequences[1]);
    assert_ptr_equal(batch[1], &a->sequences[1]);
    assert_ptr_equal(batch[2], &b->sequences[0]);
    assert_ptr_equal(batch[3], &a->sequences[2]);
    assert_ptr_equal(batch[4], &a->sequences[0]);
    assert_false(queue_waiting(&q));
    job_free(a);
    job_free(b);
    queue_destroy(&q);
}

static void a_text_that_lost_patience_goes_before_shorter_ones(void **state)
{
    queue q;
    sequence *batch[QUEUE_WINDOW];
    (void)state;
    queue_init(&q, 16, 1000);
    job *old = push(&q, 1, (int[]){100});
    old->pushed_ns -= 2ll * SECOND;
    job *young = push(&q, 2, (int[]){5, 6});
    assert_int_equal(queue_take(&q, &(batch_limits){8, 100, 1 << 20, SECOND}, 0, batch), 1);
    assert_ptr_equal(batch[0], &old->sequences[0]);
    assert_int_equal(queue_take(&q, &wide, 0, batch), 2);
    job_free(old);
    job_free(young);
    queue_destroy(&q);
}

static void a_batch_keeps_to_its_limits_but_takes_at_least_one(void **state)
{
    queue q;
    sequence *batch[QUEUE_WINDOW];
    (void)state;
    queue_init(&q, 16, 10000);
    job *j = push(&q, 5, (int[]){10, 10, 10, 10, 500});
    assert_int_equal(queue_take(&q, &(batch_limits){8, 25, 1 << 20, SECOND}, 0, batch), 2);
    assert_int_equal(queue_take(&q, &(batch_limits){8, 1000, 150, SECOND}, 0, batch), 1);
    assert_int_equal(queue_take(&q, &(batch_limits){1, 1000, 1 << 20, SECOND}, 0, batch), 1);
    assert_int_equal(queue_take(&q, &(batch_limits){8, 25, 100, SECOND}, 0, batch), 1);
    assert_int_equal(batch[0]->tokens.n, 500);
    job_free(j);
    queue_destroy(&q);
}

static void a_dropped_job_leaves_the_others_in_line(void **state)
{
    queue q;
    sequence *batch[QUEUE_WINDOW];
    (void)state;
    queue_init(&q, 16, 1000);
    job *a = push(&q, 2, (int[]){1, 2}), *b = push(&q, 2, (int[]){3, 4}), *c = push(&q, 1, (int[]){5});
    assert_int_equal(queue_drop(&q, c), 1); /* the tail */
    assert_int_equal(queue_drop(&q, a), 2); /* the head */
    assert_int_equal(q.n_tokens, 7);
    job *d = push(&q, 1, (int[]){6});
    assert_int_equal(queue_take(&q, &wide, 0, batch), 3);
    assert_ptr_equal(batch[2], &d->sequences[0]);
    job_free(a);
    job_free(b);
    job_free(c);
    job_free(d);
    queue_destroy(&q);
}

static void late_jobs_leave_whole_and_begun_ones_stay(void **state)
{
    queue q;
    sequence *batch[QUEUE_WINDOW];
    job *late[QUEUE_WINDOW];
    (void)state;
    queue_init(&q, 16, 1000);
    job *begun = push(&q, 1, (int[]){1}), *old = push(&q, 3, (int[]){2, 3, 4});
    job *patient = push(&q, 1, (int[]){5}), *young = push(&q, 1, (int[]){6});
    begun->deadline_ns = old->deadline_ns = 1;
    begun->started_ns = 1;
    young->deadline_ns = INT64_MAX;
    assert_int_equal(queue_expire(&q, late), 1);
    assert_ptr_equal(late[0], old);
    assert_int_equal(old->outcome, JOB_LATE);
    assert_int_equal(q.n_sequences, 3);
    assert_int_equal(q.n_tokens, 12);
    assert_int_equal(queue_expire(&q, late), 0);
    assert_int_equal(queue_take(&q, &wide, 0, batch), 3);
    job_free(begun);
    job_free(old);
    job_free(patient);
    job_free(young);
    queue_destroy(&q);
}

static void taking_from_an_empty_queue_wakes_after_the_idle_time(void **state)
{
    queue q;
    sequence *batch[QUEUE_WINDOW];
    (void)state;
    queue_init(&q, 4, 100);
    int64_t begin = clock_ns();
    assert_int_equal(queue_take(&q, &wide, 20000000, batch), -1);
    assert_true(clock_ns() - begin >= 20000000);
    queue_destroy(&q);
}

static void a_closed_queue_refuses_and_hands_out_what_is_left(void **state)
{
    queue q;
    sequence *batch[QUEUE_WINDOW];
    (void)state;
    queue_init(&q, 4, 100);
    job *j = push(&q, 1, (int[]){7});
    queue_close(&q);
    assert_false(queue_reserve(&q, 1, 1));
    assert_int_equal(queue_take(&q, &wide, 0, batch), 1);
    assert_int_equal(queue_take(&q, &wide, 0, batch), 0);
    job_free(j);
    queue_destroy(&q);
}

/* ---- many threads ------------------------------------------------------ */

enum { PRODUCERS = 4, JOBS = 500 };
typedef struct { queue *q; int refused; } producer;

static void *produce(void *arg)
{
    producer *p = arg;
    for (int i = 0; i < JOBS; i++) {
        job *j = job_create(3);
        for (int k = 0; k < 3; k++)
            j->sequences[k].tokens.n = 1 + (i + k) % 9;
        int tokens = j->sequences[0].tokens.n + j->sequences[1].tokens.n + j->sequences[2].tokens.n;
        while (!queue_reserve(p->q, 3, tokens)) {
            p->refused++;
            usleep(50);
        }
        queue_push(p->q, j);
    }
    return NULL;
}

static void nothing_is_lost_between_threads(void **state)
{
    queue q;
    sequence *batch[QUEUE_WINDOW];
    pthread_t threads[PRODUCERS];
    producer producers[PRODUCERS];
    int taken = 0;
    (void)state;
    queue_init(&q, 40, 200);
    for (int i = 0; i < PRODUCERS; i++) {
        producers[i] = (producer){&q, 0};
        pthread_create(&threads[i], NULL, produce, &producers[i]);
    }
    while (taken < PRODUCERS * JOBS * 3) {
        int n = queue_take(&q, &(batch_limits){16, 64, 4096, SECOND}, 0, batch);
        assert_true(n > 0);
        for (int i = 0; i < n; i++)
            if (--batch[i]->owner->n_left == 0)
                job_free(batch[i]->owner);
        taken += n;
    }
    for (int i = 0; i < PRODUCERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(q.n_sequences, 0);
    assert_int_equal(q.n_tokens, 0);
    queue_destroy(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(room_is_counted_in_texts_and_tokens),
        cmocka_unit_test(a_taken_sequence_gives_its_room_back),
        cmocka_unit_test(shorter_texts_go_first_and_equals_in_order),
        cmocka_unit_test(a_text_that_lost_patience_goes_before_shorter_ones),
        cmocka_unit_test(a_batch_keeps_to_its_limits_but_takes_at_least_one),
        cmocka_unit_test(a_dropped_job_leaves_the_others_in_line),
        cmocka_unit_test(late_jobs_leave_whole_and_begun_ones_stay),
        cmocka_unit_test(taking_from_an_empty_queue_wakes_after_the_idle_time),
        cmocka_unit_test(a_closed_queue_refuses_and_hands_out_what_is_left),
        cmocka_unit_test(nothing_is_lost_between_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations give the same bits on any number of threads, and when several threads call at once.  The threads are
 * plain ones that take tasks as they come, so that ThreadSanitizer sees every one of them:
 *
 *     python tests/c/run.py --cc clang --flags "-fsanitize=thread -g1 -O1" --arch none --only test_team
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "normcpu.h"

enum { N = 4, C = 40, H = 96, W = 96, COUNT = N * C * H * W, MAX_THREADS = 4, CALLERS = 3 };

/* ---- A threading layer ---- */

typedef struct {
    ncpu_body body;
    void *context;
    ptrdiff_t tasks;
    _Atomic(ptrdiff_t) next;
} job;

static atomic_int regions;

static void *work(void *argument)
{
    job *j = argument;
    for (ptrdiff_t task; (task = atomic_fetch_add(&j->next, 1)) < j->tasks;) j->body(j->context, task);
    return NULL;
}

static void parallel_for(ptrdiff_t tasks, int threads, ncpu_body body, void *context)
{
    job j = {.body = body, .context = context, .tasks = tasks};
    pthread_t helpers[MAX_THREADS];
    for (int i = 1; i < threads; i++)
        if (pthread_create(&helpers[i], NULL, work, &j)) abort();
    work(&j);
    for (int i = 1; i < threads; i++) pthread_join(helpers[i], NULL);
    atomic_fetch_add(&regions, 1);
}

static int max_threads(void) { return MAX_THREADS; }
static const ncpu_threading layer = {"test", parallel_for, max_threads};

/* ---- What is compared ---- */

typedef struct {
    double batch_mean[C], batch_var[C], moments[4][C];
    float running_mean[C], running_var[C], dweight[C], dbias[C];
    float y[COUNT], dx[COUNT];
} results;

static float x[COUNT], dy[COUNT];

static void check(ncpu_status status)
{
    if (status == NCPU_OK) return;
    printf("status %d\n", (int)status);
    exit(1);
}

/* Everything that runs on the team, over x (n, c, h, w) of either memory order. */
static results *compute(int channels_last)
{
    static const ptrdiff_t shape[4] = {N, C, H, W}, first[4] = {C * H * W * 4, H * W * 4, W * 4, 4},
                           last[4] = {C * H * W * 4, 4, W * C * 4, C * 4};
    static const uint8_t reduce[4] = {1, 0, 1, 1};
    const ptrdiff_t *strides = channels_last ? last : first;
    results *r = calloc(1, sizeof *r);
    if (!r) abort();
    for (int j = 0; j < C; j++) r->running_var[j] = 1;
    const ncpu_array ax = {x, NCPU_F32, 4, shape, strides}, ady = {dy, NCPU_F32, 4, shape, strides};
    const ncpu_array ay = {r->y, NCPU_F32, 4, shape, strides}, adx = {r->dx, NCPU_F32, 4, shape, strides};
    ncpu_running running = {.mean = r->running_mean, .var = r->running_var, .momentum = 0.1};
    const ncpu_epilogue relu = {.activation = NCPU_RELU};
    const ncpu_moments_state state = {r->moments[0], r->moments[1], r->moments[2], r->moments[3]};
    check(ncpu_batch_norm_train(&ax, 1, NULL, NULL, 1e-5, &relu, &ay, r->batch_mean, r->batch_var, &running));
    check(ncpu_batch_norm_backward(&ady, &ax, 1, NULL, r->batch_mean, r->batch_var, 1e-5, 1, NCPU_RELU, &ay, NULL, &adx,
                                   NULL, r->dweight, r->dbias));
    check(ncpu_batch_norm(&ax, 1, r->running_mean, r->running_var, NULL, NULL, 1e-5, NULL, &ay));
    check(ncpu_moments(&ax, reduce, &state));
    return r;
}

static void compare(const results *serial, int channels_last, const char *who)
{
    results *r = compute(channels_last);
    if (memcmp(r, serial, sizeof *r)) {
        printf("%s: other bits than one thread, channels %s\n", who, channels_last ? "last" : "first");
        exit(1);
    }
    free(r);
}

static const results *expected[2];

static void *caller(void *unused)
{
    (void)unused;
    for (int last = 0; last < 2; last++) compare(expected[last], last, "several callers");
    return NULL;
}

int main(void)
{
    uint32_t random = 1;
    for (int i = 0; i < COUNT; i++) {
        x[i] = (float)((random = random * 1664525u + 1013904223u) >> 8) * 0x1p-24f + 3;
        dy[i] = (float)((random = random * 1664525u + 1013904223u) >> 8) * 0x1p-24f - 0.5f;
    }
    for (int last = 0; last < 2; last++) expected[last] = compute(last);

    ncpu_set_threading(&layer);
    for (int threads = 1; threads <= MAX_THREADS; threads++) {
        char who[32];
        snprintf(who, sizeof who, "%d threads", threads);
        ncpu_set_num_threads(threads);
        for (int last = 0; last < 2; last++) compare(expected[last], last, who);
    }
    pthread_t callers[CALLERS];
    for (int i = 0; i < CALLERS; i++)
        if (pthread_create(&callers[i], NULL, caller, NULL)) abort();
    for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], NULL);

    printf("team: the same bits on 1 to %d threads and from %d callers, %d regions\n", MAX_THREADS, CALLERS, regions);
    for (int last = 0; last < 2; last++) free((void *)(uintptr_t)expected[last]);
    return regions == 0;
}

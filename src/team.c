/* SPDX-License-Identifier: Apache-2.0 */

#define _POSIX_C_SOURCE 200809L
#include "team.h"

#include <stdlib.h>
#include <time.h>

enum { MAX_THREADS = 1024, COST_SLOTS = 11 }; /* costs are cached per power of two */

static _Atomic(const ncpu_threading *) layer;
static atomic_int wanted;          /* by ncpu_set_num_threads; 0: NORMCPU_NUM_THREADS, or else the runtime's choice */
static atomic_flag taken = ATOMIC_FLAG_INIT; /* one operation has the team; others run serially meanwhile */
static _Atomic(double) costs[COST_SLOTS]; /* seconds; 0: not measured yet */
static atomic_llong measured[COST_SLOTS];  /* when, in ns */
static _Atomic(int (*)(void)) interrupt_check;

static long long now_ns(void)
{
    struct timespec t;
#ifdef CLOCK_MONOTONIC
    clock_gettime(CLOCK_MONOTONIC, &t);
#else
    timespec_get(&t, TIME_UTC); /* all that C11 has */
#endif
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

void ncpu_set_threading(const ncpu_threading *threading) { atomic_store(&layer, threading); }
void ncpu_set_num_threads(int threads) { atomic_store(&wanted, threads < 0 ? 0 : threads); }
void ncpu_set_interrupt_check(int (*check)(void)) { atomic_store(&interrupt_check, check); }

#ifdef NCPU_HAVE_OPENMP /* a library with omp.c in it has the layer before main, or when it is loaded */
const ncpu_threading *ncpu_openmp(void);
__attribute__((constructor)) static void use_openmp(void) { ncpu_set_threading(ncpu_openmp()); }
#endif

const char *ncpu_threading_name(void)
{
    const ncpu_threading *threading = atomic_load(&layer);
    return threading ? threading->name : "serial";
}

/* NORMCPU_NUM_THREADS as it was at the first call; 0 where it is no positive number. */
static int from_environment(void)
{
    static atomic_int known = -1;
    int threads = atomic_load_explicit(&known, memory_order_relaxed);
    if (threads < 0) {
        const char *text = getenv("NORMCPU_NUM_THREADS");
        const long value = text ? strtol(text, NULL, 10) : 0;
        threads = value > 0 && value <= MAX_THREADS ? (int)value : 0;
        atomic_store_explicit(&known, threads, memory_order_relaxed);
    }
    return threads;
}

int ncpu_get_num_threads(void)
{
    const ncpu_threading *threading = atomic_load(&layer);
    if (!threading) return 1;
    const int set = atomic_load(&wanted), limit = set ? set : from_environment(), available = limit ? limit : threading->max_threads();
    return available < 1 ? 1 : available > MAX_THREADS ? MAX_THREADS : available;
}

static void nothing(void *context, ptrdiff_t task) { (void)context, (void)task; }

/* The least of a few regions: the first ones start threads, and a busy machine only ever adds.  For the same reason a
 * cost is measured again after a second, at a tenth of the price, and the least of all is kept: a process that starts in
 * a busy moment must not stay serial for ever. */
double ncpu_region_cost(int threads)
{
    const ncpu_threading *threading = atomic_load(&layer);
    if (!threading || threads < 2) return 0;
    int slot = 0;
    while (1 << slot < threads && slot < COST_SLOTS - 1) slot++;
    double cost = atomic_load_explicit(&costs[slot], memory_order_relaxed);
    const long long began = now_ns();
    if (cost != 0 && began - atomic_load_explicit(&measured[slot], memory_order_relaxed) < 1000000000LL) return cost;
    for (int i = cost == 0 ? 0 : 13; i < 15; i++) {
        const long long start = now_ns();
        threading->parallel_for(threads, threads, nothing, NULL);
        const double took = (double)(now_ns() - start + 1) * 1e-9;
        if (cost == 0 || took < cost) cost = took;
    }
    atomic_store(&costs[slot], cost);
    atomic_store(&measured[slot], now_ns());
    return cost;
}

/* A thread moves about 20 GB/s while the others do too; less than 10 us of that is never worth a region, and
 * the saving must be four times what a region costs at best, since on a busy machine it costs far more. */
void ncpu_team_begin(ncpu_team *team, double bytes)
{
    const double serial = bytes / 20e9;
    atomic_init(&team->status, NCPU_OK);
    atomic_init(&team->next_check, 0);
    team->threads = 1, team->holds_team = 0;
    if (serial < 10e-6) return;
    const ncpu_threading *threading = atomic_load(&layer);
    if (!threading) return;
    int threads = ncpu_get_num_threads();
    if (threads < 2 || threading->max_threads() < 2) return;
    if (atomic_flag_test_and_set(&taken)) return;
    team->holds_team = 1;
    while (threads > 1 && serial - serial / threads < 4 * ncpu_region_cost(threads)) threads /= 2;
    team->threads = threads;
}

ncpu_status ncpu_team_end(ncpu_team *team)
{
    if (team->holds_team) atomic_flag_clear(&taken);
    return (ncpu_status)atomic_load(&team->status);
}

void ncpu_team_fail(ncpu_team *team, ncpu_status status)
{
    int none = NCPU_OK;
    atomic_compare_exchange_strong(&team->status, &none, (int)status);
}

static _Thread_local ncpu_team *calling; /* the operation that this thread called, if any */

int ncpu_team_stopped(ncpu_team *team)
{
    int (*check)(void) = atomic_load_explicit(&interrupt_check, memory_order_relaxed);
    if (check && calling == team) { /* only the calling thread may ask */
        const long long now = now_ns();
        const long long next = atomic_load_explicit(&team->next_check, memory_order_relaxed);
        if (now >= next) {
            if (next && check()) ncpu_team_fail(team, NCPU_ERROR_INTERRUPTED);
            atomic_store_explicit(&team->next_check, now + 50000000LL, memory_order_relaxed);
        }
    }
    return atomic_load_explicit(&team->status, memory_order_relaxed) != NCPU_OK;
}

void ncpu_team_run(ncpu_team *team, ptrdiff_t tasks, ncpu_body body, void *context)
{
    ncpu_team *outer = calling;
    calling = team;
    if (team->threads > 1 && tasks > 1) {
        const ncpu_threading *threading = atomic_load(&layer);
        threading->parallel_for(tasks, team->threads, body, context);
    } else {
        for (ptrdiff_t task = 0; task < tasks; task++) body(context, task);
    }
    calling = outer;
}

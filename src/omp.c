/* SPDX-License-Identifier: Apache-2.0
 * The only OpenMP in the tree: a threading layer for ncpu_set_threading. */

#define _GNU_SOURCE /* dladdr */
#include <dlfcn.h>
#include <omp.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

#include "normcpu.h"

const ncpu_threading *ncpu_openmp(void);
const char *ncpu_openmp_runtime(void);

static void parallel_for(ptrdiff_t tasks, int threads, ncpu_body body, void *context)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (ptrdiff_t task = 0; task < tasks; task++)
        body(context, task);
}

/* Asked anew each time, so that omp_set_num_threads and threadpoolctl are honoured.  Inside a region of the
 * caller's own a second team would only share its cores. */
static int max_threads(void)
{
    if (omp_in_parallel())
        return 1;
    int threads = omp_get_max_threads(), limit = omp_get_thread_limit();
    return threads < limit ? threads : limit;
}

/* The file that the OpenMP runtime was loaded from, "" where it cannot be told. */
const char *ncpu_openmp_runtime(void)
{
    Dl_info info;
    int (*symbol)(void) = omp_get_max_threads;
    void *address;
    memcpy(&address, &symbol, sizeof address); /* ISO C has no cast from a function to void * */
    return dladdr(address, &info) && info.dli_fname ? info.dli_fname : "";
}

/* A child of a process whose forking thread has run a region waits forever in its first region under libgomp
 * (https://gcc.gnu.org/PR58378): the team's threads are remembered but were not forked.  Letting them go
 * before the fork cures it; the parent makes new ones when it needs them. */
static void release_team(void)
{
    if (!omp_in_parallel())
        omp_pause_resource_all(omp_pause_hard);
}

/* Only for libgomp: LLVM's runtime survives a fork, and hangs in this very call. */
static void cure_fork(void)
{
    if (strstr(ncpu_openmp_runtime(), "libgomp"))
        pthread_atfork(release_team, NULL, NULL);
}

/* The layer.  To be called once, before threads are started. */
const ncpu_threading *ncpu_openmp(void)
{
    static const ncpu_threading layer = {"openmp", parallel_for, max_threads};
    cure_fork();
    return &layer;
}

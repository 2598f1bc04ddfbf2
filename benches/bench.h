/* SPDX-License-Identifier: Apache-2.0
 *
 * What is timed together: everyone who can do something with one array enters the same list, and
 * bench.c lets them run in turn.
 */
#ifndef NORMCPU_BENCH_H
#define NORMCPU_BENCH_H

#include "normcpu.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { BENCH_MAX_NDIM = 8,
       BENCH_MAX_CONTESTANTS = 40 };

/* One array's shape, and buffers for whatever is done with it.  Each buffer has room for c rounded up to a
 * multiple of 16, as blocked layouts want. */
typedef struct {
    int ndim;
    ptrdiff_t shape[BENCH_MAX_NDIM];
    ptrdiff_t n, c, s;
    ncpu_dtype dtype;
    size_t bytes; /* of x */
    int threads;
    const ncpu_threading *threading; /* NULL: serial */
    void *x, *y, *dy, *dx;
    void *mean, *var, *weight, *bias, *dweight, *dbias; /* real (c) */
    double *batch_mean, *batch_var, *moments[4];        /* (c) each */
    double *row_mean, *row_var;                         /* (n) */
} bench_problem;

/* op: what is computed; layout: how the array lies; run(context) does it once. */
typedef struct {
    const char *who, *op, *layout;
    void (*run)(void *context);
    void *context; /* from malloc, or whatever `release` takes */
    void (*release)(void *context);
} bench_contestant;

typedef struct {
    bench_contestant entry[BENCH_MAX_CONTESTANTS];
    int count;
} bench_list;

void bench_enter(bench_list *list, bench_contestant contestant);

/* Each appends what it can run of this problem. */
void bench_enter_limits(bench_list *list, const bench_problem *problem);
void bench_enter_normcpu(bench_list *list, const bench_problem *problem);
void bench_enter_onednn(bench_list *list, const bench_problem *problem);

/* The loops of limit.c, over a multiple of 256 bytes.  `plain` writes through the cache, `stream` past it. */
typedef struct {
    void (*read)(const char *a, size_t bytes);
    void (*read2)(const char *a, const char *b, size_t bytes);
    void (*copy_plain)(char *y, const char *a, size_t bytes);
    void (*copy_prefetch)(char *y, const char *a, size_t bytes);
    void (*copy_stream)(char *y, const char *a, size_t bytes);
    void (*triad_plain)(char *y, const char *a, const char *b, size_t bytes);
    void (*triad_stream)(char *y, const char *a, const char *b, size_t bytes);
} bench_loops;

#ifdef __cplusplus
}
#endif
#endif

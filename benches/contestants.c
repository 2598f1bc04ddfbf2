/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory limit and normcpu itself, as contestants.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

static bench_list *put(bench_list *list, const char *who, const char *op, const char *layout,
                       void (*run)(void *), const void *context, size_t size)
{
    void *copy = malloc(size);
    memcpy(copy, context, size);
    bench_enter(list, (bench_contestant){who, op, layout, run, copy, free});
    return list;
}

/* ---- The limit ------------------------------------------------------------------------------------ */

#if defined __x86_64__
extern const bench_loops bench_v2, bench_v3, bench_v4;
static const bench_loops *loops(void)
{
    if (__builtin_cpu_supports("avx512f")) return &bench_v4;
    if (__builtin_cpu_supports("avx2")) return &bench_v3;
    return &bench_v2;
}
#else
extern const bench_loops bench_base;
static const bench_loops *loops(void)
{
    return &bench_base;
}
#endif

typedef struct {
    const bench_problem *p;
    void (*one)(const char *, size_t);
    void (*two)(const char *, const char *, size_t);
    void (*copy)(char *, const char *, size_t);
    void (*triad)(char *, const char *, const char *, size_t);
} limit;

/* Thread `part` of p->threads: equal shares, whole cache lines. */
static void limit_part(void *context, ptrdiff_t part)
{
    const limit *l = context;
    const bench_problem *p = l->p;
    size_t share = (p->bytes / (size_t)p->threads + 255) / 256 * 256, at = share * (size_t)part;
    const char *x = (const char *)p->x + at, *dy = (const char *)p->dy + at;
    char *y = (char *)p->y + at;
    if (l->one) l->one(x, share);
    if (l->two) l->two(x, dy, share);
    if (l->copy) l->copy(y, x, share);
    if (l->triad) l->triad(y, x, dy, share);
}

static void run_limit(void *context)
{
    const limit *l = context;
    if (l->p->threads > 1 && l->p->threading)
        l->p->threading->parallel_for(l->p->threads, l->p->threads, limit_part, context);
    else
        for (int part = 0; part < l->p->threads; part++) limit_part(context, part);
}

static void copy_memcpy(char *y, const char *x, size_t bytes)
{
    memcpy(y, x, bytes);
}

void bench_enter_limits(bench_list *list, const bench_problem *p)
{
    const bench_loops *by = loops();
    const struct {
        const char *op, *layout;
        limit loop;
    } LIMITS[] = {
        {"copy", "plain", {p, .copy = by->copy_plain}},
        {"copy", "prefetch", {p, .copy = by->copy_prefetch}},
        {"copy", "stream", {p, .copy = by->copy_stream}},
        {"copy", "memcpy", {p, .copy = copy_memcpy}},
        {"read", "plain", {p, .one = by->read}},
        {"read2", "plain", {p, .two = by->read2}},
        {"triad", "plain", {p, .triad = by->triad_plain}},
        {"triad", "stream", {p, .triad = by->triad_stream}},
    };
    for (size_t i = 0; i < sizeof LIMITS / sizeof *LIMITS; i++)
        put(list, "limit", LIMITS[i].op, LIMITS[i].layout, run_limit, &LIMITS[i].loop, sizeof(limit));
}

/* ---- normcpu -------------------------------------------------------------------------------------- */

typedef struct view view;
struct view {
    const bench_problem *p;
    ncpu_status (*call)(view *);
    ptrdiff_t strides[BENCH_MAX_NDIM];
    ncpu_running running;
};

static ncpu_array array(const view *v, void *data)
{
    return (ncpu_array){data, v->p->dtype, v->p->ndim, v->p->shape, v->strides};
}

static const double EPS = 1e-5;

static ncpu_status eval(view *v)
{
    const bench_problem *p = v->p;
    ncpu_array x = array(v, p->x), y = array(v, p->y);
    return ncpu_batch_norm(&x, 1, p->mean, p->var, p->weight, p->bias, EPS, NULL, &y);
}

static ncpu_status train(view *v)
{
    const bench_problem *p = v->p;
    ncpu_array x = array(v, p->x), y = array(v, p->y);
    return ncpu_batch_norm_train(&x, 1, p->weight, p->bias, EPS, NULL, &y, p->batch_mean, p->batch_var,
                                 &v->running);
}

static ncpu_status backward(view *v)
{
    const bench_problem *p = v->p;
    ncpu_array x = array(v, p->x), dy = array(v, p->dy), dx = array(v, p->dx);
    return ncpu_batch_norm_backward(&dy, &x, 1, p->weight, p->batch_mean, p->batch_var, EPS, 1, NCPU_NONE,
                                    NULL, NULL, &dx, NULL, p->dweight, p->dbias);
}

static ncpu_status moments(view *v)
{
    const bench_problem *p = v->p;
    uint8_t reduce[BENCH_MAX_NDIM];
    for (int axis = 0; axis < p->ndim; axis++) reduce[axis] = axis != 1;
    ncpu_array x = array(v, p->x);
    ncpu_moments_state state = {p->moments[0], p->moments[1], p->moments[2], p->moments[3]};
    return ncpu_moments(&x, reduce, &state);
}

static ncpu_status scale_shift(view *v)
{
    const bench_problem *p = v->p;
    ncpu_array x = array(v, p->x), y = array(v, p->y);
    return ncpu_scale_shift(&x, 1, NULL, p->weight, p->bias, NULL, &y);
}

/* x as weights, factors along axis 1. */
static ncpu_status scale_axis(view *v)
{
    const bench_problem *p = v->p;
    ncpu_array x = array(v, p->x), y = array(v, p->y);
    return ncpu_scale_axis(&x, 1, p->batch_var, &y, p->moments[0]);
}

/* ---- Rows: problems of two axes, normalized over the second ---- */

static const uint8_t LAST[2] = {0, 1};

static ncpu_status layer_norm(view *v)
{
    const bench_problem *p = v->p;
    const ncpu_row_norm norm = {.axes = LAST, .weight = p->weight, .bias = p->bias, .eps = EPS};
    ncpu_array x = array(v, p->x), y = array(v, p->y);
    return ncpu_layer_norm(&x, &norm, NULL, NULL, NULL, NULL, &y, NULL, NULL);
}

static ncpu_status rms_norm(view *v)
{
    const bench_problem *p = v->p;
    const ncpu_row_norm norm = {.axes = LAST, .rms = 1, .weight = p->weight, .eps = EPS};
    ncpu_array x = array(v, p->x), y = array(v, p->y);
    return ncpu_layer_norm(&x, &norm, NULL, NULL, NULL, NULL, &y, NULL, NULL);
}

static ncpu_status add_layer_norm(view *v)
{
    const bench_problem *p = v->p;
    const ncpu_row_norm norm = {.axes = LAST, .weight = p->weight, .bias = p->bias, .eps = EPS};
    ncpu_array x = array(v, p->x), added = array(v, p->dy), sum = array(v, p->dx), y = array(v, p->y);
    return ncpu_layer_norm(&x, &norm, &added, &sum, NULL, NULL, &y, NULL, NULL);
}

static ncpu_status layer_norm_int8(view *v)
{
    const bench_problem *p = v->p;
    const ncpu_row_norm norm = {.axes = LAST, .weight = p->weight, .bias = p->bias, .eps = EPS};
    const ncpu_quantization quantization = {.scale = 0.02f, .zero_point = 3};
    const ptrdiff_t strides[2] = {p->c, 1};
    ncpu_array x = array(v, p->x), y = {p->y, NCPU_I8, 2, p->shape, strides};
    return ncpu_layer_norm(&x, &norm, NULL, NULL, NULL, &quantization, &y, NULL, NULL);
}

static ncpu_status layer_norm_backward(view *v)
{
    const bench_problem *p = v->p;
    const ncpu_row_norm norm = {.axes = LAST, .weight = p->weight, .eps = EPS};
    ncpu_array x = array(v, p->x), dy = array(v, p->dy), dx = array(v, p->dx);
    return ncpu_layer_norm_backward(&dy, &x, &norm, p->row_mean, p->row_var, NCPU_NONE, NULL, NULL, NULL, &dx, NULL,
                                    p->dweight, p->dbias);
}

static void run_view(void *context)
{
    view *v = context;
    v->call(v);
}

/* `first` is channel-major, `last` the same axes with the channels innermost in memory. */
void bench_enter_normcpu(bench_list *list, const bench_problem *p)
{
    static const struct {
        const char *op;
        ncpu_status (*call)(view *);
        int rows; /* of two axes alone */
    } OPS[] = {
        {"eval", eval, 0},
        {"train", train, 0}, /* leaves the statistics that backward takes */
        {"backward", backward, 0},
        {"moments", moments, 0},
        {"scale_shift", scale_shift, 0},
        {"scale_axis", scale_axis, 0},
        {"layer_norm", layer_norm, 1},
        {"rms_norm", rms_norm, 1},
        {"add_layer_norm", add_layer_norm, 1},
        {"layer_norm int8", layer_norm_int8, 1},
        {"layer_norm backward", layer_norm_backward, 1},
    };
    static const ptrdiff_t SIZES[] = {4, 8, 2, 2};
    for (int last = 0; last <= (p->s > 1); last++)
        for (size_t i = 0; i < sizeof OPS / sizeof *OPS; i++) {
            if (OPS[i].rows && (p->ndim != 2 || last)) continue;
            if (OPS[i].call == layer_norm_int8 && p->dtype == NCPU_F64) continue;
            view v = {.p = p, .call = OPS[i].call};
            v.running = (ncpu_running){.mean = p->mean, .var = p->var, .momentum = 0.1};
            ptrdiff_t stride = SIZES[p->dtype] * (last ? p->c : 1);
            for (int axis = p->ndim - 1; axis >= 2; axis--) {
                v.strides[axis] = stride;
                stride *= p->shape[axis];
            }
            v.strides[1] = last ? SIZES[p->dtype] : stride;
            v.strides[0] = SIZES[p->dtype] * p->c * p->s;
            ncpu_status status = v.call(&v);
            if (status == NCPU_OK)
                put(list, "normcpu", OPS[i].op, last ? "last" : "first", run_view, &v, sizeof v);
            else
                fprintf(stderr, "bench: normcpu %s returned %d\n", OPS[i].op, status);
        }
}

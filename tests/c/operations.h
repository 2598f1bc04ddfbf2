/* SPDX-License-Identifier: Apache-2.0
 *
 * Every operation on every kind of view, for tests that look at more than numbers: all that a call may write is one
 * struct, so that two runs are compared with memcmp. */
#ifndef OPERATIONS_H
#define OPERATIONS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "normcpu.h"

enum { MOST = 200000,
       MOST_CHANNELS = 2400,
       MOST_SAMPLES = 64 };

/* x (n, c, s) with the channels on `axis`; backwards: the last axis has a negative stride, so tiles are copies. */
typedef struct {
    ptrdiff_t shape[3];
    int axis, backwards;
} problem;

static const problem problems[] = {
    {{4, 6, 8000}, 1, 0},
    {{2, 3, 30000}, 1, 1},
    {{1, 1, 200000}, 1, 0},
    {{1, 2, 90000}, 1, 1},
    {{64, 40, 70}, 1, 0},
    {{30, 130, 49}, 1, 1},
    {{1, 2400, 80}, 1, 0},
    {{1, 5000, 40}, 2, 0},
    {{1, 5000, 37}, 2, 1},
    {{2, 100, 1000}, 2, 0},
    {{200000, 1, 1}, 1, 0},
    {{3, 5, 7}, 1, 0},
};
static const ncpu_dtype dtypes[] = {NCPU_F32, NCPU_F64, NCPU_BF16};

/* All calls are tried; where a second argument says that it is slow here, one of so many of them. */
static inline int is_tried(size_t call, int argc, char **argv)
{
    return argc < 3 || call % strtoul(argv[2], NULL, 10) == 0;
}

typedef struct {
    double y[MOST], dresidual[MOST], mean[MOST_CHANNELS], var[MOST_CHANNELS], tails[2 * MOST_CHANNELS];
    double dweight[MOST_CHANNELS], dbias[MOST_CHANNELS];
    uint8_t mask[MOST];
    int skipped;
} results;

typedef struct {
    double mean[MOST_CHANNELS], var[MOST_CHANNELS];
} buffers;

static double input[2][MOST], vectors[2][MOST_CHANNELS], statistics[2][MOST_CHANNELS];
static double row_mean[MOST], row_var[MOST], group_var[MOST];
static results made;
static buffers running;

/* Thirds, so that no sum is exact; bf16 is the upper half of a float. */
static void put(void *array, size_t i, ncpu_dtype dtype, int value)
{
    const double whole = value / 3.0;
    const float single = (float)whole;
    if (dtype == NCPU_F64) memcpy((char *)array + 8 * i, &whole, 8);
    else if (dtype == NCPU_F32) memcpy((char *)array + 4 * i, &single, 4);
    else {
        uint32_t bits;
        memcpy(&bits, &single, 4);
        const uint16_t upper = (uint16_t)(bits >> 16);
        memcpy((char *)array + 2 * i, &upper, 2);
    }
}

static ncpu_dtype real_of(ncpu_dtype dtype) { return dtype == NCPU_F64 ? NCPU_F64 : NCPU_F32; }

static void prepare(ncpu_dtype dtype)
{
    uint32_t random = 1;
    for (size_t i = 0; i < MOST; i++)
        for (int k = 0; k < 2; k++) {
            random = random * 1664525u + 1013904223u;
            put(input[k], i, dtype, (int)(random >> 25) - 50);
        }
    for (size_t i = 0; i < MOST; i++) row_mean[i] = (double)(i % 9) / 3, row_var[i] = 1000.0 + (double)i;
    for (size_t i = 0; i < MOST_CHANNELS; i++) {
        put(vectors[0], i, real_of(dtype), (int)(i % 7) - 3);
        put(vectors[1], i, real_of(dtype), (int)(i % 5) - 2);
        put(running.mean, i, real_of(dtype), (int)(i % 3));
        put(running.var, i, real_of(dtype), (int)(i % 4) + 1);
        statistics[0][i] = (double)(i % 9) / 3, statistics[1][i] = 1000.0 + (double)i;
    }
}

typedef struct {
    const problem *p;
    ncpu_dtype dtype;
    ptrdiff_t strides[3];
    ncpu_array x, dy, y, dresidual;
} call;

static ncpu_array array_in(const call *c, void *memory)
{
    static const ptrdiff_t sizes[] = {4, 8, 2, 2};
    const ptrdiff_t last = c->p->backwards ? (c->p->shape[2] - 1) * sizes[c->dtype] : 0;
    return (ncpu_array){(char *)memory + last, c->dtype, 3, c->p->shape, c->strides};
}

static void describe(call *c, const problem *p, ncpu_dtype dtype)
{
    static const ptrdiff_t sizes[] = {4, 8, 2, 2};
    *c = (call){.p = p, .dtype = dtype};
    c->strides[2] = p->backwards ? -sizes[dtype] : sizes[dtype];
    c->strides[1] = p->shape[2] * sizes[dtype];
    c->strides[0] = p->shape[1] * c->strides[1];
    c->x = array_in(c, input[0]), c->dy = array_in(c, input[1]);
    c->y = array_in(c, made.y), c->dresidual = array_in(c, made.dresidual);
}

static ncpu_status eval(const call *c)
{
    ncpu_epilogue after = {.activation = NCPU_RELU, .residual = &c->dy, .mask = made.mask};
    return ncpu_batch_norm(&c->x, c->p->axis, running.mean, running.var, vectors[0], vectors[1], 1e-5, &after, &c->y);
}

static ncpu_status train(const call *c)
{
    ncpu_running update = {running.mean, running.var, 0.125, 0, NCPU_SKIP, 0};
    ncpu_epilogue after = {.activation = NCPU_LEAKY_RELU, .negative_slope = 0.5};
    ncpu_status status = ncpu_batch_norm_train(&c->x, c->p->axis, vectors[0], vectors[1], 1e-5, &after, &c->y,
                                               made.mean, made.var, &update);
    made.skipped = update.skipped;
    return status;
}

static ncpu_status gradients(const call *c, int training)
{
    return ncpu_batch_norm_backward(&c->dy, &c->x, c->p->axis, vectors[0], statistics[0], statistics[1], 1e-5, training,
                                    NCPU_RELU, &c->x, NULL, &c->y, &c->dresidual, made.dweight, made.dbias);
}
static ncpu_status backward(const call *c) { return gradients(c, 1); }
static ncpu_status backward_frozen(const call *c) { return gradients(c, 0); }

static ncpu_status moments_over(const call *c, int axis)
{
    uint8_t reduce[3] = {1, 1, 1};
    const ncpu_moments_state state = {made.mean, made.tails, made.var, made.tails + MOST_CHANNELS};
    if (axis >= 0 && c->p->shape[axis] <= MOST_CHANNELS) reduce[axis] = 0;
    return ncpu_moments(&c->x, reduce, &state);
}
static ncpu_status moments_of_channels(const call *c) { return moments_over(c, c->p->axis); }
static ncpu_status moments_of_first(const call *c) { return moments_over(c, 0); }
static ncpu_status moments_of_all(const call *c) { return moments_over(c, -1); }

static ncpu_status scale_shift(const call *c)
{
    return ncpu_scale_shift(&c->x, c->p->axis, NULL, vectors[0], vectors[1], NULL, &c->y);
}

/* The factors lie where the statistics do, the largest products where mean and var go. */
static ncpu_status scale_axis(const call *c)
{
    return ncpu_scale_axis(&c->x, c->p->axis, statistics[0], &c->y, made.mean);
}
static ncpu_status scale_axis_in_place(const call *c)
{
    const ncpu_status status = scale_axis(c);
    return status ? status : ncpu_scale_axis(&c->y, c->p->axis, statistics[1], &c->y, made.var);
}

#include "operations_family.h"

static const struct {
    const char *name;
    ncpu_status (*run)(const call *);
} operations[] = {
    {"eval", eval},
    {"train", train},
    {"backward", backward},
    {"backward frozen", backward_frozen},
    {"moments of channels", moments_of_channels},
    {"moments of the first axis", moments_of_first},
    {"moments of all", moments_of_all},
    {"group_norm", group_norm},
    {"group_norm masked", group_norm_masked},
    {"group_norm backward", group_norm_backward},
    {"group_norm backward masked", group_norm_backward_masked},
    {"scale_shift", scale_shift},
    {"scale_axis", scale_axis},
    {"scale_axis in place", scale_axis_in_place},
    {"add_layer_norm", add_layer_norm},
    {"rms_norm", rms_norm},
    {"layer_norm int8", layer_norm_int8},
    {"layer_norm backward", layer_norm_backward},
    {"layer_norm masked", layer_norm_masked},
    {"rms_norm backward", rms_norm_backward},
    {"layer_norm backward masked", layer_norm_backward_masked},
    {"local_response_norm", local_response_norm},
    {"local_response_norm backward", local_response_norm_backward},
    {"dropout", dropout},
    {"dropout in place", dropout_in_place},
    {"alpha dropout", alpha_dropout},
    {"dropout of channels", dropout_of_channels},
    {"dropout backward", dropout_backward},
};
enum { OPERATIONS = sizeof operations / sizeof *operations,
       PROBLEMS = sizeof problems / sizeof *problems };

/* Runs from the same state of everything. */
static inline ncpu_status run(size_t operation, const call *c)
{
    memset(&made, 0, sizeof made);
    prepare(c->dtype);
    return operations[operation].run(c);
}

static inline void print_case(size_t operation, const problem *p, ncpu_dtype dtype)
{
    printf("%s, dtype %d, (%td, %td, %td) on axis %d%s: ", operations[operation].name, (int)dtype, p->shape[0],
           p->shape[1], p->shape[2], p->axis, p->backwards ? " backwards" : "");
}

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * Stores past the cache, which operations use on arrays too large for a test: every instruction set, dtype, width and
 * place of the output within a cache line gives the bits that ordinary stores give, and nothing beside them. */
#include <stdio.h>

#include "sizes.h"
#include "view.h"

enum { ROWS = 5, MOST = ROWS * 200, ROOM = 8 * MOST + 256 };

static const ncpu_dtype dtypes[] = {NCPU_F32, NCPU_F64, NCPU_F16, NCPU_BF16};
static const size_t sizes[] = {4, 8, 2, 2}, widths[] = {1, 15, 31, 32, 33, 47, 48, 49, 64, 80, 112, 196, 200};
static _Alignas(64) uint8_t x[ROOM], dy[ROOM], residual[ROOM], plain[ROOM], streamed[ROOM], values[4][4096];

/* Numbers between a quarter and two, of either sign: their upper byte says so, in every dtype. */
static void draw(uint8_t *bytes, size_t count, ncpu_dtype dtype, unsigned *state)
{
    const size_t size = sizes[dtype];
    for (size_t i = 0; i < count * size; i++) {
        *state = *state * 1664525u + 1013904223u;
        bytes[i] = (uint8_t)(*state >> 24);
        if (i % size == size - 1) bytes[i] = (uint8_t)((bytes[i] & 0x80) | (dtype == NCPU_F16 ? 0x38 : 0x3f));
    }
}

typedef void (*writer)(const ncpu_kernel_set *, ncpu_dtype, size_t len, void *y, int stream);

static void apply(const ncpu_kernel_set *set, size_t len, size_t flat, const void *added, void *y, int stream)
{
    const ptrdiff_t stride = (ptrdiff_t)len;
    ncpu_apply_args a = {.rows = ROWS, .len = len, .x = x, .residual = added, .y = y, .x_stride = stride,
                         .residual_stride = stride, .y_stride = stride, .center = values[0], .scale = values[1],
                         .shift = values[2], .step = 1, .stream = stream, .flat = flat,
                         .activation = added ? NCPU_RELU : NCPU_NONE};
    (flat ? set->apply_cols : set->apply_runs)(&a);
}

static void gradient(const ncpu_kernel_set *set, size_t len, size_t flat, void *dx, int stream)
{
    const ptrdiff_t stride = (ptrdiff_t)len;
    ncpu_grad_apply_args a = {.rows = ROWS, .len = len, .g = {.dy = dy, .dy_stride = stride}, .x = x, .dx = dx,
                              .x_stride = stride, .dx_stride = stride, .center = values[0], .slope = values[1],
                              .curve = values[2], .offset = values[3], .step = 1, .stream = stream, .flat = flat};
    (flat ? set->grad_apply_cols : set->grad_apply_runs)(&a);
}

static void runs(const ncpu_kernel_set *set, ncpu_dtype d, size_t len, void *y, int stream)
{ (void)d, apply(set, len, 0, NULL, y, stream); }
static void runs_added(const ncpu_kernel_set *set, ncpu_dtype d, size_t len, void *y, int stream)
{ (void)d, apply(set, len, 0, residual, y, stream); }
static void runs_gradient(const ncpu_kernel_set *set, ncpu_dtype d, size_t len, void *y, int stream)
{ (void)d, gradient(set, len, 0, y, stream); }

/* Columns: parameters with a period, and NCPU_WRAP entries more. */
static size_t period(ncpu_dtype d, size_t len)
{
    for (int i = 0; i < 4; i++) ncpu_repeat(values[i], ncpu_real_size(d), len, NCPU_WRAP);
    return ROWS * len;
}
static void cols(const ncpu_kernel_set *set, ncpu_dtype d, size_t len, void *y, int stream)
{ if (len >= NCPU_WRAP) apply(set, len, period(d, len), NULL, y, stream); }
static void cols_added(const ncpu_kernel_set *set, ncpu_dtype d, size_t len, void *y, int stream)
{ if (len >= NCPU_WRAP) apply(set, len, period(d, len), residual, y, stream); }
static void cols_gradient(const ncpu_kernel_set *set, ncpu_dtype d, size_t len, void *y, int stream)
{ if (len >= NCPU_WRAP) gradient(set, len, period(d, len), y, stream); }

static const struct { const char *name; writer write; } writers[] = {
    {"apply_runs", runs}, {"apply_runs with a residual", runs_added}, {"grad_apply_runs", runs_gradient},
    {"apply_cols", cols}, {"apply_cols with a residual", cols_added}, {"grad_apply_cols", cols_gradient},
};

int main(void)
{
    int failed = 0;
    for (const char *const *isa = ncpu_isas_built(); *isa; isa++) {
        if (ncpu_use_isa(*isa) != NCPU_OK) continue; /* not on this CPU */
        for (size_t d = 0; d < 4; d++)
            for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
                const size_t len = widths[w], bytes = ROWS * len * sizes[d];
                unsigned state = (unsigned)(d * 1000 + w);
                draw(x, ROWS * len, dtypes[d], &state), draw(dy, ROWS * len, dtypes[d], &state);
                draw(residual, ROWS * len, dtypes[d], &state);
                for (int i = 0; i < 4; i++) draw(values[i], 256, d == 1 ? NCPU_F64 : NCPU_F32, &state);
                for (size_t o = 0; o < sizeof writers / sizeof *writers; o++)
                    for (size_t at = 0; at < 64; at += sizes[d]) {
                        const ncpu_kernel_set *set = &ncpu_kernels_in_use()->set[dtypes[d]];
                        memset(plain, 0xa5, sizeof plain), memset(streamed, 0xa5, sizeof streamed);
                        writers[o].write(set, dtypes[d], len, plain + 64 + at, 0);
                        writers[o].write(set, dtypes[d], len, streamed + 64 + at, 1);
                        if (!memcmp(plain, streamed, bytes + 192)) continue;
                        printf("%s, %s, dtype %zu, width %zu, %zu bytes into a line: other bits\n", *isa,
                               writers[o].name, d, len, at);
                        failed++;
                    }
            }
    }
    return failed != 0;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of inner loops.  A kernel cannot fail, allocate or thread.  Two views of a tile of the tensor:
 *
 *     runs   rows of `len` contiguous elements that belong to one channel each
 *     cols   rows of `len` contiguous channels
 *
 * Strides are in elements.  Parameter arrays ("real": float, or double for f64 and wide sets) and the double
 * arrays of statistics are padded to a multiple of NCPU_PAD entries, so that kernels may load and store
 * whole vectors of them.
 */
#ifndef NCPU_KERNELS_H
#define NCPU_KERNELS_H

#include <string.h>

#include "normcpu.h"

enum { NCPU_PAD = 16, NCPU_WRAP = 64 };
/* Where the sums of a block start from: a float, of 12 bits where the data has no more, so that differences of 16-bit data
 * from it are exact; a double for f64. */
static inline double ncpu_start(double x, size_t size)
{
    if (size == 8) return x;
    float start = (float)x;
    if (size == 2) {
        uint32_t bits;
        memcpy(&bits, &start, sizeof bits);
        bits &= 0xfffff000;
        memcpy(&start, &bits, sizeof bits);
    }
    return start;
}

enum { NCPU_BLOCK = 4096 }; /* elements of one channel that are summed before they meet the others in double */

/* x (channels, rows, len), or for cols x (rows, len) with channels == 1. */
typedef struct {
    size_t channels, rows, len;
    const void *x;
    ptrdiff_t channel_stride, row_stride;
} ncpu_measure_args;

/* y = act((x - center) * scale + shift + residual) over (rows, len).
 * runs: row i takes its parameters from [i * step]; cols: column j from [j]. */
typedef struct {
    size_t rows, len;
    const void *x, *residual; /* residual may be NULL */
    void *y;
    uint8_t *mask; /* NULL, or one bit per element where the value before act is positive */
    ptrdiff_t x_stride, residual_stride, y_stride, mask_stride;
    const void *center, *scale, *shift; /* real */
    size_t step;
    int stream; /* write past the cache */
    size_t flat; /* cols with none or relu, without mask; not 0: that many elements follow each other in every array, and
                    the parameters, with period len >= NCPU_WRAP, go on for NCPU_WRAP entries more */
    ncpu_activation activation;
    double negative_slope;
} ncpu_apply_args;

/* The gradient that reached the normalization: g = dy where the relu passed (y or mask, or neither). */
typedef struct {
    const void *dy, *y;
    const uint8_t *mask;
    ptrdiff_t dy_stride, y_stride, mask_stride;                         /* from row to row */
    ptrdiff_t dy_channel_stride, y_channel_stride, mask_channel_stride; /* used by grad_measure_runs only */
} ncpu_grad_source;

/* dx = g * slope + (x - center) * curve + offset, and dresidual = g, over (rows, len). */
typedef struct {
    size_t rows, len;
    ncpu_grad_source g;
    const void *x; /* NULL where curve is zero */
    void *dx, *dresidual; /* each may be NULL */
    ptrdiff_t x_stride, dx_stride, dresidual_stride;
    const void *center, *slope, *curve, *offset; /* real */
    size_t step;
    int stream;
    size_t flat; /* as for apply; without mask and dresidual */
} ncpu_grad_apply_args;

/* From the sums p1 = sum(g), p2 = sum(g * (x - start)) of c channels to what grad_apply takes, and dweight. */
typedef struct {
    const double *mean, *var, *start, *p1, *p2;
    const double *shared1, *shared2; /* NULL, or what takes the place of weight * p1 and weight * p2 where channels share
                                        statistics: the sums of both over them, p2 from the mean itself */
    double eps, count;
    const void *weight; /* real of the data's dtype, or NULL */
    int training;
    void *center, *slope, *curve, *offset; /* OUT: real */
    double *dweight;                       /* OUT */
    uint8_t *outside;                      /* OUT: as for coefficients */
} ncpu_grad_coefficients;

/* y = act(((x - center) * scale + shift) * weight + bias + residual) over (rows, len): row i has center, scale and shift
 * at [i], column j weight and bias at [j]. */
typedef struct {
    size_t rows, len;
    const void *x, *residual; /* residual may be NULL */
    void *y;
    ptrdiff_t x_stride, residual_stride, y_stride;
    const void *center, *scale, *shift; /* computed in: real, or double of the wide sets */
    const void *weight, *bias;          /* real of the data's dtype, not padded, or NULL */
    int centered, shifted;              /* 0: all centers, all shifts are 0 */
    int stream;                         /* write past the cache: a fence must follow */
    ptrdiff_t ahead;                    /* also prefetch x this many elements on; 0: not */
    ncpu_activation activation;
    double negative_slope;
} ncpu_norm_args;

/* dx = dy * weight * slope + (x - center) * curve + offset + dsum over (rows, len), and of every column the sums over
 * the rows, dweight += sum(dy * ((x - center) * slope + shift)) and dbias += sum(dy). */
typedef struct {
    size_t rows, len; /* at most 16 rows where there are sums */
    const void *dy, *x, *dsum; /* dsum may be NULL */
    void *dx;                  /* NULL: the sums alone */
    ptrdiff_t dy_stride, x_stride, dsum_stride, dx_stride;
    const void *weight; /* real of the data's dtype, not padded, or NULL */
    const void *center, *slope, *curve, *offset, *shift; /* (rows), in the numbers computed in */
    int shifted;                                         /* 0: all shifts are 0 */
    double *dweight, *dbias; /* (len, padded), both or neither */
    int certain;             /* add sums whatever they are */
    void *strips;            /* scratch: 2 * (len + NCPU_PAD) of the numbers computed in */
    int stream;              /* write past the cache: rows of dx start cache lines, a fence must follow */
} ncpu_norm_grad_args;

/* y = x * factor over (rows, len), in double and rounded once; peak = max(peak, |x * factor|) before that rounding, NaN
 * where one is infinite or NaN.  runs: row i has factor and peak at [i * step]; cols: column j at [j], padded. */
typedef struct {
    size_t rows, len;
    const void *x;
    void *y; /* NULL: only look */
    ptrdiff_t x_stride, y_stride;
    const double *factor;
    double *peak; /* INOUT */
    size_t step;
    ptrdiff_t ahead; /* cols: also prefetch x this many elements on; 0: not */
    int stream; /* write past the cache */
} ncpu_scale_args;

enum { NCPU_RANDOM_BLOCK = 1024 }; /* bits that random_bits makes together */

/* Bits of blocks [first, first + blocks): 1 where a random number in [0, 1) is at least threshold / 2^64.
 * The number of place i is 0.b0 b1 b2 ...: bit k is bit i % 128 of Philox4x32-7 with the counter
 * (i / 128 modulo 2^32, i / 2^39, k, 0) and the key (seed modulo 2^32, seed / 2^32).
 * Salmon, Moraes, Dror and Shaw (2011), https://doi.org/10.1145/2063384.2063405: 7 rounds pass BigCrush. */
typedef struct {
    uint64_t seed, threshold, first;
    size_t blocks;
    uint64_t *bits;    /* OUT: (blocks, NCPU_RANDOM_BLOCK / 64) */
    /* NULL, or called some times for `elements` of what these bits are as many as: arithmetic here leaves time for loads
     * and stores there. */
    void (*meanwhile)(void *context, size_t elements);
    void *context;
} ncpu_random_args;

/* y = bit i ? x * scale + shift : other, i in [0, len).  x may be y; bits is readable for 8 bytes more. */
typedef struct {
    size_t len;
    const void *x;
    void *y;
    const uint8_t *bits;
    double scale, shift, other;
    int plain;  /* shift and other are 0 */
    int stream; /* write past the cache: a fence must follow */
} ncpu_keep_args;

/* sgd: g = gradient + decay * weight, mean = keep_mean * mean + take_mean * g, weight -= rate * mean, for nesterov
 * rate * (g + momentum * mean), without a mean rate * g.
 * adamw: mean += take_mean * (gradient - mean), square = keep_square * square + take_square * gradient^2,
 * weight = decay * weight - rate * mean / (sqrt(square) * spread + eps). */
typedef struct {
    size_t count;
    void *weight, *mean, *square;
    const void *gradient;
    int nesterov;
    double rate, decay, keep_mean, take_mean, momentum, keep_square, take_square, spread, eps;
} ncpu_step_args;

typedef struct {
    /* k[j] = mean of up to four vectors spread over channel j (runs) or of up to 32 rows (cols), as
     * ncpu_start has it. */
    void (*guess_runs)(const ncpu_measure_args *, double *k);
    void (*guess_cols)(const ncpu_measure_args *, double *k);
    /* s1[j] = sum(x - k[j]), s2[j] = sum((x - k[j])^2); k[j] is a real.  At most NCPU_BLOCK elements a channel. */
    void (*measure_runs)(const ncpu_measure_args *, const double *k, double *s1, double *s2);
    void (*measure_cols)(const ncpu_measure_args *, const double *k, double *s1, double *s2);
    void (*apply_runs)(const ncpu_apply_args *);
    void (*apply_cols)(const ncpu_apply_args *);
    /* p1[j] = sum(g), p2[j] = sum(g * (x - k[j])). */
    void (*grad_measure_runs)(const ncpu_measure_args *, const ncpu_grad_source *, const double *k, double *p1, double *p2);
    void (*grad_measure_cols)(const ncpu_measure_args *, const ncpu_grad_source *, const double *k, double *p1, double *p2);
    void (*grad_apply_runs)(const ncpu_grad_apply_args *);
    void (*grad_apply_cols)(const ncpu_grad_apply_args *);
    /* center = mean, scale = weight / sqrt(var + eps), shift = bias - (what rounding center left) * scale, as
     * reals; weight and bias are reals of the data's dtype, or NULL.  outside[j]: some of them leave the
     * normal range of real, so channel j needs the wide set. */
    void (*coefficients)(size_t c, const double *mean, const double *mean_tail, const double *var, double eps,
                         const void *weight, const void *bias, void *center, void *scale, void *shift,
                         uint8_t *outside);
    void (*grad_coefficients)(const ncpu_grad_coefficients *, size_t c);
} ncpu_kernel_set;

enum { NCPU_SHORT_ROW = 64 }; /* 16-bit rows of no more elements are summed as floats */

/* Local response normalization: a window's entries lie `stride` apart, `before` of them before its own. */
typedef struct {
    size_t before, after;
    ptrdiff_t stride;
    double share, k, beta; /* the divisor of x: (k + share * sum)^beta */
    int quarters;          /* 4 * beta where that is one of 0 to 16, else -1 */
} ncpu_window;

/* Normalization of rows. */
typedef struct {
    /* s1[i] = sum(x), s2[i] = sum(x^2) of row i.  Of the arguments no more than x. */
    void (*norm_sums)(const ncpu_norm_args *, double *s1, double *s2);
    void (*norm_rows)(const ncpu_norm_args *);
    /* The same where column j has center, scale and shift (padded) at [j], and row i weight and bias at [i]. */
    void (*norm_cols)(const ncpu_norm_args *);
    /* p1[i] = sum(dy * weight), p2[i] = sum(dy * weight * (x - k[i])) of row i.  Of its arguments no more than dy, x and
     * weight. */
    void (*norm_grad_sums)(const ncpu_norm_grad_args *, const double *k, double *p1, double *p2);
    /* 1 where a sum over rows is infinite or NaN, and not `certain` to be: nothing was added to dweight and dbias. */
    int (*norm_grad_rows)(const ncpu_norm_grad_args *);
} ncpu_row_kernels;

typedef struct {
    const char *name;
    ncpu_kernel_set set[NCPU_BF16 + 1];  /* by dtype: computes in real */
    const ncpu_kernel_set *wide;         /* the same data computed in double: ncpu_wide */
    void (*apply_runs_u8)(const ncpu_apply_args *), (*apply_cols_u8)(const ncpu_apply_args *); /* y is f32 */
    void (*apply_runs_i8)(const ncpu_apply_args *), (*apply_cols_i8)(const ncpu_apply_args *);
    void (*scale_runs[NCPU_BF16 + 1])(const ncpu_scale_args *), (*scale_cols[NCPU_BF16 + 1])(const ncpu_scale_args *);
    ncpu_row_kernels rows[NCPU_BF16 + 1]; /* 16 bits: see NCPU_SHORT_ROW; no norm_cols, nor an
        activation but relu, and maybe no gradients: then as floats */
    /* norm_rows to bytes, but of f64: see quantize.  At least NCPU_SHORT_ROW columns. */
    void (*norm_bytes[NCPU_BF16 + 1])(const ncpu_norm_args *, float scale, int zero, int low, int high);
    void (*fence)(void); /* what norm_rows and keep streamed comes before what follows */
    const ncpu_row_kernels *wide_rows; /* ncpu_wide_rows */
    void (*to_floats[NCPU_BF16 + 1])(size_t n, const void *from, float *to); /* of f16 and bf16 */
    void (*from_floats[NCPU_BF16 + 1])(size_t n, const float *from, void *to);
    void (*widen)(size_t n, const float *from, double *to);
    void (*narrow)(size_t n, const double *from, float *to);
    /* squares = x^2; x /= d^beta with d = k + share * sum(squares); dy /= d^beta and parts = dy * x / d; and of what has
     * passed the rest of the gradient: passed -= 2 * share * beta * x * sum(parts).  Whole vectors: up to 7 entries behind
     * the n are read and written too, and before and behind them there is room for whole windows. */
    void (*window_squares)(size_t n, const double *x, double *squares);
    void (*window_divide)(const ncpu_window *, size_t n, const double *squares, double *x);
    void (*window_parts)(const ncpu_window *, size_t n, const double *squares, const double *x, double *dy, double *parts);
    void (*window_gradient)(const ncpu_window *, size_t n, const double *parts, const double *x, double *passed);
    void (*random_bits)(const ncpu_random_args *);
    void (*keep[NCPU_BF16 + 1])(const ncpu_keep_args *);
    void (*sgd[NCPU_F64 + 1])(const ncpu_step_args *), (*adamw[NCPU_F64 + 1])(const ncpu_step_args *);
    /* out: mean = k + s1/count, m2 = s2 - s1^2/count.  rejected[j]: k was further than sigma / sqrt(near) from the
     * mean, or s2 left [tiny * count, inf): measure again.  Returns whether any is. */
    int (*finish)(size_t c, double count, double tiny, double near, const double *k, const double *s1, const double *s2,
                  const ncpu_moments_state *out, uint8_t *rejected);
    void (*merge)(size_t c, double into_count, const ncpu_moments_state *into, double count,
                  const ncpu_moments_state *part);
    void (*add_doubles)(size_t n, const double *from, double *into); /* padded */
    float (*peak)(size_t n, const float *v); /* the largest |v|, NaN aside */
    /* y = round(v / scale) + zero within [low, high], ties to even; NaN becomes low. */
    void (*quantize)(size_t n, const float *v, float scale, int zero, int low, int high, uint8_t *y);
} ncpu_kernels;

/* What float cannot hold is rare, and computed in plain C whatever the instruction set: the bits are the same. */
extern const ncpu_kernel_set ncpu_wide[NCPU_BF16 + 1];
extern const ncpu_row_kernels ncpu_wide_rows[NCPU_F64 + 1];

/* The table in use: chosen at the first call, see dispatch.c. */
const ncpu_kernels *ncpu_kernels_in_use(void);

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * normcpu: normalization layers of neural networks on CPUs.
 *
 * Arrays are described, never owned.  Shapes below name the axes: n samples, c channels, s everything after
 * the channel axis.  "real" is double for NCPU_F64 data and float for all other dtypes: parameters and
 * running statistics have it; statistics of a batch are always double.
 *
 * Results do not depend on the instruction set, the number of threads, the alignment or the strides within
 * a view (channel-major or channels-last), bit for bit.  Every function may be called from any number of
 * threads.  None prints, none exits, none sets errno; those that can fail return a status and have then
 * changed no running statistics (the contents of an output are undefined).
 */
#ifndef NORMCPU_H
#define NORMCPU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NCPU_VERSION "0.1.0"
#define NCPU_MAX_NDIM 16

typedef enum { NCPU_F32, NCPU_F64, NCPU_F16, NCPU_BF16, NCPU_U8, NCPU_I8 } ncpu_dtype;

typedef enum {
    NCPU_OK,
    NCPU_ERROR_MEMORY,      /* scratch memory could not be had */
    NCPU_ERROR_INTERRUPTED, /* the registered interrupt check returned nonzero */
    NCPU_ERROR_NONFINITE,   /* a running statistic would become NaN or infinite, and the policy is to raise */
    NCPU_ERROR_ARGUMENT,    /* shapes, dtypes or axes that do not belong together */
    NCPU_ERROR_UNSUPPORTED  /* a combination this library does not compute: see the function */
} ncpu_status;

/* An array of any strides, negative and zero included (not for outputs: each element has its own place).
 * shape and strides have ndim entries; strides are in bytes; data need not be aligned. */
typedef struct {
    void *data;
    ncpu_dtype dtype;
    int ndim;
    const ptrdiff_t *shape;
    const ptrdiff_t *strides;
} ncpu_array;

/* act(v).  f64 data: NONE, RELU, RELU6, LEAKY_RELU and HARDSWISH only.  Errors in ulp: src/simd/math.h. */
typedef enum {
    NCPU_NONE,       /* v */
    NCPU_RELU,       /* max(v, 0) */
    NCPU_RELU6,      /* min(max(v, 0), 6) */
    NCPU_LEAKY_RELU, /* v > 0 ? v : v * negative_slope */
    NCPU_SILU,       /* v / (1 + exp(-v)) */
    NCPU_GELU,       /* v * Phi(v), Phi the normal distribution function */
    NCPU_GELU_TANH,  /* v/2 * (1 + tanh(sqrt(2/pi) * (v + 0.044715 v^3))) */
    NCPU_SIGMOID,    /* 1 / (1 + exp(-v)) */
    NCPU_TANH,
    NCPU_HARDSWISH   /* v * min(max(v + 3, 0), 6) / 6 */
} ncpu_activation;

/* What follows the normalization in the same pass: y = act(v + residual). */
typedef struct {
    ncpu_activation activation;
    double negative_slope;      /* of LEAKY_RELU */
    const ncpu_array *residual; /* shape and dtype of x, or NULL */
    uint8_t *mask;              /* NULL, or with RELU: where act passed its argument on, one bit per element.
                                   Bits are packed along the innermost axis of the view, lowest first, each
                                   row starting a new byte: (n, c, ceil(s/8)) channel-major, (n*s, ceil(c/8))
                                   channels-last; see ncpu_is_channels_last. */
} ncpu_epilogue;

/* 1 where reductions over the channels of x run along rows of channels (channels-last), else 0. */
int ncpu_is_channels_last(const ncpu_array *x, int channel_axis);

/* y = act((x - mean) * weight / sqrt(var + eps) + bias + residual), per channel, with given statistics:
 * batch normalization in evaluation mode.  https://arxiv.org/abs/1502.03167, algorithm 2.
 *
 * x, y: the same shape and dtype (f32, f64, f16, bf16), any strides; y may be x itself (same pointer and
 * strides) but must not overlap it otherwise.  mean, var: real (c).  weight, bias: real (c), or NULL for
 * ones and zeros.  epilogue: NULL for none. */
ncpu_status ncpu_batch_norm(const ncpu_array *x, int channel_axis, const void *mean, const void *var,
                            const void *weight, const void *bias, double eps,
                            const ncpu_epilogue *epilogue, const ncpu_array *y);

typedef enum { NCPU_PROPAGATE, NCPU_SKIP, NCPU_RAISE } ncpu_nonfinite;

/* running = (1 - momentum) * running + momentum * batch, computed in double and rounded once, committed
 * after everything else has succeeded, for all channels or none. */
typedef struct {
    void *mean, *var;         /* real (c) each, or NULL: not tracked */
    double momentum;          /* the weight of the new value */
    int biased;               /* 0: var tracks m2 / (count - 1); 1: m2 / count */
    ncpu_nonfinite nonfinite; /* what a new value that is NaN, infinite or beyond real's range does */
    int skipped;              /* OUT: 1 where the update was left out by NCPU_SKIP */
} ncpu_running;

/* The same with the statistics of x itself: batch normalization in training mode.
 *
 * batch_mean, batch_var: double (c), OUT: mean and biased variance over (n, s).  running: NULL for none.
 * count = n*s must be at least 1 where c > 0. */
ncpu_status ncpu_batch_norm_train(const ncpu_array *x, int channel_axis, const void *weight, const void *bias,
                                  double eps, const ncpu_epilogue *epilogue, const ncpu_array *y,
                                  double *batch_mean, double *batch_var, ncpu_running *running);

/* The gradients of either.  With inv = 1/sqrt(var + eps), g = dy where the forward's relu passed, else 0:
 *
 *     dbias = sum(g)      dweight = inv * sum(g * (x - mean))      dresidual = g
 *     dx = weight * inv * g                                                             (frozen)
 *     dx = weight * inv * (g - dbias/count - (x - mean) * inv * dweight/count)          (training)
 *
 * mean, var: double (c), as the forward used them.  activation: NONE or RELU, else NCPU_ERROR_UNSUPPORTED;
 * RELU is undone from y, the forward's output, or from mask: give one.  dx, dresidual: as x, or NULL;
 * either may be dy itself.  dweight, dbias: real (c), or NULL. */
ncpu_status ncpu_batch_norm_backward(const ncpu_array *dy, const ncpu_array *x, int channel_axis,
                                     const void *weight, const double *mean, const double *var, double eps,
                                     int training, ncpu_activation activation, const ncpu_array *y,
                                     const uint8_t *mask, const ncpu_array *dx, const ncpu_array *dresidual,
                                     void *dweight, void *dbias);

/* y = act((x - center) * scale + shift + residual), per channel: the step that every normalization ends in.
 * |error| <= 2^-23 (|x * scale| + |shift|) where center is NULL and act NONE.
 * x: also u8 and i8, then y is f32 and residual NULL.  center, scale, shift: real (c), or NULL (0, 1, 0). */
ncpu_status ncpu_scale_shift(const ncpu_array *x, int channel_axis, const void *center, const void *scale,
                             const void *shift, const ncpu_epilogue *epilogue, const ncpu_array *y);

/* Statistics as a value.  mean + mean_tail is the mean to nearly twice double's precision, m2 + m2_tail the
 * sum of squared differences from it: merging any number of parts loses nothing. */
typedef struct {
    double *mean, *mean_tail, *m2, *m2_tail; /* (c) each */
} ncpu_moments_state;

/* Statistics of x over the axes where reduce[axis] is nonzero, for every index of the other axes in
 * row-major order.  x: f32, f64, f16, bf16.  The count is the product of the reduced extents; where it is
 * 0, all four are 0. */
ncpu_status ncpu_moments(const ncpu_array *x, const uint8_t *reduce, const ncpu_moments_state *result);

/* into = the statistics of both parts: Chan, Golub and LeVeque (1983), compensated. */
void ncpu_moments_merge(size_t c, int64_t into_count, const ncpu_moments_state *into, int64_t count,
                        const ncpu_moments_state *part);

/* y = x * factor along `axis`, the product in double, rounded once to the dtype: what folds a normalization into weights.
 * https://arxiv.org/abs/1712.05877, section 3.2.
 *
 * x: f32, f64, f16, bf16, any strides.  factor: double (c), c = x's extent along axis.  y: x's shape and dtype; it may
 * be x itself but must not overlap it otherwise; NULL: nothing is written.  peak: double (c), OUT: the largest
 * |x * factor| of a channel before it was rounded to the dtype, NaN where one is infinite or NaN, 0 where there is none:
 * says whether y overflows or loses digits, and with y NULL whether it would. */
ncpu_status ncpu_scale_axis(const ncpu_array *x, int axis, const double *factor, const ncpu_array *y, double *peak);

/* ---- The machine ---------------------------------------------------------------------------------- */

/* The names of the instruction sets in this build, best first, NULL at the end. */
const char *const *ncpu_isas_built(void);
int ncpu_isa_supported(const char *name); /* 1 built and usable on this CPU and OS, 0 built only, -1 unknown */
const char *ncpu_isa(void);               /* the one in use */
ncpu_status ncpu_use_isa(const char *name); /* NULL: the best; ARGUMENT: unknown; UNSUPPORTED: not on this CPU */

/* How work is spread: body(context, task) for every task in [0, tasks), on at most `threads` threads.
 * Without a registered layer everything runs on the calling thread. */
typedef void (*ncpu_body)(void *context, ptrdiff_t task);
typedef struct {
    const char *name;
    void (*parallel_for)(ptrdiff_t tasks, int threads, ncpu_body body, void *context);
    int (*max_threads)(void); /* what the runtime would give a region now; 1 inside one */
} ncpu_threading;
void ncpu_set_threading(const ncpu_threading *layer); /* NULL: serial; the struct must stay alive */
const char *ncpu_threading_name(void);
void ncpu_set_num_threads(int threads); /* 0: as many as the runtime gives */
int ncpu_get_num_threads(void);
double ncpu_region_cost(int threads); /* seconds: measured at the first call, then cached */

/* Called on the calling thread about every 50 ms during long operations; nonzero stops them. */
void ncpu_set_interrupt_check(int (*check)(void));

#ifdef __cplusplus
}
#endif
#endif

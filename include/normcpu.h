/* SPDX-License-Identifier: Apache-2.0
 *
 * normcpu: normalization layers of neural networks on CPUs.
 *
 * Shapes below name the axes: n samples, c channels, s everything after the channel axis, which is counted from
 * the end where it is negative.  "real" is double for NCPU_F64 data and float for all other dtypes: parameters and
 * running statistics have it; statistics of a batch are always double.
 *
 * Memory.  Arrays are described, never owned or kept.  An ncpu_array may have any strides and any alignment.  A
 * pointer (c) is to c values side by side, aligned as C wants it; NULL is taken only where it is said to be.  What
 * is written overlaps nothing else that the call reads or writes, but for an output that is an input itself: the
 * same data pointer, shape and strides, where the function says so.  None of this is checked: an output that
 * overlaps otherwise has wrong numbers in it, and a wrong pointer is what it always is in C.
 *
 * Machines.  32 or 64 bits, little-endian, IEEE float and double as they are written: no -ffast-math.
 *
 * Numbers.  Results do not depend on the instruction set, the number of threads, the alignment or the strides within
 * a view (channel-major or channels-last), bit for bit.  They are right for every finite input, for f64 up to 1e150;
 * NaN and infinity stay in their channel.  Only the argument of an activation, and of it each term (x - mean) * scale,
 * shift and residual, has to fit into float (f64: double), or is infinite.  Not promised: the same bits from the two
 * views, which bits a NaN has, and anything where the caller has changed the floating-point environment (rounding to
 * nearest, gradual underflow).
 *
 * Threads.  Every function may be called from any number of threads at once, and from inside of a parallel region, as
 * long as no call writes what another one reads or writes.  One operation at a time has the team, the others work on
 * their callers' threads.  Settings ("The machine") hold for the process, from the next operation on.
 *
 * Failure.  Functions that can fail return a status: ARGUMENT for arrays, axes and codes that do not belong together,
 * MEMORY where malloc had no scratch space, INTERRUPTED.  Running statistics are then bit for bit as they were; the
 * contents of every other output are undefined.  Nothing leaks, prints, exits or sets errno. */
#ifndef NORMCPU_H
#define NORMCPU_H

#include <stddef.h>
#include <stdint.h>

#ifdef NCPU_EXPORTS /* while a shared library is built, which shows what is declared here and nothing else */
#pragma GCC visibility push(default)
#endif
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
    NCPU_ERROR_ARGUMENT,    /* shapes, dtypes, axes or codes that do not belong together */
    NCPU_ERROR_UNSUPPORTED  /* a combination this library does not compute: see the function */
} ncpu_status;

/* data points to element [0, ..., 0].  shape and strides have ndim entries, 1 to NCPU_MAX_NDIM, extents of 0 allowed;
 * strides are in bytes, negative and zero ones included, but each element of an output has a place of its own. */
typedef struct {
    void *data;
    ncpu_dtype dtype;
    int ndim;
    const ptrdiff_t *shape;
    const ptrdiff_t *strides;
} ncpu_array;

/* act(v).  f64 data: NONE, RELU, RELU6, LEAKY_RELU and HARDSWISH, else UNSUPPORTED.  Errors in ulp: src/simd/math.h.
 * NaN gives NaN, and -inf the limit: 0 of SILU, GELU, GELU_TANH and HARDSWISH. */
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

/* What follows the normalization in the same pass: y = act(v + residual).  y may be the residual itself. */
typedef struct {
    ncpu_activation activation;
    double negative_slope;      /* of LEAKY_RELU */
    const ncpu_array *residual; /* shape and dtype of x, or NULL */
    uint8_t *mask;              /* NULL, or with RELU (else UNSUPPORTED), OUT: where act passed its argument on, one bit
                                   per element.  Bits are packed along the innermost axis of the view, lowest first,
                                   each row starting a new byte and ending with zeros: (n, c, ceil(s/8))
                                   channel-major, (n*s, ceil(c/8)) channels-last; see ncpu_is_channels_last. */
} ncpu_epilogue;

/* Which view x gets: 1 where the channels of a position lie closest together in memory (channels-last), else 0, also
 * where channel_axis is none of x's. */
int ncpu_is_channels_last(const ncpu_array *x, int channel_axis);

/* y = act((x - mean) * weight / sqrt(var + eps) + bias + residual), per channel, with given statistics:
 * batch normalization in evaluation mode.  https://arxiv.org/abs/1502.03167, algorithm 2.
 *
 * x, y: the same shape and dtype (f32, f64, f16, bf16), strides of their own; y may be x itself.  mean, var: real (c).
 * weight, bias: real (c), or NULL for ones and zeros.  eps: at least 0; where var + eps is 0, y is not finite.
 * epilogue: NULL for none.  x without elements is no error. */
ncpu_status ncpu_batch_norm(const ncpu_array *x, int channel_axis, const void *mean, const void *var,
                            const void *weight, const void *bias, double eps,
                            const ncpu_epilogue *epilogue, const ncpu_array *y);

typedef enum { NCPU_PROPAGATE, NCPU_SKIP, NCPU_RAISE } ncpu_nonfinite;

/* running = (1 - momentum) * running + momentum * batch, computed in double and rounded once, committed
 * after everything else has succeeded, for all channels or none. */
typedef struct {
    void *mean, *var;         /* real (c) each, or NULL: not tracked */
    double momentum;          /* the weight of the new value; 1 forgets the old one, be it NaN */
    int biased;               /* 0: var tracks m2 / (count - 1), NaN for one value per channel; 1: m2 / count */
    ncpu_nonfinite nonfinite; /* what a new value that is NaN, infinite or beyond real's range does */
    int skipped;              /* OUT: 1 where the update was left out by NCPU_SKIP */
} ncpu_running;

/* The same with the statistics of x itself: batch normalization in training mode.
 *
 * x, weight, bias, eps, epilogue, y: as above, in place included.  batch_mean, batch_var: double (c), OUT: mean and
 * biased variance over (n, s).  running: NULL for none.  count = n*s is at least 1 where c > 0, else ARGUMENT.  With
 * NCPU_RAISE, NONFINITE is found after y, batch_mean and batch_var have been written. */
ncpu_status ncpu_batch_norm_train(const ncpu_array *x, int channel_axis, const void *weight, const void *bias,
                                  double eps, const ncpu_epilogue *epilogue, const ncpu_array *y,
                                  double *batch_mean, double *batch_var, ncpu_running *running);

/* The gradients of either.  With inv = 1/sqrt(var + eps), g = dy where the forward's relu passed, else 0:
 *
 *     dbias = sum(g)      dweight = inv * sum(g * (x - mean))      dresidual = g
 *     dx = weight * inv * g                                                             (frozen)
 *     dx = weight * inv * (g - dbias/count - (x - mean) * inv * dweight/count)          (training)
 *
 * dy, x: the same shape and dtype (f32, f64, f16, bf16).  weight: real (c), or NULL for ones.  mean, var: double (c),
 * as the forward used them.  activation: NONE or RELU, else UNSUPPORTED; RELU is undone from y, the forward's output
 * (shape and dtype of x), or from mask: give one and leave the other NULL, both for NONE.  dx, dresidual: OUT, shape
 * and dtype of x, or NULL; one of them may be dy itself.  dweight, dbias: OUT, real (c), or NULL; 0 where n*s is 0. */
ncpu_status ncpu_batch_norm_backward(const ncpu_array *dy, const ncpu_array *x, int channel_axis,
                                     const void *weight, const double *mean, const double *var, double eps,
                                     int training, ncpu_activation activation, const ncpu_array *y,
                                     const uint8_t *mask, const ncpu_array *dx, const ncpu_array *dresidual,
                                     void *dweight, void *dbias);

/* ---- Statistics of each sample ---- */

/* Whose statistics x (n, ...) is normalized with: axis 0 counts the samples, and the elements of c / count neighbouring
 * channels of a sample share theirs.  count = c is instance normalization, and so, of a batch (n, b, c, ...) cut into n
 * parts, ghost batch normalization; one sample (1, n, c, ...) is batch normalization. */
typedef struct {
    size_t count;         /* of groups in a sample; divides c */
    int given;            /* 1: mean and var are IN, whatever they are statistics of; 0: OUT, those of x, var biased */
    double *mean, *var;   /* (n, count); OUT: mean 0 and var NaN where a group has no element */
    const uint8_t *valid; /* NULL, or (n, positions): 1 where a position's elements have a say in the statistics, else 0;
                             positions of a sample are counted in row-major order over all its axes but the channels' */
} ncpu_groups;

/* y = act((x - mean) * weight / sqrt(var + eps) + bias + residual), mean and var of the element's sample and group.
 * https://arxiv.org/abs/1803.08494, https://arxiv.org/abs/1607.08022, https://arxiv.org/abs/1705.08741
 *
 * x, y: as for ncpu_batch_norm, in place included; at least 2 axes, of which the channels' is not the first.  weight,
 * bias: real (c), or NULL for ones and zeros.  A sample's bits do not depend on the other samples or their number.
 * epilogue: the bits of its mask are those of each sample's view, one sample after the other; the view is that of x
 * without its first axis. */
ncpu_status ncpu_group_norm(const ncpu_array *x, int channel_axis, const ncpu_groups *groups, const void *weight,
                            const void *bias, double eps, const ncpu_epilogue *epilogue, const ncpu_array *y);

/* Its gradients.  With inv = 1/sqrt(var + eps), g = dy where the forward's relu passed, else 0, and sums and the count
 * of elements that have a say over the element's sample and group:
 *
 *     dbias = sum of g over samples and positions      dweight = that of g * (x - mean) * inv      dresidual = g
 *     dx = inv * (g * weight - sum(g * weight)/count - (x - mean) * inv^2 * sum(g * weight * (x - mean))/count)
 *
 * and dx = inv * weight * g for elements that have none.  groups: as the forward's, mean and var IN; with `given` dx is
 * inv * weight * g everywhere.  Everything else: as for ncpu_batch_norm_backward; mask: NULL where valid is not. */
ncpu_status ncpu_group_norm_backward(const ncpu_array *dy, const ncpu_array *x, int channel_axis,
                                     const ncpu_groups *groups, const void *weight, double eps,
                                     ncpu_activation activation, const ncpu_array *y, const uint8_t *mask,
                                     const ncpu_array *dx, const ncpu_array *dresidual, void *dweight, void *dbias);

/* running = (1 - momentum) * running + momentum * (mean, m2 / (count - 1)), with `biased` m2 / count: what
 * ncpu_batch_norm_train ends in, for statistics of other origin.  mean, m2: double (c); dtype: of the data. */
ncpu_status ncpu_update_running(size_t c, ncpu_dtype dtype, const double *mean, const double *m2, double count,
                                ncpu_running *running);

/* y = act((x - center) * scale + shift + residual), per channel: the step that every normalization ends in.
 * |error| <= 2^-23 (|x * scale| + |shift|) where center is NULL and act NONE.
 * x, y, epilogue: as for ncpu_batch_norm; x also u8 and i8, then y is f32 and no place of x's, and residual NULL.
 * center, scale, shift: real (c), or NULL (0, 1, 0). */
ncpu_status ncpu_scale_shift(const ncpu_array *x, int channel_axis, const void *center, const void *scale,
                             const void *shift, const ncpu_epilogue *epilogue, const ncpu_array *y);

/* ---- Rows: every position of some axes is normalized by itself, over the other axes --------------- */

/* The normalized axes are those where axes[axis] is nonzero; `width` positions of them in row-major order make a row, and
 * the positions of the other axes, in that order, are the `rows`.  With s = x, or x + added rounded to x's dtype:
 *
 *     (s - mean) / sqrt(var + eps)       mean and var (biased) of the row         https://arxiv.org/abs/1607.06450
 *     s / sqrt(var + eps)                rms: mean 0, var = mean(s^2)             https://arxiv.org/abs/1910.07467 */
typedef struct {
    const uint8_t *axes; /* (ndim of x) */
    int rms;
    const void *weight, *bias; /* real (width), or NULL for ones and zeros */
    int plus_one;              /* the factor is 1 + weight, rounded to real */
    double eps;                /* at least 0 */
    const uint8_t *valid;      /* NULL, or (rows, width): 1 where an element has a say in mean and var, else 0; they are 0
                                  and NaN in a row where none has */
} ncpu_row_norm;

/* Where y is u8 or i8: y = round(v / scale) + zero_point, ties to even, within the range of y's dtype; NaN becomes its
 * lower end.  Dynamic: of each row scale = max |v| / 127 (1 where that is 0), written to scales; zero_point is 0, y i8
 * and at least -127. */
typedef struct {
    float scale;    /* above 0 and finite */
    int zero_point; /* a value of y's dtype */
    float *scales;  /* (rows), OUT: dynamic; NULL: scale */
} ncpu_quantization;

/* y = act(normalized * weight + bias + residual), and sum = s: a residual connection, and the norm behind it, in one pass.
 * A row's bits do not depend on the other rows, nor on how many there are; rows that lie in memory one after the other and
 * rows side by side, as the channels of (n, c, h, w) have them, are two views.
 *
 * x: f32, f64, f16, bf16.  y: shape and dtype of x, or u8 and i8 with quantization (not of f64: UNSUPPORTED).  added, sum:
 * shape and dtype of x, or both NULL.  y may be x, added, or the epilogue's residual; sum may be x or added; y and sum
 * are apart.  epilogue: NULL for none; the bits of its mask are (rows, ceil(width/8)), UNSUPPORTED with quantization.
 * mean, var: double (rows), OUT, or NULL. */
ncpu_status ncpu_layer_norm(const ncpu_array *x, const ncpu_row_norm *norm, const ncpu_array *added,
                            const ncpu_array *sum, const ncpu_epilogue *epilogue,
                            const ncpu_quantization *quantization, const ncpu_array *y, double *mean, double *var);

/* Its gradients.  With p = dy where the forward's relu passed, else 0, inv = 1/sqrt(var + eps), normal = (s - mean) * inv
 * and g = p * factor, of each row:
 *
 *     dx = inv * (g - mean(g) - normal * mean(g * normal)) + dsum         (rms: without mean(g))
 *     dweight = sum(p * normal)      dbias = sum(p)                       over the rows      dresidual = p
 *
 * dx is the gradient of x and of added alike.  With `valid`, mean() is the sum over all of a row by the number of elements
 * that have a say, and dx = inv * g + dsum for those that have none.
 *
 * dy, s, y, dsum, dx, dresidual: the same shape and dtype (f32, f64, f16, bf16); s as the forward normalized it.  mean, var:
 * double (rows), as the forward gave them; mean is not read for rms.  activation, y, mask: as for ncpu_batch_norm_backward.
 * dsum: what reached s beside the norm, or NULL.  dx: OUT; it may be dy or dsum.  dresidual: OUT, or NULL; it may be dy
 * where dx is not.  dweight, dbias: OUT, real (width), or NULL. */
ncpu_status ncpu_layer_norm_backward(const ncpu_array *dy, const ncpu_array *s, const ncpu_row_norm *norm,
                                     const double *mean, const double *var, ncpu_activation activation,
                                     const ncpu_array *y, const uint8_t *mask, const ncpu_array *dsum,
                                     const ncpu_array *dx, const ncpu_array *dresidual, void *dweight, void *dbias);

/* Statistics as a value.  mean + mean_tail is the mean to nearly twice double's precision, m2 + m2_tail the sum of
 * squared differences from it, so that merging many parts loses next to nothing: however data is cut, the mean is
 * within 2^-22 sigma + 2^-52 |mean| and the variance within 4 ulp of float (f64 data: 2^-50, and 8 ulp of double). */
typedef struct {
    double *mean, *mean_tail, *m2, *m2_tail; /* (c) each */
} ncpu_moments_state;

/* Statistics of x over the axes where reduce[axis] is nonzero, for every index of the other axes in row-major order:
 * c is the product of their extents.  x: f32, f64, f16, bf16; ndim may be 0.  reduce: (ndim).  result: OUT.  The count
 * is the product of the reduced extents; where it is 0, all four are 0. */
ncpu_status ncpu_moments(const ncpu_array *x, const uint8_t *reduce, const ncpu_moments_state *result);

/* into = the statistics of both parts: Chan, Golub and LeVeque (1983), compensated.  A count of 0 has no say.  Cannot
 * fail.  The bits follow from the order of the merges; part may not be into. */
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

/* ---- Local response normalization ----------------------------------------------------------------- */

/* The window of channel i has the channels from i - before to i + after that there are. */
typedef struct {
    size_t before, after;
    double alpha, beta, k;
} ncpu_local_response;

/* y = act(x / d^beta + residual), d = k + alpha / (before + 1 + after) * sum(x^2) over the window, in double, rounded to
 * real before act.  https://papers.nips.cc/paper/4824, section 3.3.  Within an ulp of real where act is NONE; the same
 * bits everywhere where beta is a multiple of 1/4 from 0 to 4, else what the C library's pow makes of it.
 * x, y: shape and dtype (f32, f64, f16, bf16), strides of their own; y may be x itself.  epilogue: NULL for none; its
 * mask NULL (else UNSUPPORTED). */
ncpu_status ncpu_local_response_norm(const ncpu_array *x, int channel_axis, const ncpu_local_response *window,
                                     const ncpu_epilogue *epilogue, const ncpu_array *y);

/* dx = dy / d^beta - 2 * alpha * beta / (before + 1 + after) * x * sum(dy * x / d^(beta + 1)), summed over the channels whose
 * windows have this one.  No act, no residual.  dy, x, dx: one shape and dtype; dx may be dy itself, or x. */
ncpu_status ncpu_local_response_norm_backward(const ncpu_array *dy, const ncpu_array *x, int channel_axis,
                                              const ncpu_local_response *window, const ncpu_array *dx);

/* ---- Dropout -------------------------------------------------------------------------------------- */

/* What is dropped: every element with probability p by itself, or whole channels. */
typedef struct {
    double p;           /* 0 to 1; 0 keeps and 1 drops everything, and anything between is exact to 2^-64 */
    int alpha;          /* 1: mean and variance of selu's outputs are kept, https://arxiv.org/abs/1706.02515 */
    int whole_channels; /* 1: all of a channel of a sample, or nothing */
    int channel_axis;   /* for whole_channels; >= 0 */
    int batched;        /* for whole_channels: axis 0 (not channel_axis) counts samples, or else x is one */
} ncpu_dropped;

/* y = x / (1 - p) where kept, 0 (whatever x is) where dropped.  https://jmlr.org/papers/v15/srivastava14a.html
 * alpha: y = a x + b where kept, alpha' a + b where dropped, with alpha' = -1.7580993408473766 (selu's limit at -inf),
 * a = 1/sqrt((1 - p)(1 + p alpha'^2)), b = -a p alpha'; 0 for p = 1.
 *
 * x, y: the same shape and dtype (f32, f64, f16, bf16), strides of their own; y may be x itself.  mask: OUT, one bit per
 * element in row-major order, or per channel of each sample (n, c), lowest first, 1 where kept; ceil(count / 8) bytes
 * that end with zeros.  Which bits are set follows from seed, p and their place alone: number i is dropped where the
 * binary fraction 0.b0 b1 b2 ... < p, bk being bit i % 128 of Philox4x32-7 with counter (i / 128 in two words, k, 0)
 * and key seed, words from the lowest.  https://doi.org/10.1145/2063384.2063405 */
ncpu_status ncpu_dropout(const ncpu_array *x, const ncpu_dropped *what, uint64_t seed, const ncpu_array *y, uint8_t *mask);

/* dx = dy / (1 - p), for alpha dy a, where kept, else 0.  dy, dx: as x and y above; mask: that of the forward. */
ncpu_status ncpu_dropout_backward(const ncpu_array *dy, const ncpu_dropped *what, const uint8_t *mask,
                                  const ncpu_array *dx);

/* ---- Optimizers ----------------------------------------------------------------------------------- */

/* One parameter, its elements side by side in every array. */
typedef struct {
    ncpu_dtype dtype; /* f32 or f64 */
    size_t count;
    void *weight;         /* INOUT */
    const void *gradient; /* the loss's */
    void *mean, *square;  /* INOUT, zeros at first: running means of the gradient and, for AdamW, of its square */
    int64_t step;         /* of this parameter, 1 for the first */
    int decayed;          /* 0: weight_decay does not hold for this one */
} ncpu_parameter;

/* g = gradient + weight_decay * weight;  mean = momentum * mean + (1 - dampening) * g, at the first step g;
 * weight -= rate * (nesterov ? g + momentum * mean : mean), or rate * g where the parameter has no mean.
 * https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html */
typedef struct {
    double rate, momentum, dampening, weight_decay;
    int nesterov;
} ncpu_sgd;

/* weight -= rate * weight_decay * weight;  mean = beta1 * mean + (1 - beta1) * gradient, square alike of gradient^2;
 * weight -= rate * (mean / (1 - beta1^step)) / (sqrt(square / (1 - beta2^step)) + eps).
 * https://arxiv.org/abs/1711.05101, algorithm 2, with the decay times the rate, as everyone has it. */
typedef struct {
    double rate, beta1, beta2, eps, weight_decay;
} ncpu_adamw;

/* A step of all parameters, which share no memory: in the type of each, rounded as float or double arithmetic does. */
ncpu_status ncpu_sgd_step(const ncpu_sgd *how, const ncpu_parameter *parameters, size_t count);
ncpu_status ncpu_adamw_step(const ncpu_adamw *how, const ncpu_parameter *parameters, size_t count);

/* ---- The machine ---------------------------------------------------------------------------------- */

/* The names of the instruction sets in this build, best first, NULL at the end: one in the single-file form, where the
 * compiler's flags have chosen it and no CPU is asked.  Strings here are never freed. */
const char *const *ncpu_isas_built(void);
int ncpu_isa_supported(const char *name); /* 1 built and usable on this CPU and OS, 0 built only, -1 unknown */
const char *ncpu_isa(void);               /* the one in use: the best, until ncpu_use_isa is called */
ncpu_status ncpu_use_isa(const char *name); /* NULL: the best; ARGUMENT: unknown; UNSUPPORTED: not on this CPU */

/* How work is spread: parallel_for calls body(context, task) once for every task in [0, tasks), in any order, on at
 * most `threads` threads with the caller among them, and returns when all are done.  It is called by one operation at
 * a time, never from a body.  Without a registered layer everything runs on the calling thread.  A C library that was
 * built with OpenMP has one before main. */
typedef void (*ncpu_body)(void *context, ptrdiff_t task);
typedef struct {
    const char *name;
    void (*parallel_for)(ptrdiff_t tasks, int threads, ncpu_body body, void *context);
    int (*max_threads)(void); /* what the runtime would give a region now; 1 inside one */
} ncpu_threading;
void ncpu_set_threading(const ncpu_threading *layer); /* NULL: serial; the struct must stay alive */
const char *ncpu_threading_name(void);
void ncpu_set_num_threads(int threads); /* 0: NORMCPU_NUM_THREADS as it was at the first call, or else the runtime's */
int ncpu_get_num_threads(void);         /* how many an operation uses at most; fewer where more would not pay */
double ncpu_region_cost(int threads);   /* seconds of an empty region; measured, then cached for a second at least */

/* Called on the thread of the operation's caller about every 50 ms while it lasts; nonzero stops the operation, which
 * returns INTERRUPTED.  NULL: none. */
void ncpu_set_interrupt_check(int (*check)(void));

#ifdef __cplusplus
}
#endif
#ifdef NCPU_EXPORTS
#pragma GCC visibility pop
#endif
#endif

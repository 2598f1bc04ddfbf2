/* SPDX-License-Identifier: Apache-2.0
 * Makes the kernels of kernels.inc for every dtype, on the instruction set of the including file in isa/. */

#include <math.h>
#include <string.h>

#include "simd/vec.h"
#include "simd/math.h"
#include "kernels.h"

/* A vector of columns as doubles and back: one vd or two. */
static inline size_t vf_split(vf a, vd v[2]) { v[0] = vf_widen(a), v[1] = vf_widen_hi(a); return 2; }
static inline size_t vd_split(vd a, vd v[2]) { v[0] = a; return 1; }
static inline vf vf_from_doubles(const double *p) { return vf_narrow(vd_load(p), vd_load(p + 8)); }
static inline vd vd_from_doubles(const double *p) { return vd_load(p); }

/* The first n lanes of a, the others of b. */
static inline vf vf_joined(size_t n, vf a, vf b)
{
    static const float lane[VF_LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return vf_select_gt(vf_set((float)n), vf_load(lane), a, b);
}
static inline vd vd_joined(size_t n, vd a, vd b)
{
    static const double lane[VD_LANES] = {0, 1, 2, 3, 4, 5, 6, 7};
    return vd_select_gt(vd_set((double)n), vd_load(lane), a, b);
}

#include "statistics.inc"
#include "kernels/quantize.inc"

static void add_doubles(size_t n, const double *from, double *into)
{
    for (size_t i = 0; i < n; i += VD_LANES) vd_store(into + i, vd_add(vd_load(into + i), vd_load(from + i)));
}

/* Rows of 16-bit data are normalized as floats. */
#define CONVERSIONS(suffix, T)                                                                          \
    static void to_floats_##suffix(size_t n, const void *from, float *to)                               \
    {                                                                                                   \
        const T *p = from;                                                                              \
        size_t i = 0;                                                                                   \
        for (; i + VF_LANES <= n; i += VF_LANES) vf_store(to + i, vf_load(p + i));                      \
        if (i < n) vf_storen(to + i, vf_loadn(p + i, n - i), n - i);                                    \
    }                                                                                                   \
    static void from_floats_##suffix(size_t n, const float *from, void *to)                             \
    {                                                                                                   \
        T *p = to;                                                                                      \
        size_t i = 0;                                                                                   \
        for (; i + 2 * VF_LANES <= n; i += 2 * VF_LANES)                                                \
            vf_store2(p + i, vf_load(from + i), vf_load(from + i + VF_LANES));                          \
        for (size_t m; i < n; i += m) {                                                                 \
            m = n - i < VF_LANES ? n - i : VF_LANES;                                                    \
            vf_storen(p + i, vf_loadn(from + i, m), m);                                                 \
        }                                                                                               \
    }
CONVERSIONS(f16, ncpu_f16)
CONVERSIONS(bf16, ncpu_bf16)
#undef CONVERSIONS
#include "kernels/local.inc"
#include "kernels/random.inc"

/* Where element i behind p is, the number there in an array of R, bytes of a T, and whether the data is double. */
#if NCPU_SMALL
#define AT(p, i) ((p) + (ptrdiff_t)(i) * _Generic(*(p), ncpu_any: ncpu_any_size, ncpu_any_out: ncpu_any_out_size, ncpu_any_real: ncpu_any_size == 8 ? 8 : 4, default: 1))
#define REAL(p, i) _Generic((const R *)0, const ncpu_any_real *: ncpu_any_real_at, const float *: ncpu_float_at)(p, i)
#define SIZE(T) _Generic((T *)0, ncpu_any *: (size_t)ncpu_any_size, ncpu_any_out *: (size_t)ncpu_any_out_size, default: sizeof(T))
#define IS_DOUBLE (sizeof(S) == 8 && SIZE(T) == 8)
#else
#define AT(p, i) ((p) + (i))
#define REAL(p, i) ((const R *)(p))[i]
#define SIZE(T) sizeof(T)
#define IS_DOUBLE (sizeof(T) == 8)
#endif

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define SET1(x) JOIN(P, _set)((S)(x))

/* act, once per vector: doubles take the transcendental ones through float. */
#define P vf
#define V vf
#define S float
#define AS_FLOAT(f, v) f(v)
#include "kernels/activation.inc"
#undef P
#undef V
#undef S
#undef AS_FLOAT
#define P vd
#define V vd
#define S double
#define AS_FLOAT(f, v) vf_widen(f(vf_narrow(v, v)))
#include "kernels/activation.inc"
#undef P
#undef V
#undef S
#undef AS_FLOAT

#define SET f32
#define WITH_STEPS
#if NCPU_SMALL
#define STEPS_ALONE
#else
#define ROWS
#define WITH_BYTES
#endif
#define T float
#define P vf
#define V vf
#define L VF_LANES
#define S float
#define R float
#include "kernels.inc"

#if NCPU_SMALL
#define SET any
#define ROWS
#define WITH_BYTES
#define T ncpu_any
#define Y ncpu_any_out
#else
#define SET f16
#define SOME_ROWS
#define WITH_BYTES
#define T ncpu_f16
#endif
#define P vf
#define V vf
#define L VF_LANES
#define S float
#define R float
#include "kernels.inc"

#if !NCPU_SMALL
#define SET bf16
#define SOME_ROWS
#define WITH_BYTES
#define T ncpu_bf16
#define P vf
#define V vf
#define L VF_LANES
#define S float
#define R float
#include "kernels.inc"
#endif

#if !NCPU_SMALL
#define SET u8
#define APPLY_ALONE
#define T uint8_t
#define Y float
#define P vf
#define V vf
#define L VF_LANES
#define S float
#define R float
#include "kernels.inc"

#define SET i8
#define APPLY_ALONE
#define T int8_t
#define Y float
#define P vf
#define V vf
#define L VF_LANES
#define S float
#define R float
#include "kernels.inc"
#endif

#define SET f64
#define WITH_STEPS
#if NCPU_SMALL
#define STEPS_ALONE
#else
#define ROWS
#endif
#define T double
#define P vd
#define V vd
#define L VD_LANES
#define S double
#define R double
#include "kernels.inc"

#if NCPU_SMALL
#define SET any
#define T ncpu_any
#include "kernels/scale.inc"
#else
#define SET f32
#define T float
#include "kernels/scale.inc"

#define SET f64
#define T double
#include "kernels/scale.inc"

#define SET f16
#define T ncpu_f16
#include "kernels/scale.inc"

#define SET bf16
#define T ncpu_bf16
#include "kernels/scale.inc"
#endif

#define KERNEL_SET(set)                                                                               \
    {guess_runs_##set,   guess_cols_##set,        measure_runs_##set,      measure_cols_##set,          \
     apply_runs_##set,   apply_cols_##set,        grad_measure_runs_##set, grad_measure_cols_##set,     \
     grad_apply_runs_##set, grad_apply_cols_##set, coefficients_##set,                                 \
     grad_coefficients_##set}

#define ROW_KERNELS(set) {norm_sums_##set, norm_rows_##set, norm_cols_##set, norm_grad_sums_##set, norm_grad_rows_##set}
#if NCPU_WIDE_REGISTERS && !NCPU_SMALL
#define SOME_ROW_KERNELS(set) {norm_sums_##set, norm_rows_##set, NULL, norm_grad_sums_##set, norm_grad_rows_##set}
#else
#define SOME_ROW_KERNELS(set) {.norm_sums = norm_sums_##set, .norm_rows = norm_rows_##set}
#endif

#ifdef NCPU_DEFINES_WIDE
#if !NCPU_SMALL
#define SET f32_wide
#define WIDE
#define ROWS
#define T float
#define P vd
#define V vd
#define L VD_LANES
#define S double
#define R float
#include "kernels.inc"
#endif

#if NCPU_SMALL
#define SET any_wide
#define ROWS
#define T ncpu_any
#define R ncpu_any_real
#else
#define SET f16_wide
#define WIDE
#define T ncpu_f16
#define R float
#endif
#define P vd
#define V vd
#define L VD_LANES
#define S double
#include "kernels.inc"

#if NCPU_SMALL
#include "kernels/any.inc"
#else
#define SET bf16_wide
#define WIDE
#define T ncpu_bf16
#define P vd
#define V vd
#define L VD_LANES
#define S double
#define R float
#include "kernels.inc"
#endif

const ncpu_kernel_set ncpu_wide[] = {[NCPU_F32] = KERNEL_SET(f32_wide), [NCPU_F64] = KERNEL_SET(f64),
                                     [NCPU_F16] = KERNEL_SET(f16_wide), [NCPU_BF16] = KERNEL_SET(bf16_wide)};
const ncpu_row_kernels ncpu_wide_rows[] = {[NCPU_F32] = ROW_KERNELS(f32_wide), [NCPU_F64] = ROW_KERNELS(f64)};
#endif

const ncpu_kernels JOIN(ncpu_kernels_, NCPU_ISA) = {
    .name = NCPU_ISA_NAME,
    .set = {[NCPU_F32] = KERNEL_SET(f32), [NCPU_F64] = KERNEL_SET(f64),
            [NCPU_F16] = KERNEL_SET(f16), [NCPU_BF16] = KERNEL_SET(bf16)},
    .wide = ncpu_wide,
    .apply_runs_u8 = apply_runs_u8, .apply_cols_u8 = apply_cols_u8,
    .apply_runs_i8 = apply_runs_i8, .apply_cols_i8 = apply_cols_i8,
    .scale_runs = {scale_runs_f32, scale_runs_f64, scale_runs_f16, scale_runs_bf16},
    .scale_cols = {scale_cols_f32, scale_cols_f64, scale_cols_f16, scale_cols_bf16},
    .rows = {[NCPU_F32] = ROW_KERNELS(f32), [NCPU_F64] = ROW_KERNELS(f64),
             [NCPU_F16] = SOME_ROW_KERNELS(f16), [NCPU_BF16] = SOME_ROW_KERNELS(bf16)},
    .norm_bytes = {[NCPU_F32] = norm_bytes_f32, [NCPU_F16] = norm_bytes_f16, [NCPU_BF16] = norm_bytes_bf16},
    .fence = ncpu_fence,
    .wide_rows = ncpu_wide_rows,
    .to_floats = {[NCPU_F16] = to_floats_f16, [NCPU_BF16] = to_floats_bf16},
    .from_floats = {[NCPU_F16] = from_floats_f16, [NCPU_BF16] = from_floats_bf16},
    .widen = widen, .narrow = narrow,
    .window_squares = window_squares, .window_divide = window_divide,
    .window_parts = window_parts, .window_gradient = window_gradient,
    .random_bits = random_bits,
    .sgd = {sgd_f32, sgd_f64}, .adamw = {adamw_f32, adamw_f64},
    .keep = {keep_f32, keep_f64, keep_f16, keep_bf16},
    .finish = finish,
    .merge = merge,
    .add_doubles = add_doubles,
    .peak = peak,
    .quantize = quantize,
};

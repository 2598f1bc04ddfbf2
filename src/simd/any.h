/* SPDX-License-Identifier: Apache-2.0
 *
 * Storage of a type that is told when it runs: with it one copy of the kernels serves all dtypes, where size matters more
 * than speed (NCPU_SMALL).  What a thread computes is of the dtype that it named last, with ncpu_now_any. */
#ifndef NCPU_ANY_H
#define NCPU_ANY_H

typedef struct { char bytes; } ncpu_any;
typedef struct { char bytes; } ncpu_any_real; /* "real" of that dtype */

static _Thread_local ptrdiff_t ncpu_any_size;
static _Thread_local ncpu_dtype ncpu_any_dtype;

static __attribute__((noinline)) void ncpu_now_any(ncpu_dtype dtype)
{
    static const uint8_t sizes[] = {[NCPU_F32] = 4, [NCPU_F64] = 8, [NCPU_F16] = 2, [NCPU_BF16] = 2, [NCPU_U8] = 1, [NCPU_I8] = 1};
    ncpu_any_size = sizes[dtype], ncpu_any_dtype = dtype;
}

static __attribute__((noinline)) vf vf_loadn_any(const ncpu_any *at, size_t n)
{
    const void *p = at;
    switch (ncpu_any_dtype) {
    case NCPU_F16: return vf_loadn_f16(p, n);
    case NCPU_BF16: return vf_loadn_bf16(p, n);
    case NCPU_U8: return vf_loadn_u8(p, n);
    case NCPU_I8: return vf_loadn_i8(p, n);
    default: return vf_loadn_f32(p, n);
    }
}
static __attribute__((noinline)) vd vd_loadn_any(const ncpu_any *at, size_t n)
{
    const void *p = at;
    switch (ncpu_any_dtype) {
    case NCPU_F16: return vd_loadn_f16(p, n);
    case NCPU_BF16: return vd_loadn_bf16(p, n);
    case NCPU_F32: return vd_loadn_f32(p, n);
    default: return vd_loadn_f64(p, n);
    }
}
static __attribute__((noinline)) vd vd_loadn_any_real(const ncpu_any_real *at, size_t n)
{
    const void *p = at;
    return ncpu_any_dtype == NCPU_F64 ? vd_loadn_f64(p, n) : vd_loadn_f32(p, n);
}
static __attribute__((noinline)) void vf_storen_any(ncpu_any *at, vf a, size_t n)
{
    void *p = at;
    switch (ncpu_any_dtype) {
    case NCPU_F16: vf_storen_f16(p, a, n); return;
    case NCPU_BF16: vf_storen_bf16(p, a, n); return;
    default: vf_storen_f32(p, a, n);
    }
}
static __attribute__((noinline)) void vd_storen_any(ncpu_any *at, vd a, size_t n)
{
    void *p = at;
    switch (ncpu_any_dtype) {
    case NCPU_F16: vd_storen_f16(p, a, n); return;
    case NCPU_BF16: vd_storen_bf16(p, a, n); return;
    case NCPU_F32: vd_storen_f32(p, a, n); return;
    default: vd_storen_f64(p, a, n);
    }
}

#define NCPU_ANY(P, V, N)                                                                                \
    static inline V P##_load_any(const ncpu_any *p) { return P##_loadn_any(p, N); }                      \
    static inline void P##_store_any(ncpu_any *p, V a) { P##_storen_any(p, a, N); }                      \
    static inline void P##_stream_any(ncpu_any *p, V a) { P##_storen_any(p, a, N); }                     \
    static inline void P##_store2_any(ncpu_any *p, V a, V b)                                             \
    { P##_storen_any(p, a, N), P##_storen_any(p + N * ncpu_any_size, b, N); }                            \
    static inline void P##_stream2_any(ncpu_any *p, V a, V b) { P##_store2_any(p, a, b); }
NCPU_ANY(vf, vf, VF_LANES)
NCPU_ANY(vd, vd, VD_LANES)
#undef NCPU_ANY
static inline double ncpu_any_real_at(const void *p, size_t i)
{
    return ncpu_any_dtype == NCPU_F64 ? ((const double *)p)[i] : (double)((const float *)p)[i];
}
static inline float ncpu_float_at(const void *p, size_t i) { return ((const float *)p)[i]; }
static inline vd vd_load_any_real(const ncpu_any_real *p) { return vd_loadn_any_real(p, VD_LANES); }

#endif

/* SPDX-License-Identifier: Apache-2.0
 * The vocabulary on AVX2 and F16C: two registers each, no FMA. */

#include <immintrin.h>

typedef struct { __m256 a, b; } vf;
typedef struct { __m256d a, b; } vd;
typedef struct { __m256i a, b; } vq;

static const int32_t ncpu_tail[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};

/* Lanes from, from + 1, ... of the mask that is all ones in lane i < n. */
static inline __m256i ncpu_mask(size_t n, size_t from)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)(ncpu_tail + 16 - n + from));
}
static inline __m256i ncpu_mask64(size_t n, size_t from)
{
    return _mm256_cvtepi32_epi64(_mm_loadu_si128((const __m128i *)(const void *)(ncpu_tail + 16 - n + from)));
}

/* Both widths: P prefix, V vector, S scalar, R register, X the intrinsics' suffix, N lanes of a register. */
#define OP1(P, V, NAME, F) static inline V P##_##NAME(V x) { return (V){F(x.a), F(x.b)}; }
#define OP2(P, V, NAME, F) static inline V P##_##NAME(V x, V y) { return (V){F(x.a, y.a), F(x.b, y.b)}; }
#define GREATER(X, x, y) _mm256_cmp_##X(x, y, _CMP_GT_OQ)
#define NCPU_WIDTH(P, V, S, R, X, N, BIT)                                                               \
    static inline V P##_set(S x) { return (V){_mm256_set1_##X(x), _mm256_set1_##X(x)}; }                \
    OP2(P, V, add, _mm256_add_##X)                                                                      \
    OP2(P, V, sub, _mm256_sub_##X)                                                                      \
    OP2(P, V, mul, _mm256_mul_##X)                                                                      \
    OP2(P, V, div, _mm256_div_##X)                                                                      \
    OP2(P, V, max, _mm256_max_##X)                                                                      \
    OP2(P, V, min, _mm256_min_##X)                                                                      \
    OP1(P, V, sqrt, _mm256_sqrt_##X)                                                                    \
    static inline R P##_bits_(unsigned bits) { return _mm256_castsi256_##X(BIT((int)bits)); }           \
    static inline V P##_abs(V x)                                                                        \
    { R sign = _mm256_set1_##X(-(S)0); return (V){_mm256_andnot_##X(sign, x.a), _mm256_andnot_##X(sign, x.b)}; } \
    static inline V P##_copysign(V x, V y)                                                              \
    {                                                                                                   \
        R sign = _mm256_set1_##X(-(S)0);                                                                \
        V size = P##_abs(x);                                                                            \
        return (V){_mm256_or_##X(size.a, _mm256_and_##X(sign, y.a)),                                    \
                   _mm256_or_##X(size.b, _mm256_and_##X(sign, y.b))};                                   \
    }                                                                                                   \
    static inline V P##_select_gt(V a, V b, V x, V y)                                                   \
    {                                                                                                   \
        return (V){_mm256_blendv_##X(y.a, x.a, GREATER(X, a.a, b.a)),                                   \
                   _mm256_blendv_##X(y.b, x.b, GREATER(X, a.b, b.b))};                                  \
    }                                                                                                   \
    static inline V P##_keep(V x, unsigned bits)                                                        \
    { return (V){_mm256_and_##X(x.a, P##_bits_(bits)), _mm256_and_##X(x.b, P##_bits_(bits >> N))}; }    \
    static inline unsigned P##_positive(V x)                                                            \
    {                                                                                                   \
        R zero = _mm256_setzero_##X();                                                                  \
        return (unsigned)_mm256_movemask_##X(_mm256_cmp_##X(x.a, zero, _CMP_NLE_UQ)) |                  \
               (unsigned)_mm256_movemask_##X(_mm256_cmp_##X(x.b, zero, _CMP_NLE_UQ)) << N;              \
    }

static inline __m256i ncpu_bits32(int bits) /* all ones in lane i where bit i is set */
{
    __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits), lane), lane);
}
static inline __m256i ncpu_bits64(int bits)
{
    __m256i lane = _mm256_setr_epi64x(1, 2, 4, 8);
    return _mm256_cmpeq_epi64(_mm256_and_si256(_mm256_set1_epi64x(bits), lane), lane);
}
NCPU_WIDTH(vf, vf, float, __m256, ps, 8, ncpu_bits32)
NCPU_WIDTH(vd, vd, double, __m256d, pd, 4, ncpu_bits64)
#undef OP1
#undef OP2
#undef GREATER
#undef NCPU_WIDTH

/* The sum is 1.5 * 2^23 + (n + 127): the biased exponent in its low bits, and bit 8 clear for the sign. */
static inline __m256 ncpu_exp2i(__m256 n)
{
    __m256i u = _mm256_castps_si256(_mm256_add_ps(n, _mm256_set1_ps(0x1.8p23f + 127)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(u, 23));
}
static inline vf vf_exp2i(vf n) { return (vf){ncpu_exp2i(n.a), ncpu_exp2i(n.b)}; }

static inline vd ncpu_widen(__m256 x)
{
    return (vd){_mm256_cvtps_pd(_mm256_castps256_ps128(x)), _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))};
}
static inline __m256 ncpu_narrow(vd x)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(x.a)), _mm256_cvtpd_ps(x.b), 1);
}
/* Odd while still double, where the 29 bits that float lacks are not all zero: exact but for float's subnormals, which
 * go the long way, and for overflow, which is infinity here. */
static inline __m256 ncpu_odd(vd x)
{
    const __m256d smallest = _mm256_set1_pd(0x1p-126), zero = _mm256_setzero_pd(), sign = _mm256_set1_pd(-0.0);
    const __m256i lost = _mm256_set1_epi64x((1 << 29) - 1), last = _mm256_set1_epi64x(1 << 29);
    __m256d v[2] = {x.a, x.b};
    __m128 y[2];
    int tiny = 0;
    for (int i = 0; i < 2; i++) {
        const __m256d small = _mm256_cmp_pd(_mm256_andnot_pd(sign, v[i]), smallest, _CMP_LT_OQ);
        tiny |= _mm256_movemask_pd(_mm256_and_pd(small, _mm256_cmp_pd(v[i], zero, _CMP_NEQ_OQ)));
        const __m256i u = _mm256_castpd_si256(v[i]), carried = _mm256_add_epi64(_mm256_and_si256(u, lost), lost);
        const __m256i odd = _mm256_and_si256(carried, last);
        y[i] = _mm256_cvtpd_ps(_mm256_castsi256_pd(_mm256_andnot_si256(lost, _mm256_or_si256(u, odd))));
    }
    __m256 result = _mm256_insertf128_ps(_mm256_castps128_ps256(y[0]), y[1], 1);
    if (__builtin_expect(tiny, 0)) {
        double d[8];
        float f[8];
        _mm256_storeu_pd(d, x.a), _mm256_storeu_pd(d + 4, x.b);
        for (int i = 0; i < 8; i++) f[i] = ncpu_to_odd(d[i]);
        result = _mm256_loadu_ps(f);
    }
    return result;
}
static inline vf ncpu_narrow_odd(vd lo, vd hi) { return (vf){ncpu_odd(lo), ncpu_odd(hi)}; }
static inline vd vf_widen(vf x) { return ncpu_widen(x.a); }
static inline vd vf_widen_hi(vf x) { return ncpu_widen(x.b); }
static inline vf vf_narrow(vd lo, vd hi) { return (vf){ncpu_narrow(lo), ncpu_narrow(hi)}; }
static inline vd vf_fold(vf x) { return vd_add(ncpu_widen(x.a), ncpu_widen(x.b)); }
static inline double vd_sum(vd x)
{
    __m256d s = _mm256_add_pd(x.a, x.b);
    __m128d t = _mm_add_pd(_mm256_castpd256_pd128(s), _mm256_extractf128_pd(s, 1));
    return _mm_cvtsd_f64(_mm_add_sd(t, _mm_unpackhi_pd(t, t)));
}
/* (x0+x4)+(x2+x6) and (x1+x5)+(x3+x7) of x, then the same of y. */
static inline __m256d ncpu_quarters(vd x, vd y)
{
    __m256d s = _mm256_add_pd(x.a, x.b), t = _mm256_add_pd(y.a, y.b);
    return _mm256_add_pd(_mm256_permute2f128_pd(s, t, 0x20), _mm256_permute2f128_pd(s, t, 0x31));
}
static inline __m256d ncpu_sum4(const vd x[4])
{
    __m256d even = ncpu_quarters(x[0], x[2]), odd = ncpu_quarters(x[1], x[3]);
    return _mm256_add_pd(_mm256_unpacklo_pd(even, odd), _mm256_unpackhi_pd(even, odd));
}
static inline vd vd_sum8(const vd x[8]) { return (vd){ncpu_sum4(x), ncpu_sum4(x + 4)}; }
/* Quarters of a vf as doubles, then as above. */
static inline __m256d ncpu_floats(vf x)
{
    const __m256 s = _mm256_add_ps(x.a, x.b);
    return _mm256_cvtps_pd(_mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}
static inline __m256d ncpu_eighths(vf x, vf y)
{
    const __m256d s = ncpu_floats(x), t = ncpu_floats(y);
    return _mm256_add_pd(_mm256_permute2f128_pd(s, t, 0x20), _mm256_permute2f128_pd(s, t, 0x31));
}
static inline __m256d ncpu_float_sum4(const vf x[4])
{
    const __m256d even = ncpu_eighths(x[0], x[2]), odd = ncpu_eighths(x[1], x[3]);
    return _mm256_add_pd(_mm256_unpacklo_pd(even, odd), _mm256_unpackhi_pd(even, odd));
}
static inline vd vf_sum8(const vf x[8]) { return (vd){ncpu_float_sum4(x), ncpu_float_sum4(x + 4)}; }

/* 16-bit storage passes through one register of 16; n of them by pairs, then the odd one. */
static inline __m256i ncpu_loadn16(const uint16_t *p, size_t n)
{
    __m256i pairs = _mm256_maskload_epi32((const int *)(const void *)p, ncpu_mask(n / 2, 0));
    if (n % 2 == 0) return pairs;
    __m256i next = _mm256_andnot_si256(ncpu_mask(n / 2, 0), ncpu_mask(n / 2 + 1, 0));
    return _mm256_or_si256(pairs, _mm256_and_si256(next, _mm256_set1_epi32(p[n - 1])));
}
static inline vf ncpu_from_f16x16(__m256i h)
{
    return (vf){_mm256_cvtph_ps(_mm256_castsi256_si128(h)), _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1))};
}
static inline __m256i ncpu_to_f16x16(vf x)
{
    __m128i lo = _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(lo), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT), 1);
}
static inline vf ncpu_from_bf16x16(__m256i h)
{
    __m256i lo = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(h));
    __m256i hi = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(h, 1));
    return (vf){_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}
static inline __m256i ncpu_round_bf16(__m256 x) /* in 0..65535; NaN becomes 0xffff */
{
    __m256i u = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
    r = _mm256_or_si256(r, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
    return _mm256_srli_epi32(r, 16);
}
static inline __m256i ncpu_to_bf16x16(vf x) /* packus leaves the quarters a0 b0 a1 b1 */
{
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(ncpu_round_bf16(x.a), ncpu_round_bf16(x.b)), 0xd8);
}
static inline void vf_store_low(uint8_t *p, vf x, uint8_t plus)
{
    const __m256i byte = _mm256_set1_epi32(255);
    __m256i pairs = _mm256_packus_epi32(_mm256_and_si256(_mm256_castps_si256(x.a), byte),
                                        _mm256_and_si256(_mm256_castps_si256(x.b), byte));
    pairs = _mm256_permute4x64_epi64(pairs, 0xd8);
    const __m128i low = _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    _mm_storeu_si128((__m128i *)(void *)p, _mm_add_epi8(low, _mm_set1_epi8((char)plus)));
}
#define NCPU_16BIT(T)                                                                                   \
    static inline vf vf_load_##T(const ncpu_##T *p)                                                     \
    { return ncpu_from_##T##x16(_mm256_loadu_si256((const __m256i *)(const void *)p)); }                \
    static inline vf vf_loadn_##T(const ncpu_##T *p, size_t n)                                          \
    { return ncpu_from_##T##x16(ncpu_loadn16(&p->bits, n)); }                                           \
    static inline void vf_store_##T(ncpu_##T *p, vf x)                                                  \
    { _mm256_storeu_si256((__m256i *)(void *)p, ncpu_to_##T##x16(x)); }                                 \
    static inline void vf_stream_##T(ncpu_##T *p, vf x)                                                 \
    { _mm256_stream_si256((__m256i *)(void *)p, ncpu_to_##T##x16(x)); }                                 \
    static inline void vf_storen_##T(ncpu_##T *p, vf x, size_t n)                                       \
    { __m256i h = ncpu_to_##T##x16(x); ncpu_copy(p, &h, n, 2, 16); }
#define NCPU_8BIT(T, INT, CVT)                                                                          \
    static inline vf vf_load_##T(const INT *p)                                                          \
    {                                                                                                   \
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);                                  \
        return (vf){_mm256_cvtepi32_ps(CVT(v)), _mm256_cvtepi32_ps(CVT(_mm_unpackhi_epi64(v, v)))};     \
    }                                                                                                   \
    static inline vf vf_loadn_##T(const INT *p, size_t n)                                               \
    { INT v[16] = {0}; ncpu_copy(v, p, n, 1, 16); return vf_load_##T(v); }
#define NCPU_SAME(P, V, SUFFIX, S, X, N, MASK)                                                          \
    static inline V P##_load_##SUFFIX(const S *p) { return (V){_mm256_loadu_##X(p), _mm256_loadu_##X(p + N)}; } \
    static inline V P##_loadn_##SUFFIX(const S *p, size_t n)                                            \
    { return (V){_mm256_maskload_##X(p, MASK(n, 0)), _mm256_maskload_##X(p + N, MASK(n, N))}; }         \
    static inline void P##_store_##SUFFIX(S *p, V x)                                                    \
    { _mm256_storeu_##X(p, x.a), _mm256_storeu_##X(p + N, x.b); }                                       \
    static inline void P##_stream_##SUFFIX(S *p, V x)                                                   \
    { _mm256_stream_##X(p, x.a), _mm256_stream_##X(p + N, x.b); }                                       \
    static inline void P##_storen_##SUFFIX(S *p, V x, size_t n)                                         \
    { _mm256_maskstore_##X(p, MASK(n, 0), x.a), _mm256_maskstore_##X(p + N, MASK(n, N), x.b); }

static inline void ncpu_copy(void *to, const void *from, size_t n, size_t size, size_t most);
NCPU_SAME(vf, vf, f32, float, ps, 8, ncpu_mask)
NCPU_SAME(vd, vd, f64, double, pd, 4, ncpu_mask64)
NCPU_16BIT(f16)
NCPU_16BIT(bf16)
NCPU_8BIT(u8, uint8_t, _mm256_cvtepu8_epi32)
NCPU_8BIT(i8, int8_t, _mm256_cvtepi8_epi32)
#undef NCPU_16BIT
#undef NCPU_8BIT
#undef NCPU_SAME

static inline vd vd_load_f32(const float *p) { return ncpu_widen(_mm256_loadu_ps(p)); }
static inline void vd_store_f32(float *p, vd x) { _mm256_storeu_ps(p, ncpu_narrow(x)); }
static inline void vd_stream_f32(float *p, vd x) { _mm256_stream_ps(p, ncpu_narrow(x)); }

static inline vq vq_set(uint64_t x) { return (vq){_mm256_set1_epi64x((long long)x), _mm256_set1_epi64x((long long)x)}; }
static inline vq vq_load(const uint64_t *p)
{
    const __m256i *q = (const void *)p;
    return (vq){_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
static inline void vq_store(uint64_t *p, vq x)
{
    __m256i *q = (void *)p;
    _mm256_storeu_si256(q, x.a), _mm256_storeu_si256(q + 1, x.b);
}
static inline void vq_zip(uint64_t *p, vq x, vq y)
{
    const __m256i xs[] = {x.a, x.b}, ys[] = {y.a, y.b};
    for (int i = 0; i < 2; i++) {
        const __m256i even = _mm256_unpacklo_epi64(xs[i], ys[i]), odd = _mm256_unpackhi_epi64(xs[i], ys[i]);
        vq_store(p + 8 * i, (vq){_mm256_permute2x128_si256(even, odd, 0x20), _mm256_permute2x128_si256(even, odd, 0x31)});
    }
}
static inline vq vq_and(vq x, vq y) { return (vq){_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
static inline vq vq_without(vq x, vq y) { return (vq){_mm256_andnot_si256(y.a, x.a), _mm256_andnot_si256(y.b, x.b)}; }
static inline int vq_any(vq x)
{
    const __m256i either = _mm256_or_si256(x.a, x.b);
    return !_mm256_testz_si256(either, either);
}
static inline vq vq_xor3(vq x, vq y, vq z)
{
    return (vq){_mm256_xor_si256(_mm256_xor_si256(x.a, z.a), y.a), _mm256_xor_si256(_mm256_xor_si256(x.b, z.b), y.b)};
}
static inline vq vq_mul32(vq x, vq y) { return (vq){_mm256_mul_epu32(x.a, y.a), _mm256_mul_epu32(x.b, y.b)}; }
static inline vq vq_high(vq x) { return (vq){_mm256_srli_epi64(x.a, 32), _mm256_srli_epi64(x.b, 32)}; }
static inline vq vq_turn(vq x) { return (vq){_mm256_shuffle_epi32(x.a, 0xb1), _mm256_shuffle_epi32(x.b, 0xb1)}; }
static inline vq vq_join(vq lo, vq hi)
{
    return (vq){_mm256_blend_epi32(lo.a, hi.a, 0xaa), _mm256_blend_epi32(lo.b, hi.b, 0xaa)};
}

static inline void ncpu_fence(void) { _mm_sfence(); }

#include "generic.h"

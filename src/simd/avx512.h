/* SPDX-License-Identifier: Apache-2.0
 * The vocabulary on AVX-512 F, BW, DQ and VL: one register each, tails by masks. */

#include <immintrin.h>

#define NCPU_WIDE_REGISTERS 1

typedef __m512 vf;
typedef __m512d vd;
typedef __m512i vq;

/* Both widths: P prefix, V vector, S scalar, X the intrinsics' suffix, I that of integers, M mask type. */
#define NCPU_WIDTH(P, V, S, X, I, M, SIGN)                                                              \
    static inline V P##_set(S x) { return _mm512_set1_##X(x); }                                         \
    static inline V P##_add(V a, V b) { return _mm512_add_##X(a, b); }                                  \
    static inline V P##_sub(V a, V b) { return _mm512_sub_##X(a, b); }                                  \
    static inline V P##_mul(V a, V b) { return _mm512_mul_##X(a, b); }                                  \
    static inline V P##_div(V a, V b) { return _mm512_div_##X(a, b); }                                  \
    static inline V P##_sqrt(V a) { return _mm512_sqrt_##X(a); }                                        \
    static inline V P##_max(V a, V b) { return _mm512_max_##X(a, b); }                                  \
    static inline V P##_min(V a, V b) { return _mm512_min_##X(a, b); }                                  \
    static inline V P##_abs(V a) { return _mm512_andnot_##X(_mm512_set1_##X(-(S)0), a); }               \
    static inline V P##_copysign(V a, V b)                                                              \
    {                                                                                                   \
        __m512i size = _mm512_cast##X##_si512(a), sign = _mm512_cast##X##_si512(b);                     \
        return _mm512_castsi512_##X(_mm512_ternarylogic_##I(SIGN, sign, size, 0xca)); /* SIGN ? sign : size */ \
    }                                                                                                   \
    static inline V P##_select_gt(V a, V b, V x, V y)                                                   \
    { return _mm512_mask_blend_##X(_mm512_cmp_##X##_mask(a, b, _CMP_GT_OQ), y, x); }                    \
    static inline V P##_keep(V a, unsigned bits) { return _mm512_maskz_mov_##X((M)bits, a); }           \
    static inline unsigned P##_positive(V a)                                                            \
    { return _mm512_cmp_##X##_mask(a, _mm512_setzero_##X(), _CMP_NLE_UQ); }

NCPU_WIDTH(vf, vf, float, ps, epi32, __mmask16, _mm512_set1_epi32(INT32_MIN))
NCPU_WIDTH(vd, vd, double, pd, epi64, __mmask8, _mm512_set1_epi64(INT64_MIN))
#undef NCPU_WIDTH

/* The sum is 1.5 * 2^23 + (n + 127): the biased exponent in its low bits, and bit 8 clear for the sign. */
static inline vf vf_exp2i(vf n)
{
    __m512i sum = _mm512_castps_si512(_mm512_add_ps(n, _mm512_set1_ps(0x1.8p23f + 127)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(sum, 23));
}

static inline vd vf_widen(vf a) { return _mm512_cvtps_pd(_mm512_castps512_ps256(a)); }
static inline vd vf_widen_hi(vf a) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)); }
static inline vd vf_fold(vf a) { return _mm512_add_pd(vf_widen(a), vf_widen_hi(a)); }
static inline vf vf_narrow(vd lo, vd hi)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(lo)), _mm512_cvtpd_ps(hi), 1);
}
/* Towards zero, then odd where that was inexact: see ncpu_to_odd. */
static inline __m256 ncpu_odd(vd a)
{
    const __m256 y = _mm512_cvt_roundpd_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    const __mmask8 inexact = _mm512_cmp_pd_mask(_mm512_cvtps_pd(y), a, _CMP_NEQ_OQ);
    const __m256i u = _mm256_castps_si256(y);
    return _mm256_castsi256_ps(_mm256_mask_or_epi32(u, inexact, u, _mm256_set1_epi32(1)));
}
static inline vf ncpu_narrow_odd(vd lo, vd hi)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(ncpu_odd(lo)), ncpu_odd(hi), 1);
}
static inline double vd_sum(vd a)
{
    __m256d s = _mm256_add_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
    __m128d t = _mm_add_pd(_mm256_castpd256_pd128(s), _mm256_extractf128_pd(s, 1));
    return _mm_cvtsd_f64(_mm_add_sd(t, _mm_unpackhi_pd(t, t)));
}
static inline vd vd_sum8(const vd a[8])
{
#define HALVES(x, y) _mm512_add_pd(_mm512_shuffle_f64x2(x, y, 0x44), _mm512_shuffle_f64x2(x, y, 0xee))
#define QUARTERS(x, y) _mm512_add_pd(_mm512_shuffle_f64x2(x, y, 0x88), _mm512_shuffle_f64x2(x, y, 0xdd))
    vd even = QUARTERS(HALVES(a[0], a[2]), HALVES(a[4], a[6]));
    vd odd = QUARTERS(HALVES(a[1], a[3]), HALVES(a[5], a[7]));
    return _mm512_add_pd(_mm512_unpacklo_pd(even, odd), _mm512_unpackhi_pd(even, odd));
#undef HALVES
#undef QUARTERS
}
static inline vd vf_sum8(const vf a[8])
{
#define HALVES(x, y) _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee))
#define QUARTERS(x, y) _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd))
#define SIXTEENTHS(x, y) _mm512_add_pd(_mm512_shuffle_f64x2(x, y, 0x88), _mm512_shuffle_f64x2(x, y, 0xdd))
    const vf even = QUARTERS(HALVES(a[0], a[2]), HALVES(a[4], a[6]));
    const vf odd = QUARTERS(HALVES(a[1], a[3]), HALVES(a[5], a[7]));
    const vd e = SIXTEENTHS(vf_widen(even), vf_widen_hi(even)), o = SIXTEENTHS(vf_widen(odd), vf_widen_hi(odd));
    return _mm512_add_pd(_mm512_unpacklo_pd(e, o), _mm512_unpackhi_pd(e, o));
#undef HALVES
#undef QUARTERS
#undef SIXTEENTHS
}

/* Loads and stores: LOAD and STORE of the storage register, conversions FROM it and TO it. */
static inline vf ncpu_vf_from_bf16(__m256i h)
{
    const __m512i lane = _mm512_set_epi16(15, 0, 14, 0, 13, 0, 12, 0, 11, 0, 10, 0, 9, 0, 8, 0,
                                          7, 0, 6, 0, 5, 0, 4, 0, 3, 0, 2, 0, 1, 0, 0, 0);
    return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, lane, _mm512_castsi256_si512(h)));
}
/* AVX512_BF16 rounds in one instruction, but takes subnormals for zeros. */
static inline int ncpu_subnormal(vf a) { return _mm512_fpclass_ps_mask(a, 0x20); }
static inline int ncpu_rounds_bf16(void) { return __builtin_cpu_supports("avx512bf16"); }
static __attribute__((noinline)) __m256i ncpu_vf_round_to_bf16(vf a)
{
    __m512i u = _mm512_castps_si512(a), r = _mm512_add_epi32(u, _mm512_set1_epi32(0x7fff));
    r = _mm512_mask_add_epi32(r, _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x10000)), r, _mm512_set1_epi32(1));
    r = _mm512_mask_mov_epi32(r, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), _mm512_set1_epi32(-1));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
}
static inline __m256i ncpu_vf_to_bf16(vf a)
{
    if (!ncpu_rounds_bf16() || ncpu_subnormal(a)) return ncpu_vf_round_to_bf16(a);
    __m256i h;
    __asm__("vcvtneps2bf16 %1, %0" : "=v"(h) : "v"(a));
    return h;
}
#define SAME(x) (x)
#define FROM_U8(x) _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(x))
#define FROM_I8(x) _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x))
#define TO_F16(x) _mm512_maskz_cvtps_ph(UINT16_MAX, x, _MM_FROUND_TO_NEAREST_INT) /* else gcc -O0 -Wsign-conversion warns */
#define BITS(M, n) (M)((1u << (n)) - 1)
#define NCPU_LOAD(P, V, SUFFIX, T, M, REG, LOAD, FROM)                                                  \
    static inline V P##_load_##SUFFIX(const T *p) { return FROM(REG##_loadu_##LOAD((const void *)p)); } \
    static inline V P##_loadn_##SUFFIX(const T *p, size_t n)                                            \
    { return FROM(REG##_maskz_loadu_##LOAD(BITS(M, n), p)); }
#define NCPU_STORE(P, V, SUFFIX, T, M, REG, STORE, STREAM, S, TO)                                       \
    static inline void P##_store_##SUFFIX(T *p, V a) { REG##_storeu_##STORE((void *)p, TO(a)); }        \
    static inline void P##_stream_##SUFFIX(T *p, V a) { REG##_stream_##STREAM((S *)(void *)p, TO(a)); } \
    static inline void P##_storen_##SUFFIX(T *p, V a, size_t n)                                         \
    { REG##_mask_storeu_##STORE(p, BITS(M, n), TO(a)); }

NCPU_LOAD(vf, vf, f32, float, __mmask16, _mm512, ps, SAME)
NCPU_LOAD(vf, vf, f16, ncpu_f16, __mmask16, _mm256, epi16, _mm512_cvtph_ps)
NCPU_LOAD(vf, vf, bf16, ncpu_bf16, __mmask16, _mm256, epi16, ncpu_vf_from_bf16)
NCPU_LOAD(vf, vf, u8, uint8_t, __mmask16, _mm, epi8, FROM_U8)
NCPU_LOAD(vf, vf, i8, int8_t, __mmask16, _mm, epi8, FROM_I8)
NCPU_LOAD(vd, vd, f64, double, __mmask8, _mm512, pd, SAME)
NCPU_STORE(vf, vf, f32, float, __mmask16, _mm512, ps, ps, float, SAME)
NCPU_STORE(vf, vf, f16, ncpu_f16, __mmask16, _mm256, epi16, si256, __m256i, TO_F16)
NCPU_STORE(vf, vf, bf16, ncpu_bf16, __mmask16, _mm256, epi16, si256, __m256i, ncpu_vf_to_bf16)
NCPU_STORE(vd, vd, f64, double, __mmask8, _mm512, pd, pd, double, SAME)
#undef SAME
#undef FROM_U8
#undef FROM_I8
#undef TO_F16
#undef BITS
#undef NCPU_LOAD
#undef NCPU_STORE

static inline vd vd_load_f32(const float *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
static inline void vd_store_f32(float *p, vd a) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(a)); }
static inline void vd_stream_f32(float *p, vd a) { _mm256_stream_ps(p, _mm512_cvtpd_ps(a)); }

/* Two vectors at once round in 16-bit lanes, at half the operations.  h upper and l lower halves: up where l is beyond
 * the middle, or in the middle and h odd, that is where l | (h & 1) > 0x8000. */
static __attribute__((noinline)) __m512i ncpu_vf2_round_to_bf16(vf a, vf b)
{
    const __m512i even = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26, 24,
                                          22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_add_epi16(even, _mm512_set1_epi16(1));
    __m512i l = _mm512_permutex2var_epi16(_mm512_castps_si512(a), even, _mm512_castps_si512(b));
    __m512i h = _mm512_permutex2var_epi16(_mm512_castps_si512(a), odd, _mm512_castps_si512(b));
    l = _mm512_ternarylogic_epi32(l, h, _mm512_set1_epi16(1), 0xf8); /* l | (h & 1) */
    const __mmask32 up = _mm512_cmpgt_epu16_mask(l, _mm512_set1_epi16(INT16_MIN));
    const __mmask32 nan = _mm512_kunpackw(_mm512_cmp_ps_mask(b, b, _CMP_UNORD_Q), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q));
    h = _mm512_mask_add_epi16(h, up, h, _mm512_set1_epi16(1));
    return _mm512_mask_mov_epi16(h, nan, _mm512_set1_epi16(-1));
}
static inline __m512i ncpu_vf2_to_bf16(vf a, vf b)
{
    if (!ncpu_rounds_bf16() || (ncpu_subnormal(a) | ncpu_subnormal(b))) return ncpu_vf2_round_to_bf16(a, b);
    __m512i both;
    __asm__("vcvtne2ps2bf16 %1, %2, %0" : "=v"(both) : "v"(a), "v"(b));
    return both;
}
static inline void vf_store2_bf16(ncpu_bf16 *p, vf a, vf b) { _mm512_storeu_si512(p, ncpu_vf2_to_bf16(a, b)); }
static inline void vf_stream2_bf16(ncpu_bf16 *p, vf a, vf b) { _mm512_stream_si512((void *)p, ncpu_vf2_to_bf16(a, b)); }
#define NCPU_HAVE_STORE2

static inline void vf_store_low(uint8_t *p, vf a, uint8_t plus)
{
    const __m128i low = _mm512_cvtepi32_epi8(_mm512_castps_si512(a));
    _mm_storeu_si128((__m128i *)(void *)p, _mm_add_epi8(low, _mm_set1_epi8((char)plus)));
}

/* The larger magnitude.  The intrinsic is a macro that gcc -O0 -Wsign-conversion warns of. */
static inline vf ncpu_farther(vf a, vf b)
{
    vf y;
    __asm__("vrangeps $0xb, %2, %1, %0" : "=v"(y) : "v"(a), "v"(b));
    return y;
}
/* Integers that saturate on their way to bytes, and whole dwords of these in order again.  Beyond 2^31 an integer is
 * wrong, and the float far from it. */
static inline int vf_store4_rounded(uint8_t *p, const vf x[4], int zero, int low, int high)
{
    const int sign = low < 0 ? 0 : 128;
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    __m512i n[4];
    vf rest[4];
    for (int t = 0; t < 4; t++) n[t] = _mm512_cvtps_epi32(x[t]), rest[t] = vf_sub(x[t], _mm512_cvtepi32_ps(n[t]));
    const vf off = ncpu_farther(ncpu_farther(rest[0], rest[1]), ncpu_farther(rest[2], rest[3]));
    const __m512i plus = _mm512_set1_epi16((short)(zero - sign));
    __m512i y = _mm512_packs_epi16(_mm512_adds_epi16(_mm512_packs_epi32(n[0], n[1]), plus),
                                   _mm512_adds_epi16(_mm512_packs_epi32(n[2], n[3]), plus));
    y = _mm512_min_epi8(_mm512_max_epi8(y, _mm512_set1_epi8((char)(low - sign))), _mm512_set1_epi8((char)(high - sign)));
    y = _mm512_xor_si512(_mm512_permutexvar_epi32(order, y), _mm512_set1_epi8((char)sign));
    _mm512_storeu_si512(p, y);
    return _mm512_cmp_ps_mask(off, vf_set(0.5f - 0x1p-13f), _CMP_GT_OQ) != 0;
}
#define NCPU_HAVE_STORE4_ROUNDED

static inline vq vq_set(uint64_t x) { return _mm512_set1_epi64((long long)x); }
static inline vq vq_load(const uint64_t *p) { return _mm512_loadu_si512(p); }
static inline void vq_store(uint64_t *p, vq a) { _mm512_storeu_si512(p, a); }
static inline void vq_zip(uint64_t *p, vq a, vq b)
{
    vq_store(p, _mm512_permutex2var_epi64(a, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), b));
    vq_store(p + 8, _mm512_permutex2var_epi64(a, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), b));
}
static inline vq vq_and(vq a, vq b) { return _mm512_and_si512(a, b); }
static inline vq vq_without(vq a, vq b) { return _mm512_andnot_si512(b, a); }
static inline int vq_any(vq a) { return _mm512_test_epi64_mask(a, a) != 0; }
static inline vq vq_xor3(vq a, vq b, vq c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
static inline vq vq_mul32(vq a, vq b) { return _mm512_mul_epu32(a, b); }
static inline vq vq_high(vq a) { return _mm512_srli_epi64(a, 32); }
static inline vq vq_turn(vq a) { return _mm512_rol_epi64(a, 32); }
static inline vq vq_join(vq lo, vq hi) { return _mm512_mask_mov_epi32(hi, 0x5555, lo); }

static inline void ncpu_fence(void) { _mm_sfence(); }

#include "generic.h"

/* SPDX-License-Identifier: Apache-2.0
 * The vocabulary on AArch64: four q registers each, baseline instructions, no FMA. */

#include <arm_neon.h>

typedef struct { float32x4_t a, b, c, d; } vf;
typedef struct { float64x2_t a, b, c, d; } vd;
typedef struct { uint64x2_t a, b, c, d; } vq;

/* Both widths: P prefix, V vector, S scalar, Q register, X the intrinsics' suffix, U that of the bits, N lanes
 * of a register, MIN the sign bit, WEIGHTS 2^i for its lanes. */
#define EACH(V, F, ...) (V){F(a, __VA_ARGS__), F(b, __VA_ARGS__), F(c, __VA_ARGS__), F(d, __VA_ARGS__)}
#define UNARY(m, F, x) F((x).m)
#define BINARY(m, F, x, y) F((x).m, (y).m)
#define PICK(m, X, G, u, v, x, y) vbslq_##X(G((u).m, (v).m), (x).m, (y).m)
#define SIGN(m, X, sign, x, y) vbslq_##X(sign, (y).m, (x).m)
#define OP1(P, V, NAME, F) static inline V P##_##NAME(V x) { return EACH(V, UNARY, F, x); }
#define OP2(P, V, NAME, F) static inline V P##_##NAME(V x, V y) { return EACH(V, BINARY, F, x, y); }
#define NCPU_WIDTH(P, V, S, Q, X, U, N, MIN, WEIGHTS)                                                   \
    static inline V P##_set(S x) { Q r = vdupq_n_##X(x); return (V){r, r, r, r}; }                      \
    OP2(P, V, add, vaddq_##X)                                                                           \
    OP2(P, V, sub, vsubq_##X)                                                                           \
    OP2(P, V, mul, vmulq_##X)                                                                           \
    OP2(P, V, div, vdivq_##X)                                                                           \
    OP1(P, V, sqrt, vsqrtq_##X)                                                                         \
    OP1(P, V, abs, vabsq_##X)                                                                           \
    static inline V P##_max(V x, V y) { return EACH(V, PICK, X, vcgtq_##X, x, y, x, y); }               \
    static inline V P##_min(V x, V y) { return EACH(V, PICK, X, vcltq_##X, x, y, x, y); }               \
    static inline V P##_select_gt(V u, V v, V x, V y) { return EACH(V, PICK, X, vcgtq_##X, u, v, x, y); } \
    static inline V P##_copysign(V x, V y) { return EACH(V, SIGN, X, vdupq_n_##U(MIN), x, y); }         \
    static inline Q P##_keep_(Q x, unsigned bits)                                                       \
    {                                                                                                   \
        return vreinterpretq_##X##_##U(vandq_##U(vreinterpretq_##U##_##X(x),                            \
                                                 vtstq_##U(vdupq_n_##U(bits), WEIGHTS)));               \
    }                                                                                                   \
    static inline V P##_keep(V x, unsigned bits)                                                        \
    {                                                                                                   \
        return (V){P##_keep_(x.a, bits), P##_keep_(x.b, bits >> N),                                     \
                   P##_keep_(x.c, bits >> 2 * N), P##_keep_(x.d, bits >> 3 * N)};                       \
    }                                                                                                   \
    static inline unsigned P##_positive_(Q x)                                                           \
    { return (unsigned)vaddvq_##U(vbicq_##U(WEIGHTS, vcleq_##X(x, vdupq_n_##X(0)))); }                  \
    static inline unsigned P##_positive(V x)                                                            \
    {                                                                                                   \
        return P##_positive_(x.a) | P##_positive_(x.b) << N | P##_positive_(x.c) << 2 * N |             \
               P##_positive_(x.d) << 3 * N;                                                             \
    }

NCPU_WIDTH(vf, vf, float, float32x4_t, f32, u32, 4, UINT32_C(1) << 31, ((uint32x4_t){1, 2, 4, 8}))
NCPU_WIDTH(vd, vd, double, float64x2_t, f64, u64, 2, UINT64_C(1) << 63, ((uint64x2_t){1, 2}))

/* The sum is 1.5 * 2^23 + (n + 127): the biased exponent in its low bits, and bit 8 clear for the sign. */
static inline float32x4_t ncpu_exp2i(float32x4_t n)
{
    float32x4_t sum = vaddq_f32(n, vdupq_n_f32(0x1.8p23f + 127));
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(sum), 23));
}
OP1(vf, vf, exp2i, ncpu_exp2i)

#define LO(x) vcvt_f64_f32(vget_low_f32(x))
#define HI(x) vcvt_high_f64_f32(x)
#define NARROW(x, y) vcvt_high_f32_f64(vcvt_f32_f64(x), y)
static inline vd vf_widen(vf x) { return (vd){LO(x.a), HI(x.a), LO(x.b), HI(x.b)}; }
static inline vd vf_widen_hi(vf x) { return (vd){LO(x.c), HI(x.c), LO(x.d), HI(x.d)}; }
static inline vf vf_narrow(vd lo, vd hi)
{
    return (vf){NARROW(lo.a, lo.b), NARROW(lo.c, lo.d), NARROW(hi.a, hi.b), NARROW(hi.c, hi.d)};
}
#define ODD(x, y) vcvtx_high_f32_f64(vcvtx_f32_f64(x), y)
static inline vf ncpu_narrow_odd(vd lo, vd hi)
{
    return (vf){ODD(lo.a, lo.b), ODD(lo.c, lo.d), ODD(hi.a, hi.b), ODD(hi.c, hi.d)};
}
static inline vd vf_fold(vf x)
{
    return (vd){vaddq_f64(LO(x.a), LO(x.c)), vaddq_f64(HI(x.a), HI(x.c)),
                vaddq_f64(LO(x.b), LO(x.d)), vaddq_f64(HI(x.b), HI(x.d))};
}
static inline float64x2_t ncpu_quarters(vd x) { return vaddq_f64(vaddq_f64(x.a, x.c), vaddq_f64(x.b, x.d)); }
static inline double vd_sum(vd x) { return vpaddd_f64(ncpu_quarters(x)); }
static inline float64x2_t ncpu_sum2(const vd x[2]) { return vpaddq_f64(ncpu_quarters(x[0]), ncpu_quarters(x[1])); }
static inline vd vd_sum8(const vd x[8])
{
    return (vd){ncpu_sum2(x), ncpu_sum2(x + 2), ncpu_sum2(x + 4), ncpu_sum2(x + 6)};
}
static inline float64x2_t ncpu_eighths(vf x)
{
    const float32x4_t q = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
    return vaddq_f64(vcvt_f64_f32(vget_low_f32(q)), vcvt_high_f64_f32(q));
}
static inline float64x2_t ncpu_float_sum2(const vf x[2]) { return vpaddq_f64(ncpu_eighths(x[0]), ncpu_eighths(x[1])); }
static inline vd vf_sum8(const vf x[8])
{
    return (vd){ncpu_float_sum2(x), ncpu_float_sum2(x + 2), ncpu_float_sum2(x + 4), ncpu_float_sum2(x + 6)};
}

/* Four elements of storage as floats and back; tails pass through a buffer. */
static inline float32x4_t ncpu_load4_f32(const float *p) { return vld1q_f32(p); }
static inline float32x4_t ncpu_load4_f16(const ncpu_f16 *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits)));
}
static inline float32x4_t ncpu_load4_bf16(const ncpu_bf16 *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&p->bits), 16));
}
static inline void ncpu_store4_f32(float *p, float32x4_t x) { vst1q_f32(p, x); }
static inline void ncpu_store4_f16(ncpu_f16 *p, float32x4_t x)
{
    vst1_u16(&p->bits, vreinterpret_u16_f16(vcvt_f16_f32(x)));
}
static inline void ncpu_store4_bf16(ncpu_bf16 *p, float32x4_t x) /* the upper halves of x + 0x7fff + odd */
{
    uint32x4_t u = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    uint16x4_t h = vaddhn_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    vst1_u16(&p->bits, vorn_u16(h, vmovn_u32(vceqq_f32(x, x))));
}
static inline void ncpu_copy(void *to, const void *from, size_t n, size_t size, size_t most);
#define NCPU_VF(SUFFIX, T)                                                                              \
    static inline vf vf_load_##SUFFIX(const T *p)                                                       \
    {                                                                                                   \
        return (vf){ncpu_load4_##SUFFIX(p), ncpu_load4_##SUFFIX(p + 4),                                 \
                    ncpu_load4_##SUFFIX(p + 8), ncpu_load4_##SUFFIX(p + 12)};                           \
    }                                                                                                   \
    static inline void vf_store_##SUFFIX(T *p, vf x)                                                    \
    {                                                                                                   \
        ncpu_store4_##SUFFIX(p, x.a), ncpu_store4_##SUFFIX(p + 4, x.b);                                 \
        ncpu_store4_##SUFFIX(p + 8, x.c), ncpu_store4_##SUFFIX(p + 12, x.d);                            \
    }
#define NCPU_TAIL(P, V, N, SUFFIX, T)                                                                   \
    static inline V P##_loadn_##SUFFIX(const T *p, size_t n)                                            \
    { T v[N]; memset(v, 0, sizeof v); ncpu_copy(v, p, n, sizeof *p, N); return P##_load_##SUFFIX(v); }
#define NCPU_STORES(P, V, N, SUFFIX, T)                                                                 \
    static inline void P##_stream_##SUFFIX(T *p, V x) { P##_store_##SUFFIX(p, x); }                     \
    static inline void P##_storen_##SUFFIX(T *p, V x, size_t n)                                         \
    { T v[N]; P##_store_##SUFFIX(v, x); ncpu_copy(p, v, n, sizeof *p, N); }

static inline vf vf_load_u8(const uint8_t *p)
{
    uint8x16_t v = vld1q_u8(p);
    uint16x8_t lo = vmovl_u8(vget_low_u8(v)), hi = vmovl_high_u8(v);
    return (vf){vcvtq_f32_u32(vmovl_u16(vget_low_u16(lo))), vcvtq_f32_u32(vmovl_high_u16(lo)),
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(hi))), vcvtq_f32_u32(vmovl_high_u16(hi))};
}
static inline vf vf_load_i8(const int8_t *p)
{
    int8x16_t v = vld1q_s8(p);
    int16x8_t lo = vmovl_s8(vget_low_s8(v)), hi = vmovl_high_s8(v);
    return (vf){vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))), vcvtq_f32_s32(vmovl_high_s16(lo)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))), vcvtq_f32_s32(vmovl_high_s16(hi))};
}
static inline void vf_store_low(uint8_t *p, vf x, uint8_t plus)
{
#define PAIR(a, b) vcombine_u16(vmovn_u32(vreinterpretq_u32_f32(a)), vmovn_u32(vreinterpretq_u32_f32(b)))
    const uint8x16_t low = vcombine_u8(vmovn_u16(PAIR(x.a, x.b)), vmovn_u16(PAIR(x.c, x.d)));
#undef PAIR
    vst1q_u8(p, vaddq_u8(low, vdupq_n_u8(plus)));
}
static inline vd vd_load_f64(const double *p)
{
    return (vd){vld1q_f64(p), vld1q_f64(p + 2), vld1q_f64(p + 4), vld1q_f64(p + 6)};
}
static inline void vd_store_f64(double *p, vd x)
{
    vst1q_f64(p, x.a), vst1q_f64(p + 2, x.b), vst1q_f64(p + 4, x.c), vst1q_f64(p + 6, x.d);
}
NCPU_VF(f32, float)
NCPU_VF(f16, ncpu_f16)
NCPU_VF(bf16, ncpu_bf16)
NCPU_TAIL(vf, vf, 16, f32, float)
NCPU_TAIL(vf, vf, 16, f16, ncpu_f16)
NCPU_TAIL(vf, vf, 16, bf16, ncpu_bf16)
NCPU_TAIL(vf, vf, 16, u8, uint8_t)
NCPU_TAIL(vf, vf, 16, i8, int8_t)
NCPU_TAIL(vd, vd, 8, f64, double)
NCPU_STORES(vf, vf, 16, f32, float)
NCPU_STORES(vf, vf, 16, f16, ncpu_f16)
NCPU_STORES(vf, vf, 16, bf16, ncpu_bf16)
NCPU_STORES(vd, vd, 8, f64, double)

static inline vd vd_load_f32(const float *p)
{
    float32x4_t lo = vld1q_f32(p), hi = vld1q_f32(p + 4);
    return (vd){LO(lo), HI(lo), LO(hi), HI(hi)};
}
static inline void vd_store_f32(float *p, vd x)
{
    vst1q_f32(p, NARROW(x.a, x.b)), vst1q_f32(p + 4, NARROW(x.c, x.d));
}
static inline void vd_stream_f32(float *p, vd x) { vd_store_f32(p, x); }

#define XOR3(m, x, y, z) veorq_u64(veorq_u64((x).m, (z).m), (y).m)
#define MUL32(m, x, y) vmull_u32(vmovn_u64((x).m), vmovn_u64((y).m))
#define HIGH(m, x) vshrq_n_u64((x).m, 32)
#define TURN(m, x) vreinterpretq_u64_u32(vrev64q_u32(vreinterpretq_u32_u64((x).m)))
#define JOIN(m, lo, hi) vbslq_u64(vdupq_n_u64(UINT32_MAX), (lo).m, (hi).m)
static inline vq vq_set(uint64_t x) { uint64x2_t r = vdupq_n_u64(x); return (vq){r, r, r, r}; }
static inline vq vq_load(const uint64_t *p)
{
    return (vq){vld1q_u64(p), vld1q_u64(p + 2), vld1q_u64(p + 4), vld1q_u64(p + 6)};
}
static inline void vq_store(uint64_t *p, vq x)
{
    vst1q_u64(p, x.a), vst1q_u64(p + 2, x.b), vst1q_u64(p + 4, x.c), vst1q_u64(p + 6, x.d);
}
static inline void vq_zip(uint64_t *p, vq x, vq y)
{
    vst2q_u64(p, (uint64x2x2_t){{x.a, y.a}}), vst2q_u64(p + 4, (uint64x2x2_t){{x.b, y.b}});
    vst2q_u64(p + 8, (uint64x2x2_t){{x.c, y.c}}), vst2q_u64(p + 12, (uint64x2x2_t){{x.d, y.d}});
}
static inline vq vq_and(vq x, vq y) { return EACH(vq, BINARY, vandq_u64, x, y); }
static inline vq vq_without(vq x, vq y) { return EACH(vq, BINARY, vbicq_u64, x, y); }
static inline int vq_any(vq x)
{
    return vmaxvq_u32(vreinterpretq_u32_u64(vorrq_u64(vorrq_u64(x.a, x.b), vorrq_u64(x.c, x.d)))) != 0;
}
static inline vq vq_xor3(vq x, vq y, vq z) { return EACH(vq, XOR3, x, y, z); }
static inline vq vq_mul32(vq x, vq y) { return EACH(vq, MUL32, x, y); }
static inline vq vq_high(vq x) { return EACH(vq, HIGH, x); }
static inline vq vq_turn(vq x) { return EACH(vq, TURN, x); }
static inline vq vq_join(vq lo, vq hi) { return EACH(vq, JOIN, lo, hi); }
#undef XOR3
#undef MUL32
#undef HIGH
#undef TURN
#undef JOIN
#undef EACH
#undef UNARY
#undef BINARY
#undef PICK
#undef SIGN
#undef OP1
#undef OP2
#undef NCPU_WIDTH
#undef LO
#undef HI
#undef NARROW
#undef ODD
#undef NCPU_VF
#undef NCPU_TAIL
#undef NCPU_STORES

static inline void ncpu_fence(void) {}

#include "generic.h"

/* SPDX-License-Identifier: Apache-2.0
 * The vocabulary in plain C: its definition, and what runs where no other instruction set does. */

typedef struct { float v[16]; } vf;
typedef struct { double v[8]; } vd;
typedef struct { uint64_t v[8]; } vq;

#define NCPU_COMPACT 1 /* see kernels.inc */
#define LANES(i, n) for (int i = 0; i < (n); i++)

/* Both widths: P prefix, V vector, S scalar, N lanes, and the names of the C library's functions. */
#define NCPU_WIDTH(P, V, S, N, SQRT, COPYSIGN)                                                          \
    static inline V P##_set(S x) { V r; LANES(i, N) r.v[i] = x; return r; }                             \
    static inline V P##_add(V a, V b) { LANES(i, N) a.v[i] += b.v[i]; return a; }                       \
    static inline V P##_sub(V a, V b) { LANES(i, N) a.v[i] -= b.v[i]; return a; }                       \
    static inline V P##_mul(V a, V b) { LANES(i, N) a.v[i] *= b.v[i]; return a; }                       \
    static inline V P##_div(V a, V b) { LANES(i, N) a.v[i] /= b.v[i]; return a; }                       \
    static inline V P##_sqrt(V a) { LANES(i, N) a.v[i] = SQRT(a.v[i]); return a; }                      \
    static inline V P##_max(V a, V b) { LANES(i, N) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; } \
    static inline V P##_min(V a, V b) { LANES(i, N) a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return a; } \
    static inline V P##_abs(V a) { LANES(i, N) a.v[i] = COPYSIGN(a.v[i], 0); return a; }                \
    static inline V P##_copysign(V a, V b) { LANES(i, N) a.v[i] = COPYSIGN(a.v[i], b.v[i]); return a; } \
    static inline V P##_select_gt(V a, V b, V x, V y)                                                   \
    { LANES(i, N) a.v[i] = a.v[i] > b.v[i] ? x.v[i] : y.v[i]; return a; }                               \
    static inline V P##_keep(V a, unsigned bits) { LANES(i, N) a.v[i] = bits >> i & 1 ? a.v[i] : 0; return a; } \
    static inline unsigned P##_positive(V a) { unsigned r = 0; LANES(i, N) r |= (unsigned)!(a.v[i] <= 0) << i; return r; }

NCPU_WIDTH(vf, vf, float, 16, sqrtf, copysignf)
NCPU_WIDTH(vd, vd, double, 8, sqrt, copysign)
#undef NCPU_WIDTH

static inline vf vf_exp2i(vf n) { LANES(i, 16) n.v[i] = ncpu_float(ncpu_bits(n.v[i] + (0x1.8p23f + 127)) << 23); return n; }

static inline vd vf_fold(vf a) { vd r; LANES(i, 8) r.v[i] = (double)a.v[i] + (double)a.v[i + 8]; return r; }
static inline vd vd_fold(vd a) { return a; }
static inline double vd_sum(vd a)
{
    return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7]));
}
static inline vd vf_sum8(const vf a[8])
{
    vd r;
    LANES(j, 8)
    {
        double q[4];
        LANES(i, 4) q[i] = (a[j].v[i] + a[j].v[i + 8]) + (a[j].v[i + 4] + a[j].v[i + 12]);
        r.v[j] = (q[0] + q[2]) + (q[1] + q[3]);
    }
    return r;
}
static inline vd vd_sum8(const vd a[8]) { vd r; LANES(j, 8) r.v[j] = vd_sum(a[j]); return r; }
static inline vf vf_narrow(vd lo, vd hi) { vf r; LANES(i, 8) r.v[i] = (float)lo.v[i], r.v[i + 8] = (float)hi.v[i]; return r; }
static inline vd vf_widen(vf a) { vd r; LANES(i, 8) r.v[i] = a.v[i]; return r; }
static inline vd vf_widen_hi(vf a) { vd r; LANES(i, 8) r.v[i] = a.v[i + 8]; return r; }

/* Loads and stores: storage type T, conversion FROM it to the lane's type and TO it. */
#define SAME(x) (x)
#define CALLED static __attribute__((noinline, unused)) /* 16 conversions of 16-bit types in line would triple this object */
#define INLINE static inline
#define NCPU_LOAD(HOW, P, V, N, SUFFIX, T, FROM)                                                            \
    HOW V P##_loadn_##SUFFIX(const T *p, size_t n)                                            \
    { V r; LANES(i, N) r.v[i] = (size_t)i < n ? FROM(p[i]) : 0; return r; }                             \
    HOW V P##_load_##SUFFIX(const T *p) { V r; LANES(i, N) r.v[i] = FROM(p[i]); return r; }
#define NCPU_STORE(HOW, P, V, N, SUFFIX, T, TO)                                                             \
    HOW void P##_storen_##SUFFIX(T *p, V a, size_t n) { LANES(i, (int)n) p[i] = TO(a.v[i]); } \
    HOW void P##_store_##SUFFIX(T *p, V a) { LANES(i, N) p[i] = TO(a.v[i]); }                 \
    HOW void P##_stream_##SUFFIX(T *p, V a) { LANES(i, N) p[i] = TO(a.v[i]); }
#define ODD_TO_F16(x) ncpu_to_f16(ncpu_to_odd(x))
#define ODD_TO_BF16(x) ncpu_to_bf16(ncpu_to_odd(x))

NCPU_LOAD(INLINE, vf, vf, 16, f32, float, SAME)
NCPU_LOAD(CALLED, vf, vf, 16, f16, ncpu_f16, ncpu_from_f16)
NCPU_LOAD(CALLED, vf, vf, 16, bf16, ncpu_bf16, ncpu_from_bf16)
NCPU_LOAD(CALLED, vf, vf, 16, u8, uint8_t, SAME)
NCPU_LOAD(CALLED, vf, vf, 16, i8, int8_t, SAME)
NCPU_LOAD(INLINE, vd, vd, 8, f64, double, SAME)
NCPU_LOAD(INLINE, vd, vd, 8, f32, float, SAME)
NCPU_LOAD(CALLED, vd, vd, 8, f16, ncpu_f16, ncpu_from_f16)
NCPU_LOAD(CALLED, vd, vd, 8, bf16, ncpu_bf16, ncpu_from_bf16)
NCPU_STORE(INLINE, vf, vf, 16, f32, float, SAME)
NCPU_STORE(CALLED, vf, vf, 16, f16, ncpu_f16, ncpu_to_f16)
NCPU_STORE(CALLED, vf, vf, 16, bf16, ncpu_bf16, ncpu_to_bf16)
NCPU_STORE(INLINE, vd, vd, 8, f64, double, SAME)
NCPU_STORE(INLINE, vd, vd, 8, f32, float, (float))
NCPU_STORE(CALLED, vd, vd, 8, f16, ncpu_f16, ODD_TO_F16)
NCPU_STORE(CALLED, vd, vd, 8, bf16, ncpu_bf16, ODD_TO_BF16)
#undef NCPU_LOAD
#undef NCPU_STORE

static inline void vf_store_low(uint8_t *p, vf a, uint8_t plus)
{ LANES(i, 16) p[i] = (uint8_t)(ncpu_bits(a.v[i]) + plus); }

static inline vq vq_set(uint64_t x) { vq r; LANES(i, 8) r.v[i] = x; return r; }
static inline vq vq_load(const uint64_t *p) { vq r; LANES(i, 8) r.v[i] = p[i]; return r; }
static inline void vq_store(uint64_t *p, vq a) { LANES(i, 8) p[i] = a.v[i]; }
static inline void vq_zip(uint64_t *p, vq a, vq b) { LANES(i, 8) p[2 * i] = a.v[i], p[2 * i + 1] = b.v[i]; }
static inline vq vq_and(vq a, vq b) { LANES(i, 8) a.v[i] &= b.v[i]; return a; }
static inline vq vq_without(vq a, vq b) { LANES(i, 8) a.v[i] &= ~b.v[i]; return a; }
static inline int vq_any(vq a) { uint64_t r = 0; LANES(i, 8) r |= a.v[i]; return r != 0; }
static inline vq vq_xor3(vq a, vq b, vq c) { LANES(i, 8) a.v[i] ^= b.v[i] ^ c.v[i]; return a; }
static inline vq vq_mul32(vq a, vq b) { LANES(i, 8) a.v[i] = (a.v[i] & UINT32_MAX) * (b.v[i] & UINT32_MAX); return a; }
static inline vq vq_high(vq a) { LANES(i, 8) a.v[i] >>= 32; return a; }
static inline vq vq_turn(vq a) { LANES(i, 8) a.v[i] = a.v[i] >> 32 | a.v[i] << 32; return a; }
static inline vq vq_join(vq lo, vq hi) { LANES(i, 8) lo.v[i] = (lo.v[i] & UINT32_MAX) | hi.v[i] >> 32 << 32; return lo; }

static inline void ncpu_fence(void) {}

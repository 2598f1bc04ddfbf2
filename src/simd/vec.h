/* SPDX-License-Identifier: Apache-2.0
 *
 * The vocabulary every kernel is written in: vectors of a fixed logical width, the same on every CPU.
 *
 *     vf   16 floats       vd   8 doubles       vq   8 unsigned integers of 64 bits
 *
 * whether that is one zmm, two ymm, four q registers or a plain array.  One header per instruction set
 * supplies the operations; simd/scalar.h is their definition, and every other header returns the same
 * bits (a NaN equals a NaN whatever its payload or sign).  No operation fuses a multiply with an add.
 *
 *   v_set(x)           every lane x: vf_set(float), vd_set(double)
 *   vadd vsub vmul vdiv vsqrt     IEEE, round to nearest even
 *   vmax(a, b)         a > b ? a : b          (so vmax(zero, x) keeps a NaN x)
 *   vmin(a, b)         a < b ? a : b
 *   vselect_gt(a, b, x, y)        a > b ? x : y, per lane
 *   vabs, vcopysign(magnitude, sign)
 *   vf_exp2i(n)        2^n for integral n in [-126, 127]
 *   vkeep(a, bits)     lane i where bit i of `bits` is set, else +0
 *   vpositive(a)       bit i set where !(a[i] <= 0): a NaN counts as positive, as in PyTorch's relu gradient
 *
 *   vf_load(p)         16 elements of float, ncpu_f16, ncpu_bf16, uint8_t or int8_t as vf
 *   vd_load(p)         8 elements of double, float, ncpu_f16, ncpu_bf16 as vd
 *   vf_loadn, vd_loadn(p, n)      the first n elements, the other lanes +0; reads nothing beyond them
 *   vf_store, vd_store(p, a)      rounds once, to nearest even
 *   vf_storen, vd_storen(p, a, n) writes the first n elements only
 *   vf_stream, vd_stream(p, a)    as store, past the cache where the CPU can; p is aligned to the bytes
 *                                 written; ncpu_fence() orders them
 *
 *   vf_store_low(p, a, plus)      16 bytes: the lowest of each lane's bits, plus `plus` modulo 256
 *   vf_store4_rounded(p, a, zero, low, high)      64 bytes: a[0..3] rounded to nearest even, plus `zero`, within [low,
 *                      high] of int8_t or uint8_t; a NaN becomes low.  Returns whether one may be within 2^-13 of the
 *                      middle of two integers, or is so far outside [low, high] that its byte is none of these
 *   vf_store2, vd_store2(p, a, b), vf_stream2, vd_stream2      a, then b behind it; stream2: p aligned to 64 bytes
 *
 *   vfold(a)           vd of a[i] + a[i+8], added in double; of a vd: itself
 *   vsum(a)            ((a0+a4) + (a2+a6)) + ((a1+a5) + (a3+a7)) of a vd
 *   vd_sum8(a)         lane j is vsum(a[j]), j = 0..7
 *   vf_sum8(a)         lane j is (q0+q2) + (q1+q3) in double of q[i] = (a[j][i]+a[j][i+8]) + (a[j][i+4]+a[j][i+12])
 *                      in float, j = 0..7, i = 0..3
 *   vf_narrow(lo, hi)  the 8 + 8 doubles rounded to floats;  vf_widen(a), vf_widen_hi(a): lanes
 *                      0..7 and 8..15 as doubles
 *
 *   vq_set(x), vq_load(p), vq_store(p, a), vq_and(a, b), vq_without(a, b): a & ~b, vq_xor3(a, b, c)
 *   vq_zip(p, a, b)    stores a[0], b[0], a[1], b[1], ...
 *   vq_any(a)          whether a bit is set
 *   vq_mul32(a, b)     the 64 bits of the product of the lower halves;  vq_high(a): a >> 32
 *   vq_turn(a)         its halves exchanged;  vq_join(lo, hi): the lower half of lo and the upper half of hi
 */
#ifndef NCPU_VEC_H
#define NCPU_VEC_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "dtypes.h"

enum { VF_LANES = 16, VD_LANES = 8 };

#include NCPU_SIMD

/* One register holds a vf, and there are 32 of them. */
#ifndef NCPU_WIDE_REGISTERS
#define NCPU_WIDE_REGISTERS 0
#endif

#ifndef NCPU_COMPACT
#define NCPU_COMPACT 0
#endif

/* One copy of the kernels for all dtypes: see any.h. */
#ifndef NCPU_SMALL
#define NCPU_SMALL 0
#endif

/* Parts of loops whose arguments are constants; one copy of each where size matters more than speed. */
#if NCPU_COMPACT
#define NCPU_INLINE __attribute__((noinline, unused))
#else
#define NCPU_INLINE inline __attribute__((always_inline))
#endif

/* Two stores, but where an instruction set rounds 16 bits faster in pairs. */
#define NCPU_PAIR(P, V, N, SUFFIX, T)                                                                    \
    static inline void P##_store2_##SUFFIX(T *p, V a, V b)                                               \
    { P##_store_##SUFFIX(p, a), P##_store_##SUFFIX(p + N, b); }                                          \
    static inline void P##_stream2_##SUFFIX(T *p, V a, V b)                                              \
    { P##_stream_##SUFFIX(p, a), P##_stream_##SUFFIX(p + N, b); }
NCPU_PAIR(vf, vf, 16, f32, float)
NCPU_PAIR(vf, vf, 16, f16, ncpu_f16)
NCPU_PAIR(vd, vd, 8, f64, double)
/* A whole line at once: halves of lines, streamed to rows side by side, are twice as slow. */
static inline void vd_store2_f32(float *p, vd a, vd b) { vf_store_f32(p, vf_narrow(a, b)); }
static inline void vd_stream2_f32(float *p, vd a, vd b) { vf_stream_f32(p, vf_narrow(a, b)); }
#ifndef NCPU_HAVE_STORE2_16BIT
NCPU_PAIR(vd, vd, 8, f16, ncpu_f16)
NCPU_PAIR(vd, vd, 8, bf16, ncpu_bf16)
#endif
#ifndef NCPU_HAVE_STORE2
NCPU_PAIR(vf, vf, 16, bf16, ncpu_bf16)
#endif
#undef NCPU_PAIR

#ifndef NCPU_HAVE_STORE4_ROUNDED
/* Within 2^22, adding 1.5 * 2^23 leaves no bit for less than 1, and the integer in the lowest byte. */
static inline int vf_store4_rounded(uint8_t *p, const vf x[4], int zero, int low, int high)
{
    const vf magic = vf_set(0x1.8p23f), least = vf_set((float)(low - zero)), most = vf_set((float)(high - zero));
    vf off = vf_set(0);
    for (int t = 0; t < 4; t++) {
        const vf v = vf_min(vf_max(x[t], least), most), whole = vf_add(v, magic);
        off = vf_max(off, vf_abs(vf_sub(v, vf_sub(whole, magic))));
        vf_store_low(p + VF_LANES * t, whole, (uint8_t)zero);
    }
    return vf_positive(vf_sub(off, vf_set(0.5f - 0x1p-13f))) != 0;
}
#endif

#if NCPU_SMALL
#include "any.h"
#define VF_ANY(f) , ncpu_any: f##_any
#define VF_OUT(f) , ncpu_any_out: f##_any_out
#define VD_REAL(f) , ncpu_any_real: f##_any_real
#else
#define VF_ANY(f)
#define VF_OUT(f)
#define VD_REAL(f)
#endif

#define vadd(a, b) _Generic((a), vf: vf_add, vd: vd_add)(a, b)
#define vsub(a, b) _Generic((a), vf: vf_sub, vd: vd_sub)(a, b)
#define vmul(a, b) _Generic((a), vf: vf_mul, vd: vd_mul)(a, b)
#define vdiv(a, b) _Generic((a), vf: vf_div, vd: vd_div)(a, b)
#define vsqrt(a) _Generic((a), vf: vf_sqrt, vd: vd_sqrt)(a)
#define vmax(a, b) _Generic((a), vf: vf_max, vd: vd_max)(a, b)
#define vmin(a, b) _Generic((a), vf: vf_min, vd: vd_min)(a, b)
#define vabs(a) _Generic((a), vf: vf_abs, vd: vd_abs)(a)
#define vcopysign(a, b) _Generic((a), vf: vf_copysign, vd: vd_copysign)(a, b)
#define vselect_gt(a, b, x, y) _Generic((a), vf: vf_select_gt, vd: vd_select_gt)(a, b, x, y)
#define vkeep(a, bits) _Generic((a), vf: vf_keep, vd: vd_keep)(a, bits)
#define vpositive(a) _Generic((a), vf: vf_positive, vd: vd_positive)(a)
#define vfold(a) _Generic((a), vf: vf_fold, vd: vd_fold)(a)
#define vsum(a) vd_sum(a)

#define VF_TYPES(f) float: f##_f32, ncpu_f16: f##_f16, ncpu_bf16: f##_bf16 VF_ANY(f)
#define VD_TYPES(f) double: f##_f64, VF_TYPES(f)
#define vf_load(p) _Generic(*(p), VF_TYPES(vf_load) VF_OUT(vf_load), uint8_t: vf_load_u8, int8_t: vf_load_i8)(p)
#define vf_loadn(p, n) _Generic(*(p), VF_TYPES(vf_loadn) VF_OUT(vf_loadn), uint8_t: vf_loadn_u8, int8_t: vf_loadn_i8)(p, n)
#define vf_store(p, a) _Generic(*(p), VF_TYPES(vf_store) VF_OUT(vf_store))(p, a)
#define vf_storen(p, a, n) _Generic(*(p), VF_TYPES(vf_storen) VF_OUT(vf_storen))(p, a, n)
#define vf_stream(p, a) _Generic(*(p), VF_TYPES(vf_stream) VF_OUT(vf_stream))(p, a)
#define vf_store2(p, a, b) _Generic(*(p), VF_TYPES(vf_store2) VF_OUT(vf_store2))(p, a, b)
#define vf_stream2(p, a, b) _Generic(*(p), VF_TYPES(vf_stream2) VF_OUT(vf_stream2))(p, a, b)
#define vd_store2(p, a, b) _Generic(*(p), VD_TYPES(vd_store2))(p, a, b)
#define vd_stream2(p, a, b) _Generic(*(p), VD_TYPES(vd_stream2))(p, a, b)
#define vd_load(p) _Generic(*(p), VD_TYPES(vd_load) VD_REAL(vd_load))(p)
#define vd_loadn(p, n) _Generic(*(p), VD_TYPES(vd_loadn) VD_REAL(vd_loadn))(p, n)
#define vd_store(p, a) _Generic(*(p), VD_TYPES(vd_store))(p, a)
#define vd_storen(p, a, n) _Generic(*(p), VD_TYPES(vd_storen))(p, a, n)
#define vd_stream(p, a) _Generic(*(p), VD_TYPES(vd_stream))(p, a)

#endif

/* SPDX-License-Identifier: Apache-2.0
 * What the instruction sets share: tails by powers of two, and a vd from and to 16 bits, by way of floats that
 * ncpu_narrow_odd(lo, hi) rounds towards odd (overflow may be infinity: in 16 bits it is anyway). */
#ifndef NCPU_GENERIC_H
#define NCPU_GENERIC_H

/* memcpy of n elements of `size` bytes, n <= most <= 64 / size: at most seven moves of fixed size, no call. */
static inline void ncpu_copy(void *to, const void *from, size_t n, size_t size, size_t most)
{
    char *t = to;
    const char *f = from;
#define STEP(step) \
    if ((step) <= size * most && (n * size & (step))) {                                                  \
        memcpy(t, f, step);                                                                              \
        if ((step) == size * most) return;                                                               \
        t += (step), f += (step);                                                                        \
    }
    STEP(64) STEP(32) STEP(16) STEP(8) STEP(4) STEP(2) STEP(1)
#undef STEP
}

static inline vd vd_fold(vd a) { return a; }

static inline vd vd_loadn_f32(const float *p, size_t n) { return vf_widen(vf_loadn_f32(p, n)); }
static inline void vd_storen_f32(float *p, vd a, size_t n) { vf_storen_f32(p, vf_narrow(a, a), n); }

#define NCPU_BY_FLOAT(T)                                                                                 \
    static inline vd vd_loadn_##T(const ncpu_##T *p, size_t n) { return vf_widen(vf_loadn_##T(p, n)); }  \
    static inline vd vd_load_##T(const ncpu_##T *p) { return vd_loadn_##T(p, 8); }                       \
    static inline void vd_storen_##T(ncpu_##T *p, vd a, size_t n)                                        \
    { vf_storen_##T(p, ncpu_narrow_odd(a, a), n); }                                                      \
    static inline void vd_store_##T(ncpu_##T *p, vd a) { vd_storen_##T(p, a, 8); }                       \
    static inline void vd_stream_##T(ncpu_##T *p, vd a) { vd_storen_##T(p, a, 8); }                      \
    static inline void vd_store2_##T(ncpu_##T *p, vd a, vd b) { vf_store_##T(p, ncpu_narrow_odd(a, b)); } \
    static inline void vd_stream2_##T(ncpu_##T *p, vd a, vd b) { vf_stream_##T(p, ncpu_narrow_odd(a, b)); }
NCPU_BY_FLOAT(f16)
NCPU_BY_FLOAT(bf16)
#undef NCPU_BY_FLOAT
#define NCPU_HAVE_STORE2_16BIT

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * Every operation of simd/vec.h returns the bits of simd/scalar.h, reads and writes nothing else, and
 * scalar.h's 16-bit conversions are the arithmetic ones.  Two objects make the program:
 *
 *     cc -DNCPU_SIMD='"scalar.h"' -DNCPU_OPS=ncpu_scalar_ops -c test_vec.c -o scalar.o
 *     cc -DNCPU_SIMD='"avx2.h"' -mavx2 -mf16c test_vec.c scalar.o -lm
 */
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../src/simd/vec.h"

enum type { F32, F64, F16, BF16, U8, I8, U32, U64 };
enum kind { LANEWISE, MIX, LOAD, LOADN, STORE, STOREN, STREAM }; /* MIX: a result depends on other lanes */
struct op {
    const char *name;
    enum kind kind;
    enum type in;
    int operands, lanes; /* of the input: vectors, and elements of each */
    enum type out;
    int results;
    void (*run)(const void *in, void *out, size_t n);
};

#define SUFFIX_f32 float
#define SUFFIX_f64 double
#define SUFFIX_f16 ncpu_f16
#define SUFFIX_bf16 ncpu_bf16
#define SUFFIX_u8 uint8_t
#define SUFFIX_i8 int8_t

/* One list makes both the functions and the table: P prefix, S scalar type, T its enum, N lanes. */
#define WIDTH(op, P, S, T, N)                                                                           \
    op(P##_set, LANEWISE, S, T, 1, N, T, N, P##_store((S *)out, P##_set(a[0])))                         \
    op(P##_add, LANEWISE, S, T, 2, N, T, N, P##_store((S *)out, vadd(P##_load(a), P##_load(a + N))))    \
    op(P##_sub, LANEWISE, S, T, 2, N, T, N, P##_store((S *)out, vsub(P##_load(a), P##_load(a + N))))    \
    op(P##_mul, LANEWISE, S, T, 2, N, T, N, P##_store((S *)out, vmul(P##_load(a), P##_load(a + N))))    \
    op(P##_div, LANEWISE, S, T, 2, N, T, N, P##_store((S *)out, vdiv(P##_load(a), P##_load(a + N))))    \
    op(P##_max, LANEWISE, S, T, 2, N, T, N, P##_store((S *)out, vmax(P##_load(a), P##_load(a + N))))    \
    op(P##_min, LANEWISE, S, T, 2, N, T, N, P##_store((S *)out, vmin(P##_load(a), P##_load(a + N))))    \
    op(P##_sqrt, LANEWISE, S, T, 1, N, T, N, P##_store((S *)out, vsqrt(P##_load(a))))                   \
    op(P##_abs, LANEWISE, S, T, 1, N, T, N, P##_store((S *)out, vabs(P##_load(a))))                     \
    op(P##_copysign, LANEWISE, S, T, 2, N, T, N,                                                        \
       P##_store((S *)out, vcopysign(P##_load(a), P##_load(a + N))))                                    \
    op(P##_select_gt, LANEWISE, S, T, 4, N, T, N,                                                       \
       P##_store((S *)out, vselect_gt(P##_load(a), P##_load(a + N), P##_load(a + 2 * N), P##_load(a + 3 * N)))) \
    op(P##_keep, LANEWISE, S, T, 1, N, T, N, P##_store((S *)out, vkeep(P##_load(a), (unsigned)n)))      \
    op(P##_positive, MIX, S, T, 1, N, U32, 1, ((uint32_t *)out)[0] = vpositive(P##_load(a)))            \
    op(P##_fold, MIX, S, T, 1, N, F64, 8, vd_store((double *)out, vfold(P##_load(a))))
#define INTEGERS(op, S)                                                                                 \
    op(vq_set, LANEWISE, S, U64, 1, 8, U64, 8, vq_store(out, vq_set(a[0])))                             \
    op(vq_and, LANEWISE, S, U64, 2, 8, U64, 8, vq_store(out, vq_and(vq_load(a), vq_load(a + 8))))       \
    op(vq_xor3, LANEWISE, S, U64, 3, 8, U64, 8, vq_store(out, vq_xor3(vq_load(a), vq_load(a + 8), vq_load(a + 16)))) \
    op(vq_mul32, LANEWISE, S, U64, 2, 8, U64, 8, vq_store(out, vq_mul32(vq_load(a), vq_load(a + 8))))   \
    op(vq_high, LANEWISE, S, U64, 1, 8, U64, 8, vq_store(out, vq_high(vq_load(a))))                     \
    op(vq_without, LANEWISE, S, U64, 2, 8, U64, 8, vq_store(out, vq_without(vq_load(a), vq_load(a + 8)))) \
    op(vq_turn, LANEWISE, S, U64, 1, 8, U64, 8, vq_store(out, vq_turn(vq_load(a))))                     \
    op(vq_join, LANEWISE, S, U64, 2, 8, U64, 8, vq_store(out, vq_join(vq_load(a), vq_load(a + 8))))     \
    op(vq_any, MIX, S, U64, 1, 8, U32, 1, ((uint32_t *)out)[0] = (uint32_t)any_of_one(a[0], n))         \
    op(vq_load, LOAD, S, U64, 1, 8, U64, 8, vq_store(out, vq_load(a)))                                  \
    op(vq_store, STORE, S, U64, 1, 8, U64, 8, vq_store(out, vq_load(a)))                          \
    op(vq_zip, STORE, S, U64, 2, 8, U64, 16, vq_zip(out, vq_load(a), vq_load(a + 8)))
#define CONVERT(op, P, V, X, TX, N)                                                                     \
    op(P##_load_##X, LOAD, SUFFIX_##X, TX, 1, N, V, N, P##_store_(out, P##_load(a)))                    \
    op(P##_loadn_##X, LOADN, SUFFIX_##X, TX, 1, N, V, N, P##_store_(out, P##_loadn(a, n)))
#define STORES(op, P, S, V, X, TX, N)                                                                   \
    op(P##_store_##X, STORE, S, V, 1, N, TX, N, P##_store((SUFFIX_##X *)out, P##_load(a)))              \
    op(P##_storen_##X, STOREN, S, V, 1, N, TX, N, P##_storen((SUFFIX_##X *)out, P##_load(a), n))        \
    op(P##_stream_##X, STREAM, S, V, 1, N, TX, N, (P##_stream((SUFFIX_##X *)out, P##_load(a)), ncpu_fence())) \
    op(P##_store2_##X, STORE, S, V, 2, N, TX, 2 * N,                                                    \
       P##_store2((SUFFIX_##X *)out, P##_load(a), P##_load(a + N)))                                     \
    op(P##_stream2_##X, STREAM, S, V, 2, N, TX, 2 * N,                                                  \
       (P##_stream2((SUFFIX_##X *)out, P##_load(a), P##_load(a + N)), ncpu_fence()))
#define ALL(op)                                                                                         \
    WIDTH(op, vf, float, F32, 16)                                                                       \
    WIDTH(op, vd, double, F64, 8)                                                                       \
    INTEGERS(op, uint64_t)                                                                              \
    op(vf_exp2i, LANEWISE, float, F32, 1, 16, F32, 16, vf_store((float *)out, vf_exp2i(vf_load(a))))    \
    op(vf_store_low, STORE, float, F32, 1, 16, U8, 16, vf_store_low(out, vf_load(a), 77))               \
    op(vf_store4_rounded, MIX, float, F32, 4, 16, U8, 64, four_rounded(out, a, 61, 10, 0, 255))         \
    op(vf_store4_rounded_signed, MIX, float, F32, 4, 16, U8, 64, four_rounded(out, a, 64, -3, -127, 127)) \
    op(vd_sum, MIX, double, F64, 1, 8, F64, 1, ((double *)out)[0] = vsum(vd_load(a)))                   \
    op(vd_sum8, MIX, double, F64, 8, 8, F64, 8, sum8(a, (double *)out))                                 \
    op(vf_sum8, MIX, float, F32, 8, 16, F64, 8, float_sum8(a, (double *)out))                           \
    op(vf_narrow, MIX, double, F64, 2, 8, F32, 16, vf_store((float *)out, vf_narrow(vd_load(a), vd_load(a + 8)))) \
    op(vf_widen, MIX, float, F32, 1, 16, F64, 8, vd_store((double *)out, vf_widen(vf_load(a))))         \
    op(vf_widen_hi, MIX, float, F32, 1, 16, F64, 8, vd_store((double *)out, vf_widen_hi(vf_load(a))))   \
    CONVERT(op, vf, F32, f32, F32, 16) CONVERT(op, vf, F32, f16, F16, 16) CONVERT(op, vf, F32, bf16, BF16, 16) \
    CONVERT(op, vf, F32, u8, U8, 16) CONVERT(op, vf, F32, i8, I8, 16) CONVERT(op, vd, F64, f64, F64, 8) \
    CONVERT(op, vd, F64, f32, F32, 8) CONVERT(op, vd, F64, f16, F16, 8) CONVERT(op, vd, F64, bf16, BF16, 8) \
    STORES(op, vf, float, F32, f32, F32, 16) STORES(op, vf, float, F32, f16, F16, 16)                   \
    STORES(op, vf, float, F32, bf16, BF16, 16) STORES(op, vd, double, F64, f64, F64, 8)                 \
    STORES(op, vd, double, F64, f32, F32, 8) STORES(op, vd, double, F64, f16, F16, 8)                   \
    STORES(op, vd, double, F64, bf16, BF16, 8)

static void vf_store_(void *out, vf a) { vf_store((float *)out, a); }
static void vd_store_(void *out, vd a) { vd_store((double *)out, a); }
static int any_of_one(uint64_t bits, size_t lane) /* and none, where bits are 0 */
{
    uint64_t lanes[8] = {0};
    lanes[lane % 8] = bits & (UINT64_C(1) << lane / 8 % 64);
    return vq_any(vq_load(lanes));
}
/* Of numbers around a byte's range, NaN and infinity too: bytes that are sure, or what they would have been, since of the
 * others an instruction set may know more. */
static void four_rounded(uint8_t *out, const float *a, float parts, int zero, int low, int high)
{
    float f[64];
    for (int i = 0; i < 64; i++) {
        int16_t n;
        memcpy(&n, a + i, sizeof n);
        f[i] = isfinite(a[i]) ? (float)n / parts : a[i];
    }
    const vf x[4] = {vf_load(f), vf_load(f + 16), vf_load(f + 32), vf_load(f + 48)};
    const int doubt = vf_store4_rounded(out, x, zero, low, high);
    for (int i = 0; doubt && i < 64; i++) {
        const double y = nearbyint((double)f[i]) + zero;
        out[i] = (uint8_t)(int)(y > low ? y < high ? y : high : low);
    }
}
static void sum8(const double *a, double *out)
{
    vd v[8];
    for (int j = 0; j < 8; j++) v[j] = vd_load(a + 8 * j);
    vd_store(out, vd_sum8(v));
}
static void float_sum8(const float *a, double *out)
{
    vf v[8];
    for (int j = 0; j < 8; j++) v[j] = vf_load(a + 16 * j);
    vd_store(out, vf_sum8(v));
}
#define FUNCTION(name, kind, S, in, operands, lanes, out_, results, ...)                                \
    static void run_##name(const void *in_, void *out, size_t n)                                        \
    { const S *a = in_; (void)n, (void)a; __VA_ARGS__; }
#define ENTRY(name, kind, S, in, operands, lanes, out, results, ...)                                    \
    {#name, kind, in, operands, lanes, out, results, run_##name},
ALL(FUNCTION)
#ifndef NCPU_OPS
#define NCPU_OPS ncpu_ops
#define NCPU_MAIN
#endif
extern const struct op NCPU_OPS[];
const struct op NCPU_OPS[] = {ALL(ENTRY){0}};

#ifdef NCPU_MAIN
extern const struct op ncpu_scalar_ops[];

static const size_t bytes_of[] = {4, 8, 2, 2, 1, 1, 4, 8};

static uint64_t bits_at(const void *p, enum type t, int i)
{
    uint64_t u = 0;
    memcpy(&u, (const char *)p + bytes_of[t] * (size_t)i, bytes_of[t]);
    return u;
}

static int is_nan(uint64_t u, enum type t)
{
    switch (t) {
    case F32: return (u & 0x7fffffff) > 0x7f800000;
    case F64: return (u & INT64_MAX) > UINT64_C(0x7ff) << 52;
    case F16: return (u & 0x7fff) > 0x7c00;
    case BF16: return (u & 0x7fff) > 0x7f80;
    default: return 0;
    }
}

static uint64_t random64(void) /* splitmix64 */
{
    static uint64_t state = 1;
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Any bit pattern, a special value, or one whose low bits are few: cancellations, ties, exact results. */
static uint64_t random_bits(enum type t)
{
    static const uint64_t f32[] = {0, 1, 0x7fffff, 0x800000, 0x3f800000, 0x7f7fffff, 0x7f800000, 0x7f800001,
                                   0x7fc00000, 0x7fffffff, 0x477ff000, 0x47800000, 0x33000000, 0x38800000};
    static const uint64_t f64[] = {0, 1, UINT64_C(1) << 52, UINT64_C(0x3ff) << 52, UINT64_C(0x7ff) << 52,
                                   (UINT64_C(0x7ff) << 52) - 1, (UINT64_C(0x7ff) << 52) + 1, INT64_MAX,
                                   UINT64_C(0x47efffffefffffff), UINT64_C(0x47effffff0000000), UINT64_C(0x36a) << 52,
                                   UINT64_C(0x369) << 52, UINT64_C(0x40effe) << 40, UINT64_C(0x380) << 52};
    uint64_t r = random64(), pick = r >> 60;
    r = random64();
    if (t == F32) {
        if (pick < 3) return f32[r % 14] | (r & 0x80000000);
        if (pick < 9) return (r & 0x80ff0000) % 0x08000000 + 0x3c000000 + (r & 0x80000000) + (pick & 1 ? r & 0xffff : 0);
        return r & 0xffffffff;
    }
    if (t == F64) {
        if (pick < 3) return f64[r % 14] | (r & (UINT64_C(1) << 63));
        if (pick < 6) { double d = (double)ncpu_float((uint32_t)r); memcpy(&r, &d, 8); return r ^ (pick & 1); }
        if (pick < 12) return (r & ((UINT64_C(1) << 63) | 0xfffffffffffff)) | (UINT64_C(0x360) + r % 0x11f) << 52;
        return r;
    }
    return r;
}

static void fail(const struct op *op, const void *in, size_t n, int lane, uint64_t got, uint64_t want)
{
    printf("%s: %s n=%zu result %d: %#llx, but scalar has %#llx, of", NCPU_SIMD, op->name, n, lane,
           (unsigned long long)got, (unsigned long long)want);
    for (int i = 0; i < op->operands * op->lanes; i++)
        if (op->kind == MIX || i % op->results == lane) printf(" %#llx", (unsigned long long)bits_at(in, op->in, i));
    printf("\n");
    exit(1);
}

static char *page; /* its neighbours on both sides are PROT_NONE */
static size_t page_size;

/* `in`: the operands.  Runs the operation at `place` bytes from the page's start (its end, where negative). */
static void check(int k, const void *in, size_t n, long place)
{
    const struct op *op = &ncpu_ops[k];
    int loads = op->kind == LOAD || op->kind == LOADN, moves = op->kind >= LOAD;
    size_t out_count = op->kind == STOREN ? n : (size_t)op->results;
    size_t size = loads ? (op->kind == LOADN ? n : (size_t)op->lanes) * bytes_of[op->in] : out_count * bytes_of[op->out];
    char *at = place < 0 ? page + page_size - size + place + 1 : page + place;
    _Alignas(64) char got[128], want[128];
    ncpu_scalar_ops[k].run(in, want, n);
    if (loads) {
        memcpy(at, in, size);
        op->run(at, got, n);
    } else if (moves) {
        memset(page, 0xa5, page_size);
        op->run(in, at, n);
        memcpy(got, at, size);
        memset(at, 0xa5, size);
        for (size_t i = 0; i < page_size; i++)
            if (page[i] != (char)0xa5) {
                printf("%s: %s n=%zu wrote %td bytes from its pointer\n", NCPU_SIMD, op->name, n, page + i - at);
                exit(1);
            }
    } else
        op->run(in, got, n);
    for (int i = 0; i < (int)out_count; i++) {
        uint64_t g = bits_at(got, op->out, i), w = bits_at(want, op->out, i);
        if (g != w && !(is_nan(g, op->out) && is_nan(w, op->out))) fail(op, in, n, i, g, w);
    }
}

static void check_random(int k)
{
    const struct op *op = &ncpu_ops[k];
    int count = op->operands * op->lanes, rounds = op->kind < LOAD ? 20000 : 64;
    for (int round = 0; round < rounds; round++)
        for (size_t n = 0; n <= (size_t)op->lanes; n++) {
            _Alignas(64) char in[512];
            for (int i = 0; i < count; i++) {
                uint64_t u = random_bits(op->in);
                if (i >= op->lanes && random64() % 8 == 0) u = bits_at(in, op->in, i - op->lanes); /* equal operands */
                if (op->run == run_vf_exp2i) u = ncpu_bits((float)(int)(random64() % 254) - 126);
                memcpy(in + bytes_of[op->in] * (size_t)i, &u, bytes_of[op->in]);
            }
            if (op->kind < LOAD) {
                check(k, in, random64() & 0xffff, 0);
                break;
            }
            if (op->kind != LOADN && op->kind != STOREN && n) break;
            long step = op->kind == STREAM ? 64 : (long)bytes_of[op->kind < STORE ? op->in : op->out];
            for (long place = 0; place < 64; place += step) check(k, in, n, place);
            for (long place = -1; op->kind != STREAM && place > -64; place -= step) check(k, in, n, place);
        }
}

/* All 65,536 inputs of the loads; of the stores every 16-bit value, every midpoint, and the neighbours. */
static void check_all_16bit(int k)
{
    const struct op *op = &ncpu_ops[k];
    int from = op->in == F16 || op->in == BF16, to = op->out == F16 || op->out == BF16;
    size_t lanes = (size_t)(op->operands * op->lanes);
    _Alignas(64) char in[128];
    for (uint32_t h = 0; from && h < 0x10000; h++) {
        memcpy(in + 2 * (h % lanes), &(uint16_t){(uint16_t)h}, 2);
        if ((h + 1) % lanes == 0) check(k, in, lanes, 0);
    }
    for (uint32_t h = 0, filled = 0; to && h < 0x10000; h++)
        for (int part = 0; part < 2; part++)
            for (int ulp = -1; ulp <= 1; ulp++) {
                ncpu_f16 next16 = {(uint16_t)(h + 1)};
                ncpu_bf16 nextb = {(uint16_t)(h + 1)};
                double here = op->out == F16 ? ncpu_from_f16((ncpu_f16){(uint16_t)h}) : ncpu_from_bf16((ncpu_bf16){(uint16_t)h});
                double next = op->out == F16 ? ncpu_from_f16(next16) : ncpu_from_bf16(nextb);
                double edge = op->out == F16 ? 65536 : 0x1p128; /* what follows the largest finite value */
                if (isinf(next)) next = copysign(edge, next);
                double value = part ? here + (next - here) / 2 : here;
                if (op->in == F64) {
                    uint64_t u;
                    memcpy(&u, &value, 8);
                    u += (uint64_t)(int64_t)ulp;
                    memcpy(in + 8 * (filled % lanes), &u, 8);
                } else {
                    uint32_t u = ncpu_bits((float)value) + (uint32_t)ulp;
                    memcpy(in + 4 * (filled % lanes), &u, 4);
                }
                if (++filled % lanes == 0) check(k, in, lanes, 0);
            }
}

/* A finite x rounded to `digits` significant bits, exponents from `least` up, infinite from `limit` up. */
static double rounded(double x, int digits, int least, double limit)
{
    int e;
    frexp(x, &e);
    int ulp = (e < least ? least : e) - digits;
    double y = ldexp(rint(ldexp(x, -ulp)), ulp);
    return fabs(y) >= limit ? copysign(INFINITY, x) : y;
}

static void check_scalar(double x)
{
    float y = (float)x;
    ncpu_f16 h = ncpu_to_f16(ncpu_to_odd(x)), h_of_float = ncpu_to_f16(y);
    ncpu_bf16 b = ncpu_to_bf16(ncpu_to_odd(x)), b_of_float = ncpu_to_bf16(y);
    double got[] = {ncpu_from_f16(h), ncpu_from_bf16(b), ncpu_from_f16(h_of_float), ncpu_from_bf16(b_of_float)};
    for (int i = 0; i < 4; i++) {
        double z = i < 2 ? x : (double)y;
        double want = isfinite(z) ? i & 1 ? rounded(z, 8, -125, 0x1p128) : rounded(z, 11, -13, 65536) : z;
        if (isnan(z) ? isnan(got[i]) : memcmp(&got[i], &want, 8) == 0) continue;
        printf("scalar: %s of %a is %a, not %a\n", i & 1 ? "bf16" : "f16", z, got[i], want);
        exit(1);
    }
}

static void check_scalar_f16(void)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        int exponent = (int)(h >> 10 & 31);
        double fraction = h & 1023, want = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
        if (exponent == 31) want = fraction > 0 ? NAN : INFINITY;
        if (h >> 15) want = -want;
        double got = ncpu_from_f16((ncpu_f16){(uint16_t)h});
        if (isnan(want) ? !isnan(got) : memcmp(&got, &want, 8) != 0) {
            printf("scalar: from_f16(%#x) is %a, not %a\n", h, got, want);
            exit(1);
        }
    }
    for (uint64_t i = 0; i < 0x200000; i++) {
        double x;
        uint64_t u = i % 2 ? random_bits(F64) : 0;
        memcpy(&x, &u, 8);
        check_scalar(i % 2 ? x : (double)ncpu_float((uint32_t)(i / 2) << 12 | ((i / 2) % 3 == 0)));
    }
}

int main(void)
{
    page_size = (size_t)sysconf(_SC_PAGESIZE);
    char *map = mmap(NULL, 3 * page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page = map + page_size;
    if (map == MAP_FAILED || mprotect(page, page_size, PROT_READ | PROT_WRITE)) return perror("mmap"), 1;
    int k = 0;
    for (; ncpu_ops[k].name; k++) check_random(k), check_all_16bit(k);
    check_scalar_f16();
    printf("%s: %d operations equal scalar.h\n", NCPU_SIMD, k);
    return 0;
}
#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory limit: what loads and stores alone take for the bytes an operation must move.
 *
 *     read    moments                        copy    apply
 *     read2   the sums of a gradient         triad   the gradient: two arrays in, one out
 *
 * Compiled once per instruction set with NAME set to the table's name.  `rep movsb` is not among the loops:
 * microcode writes whole lines without reading them first, also into the cache, which nothing that
 * computes can do (memcpy, which may use it, is reported beside the limit).
 */
#include "bench.h"

#if defined __SSE2__
#include <immintrin.h>
#endif

#if defined __AVX512F__
typedef __m512i vec;
#define stream(p, a) _mm512_stream_si512((void *)(p), a)
#elif defined __AVX2__
typedef __m256i vec;
#define stream(p, a) _mm256_stream_si256(p, a)
#elif defined __SSE2__
typedef __m128i vec;
#define stream(p, a) _mm_stream_si128(p, a)
#else
typedef long long vec __attribute__((vector_size(16)));
#define stream(p, a) (*(p) = (a))
#endif

#if defined __SSE2__
#define fence() _mm_sfence()
#else
#define fence() ((void)0)
#endif

enum { STEP = 256,
       VECS = STEP / sizeof(vec) }; /* four cache lines an iteration */

/* Keeps the loads of a loop whose result nobody needs. */
static void use(vec a)
{
    __asm__ volatile("" : : "x"(a));
}

static void read1(const char *a, size_t bytes)
{
    vec sum[4] = {0};
    for (size_t i = 0; i < bytes; i += STEP) {
        const vec *from = (const vec *)(a + i);
        for (int k = 0; k < VECS; k++) sum[k % 4] |= from[k];
    }
    use(sum[0] | sum[1] | sum[2] | sum[3]);
}

static void read2(const char *a, const char *b, size_t bytes)
{
    vec sum[4] = {0};
    for (size_t i = 0; i < bytes; i += STEP) {
        const vec *from = (const vec *)(a + i), *also = (const vec *)(b + i);
        for (int k = 0; k < VECS; k++) sum[k % 4] |= from[k] ^ also[k];
    }
    use(sum[0] | sum[1] | sum[2] | sum[3]);
}

static void copy_plain(char *y, const char *a, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += STEP) {
        const vec *from = (const vec *)(a + i);
        vec *to = (vec *)(y + i), kept[VECS];
        for (int k = 0; k < VECS; k++) kept[k] = from[k];
        for (int k = 0; k < VECS; k++) to[k] = kept[k];
        __asm__ volatile("" : : : "memory"); /* or the compiler calls memcpy */
    }
}

static void copy_stream(char *y, const char *a, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += STEP) {
        const vec *from = (const vec *)(a + i);
        vec *to = (vec *)(y + i);
        for (int k = 0; k < VECS; k++) stream(to + k, from[k]);
    }
    fence();
}

/* Hardware prefetchers stop at the end of a page; 2 KiB ahead bridges the gap where data are in L3. */
static void copy_prefetch(char *y, const char *a, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += STEP) {
        const vec *from = (const vec *)(a + i);
        vec *to = (vec *)(y + i);
        for (int line = 0; line < STEP; line += 64) __builtin_prefetch(a + i + 2048 + line);
        for (int k = 0; k < VECS; k++) to[k] = from[k];
    }
}

static void triad_plain(char *y, const char *a, const char *b, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += STEP) {
        const vec *from = (const vec *)(a + i), *also = (const vec *)(b + i);
        vec *to = (vec *)(y + i);
        for (int k = 0; k < VECS; k++) to[k] = from[k] ^ also[k];
    }
}

static void triad_stream(char *y, const char *a, const char *b, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += STEP) {
        const vec *from = (const vec *)(a + i), *also = (const vec *)(b + i);
        vec *to = (vec *)(y + i);
        for (int k = 0; k < VECS; k++) stream(to + k, from[k] ^ also[k]);
    }
    fence();
}

const bench_loops NAME = {read1, read2, copy_plain, copy_prefetch, copy_stream, triad_plain, triad_stream};

/* SPDX-License-Identifier: Apache-2.0
 * Which table of kernels runs here: the best that this build holds and that both the CPU and the OS support. */

#include <stdatomic.h>
#include <string.h>

#include "kernels.h"

/* NCPU_HAVE_X is defined by the build for every src/isa/x.c that it compiles.  __builtin_cpu_supports of an AVX
 * feature includes the OS's support of its registers (XCR0). */
#ifdef NCPU_HAVE_AVX512
extern const ncpu_kernels ncpu_kernels_avx512;
static int has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
           && __builtin_cpu_supports("avx512vl");
}
#endif
#ifdef NCPU_HAVE_AVX2
#include <cpuid.h>
extern const ncpu_kernels ncpu_kernels_avx2;
static int has_avx2(void)
{
    unsigned a, b, c, d; /* f16c by leaf 1, since not every compiler's __builtin_cpu_supports knows its name */
    return __builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif
#ifdef NCPU_HAVE_NEON
extern const ncpu_kernels ncpu_kernels_neon;
#endif
extern const ncpu_kernels ncpu_kernels_scalar;
static int always(void) { return 1; }

static const struct {
    const char *name;
    const ncpu_kernels *kernels;
    int (*supported)(void);
} isas[] = { /* best first */
#ifdef NCPU_HAVE_AVX512
    {"avx512", &ncpu_kernels_avx512, has_avx512},
#endif
#ifdef NCPU_HAVE_AVX2
    {"avx2", &ncpu_kernels_avx2, has_avx2},
#endif
#ifdef NCPU_HAVE_NEON
    {"neon", &ncpu_kernels_neon, always},
#endif
    {"scalar", &ncpu_kernels_scalar, always},
};
enum { ISAS = sizeof isas / sizeof *isas };

static _Atomic(const ncpu_kernels *) in_use;

const char *const *ncpu_isas_built(void)
{
    static const char *const names[] = {
#ifdef NCPU_HAVE_AVX512
        "avx512",
#endif
#ifdef NCPU_HAVE_AVX2
        "avx2",
#endif
#ifdef NCPU_HAVE_NEON
        "neon",
#endif
        "scalar", NULL};
    return names;
}

static int find(const char *name)
{
    for (int i = 0; i < ISAS; i++)
        if (name ? strcmp(isas[i].name, name) == 0 : isas[i].supported()) return i;
    return -1;
}

int ncpu_isa_supported(const char *name)
{
    const int i = find(name);
    return i < 0 ? -1 : isas[i].supported();
}

ncpu_status ncpu_use_isa(const char *name)
{
    const int i = find(name);
    if (i < 0) return NCPU_ERROR_ARGUMENT;
    if (!isas[i].supported()) return NCPU_ERROR_UNSUPPORTED;
    atomic_store(&in_use, isas[i].kernels);
    return NCPU_OK;
}

const ncpu_kernels *ncpu_kernels_in_use(void)
{
    const ncpu_kernels *kernels = atomic_load_explicit(&in_use, memory_order_relaxed);
    if (!kernels) {
        ncpu_use_isa(NULL);
        kernels = atomic_load(&in_use);
    }
    return kernels;
}

const char *ncpu_isa(void) { return ncpu_kernels_in_use()->name; }

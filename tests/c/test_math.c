/* SPDX-License-Identifier: Apache-2.0
 *
 * The errors that simd/math.h states, against the C library in double, and its bits against the scalar build:
 *
 *     cc -DNCPU_SIMD='"scalar.h"' -DNCPU_OPS=ncpu_scalar_ops -c test_math.c -o scalar.o
 *     cc -DNCPU_SIMD='"avx2.h"' -mavx2 -mf16c test_math.c scalar.o -lm
 *     ./a.out [stride]      1 for every float: minutes
 */
#include <stdio.h>
#include <stdlib.h>

#include "../../src/simd/vec.h"
#include "../../src/simd/math.h"

struct op {
    const char *name;
    void (*run)(const float x[16], float y[16]);
};
#define ACTIVATIONS(op) op(exp) op(sigmoid) op(tanh) op(silu) op(gelu) op(gelu_tanh)
#define FUNCTION(name) \
    static void run_##name(const float x[16], float y[16]) { vf_store(y, vf_##name(vf_load(x))); }
#define ENTRY(name) {#name, run_##name},
ACTIVATIONS(FUNCTION)
#ifndef NCPU_OPS
#define NCPU_OPS ncpu_ops
#define NCPU_MAIN
#endif
extern const struct op NCPU_OPS[];
const struct op NCPU_OPS[] = {ACTIVATIONS(ENTRY){0}};

#ifdef NCPU_MAIN
extern const struct op ncpu_scalar_ops[];

static double sigmoid(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }
static double silu(double x) { return x * sigmoid(x); }
static double gelu(double x) { return x / 2 * erfc(-x * 0.70710678118654752440); }
static double gelu_tanh(double x)
{
    return x * sigmoid(1.59576912160573071176 * (x + 0.044715 * x * x * x));
}

/* In the order of ACTIVATIONS.  The bounds are those of math.h's table. */
static const struct {
    double (*function)(double);
    double ulp, subnormal, at_minus_infinity, at_infinity;
} truth[] = {
    {exp, 1.55, 0.86, 0, INFINITY},
    {sigmoid, 3.02, 0.86, 0, 1},
    {tanh, 2.56, 0, -1, 1},
    {silu, 4.08, 1.42, 0, INFINITY},
    {gelu, 4.27, 2.10, 0, INFINITY},
    {gelu_tanh, 4.28, 1.73, 0, INFINITY},
};

static int same(float a, float b) { return ncpu_bits(a) == ncpu_bits(b) || (a != a && b != b); }

static void fail(int k, float x, float got, double want, const char *why)
{
    printf("%s: %s(%a) is %a, not %a: %s\n", NCPU_SIMD, ncpu_ops[k].name, x, got, want, why);
    exit(1);
}

static void check_special(int k)
{
    const float x[16] = {-INFINITY, INFINITY, NAN, -0.0f, 0, -0x1p-149f, 0x1p-149f, -0x1.fffffep127f,
                         0x1.fffffep127f, -200, 200, -0x1p-126f, 0x1p-126f, -0x1p-30f, 0x1p-30f, 1};
    float y[16], z[16];
    ncpu_ops[k].run(x, y);
    ncpu_scalar_ops[k].run(x, z);
    for (int i = 0; i < 16; i++)
        if (!same(y[i], z[i])) fail(k, x[i], y[i], z[i], "scalar.h differs");
    if (y[0] != truth[k].at_minus_infinity || y[7] != y[0] || y[9] != y[0]) fail(k, x[0], y[0], 0, "limit");
    if (y[1] != truth[k].at_infinity) fail(k, x[1], y[1], truth[k].at_infinity, "limit");
    if (y[2] == y[2]) fail(k, x[2], y[2], NAN, "NaN");
    for (int i = 3; i <= 4; i++) /* the sign of zero */
        if (!same(y[i], (float)truth[k].function(x[i]))) fail(k, x[i], y[i], truth[k].function(x[i]), "zero");
    if (k >= 3 && (y[8] != x[8] || y[10] != x[10])) fail(k, x[10], y[10], x[10], "identity");
}

int main(int argc, char **argv)
{
    uint64_t stride = argc > 1 ? strtoull(argv[1], NULL, 0) : 251;
    printf("%s:", NCPU_SIMD);
    for (int k = 0; ncpu_ops[k].name; k++) {
        double ulp = 0, subnormal = 0;
        float worst = 0;
        check_special(k);
        for (uint64_t bits = 0; bits < UINT64_C(1) << 32; bits += 16 * stride) {
            float x[16], y[16], z[16];
            for (uint64_t i = 0; i < 16; i++) x[i] = ncpu_float((uint32_t)(bits + i * stride));
            ncpu_ops[k].run(x, y);
            ncpu_scalar_ops[k].run(x, z);
            for (int i = 0; i < 16; i++) {
                if (!same(y[i], z[i])) fail(k, x[i], y[i], z[i], "scalar.h differs");
                if (!isfinite(x[i])) continue;
                double want = truth[k].function(x[i]);
                if (want >= 0x1.ffffffp127 ? isinf(y[i]) : want > 0x1.fffffep127) continue; /* overflow */
                if (!isfinite(y[i])) fail(k, x[i], y[i], want, "not finite");
                int exponent;
                frexp(want, &exponent);
                int normal = exponent >= -125;
                double error = ldexp(fabs(y[i] - want), normal ? 24 - exponent : 149);
                if (!normal && error > subnormal) subnormal = error;
                if (normal && error > ulp) ulp = error, worst = x[i];
                if (error > (normal ? truth[k].ulp : truth[k].subnormal)) fail(k, x[i], y[i], want, "error");
                if (truth[k].at_infinity == 1 && fabsf(y[i]) > 1) fail(k, x[i], y[i], want, "above 1");
            }
        }
        printf(" %s %.3f ulp (at %.9g), %.3f;", ncpu_ops[k].name, ulp, worst, subnormal);
    }
    printf(" bits equal scalar.h\n");
    return 0;
}
#endif

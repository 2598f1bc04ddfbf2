/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations on vf, written once in the vocabulary, so their bits are the same on every instruction set.
 * Largest errors, in ulp of the true result, or in multiples of 2^-149 where that is subnormal; measured on
 * every float with 2^-31 <= |x| <= 160 and every 16th block of 256 beyond (tests/c/test_math.c samples them):
 *
 *                                                                    ulp  2^-149   at -inf  at inf
 *     vf_exp         e^x                                            1.55    0.86       0      inf
 *     vf_sigmoid     1 / (1 + e^-x)                                 3.02    0.86       0       1
 *     vf_tanh        tanh x                                         2.56    0         -1       1
 *     vf_silu        x / (1 + e^-x)                                 4.08    1.42      -0      inf
 *     vf_gelu        x Phi(x) = x/2 (1 + erf(x / sqrt 2))           4.27    2.10       0      inf
 *     vf_gelu_tanh   x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))  4.28    1.73      -0      inf
 *
 * NaN gives NaN; silu and both gelu have their limit at -inf, where PyTorch has NaN; x beyond the range where
 * an activation differs from x comes back unchanged.  Underflow is gradual: nothing is flushed to zero early.
 * Coefficients are minimax fits of the relative error, rounded to float one by one, the others fitted again
 * after each; the stated fit error is that of the rounded ones.
 */
#ifndef NCPU_MATH_H
#define NCPU_MATH_H

static inline vf ncpu_axpb(vf a, vf x, float b) { return vf_add(vf_mul(a, x), vf_set(b)); }

/* x to the nearest multiple of 2^-bits, for |x| < 2^(22 - bits): the ulp of 1.5 * 2^(23 - bits). */
static inline vf ncpu_round(vf x, int bits)
{
    vf magic = vf_set(0x1.8p23f / (float)(1 << bits));
    return vf_sub(vf_add(x, magic), magic);
}

/* e^x = p s^2 with s = 2^n, x = n ln 4 + r, |r| <= ln 2.  Squaring s, not e^(x/2), lets n stay within vf_exp2i's
 * range for every x of a float result, underflows gradually and leaves the error of p alone.
 * ln 4 = LN4_HI + LN4_LO, where LN4_HI has 16 bits, so that n LN4_HI is exact, and so is x - n LN4_HI. */
typedef struct { vf p, s; } ncpu_power;
#define LN4_HI 0x1.62e4p+0f
#define LN4_LO 0x1.7f7d1cp-19f

static inline vf ncpu_exponent(vf x) { return ncpu_round(vf_mul(x, vf_set(0x1.715476p-1f)), 0); } /* 1 / ln 4 */

/* e^r = 1 + r + r^2 (degree 5), fitted on [-ln 2, ln 2] to 2^-26.0. */
static inline ncpu_power ncpu_exp_reduced(vf n, vf r)
{
    vf rr = vf_mul(r, r);
    vf p = ncpu_axpb(vf_set(0x1.9baa6cp-13f), r, 0x1.71bf9p-10f);
    p = vf_add(vf_mul(p, rr), ncpu_axpb(vf_set(0x1.1126e4p-7f), r, 0x1.5549eep-5f));
    p = ncpu_axpb(ncpu_axpb(p, r, 0x1.555514p-3f), r, 0x1.00000cp-1f);
    p = vf_add(vf_mul(p, rr), r);
    return (ncpu_power){vf_add(p, vf_set(1)), vf_exp2i(n)};
}

static inline ncpu_power ncpu_exp(vf x) /* |x| <= 174 */
{
    vf n = ncpu_exponent(x), r = vf_sub(x, vf_mul(n, vf_set(LN4_HI)));
    return ncpu_exp_reduced(n, vf_sub(r, vf_mul(n, vf_set(LN4_LO))));
}

/* x e / (1 + e), e = p s^2.  Where e >= 2^25 the sum is e itself and the quotient 1/s: exactly x.  Where e
 * is small the last factor s makes the result subnormal, in one rounding. */
static inline vf ncpu_logistic(vf x, ncpu_power e)
{
    vf ps = vf_mul(e.p, e.s);
    return vf_mul(vf_mul(x, vf_div(ps, ncpu_axpb(ps, e.s, 1))), e.s);
}

static inline vf vf_exp(vf x)
{
    ncpu_power e = ncpu_exp(vf_min(vf_set(120), vf_max(vf_set(-120), x)));
    return vf_mul(vf_mul(e.p, e.s), e.s);
}

static inline vf vf_sigmoid(vf x)
{
    return ncpu_logistic(vf_set(1), ncpu_exp(vf_min(vf_set(20), vf_max(vf_set(-120), x))));
}

static inline vf vf_silu(vf x)
{
    x = vf_max(vf_set(-120), x);
    return ncpu_logistic(x, ncpu_exp(vf_min(vf_set(20), x)));
}

/* E / (E + 2) with E = e^y - 1, y = 2|x| = n ln 2 + r: E = 2^n (e^r - 1) + (2^n - 1), no cancellation for n = 0.
 * e^r - 1 = r + r^2 (degree 4), fitted on [-ln 2 / 2, ln 2 / 2] to 2^-26.1. */
static inline vf vf_tanh(vf x)
{
    vf y = vf_min(vf_set(20), vf_abs(vf_add(x, x))), n = ncpu_round(vf_mul(y, vf_set(0x1.715476p+0f)), 0);
    vf r = vf_sub(vf_sub(y, vf_mul(n, vf_set(LN4_HI / 2))), vf_mul(n, vf_set(LN4_LO / 2)));
    vf rr = vf_mul(r, r);
    vf p = ncpu_axpb(vf_set(0x1.6c6432p-10f), r, 0x1.122408p-7f);
    p = vf_add(vf_mul(p, rr), ncpu_axpb(vf_set(0x1.5555acp-5f), r, 0x1.5554b6p-3f));
    p = vf_add(vf_mul(ncpu_axpb(p, r, 0.5f), rr), r);
    vf s = vf_exp2i(n), e = vf_add(vf_mul(p, s), vf_sub(s, vf_set(1)));
    return vf_copysign(vf_div(e, vf_add(e, vf_set(2))), x);
}

/* max(x, 0) - a Phi(-a), a = |x|.  Phi(-a) = e^(-a^2 / 2) R(a).
 * a^2 = hi^2 + (a + hi)(a - hi), where hi, to 2^-8, has 12 bits: hi^2 is exact, the rest below 2^-4.
 * R(a) = D / (C a D + N), C = float(sqrt(2 pi)), the limit of 1 / (a R(a)); fitted on [0, 13.3] to 2^-25.9.
 * a D stands in both numerator and denominator, so its rounding cancels, and all terms are positive. */
static inline vf vf_gelu(vf x)
{
    vf a = vf_min(vf_set(14.6f), vf_abs(x)), hi = ncpu_round(a, 8); /* a Phi(-a) < 2^-150 at 14.6 */
    vf square = vf_mul(hi, hi), lo = vf_mul(vf_add(a, hi), vf_sub(a, hi));
    vf n = ncpu_exponent(vf_mul(square, vf_set(-0.5f)));
    vf r = vf_add(vf_add(square, vf_mul(n, vf_set(2 * LN4_HI))), vf_add(lo, vf_mul(n, vf_set(2 * LN4_LO))));
    ncpu_power e = ncpu_exp_reduced(n, vf_mul(r, vf_set(-0.5f)));
    vf d = ncpu_axpb(vf_add(a, vf_set(0x1.2ee8d2p+3f)), a, 0x1.4ad2c2p+5f);
    vf ad = vf_mul(ncpu_axpb(ncpu_axpb(d, a, 0x1.8104e8p+6f), a, 0x1.a7af24p+6f), a);
    vf t = ncpu_axpb(ncpu_axpb(vf_set(0x1.39b286p-12f), a, 0x1.3f2d3p+1f), a, 0x1.7f8b28p+4f);
    t = ncpu_axpb(ncpu_axpb(t, a, 0x1.801f4cp+6f), a, 0x1.a7af24p+7f);
    vf h = vf_div(vf_mul(ad, vf_mul(e.p, e.s)), vf_add(vf_mul(ad, vf_set(0x1.40d932p+1f)), t));
    return vf_sub(vf_max(vf_set(0), x), vf_mul(h, e.s));
}

/* x sigmoid(z), z = A x + B x^3, A = 2 sqrt(2 / pi), B = 0.044715 A.  e^z turns an error of z into a relative
 * error, and z reaches -90, so z comes in parts.  With hi = x to 2^-4 and |x| <= 11, hi has 8 bits and hi^3 23;
 * A = 0x1.9888p0 - 0x1.d6615ep-15 and B = 1/16 + 1/128 + 1/1024 + 0x1.13ca94p-14.  So the sum of the first terms,
 * a multiple of 2^-17 below 128, is exact; so are the sums of r, down to a multiple of 2^-22 below 4.  The rest is
 *     lo = (x - hi) (A + B (x^2 + x hi + hi^2)) - 0x1.d6615ep-15 hi + 0x1.13ca94p-14 hi^3,  |lo| < 1. */
static inline vf vf_gelu_tanh(vf x)
{
    x = vf_max(vf_set(-11), x);
    vf c = vf_min(vf_set(6), x), hi = ncpu_round(c, 4), square = vf_mul(hi, hi), cube = vf_mul(hi, square);
    vf z = vf_add(vf_mul(hi, vf_set(0x1.9888p+0f)), vf_mul(cube, vf_set(1 / 16.0f)));
    vf z1 = vf_mul(cube, vf_set(1 / 128.0f)), z2 = vf_mul(cube, vf_set(1 / 1024.0f));
    vf slope = ncpu_axpb(vf_add(vf_mul(vf_add(c, hi), c), square), vf_set(0x1.2444f2p-4f), 0x1.988454p+0f);
    vf rest = vf_mul(hi, ncpu_axpb(square, vf_set(0x1.13ca94p-14f), -0x1.d6615ep-15f));
    vf lo = vf_add(vf_mul(vf_sub(c, hi), slope), rest);
    vf n = ncpu_exponent(vf_add(vf_add(z, z1), vf_add(z2, lo)));
    vf r = vf_add(vf_add(vf_sub(z, vf_mul(n, vf_set(LN4_HI))), z1), z2);
    return ncpu_logistic(x, ncpu_exp_reduced(n, vf_sub(vf_add(r, lo), vf_mul(n, vf_set(LN4_LO)))));
}

#undef LN4_HI
#undef LN4_LO
#endif

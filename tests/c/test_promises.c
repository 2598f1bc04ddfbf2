/* SPDX-License-Identifier: Apache-2.0
 *
 * What normcpu.h says beside the numbers: which output may be which input, what is refused, what empty arrays give. */
#include <stdlib.h>

#include "operations.h"

static results apart;
static char mask[MOST];
static int failed;

#define EXPECT(condition, ...)                       \
    do {                                             \
        if (!(condition)) {                          \
            failed++;                                \
            printf(__VA_ARGS__), printf("\n");       \
        }                                            \
    } while (0)

/* ---- In place ---- */

typedef enum { X, OTHER, NOWHERE } place; /* OTHER: the residual, of backward dy */

/* Each writes y (dx) where it is told to, and whatever else it makes to `made`. */
static ncpu_status eval_to(const call *c, ncpu_array y, place other)
{
    ncpu_epilogue after = {.activation = NCPU_RELU, .residual = other == NOWHERE ? NULL : &c->dy, .mask = made.mask};
    return ncpu_batch_norm(&c->x, c->p->axis, running.mean, running.var, vectors[0], NULL, 1e-5, &after, &y);
}

static ncpu_status train_to(const call *c, ncpu_array y, place other)
{
    ncpu_epilogue after = {.activation = NCPU_SIGMOID, .residual = other == NOWHERE ? NULL : &c->dy};
    if (c->dtype == NCPU_F64) after.activation = NCPU_NONE;
    return ncpu_batch_norm_train(&c->x, c->p->axis, vectors[0], vectors[1], 1e-5, &after, &y, made.mean, made.var, NULL);
}

static ncpu_status scale_shift_to(const call *c, ncpu_array y, place other)
{
    ncpu_epilogue after = {.residual = other == NOWHERE ? NULL : &c->dy};
    return ncpu_scale_shift(&c->x, c->p->axis, NULL, vectors[0], vectors[1], &after, &y);
}

static ncpu_status dx_to(const call *c, ncpu_array dx, place other)
{
    (void)other;
    return ncpu_batch_norm_backward(&c->dy, &c->x, c->p->axis, vectors[0], statistics[0], statistics[1], 1e-5, 1,
                                    NCPU_RELU, NULL, (uint8_t *)mask, &dx, &c->dresidual, made.dweight, made.dbias);
}

static ncpu_status dresidual_to(const call *c, ncpu_array dresidual, place other)
{
    (void)other;
    return ncpu_batch_norm_backward(&c->dy, &c->x, c->p->axis, vectors[0], statistics[0], statistics[1], 1e-5, 0,
                                    NCPU_RELU, NULL, (uint8_t *)mask, &c->dresidual, &dresidual, made.dweight, NULL);
}

static ncpu_status rows_to(const call *c, ncpu_array y, place other)
{
    const ncpu_row_norm norm = rows_of(c, 2, 0);
    const ncpu_epilogue after = {.residual = other == NOWHERE ? NULL : &c->dy};
    return ncpu_layer_norm(&c->x, &norm, NULL, NULL, &after, NULL, &y, NULL, NULL);
}

static ncpu_status added_to(const call *c, ncpu_array y, place other)
{
    const ncpu_row_norm norm = rows_of(c, c->p->axis, 1);
    (void)other;
    return ncpu_layer_norm(&c->x, &norm, &c->dy, &c->dresidual, NULL, NULL, &y, NULL, NULL);
}

static ncpu_status sum_to(const call *c, ncpu_array sum, place other)
{
    const ncpu_row_norm norm = rows_of(c, c->p->axis, 1);
    (void)other;
    return ncpu_layer_norm(&c->x, &norm, &c->dy, &sum, NULL, NULL, &c->dresidual, NULL, NULL);
}

static ncpu_status rows_dx_to(const call *c, ncpu_array dx, place other)
{
    const ncpu_row_norm norm = rows_of(c, 2, 0);
    return ncpu_layer_norm_backward(&c->dy, &c->x, &norm, row_mean, row_var, NCPU_NONE, NULL, NULL,
                                    other == X ? &c->dy : NULL, &dx, NULL, made.dresidual, NULL);
}

/* Of some elements, behind relu, which needs dy and dsum until dx is written. */
static ncpu_status rows_masked_dx_to(const call *c, ncpu_array dx, place other)
{
    ncpu_row_norm norm = rows_of(c, 2, 0);
    norm.valid = two_thirds();
    return ncpu_layer_norm_backward(&c->dy, &c->x, &norm, row_mean, row_var, NCPU_RELU, NULL, two_thirds(),
                                    other == X ? &c->dy : NULL, &dx, NULL, NULL, NULL);
}

static ncpu_status rows_dresidual_to(const call *c, ncpu_array dresidual, place other)
{
    const ncpu_row_norm norm = rows_of(c, 2, 0);
    (void)other;
    return ncpu_layer_norm_backward(&c->dy, &c->x, &norm, row_mean, row_var, NCPU_RELU, &c->x, NULL, NULL, &c->dresidual,
                                    &dresidual, NULL, NULL);
}

static const struct {
    const char *name;
    ncpu_status (*run)(const call *c, ncpu_array y, place other);
    place in, other;
} in_place[] = {
    {"eval, y = x", eval_to, X, NOWHERE},         {"eval, y = x, residual", eval_to, X, OTHER},
    {"eval, y = residual", eval_to, OTHER, OTHER}, {"train, y = x", train_to, X, OTHER},
    {"train, y = residual", train_to, OTHER, OTHER}, {"scale_shift, y = x", scale_shift_to, X, NOWHERE},
    {"scale_shift, y = residual", scale_shift_to, OTHER, OTHER},
    {"backward, dx = dy", dx_to, OTHER, OTHER},   {"backward, dresidual = dy", dresidual_to, OTHER, OTHER},
    {"rows, y = x", rows_to, X, NOWHERE},         {"rows, y = residual", rows_to, OTHER, OTHER},
    {"rows, y = added", added_to, OTHER, OTHER},  {"rows, y = x, added", added_to, X, OTHER},
    {"rows, sum = x", sum_to, X, OTHER},          {"rows, sum = added", sum_to, OTHER, OTHER},
    {"rows, dx = dy", rows_dx_to, OTHER, OTHER},  {"rows, dx = dy = dsum", rows_dx_to, OTHER, X},
    {"rows masked, dx = dy", rows_masked_dx_to, OTHER, OTHER},
    {"rows masked, dx = dy = dsum", rows_masked_dx_to, OTHER, X},
    {"rows, dresidual = dy", rows_dresidual_to, OTHER, OTHER},
};

static void check_in_place(const problem *p, ncpu_dtype dtype)
{
    for (size_t i = 0; i < sizeof in_place / sizeof *in_place; i++) {
        call c;
        describe(&c, p, dtype);
        memset(&made, 0, sizeof made);
        prepare(dtype);
        const ncpu_status status = in_place[i].run(&c, c.y, in_place[i].other);
        apart = made;
        memset(&made, 0, sizeof made);
        void *target = input[in_place[i].in == X ? 0 : 1];
        const ncpu_status again = in_place[i].run(&c, array_in(&c, target), in_place[i].other);
        const size_t bytes = (size_t)(p->shape[0] * c.strides[0]);
        const int same = !memcmp(target, apart.y, bytes);
        memcpy(made.y, apart.y, sizeof made.y);
        EXPECT(status == NCPU_OK && again == NCPU_OK && same && !memcmp(&made, &apart, sizeof made),
               "%s, dtype %d, (%td, %td, %td) on axis %d%s: other bits than apart", in_place[i].name, (int)dtype,
               p->shape[0], p->shape[1], p->shape[2], p->axis, p->backwards ? " backwards" : "");
    }
}

/* ---- What is refused, and what is empty ---- */

static ncpu_status forward(ncpu_array x, int axis, ncpu_array y, ncpu_epilogue after)
{
    const ncpu_status status = ncpu_batch_norm(&x, axis, running.mean, running.var, NULL, NULL, 1e-5, &after, &y);
    const ncpu_status too = ncpu_batch_norm_train(&x, axis, NULL, NULL, 1e-5, &after, &y, made.mean, made.var, NULL);
    const ncpu_status shift = ncpu_scale_shift(&x, axis, NULL, NULL, NULL, &after, &y);
    EXPECT(status == too && status == shift, "status %d, in training %d, of scale_shift %d", status, too, shift);
    return status;
}

static ncpu_status backward_of(ncpu_array x, int axis, ncpu_activation activation, const ncpu_array *y, const void *bits)
{
    return ncpu_batch_norm_backward(&x, &x, axis, NULL, statistics[0], statistics[1], 1e-5, 1, activation, y, bits, NULL,
                                    NULL, made.dweight, made.dbias);
}

static void check_refusals(void)
{
    static const ptrdiff_t shape[20] = {3, 5, 7}, other[3] = {3, 5, 6}, strides[20] = {140, 28, 4};
    const ncpu_epilogue none = {0}, silu = {.activation = NCPU_SILU}, unknown = {.activation = (ncpu_activation)99};
    const ncpu_epilogue masked = {.mask = made.mask};
    ncpu_array x = {input[0], NCPU_F32, 3, shape, strides}, y = {made.y, NCPU_F32, 3, shape, strides}, odd;
    prepare(NCPU_F32);
    EXPECT(forward(x, 1, y, none) == NCPU_OK && forward(x, -2, y, none) == NCPU_OK, "refused what is right");
    EXPECT(forward(x, 3, y, none) == NCPU_ERROR_ARGUMENT && forward(x, -4, y, none) == NCPU_ERROR_ARGUMENT, "no such axis");
    odd = y, odd.shape = other;
    EXPECT(forward(x, 1, odd, none) == NCPU_ERROR_ARGUMENT, "y of another shape");
    odd = y, odd.ndim = 2;
    EXPECT(forward(x, 1, odd, none) == NCPU_ERROR_ARGUMENT, "y of fewer axes");
    odd = y, odd.dtype = NCPU_F64;
    EXPECT(forward(x, 1, odd, none) == NCPU_ERROR_ARGUMENT, "y of another dtype");
    EXPECT(forward(x, 1, y, (ncpu_epilogue){.residual = &odd}) == NCPU_ERROR_ARGUMENT, "a residual of another dtype");
    odd = x, odd.dtype = (ncpu_dtype)99;
    EXPECT(forward(odd, 1, odd, none) == NCPU_ERROR_ARGUMENT, "a dtype that is none");
    odd = x, odd.ndim = 0;
    EXPECT(forward(odd, 0, odd, none) == NCPU_ERROR_ARGUMENT, "no axes");
    odd.ndim = 20;
    EXPECT(forward(odd, 0, odd, none) == NCPU_ERROR_ARGUMENT, "too many axes");
    EXPECT(forward(x, 1, y, unknown) == NCPU_ERROR_ARGUMENT, "an unknown activation");
    EXPECT(forward(x, 1, y, masked) == NCPU_ERROR_UNSUPPORTED, "a mask without relu");
    odd = x, odd.dtype = NCPU_U8;
    EXPECT(ncpu_batch_norm(&odd, 1, running.mean, running.var, NULL, NULL, 0, NULL, &y) == NCPU_ERROR_ARGUMENT, "bytes");
    EXPECT(backward_of(x, 1, NCPU_SILU, NULL, NULL) == NCPU_ERROR_UNSUPPORTED, "backward of silu");
    EXPECT(backward_of(x, 1, NCPU_RELU, NULL, NULL) == NCPU_ERROR_ARGUMENT, "neither y nor mask");
    EXPECT(backward_of(x, 1, NCPU_RELU, &x, mask) == NCPU_ERROR_ARGUMENT, "y and mask");
    EXPECT(backward_of(x, 1, NCPU_NONE, &x, NULL) == NCPU_ERROR_ARGUMENT, "y without relu");
    x.shape = y.shape = (const ptrdiff_t[]){1, 1, 1}, x.dtype = y.dtype = NCPU_F64;
    EXPECT(forward(x, 1, y, silu) == NCPU_ERROR_UNSUPPORTED, "silu of doubles");
    EXPECT(ncpu_use_isa("sse9") == NCPU_ERROR_ARGUMENT && ncpu_isa_supported("sse9") == -1, "an unknown set");
    EXPECT(ncpu_use_isa(ncpu_isa()) == NCPU_OK && ncpu_isa_supported(ncpu_isa()) == 1, "the set in use");
}

static ncpu_status rows_refused(const ncpu_array *x, const ncpu_array *added, const ncpu_array *sum,
                                const ncpu_epilogue *after, const ncpu_quantization *quantization, const ncpu_array *y)
{
    static const uint8_t last[3] = {0, 0, 1};
    const ncpu_row_norm norm = {.axes = last, .eps = 1e-5};
    return ncpu_layer_norm(x, &norm, added, sum, after, quantization, y, NULL, NULL);
}

static ncpu_status rows_undone(const ncpu_array *x, const ncpu_array *dx, ncpu_activation activation, const ncpu_array *y,
                               const uint8_t *bits)
{
    static const uint8_t last[3] = {0, 0, 1};
    const ncpu_row_norm norm = {.axes = last, .eps = 1e-5};
    return ncpu_layer_norm_backward(x, x, &norm, row_mean, row_var, activation, y, bits, NULL, dx, NULL, NULL, NULL);
}

static void check_row_refusals(void)
{
    static const ptrdiff_t shape[3] = {3, 5, 7}, other[3] = {3, 5, 6}, strides[3] = {140, 28, 4}, bytes[3] = {35, 7, 1};
    const ncpu_array x = {input[0], NCPU_F32, 3, shape, strides}, y = {made.y, NCPU_F32, 3, shape, strides};
    const ncpu_array sum = {made.dresidual, NCPU_F32, 3, shape, strides}, q = {made.y, NCPU_I8, 3, shape, bytes};
    const ncpu_array unsigned_q = {made.y, NCPU_U8, 3, shape, bytes};
    ncpu_array odd = y;
    const ncpu_epilogue masked = {.activation = NCPU_RELU, .mask = made.mask}, unknown = {.activation = (ncpu_activation)99};
    const ncpu_quantization good = {.scale = 1}, none = {.scale = 0}, dynamic = {.scales = (float *)made.mean};
    EXPECT(rows_refused(&x, NULL, NULL, NULL, NULL, &y) == NCPU_OK, "refused rows that are right");
    EXPECT(rows_refused(&x, &x, &sum, NULL, &good, &q) == NCPU_OK, "refused bytes that are right");
    EXPECT(rows_refused(&x, NULL, NULL, NULL, &dynamic, &q) == NCPU_OK, "refused dynamic bytes that are right");
    odd.shape = other;
    EXPECT(rows_refused(&x, NULL, NULL, NULL, NULL, &odd) == NCPU_ERROR_ARGUMENT, "rows to another shape");
    EXPECT(rows_refused(&x, &odd, &sum, NULL, NULL, &y) == NCPU_ERROR_ARGUMENT, "added of another shape");
    odd = y, odd.dtype = NCPU_F64;
    EXPECT(rows_refused(&x, NULL, NULL, NULL, NULL, &odd) == NCPU_ERROR_ARGUMENT, "rows to another dtype");
    EXPECT(rows_refused(&x, &x, NULL, NULL, NULL, &y) == NCPU_ERROR_ARGUMENT, "added without sum");
    EXPECT(rows_refused(&x, NULL, &sum, NULL, NULL, &y) == NCPU_ERROR_ARGUMENT, "sum without added");
    EXPECT(rows_refused(&x, NULL, NULL, &masked, NULL, &y) == NCPU_OK, "refused bits that are right");
    EXPECT(rows_refused(&x, NULL, NULL, &masked, &good, &q) == NCPU_ERROR_UNSUPPORTED, "bits of bytes");
    EXPECT(rows_refused(&x, NULL, NULL, &unknown, NULL, &y) == NCPU_ERROR_ARGUMENT, "rows with an unknown activation");
    EXPECT(rows_refused(&x, NULL, NULL, NULL, NULL, &q) == NCPU_ERROR_ARGUMENT, "bytes without quantization");
    EXPECT(rows_refused(&x, NULL, NULL, NULL, &good, &y) == NCPU_ERROR_ARGUMENT, "quantization to floats");
    EXPECT(rows_refused(&x, NULL, NULL, NULL, &none, &q) == NCPU_ERROR_ARGUMENT, "a scale of zero");
    EXPECT(rows_refused(&x, NULL, NULL, NULL, &dynamic, &unsigned_q) == NCPU_ERROR_ARGUMENT, "dynamic to u8");
    odd = x, odd.dtype = NCPU_F64;
    EXPECT(rows_refused(&odd, NULL, NULL, NULL, &good, &q) == NCPU_ERROR_UNSUPPORTED, "doubles to bytes");
    odd.dtype = NCPU_U8;
    EXPECT(rows_refused(&odd, NULL, NULL, NULL, NULL, &y) == NCPU_ERROR_ARGUMENT, "rows of bytes");
    EXPECT(rows_undone(&x, &y, NCPU_GELU, NULL, NULL) == NCPU_ERROR_UNSUPPORTED, "rows backward of gelu");
    EXPECT(rows_undone(&x, &y, NCPU_RELU, NULL, NULL) == NCPU_ERROR_ARGUMENT, "rows with neither y nor mask");
    EXPECT(rows_undone(&x, &y, NCPU_RELU, &x, made.mask) == NCPU_ERROR_ARGUMENT, "rows with y and mask");
    EXPECT(rows_undone(&x, &y, NCPU_NONE, NULL, made.mask) == NCPU_ERROR_ARGUMENT, "rows with a mask without relu");
    EXPECT(rows_undone(&x, &y, NCPU_RELU, &q, NULL) == NCPU_ERROR_ARGUMENT, "rows with y of bytes");
}

static void check_empty(void)
{
    static const ptrdiff_t strides[3] = {140, 28, 4};
    for (int axis = 0; axis < 3; axis++) {
        ptrdiff_t shape[3] = {3, 5, 7};
        shape[axis] = 0;
        const ncpu_array x = {NULL, NCPU_F32, 3, shape, strides};
        const uint8_t all[3] = {1, 1, 1};
        const ncpu_moments_state state = {made.mean, made.tails, made.var, made.tails + 1};
        float dweight[5] = {1, 1, 1, 1, 1}, dbias[5] = {1, 1, 1, 1, 1};
        const int no_channels = axis == 1;
        ncpu_status status = ncpu_batch_norm(&x, 1, running.mean, running.var, NULL, NULL, 0, NULL, &x);
        EXPECT(status == NCPU_OK, "evaluation of nothing: %d", status);
        status = ncpu_batch_norm_train(&x, 1, NULL, NULL, 0, NULL, &x, made.mean, made.var, NULL);
        EXPECT(status == (no_channels ? NCPU_OK : NCPU_ERROR_ARGUMENT), "training on nothing: %d", status);
        status = ncpu_batch_norm_backward(&x, &x, 1, NULL, statistics[0], statistics[1], 1e-5, 1, NCPU_NONE, NULL, NULL,
                                          &x, NULL, dweight, dbias);
        EXPECT(status == NCPU_OK, "backward of nothing: %d", status);
        for (int j = 0; j < 5 && !no_channels; j++) EXPECT(dweight[j] == 0 && dbias[j] == 0, "gradients of nothing");
        made.mean[0] = made.var[0] = 1;
        EXPECT(ncpu_moments(&x, all, &state) == NCPU_OK && made.mean[0] == 0 && made.var[0] == 0, "moments of nothing");
    }
}

int main(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof mask; i++) mask[i] = (char)(i * 37);
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++)
        for (size_t i = 0; i < PROBLEMS; i++)
            if (is_tried(d + i, argc, argv)) check_in_place(&problems[i], dtypes[d]);
    check_refusals();
    check_row_refusals();
    check_empty();
    return failed != 0;
}

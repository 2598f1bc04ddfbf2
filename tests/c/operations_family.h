/* SPDX-License-Identifier: Apache-2.0
 *
 * The part of operations.h that is not batch normalization: rows, groups, local response and dropout. */
#ifndef OPERATIONS_FAMILY_H
#define OPERATIONS_FAMILY_H

/* Of whatever counts. */
static const uint8_t *two_thirds(void)
{
    static uint8_t chosen[MOST];
    for (size_t i = 0; i < MOST && !chosen[0]; i++) chosen[MOST - 1 - i] = (MOST - 1 - i) % 3 != 1;
    return chosen;
}

/* Rows of the last axis, or of the channels; weights as far as there are. */
static ncpu_row_norm rows_of(const call *c, int axis, int rms)
{
    static const uint8_t marks[3][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}};
    const void *weight = c->p->shape[axis] <= MOST_CHANNELS ? vectors[0] : NULL;
    return (ncpu_row_norm){.axes = marks[axis], .rms = rms, .weight = weight, .plus_one = rms, .eps = 1e-5};
}
static ncpu_status add_layer_norm(const call *c)
{
    const ncpu_row_norm norm = rows_of(c, 2, 0);
    return ncpu_layer_norm(&c->x, &norm, &c->dy, &c->dresidual, NULL, NULL, &c->y, NULL, NULL);
}
static ncpu_status rms_norm(const call *c)
{
    const ncpu_row_norm norm = rows_of(c, c->p->axis, 1);
    const ncpu_epilogue after = {.activation = NCPU_RELU6, .residual = &c->dy};
    return ncpu_layer_norm(&c->x, &norm, NULL, NULL, &after, NULL, &c->y, NULL, NULL);
}
static ncpu_status layer_norm_int8(const call *c)
{
    const ncpu_row_norm norm = rows_of(c, c->p->axis, 0);
    const ncpu_quantization quantization = {.scales = (float *)made.dresidual};
    const ptrdiff_t strides[3] = {c->p->shape[1] * c->p->shape[2], c->p->shape[2], 1};
    const ncpu_array y = {made.y, NCPU_I8, 3, c->p->shape, strides};
    if (c->dtype == NCPU_F64) return NCPU_OK;
    return ncpu_layer_norm(&c->x, &norm, NULL, NULL, NULL, &quantization, &y, NULL, NULL);
}
static ncpu_status layer_norm_backward(const call *c)
{
    const ncpu_row_norm norm = rows_of(c, 2, 0);
    return ncpu_layer_norm_backward(&c->dy, &c->x, &norm, row_mean, row_var, NCPU_NONE, NULL, NULL, NULL, &c->y, NULL,
                                    made.dresidual, NULL);
}
static ncpu_status rms_norm_backward(const call *c)
{
    const ncpu_row_norm norm = rows_of(c, c->p->axis, 1);
    return ncpu_layer_norm_backward(&c->dy, &c->x, &norm, NULL, row_var, NCPU_NONE, NULL, NULL, &c->dy, &c->y, NULL,
                                    made.dresidual, NULL);
}

/* With relu's bits; what lies across memory has them too. */
static ncpu_status layer_norm_masked(const call *c)
{
    ncpu_row_norm norm = rows_of(c, c->p->axis, 0);
    const ncpu_epilogue after = {.activation = NCPU_RELU, .mask = made.mask};
    if (c->dtype != NCPU_F64) norm.valid = two_thirds();
    return ncpu_layer_norm(&c->x, &norm, NULL, NULL, &after, NULL, &c->y, NULL, NULL);
}
static ncpu_status layer_norm_backward_masked(const call *c)
{
    ncpu_row_norm norm = rows_of(c, c->p->axis, 0);
    norm.valid = two_thirds();
    const int from_bits = c->dtype == NCPU_F64;
    return ncpu_layer_norm_backward(&c->dy, &c->x, &norm, row_mean, row_var, NCPU_RELU, from_bits ? NULL : &c->x,
                                    from_bits ? (const uint8_t *)input[0] : NULL, &c->dy, &c->y, &c->dresidual,
                                    NULL, NULL);
}

/* Two channels a group, or all of them; of all positions or of two thirds. */
static ncpu_groups groups_of(const call *c, double *mean, double *var, int masked)
{
    const size_t channels = (size_t)c->p->shape[c->p->axis];
    return (ncpu_groups){.count = channels % 2 ? 1 : channels / 2, .mean = mean, .var = var,
                         .valid = masked ? two_thirds() : NULL};
}
static ncpu_status group_norm(const call *c)
{
    const ncpu_groups groups = groups_of(c, made.dresidual, group_var, 0);
    const ncpu_epilogue after = {.activation = NCPU_RELU, .residual = &c->dy, .mask = made.mask};
    return ncpu_group_norm(&c->x, c->p->axis, &groups, vectors[0], vectors[1], 1e-5, &after, &c->y);
}
static ncpu_status group_norm_masked(const call *c)
{
    if (c->p->shape[0] > MOST_SAMPLES) return NCPU_OK; /* each sample allocates, and a test fails every allocation */
    const ncpu_groups groups = groups_of(c, made.dresidual, group_var, 1);
    return ncpu_group_norm(&c->x, c->p->axis, &groups, vectors[0], NULL, 1e-5, NULL, &c->y);
}
static ncpu_status group_gradients(const call *c, int masked)
{
    const ncpu_groups groups = groups_of(c, row_mean, row_var, masked);
    return ncpu_group_norm_backward(&c->dy, &c->x, c->p->axis, &groups, vectors[0], 1e-5, NCPU_RELU, &c->x, NULL, &c->y,
                                    &c->dresidual, made.dweight, made.dbias);
}
static ncpu_status group_norm_backward(const call *c) { return group_gradients(c, 0); }
static ncpu_status group_norm_backward_masked(const call *c)
{
    return c->p->shape[0] > MOST_SAMPLES ? NCPU_OK : group_gradients(c, 1);
}

static const ncpu_local_response response = {2, 1, 0.5, 0.75, 1.5};
static ncpu_status local_response_norm(const call *c)
{
    const ncpu_epilogue epilogue = {.activation = NCPU_RELU, .residual = &c->dy};
    return ncpu_local_response_norm(&c->x, c->p->axis, &response, &epilogue, &c->y);
}
static ncpu_status local_response_norm_backward(const call *c)
{
    return ncpu_local_response_norm_backward(&c->dy, &c->x, c->p->axis, &response, &c->y);
}

enum { SEED = 12345 };
static ncpu_dropped dropped(const call *c, int alpha, int whole_channels)
{
    return (ncpu_dropped){.p = 0.3, .alpha = alpha, .whole_channels = whole_channels, .channel_axis = c->p->axis,
                          .batched = 1};
}
static ncpu_status dropout(const call *c)
{
    const ncpu_dropped what = dropped(c, 0, 0);
    return ncpu_dropout(&c->x, &what, SEED, &c->y, made.mask);
}
static ncpu_status dropout_in_place(const call *c)
{
    const ncpu_dropped what = dropped(c, 0, 0);
    const ncpu_status status = dropout(c);
    return status ? status : ncpu_dropout(&c->y, &what, SEED + 1, &c->y, made.mask);
}
static ncpu_status alpha_dropout(const call *c)
{
    const ncpu_dropped what = dropped(c, 1, 0);
    return ncpu_dropout(&c->x, &what, SEED, &c->y, made.mask);
}
static ncpu_status dropout_of_channels(const call *c)
{
    const ncpu_dropped what = dropped(c, 0, 1);
    return ncpu_dropout(&c->x, &what, SEED, &c->y, made.mask);
}
static ncpu_status dropout_backward(const call *c)
{
    const ncpu_dropped what = dropped(c, 0, 0);
    return ncpu_dropout_backward(&c->dy, &what, (const uint8_t *)input[0], &c->y);
}

#endif

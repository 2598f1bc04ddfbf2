/* SPDX-License-Identifier: Apache-2.0
 * Moments of one block: sums from a start value, and again from a better one, or in double, where they are not good enough. */
#ifndef NCPU_BLOCK_H
#define NCPU_BLOCK_H

#include "measure.h"

/* What a task works in: per channel of its width, and room for one packed block. */
typedef struct {
    double *k, *s1, *s2;
    double *wide_k, *wide_s1, *wide_s2; /* cols laid side by side */
    ncpu_moments_state part;
    uint8_t *rejected;
    void *pack;
} ncpu_block_workspace;

/* Cuts memory into it, or with memory == NULL only counts its bytes. */
size_t ncpu_lay_out_block(const ncpu_measurement *m, char *memory, ncpu_block_workspace *w);

/* Elements of a channel in the box. */
static inline size_t ncpu_box_count(const ncpu_measurement *m, const ncpu_box *box)
{
    return m->view->cols ? box->rows : box->rows * box->len;
}

/* w->part = moments of one block.  first: w->k is not known yet; it is left for the next one. */
void ncpu_measure_block(const ncpu_measurement *m, const ncpu_box *box, int first, ncpu_block_workspace *w);

#endif

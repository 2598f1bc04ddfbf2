/* SPDX-License-Identifier: Apache-2.0 */

#include "block.h"

#include <math.h>
#include <string.h>

#include "memory.h"

size_t ncpu_lay_out_block(const ncpu_measurement *m, char *memory, ncpu_block_workspace *w)
{
    const size_t padded = ncpu_padded(m->width) + NCPU_PAD, beside = m->widened > 1 ? padded * m->widened : 0;
    ncpu_arena a = {memory, 0};
    w->k = ncpu_take(&a, padded * 8), w->s1 = ncpu_take(&a, padded * 8), w->s2 = ncpu_take(&a, padded * 8);
    w->wide_k = ncpu_take(&a, beside * 8), w->wide_s1 = ncpu_take(&a, beside * 8), w->wide_s2 = ncpu_take(&a, beside * 8);
    w->part = (ncpu_moments_state){ncpu_take(&a, padded * 8), ncpu_take(&a, padded * 8), ncpu_take(&a, padded * 8),
                                   ncpu_take(&a, padded * 8)};
    w->rejected = ncpu_take(&a, padded);
    const int packs = !m->x->direct || (m->widened > 1 && m->x->row_step != (ptrdiff_t)m->view->c);
    w->pack = ncpu_take(&a, packs ? m->rows * m->len * (m->view->cols ? 1 : m->width) * m->x->size : 0);
    return a.used;
}

static double start(const ncpu_measurement *m, double x) { return ncpu_start(x, m->x->size); }

/* Sums of cols with `widened` rows side by side: as if the array had widened * c columns. */
static void measure_beside(const ncpu_measurement *m, const ncpu_kernel_set *set, ncpu_measure_args args,
                           ncpu_block_workspace *w)
{
    const size_t c = args.len, f = m->widened, rest = args.rows % f;
    for (size_t i = 0; i < f; i++) memcpy(w->wide_k + i * c, w->k, c * sizeof *w->k);
    memset(w->s1, 0, c * sizeof *w->s1);
    memset(w->s2, 0, c * sizeof *w->s2);
    for (int last = 0; last < 2; last++) { /* whole groups of f rows, then the rest as one shorter row */
        ncpu_measure_args wide = args;
        wide.rows = last ? rest > 0 : args.rows / f;
        wide.len = last ? rest * c : f * c;
        wide.row_stride = (ptrdiff_t)(f * c);
        wide.x = (const char *)args.x + (last ? (args.rows - rest) * c * m->x->size : 0);
        if (!wide.rows) continue;
        set->measure_cols(&wide, w->wide_k, w->wide_s1, w->wide_s2);
        for (size_t half = f / 2; half && !last; half /= 2) /* pairwise */
            for (size_t i = 0; i < half * c; i++)
                w->wide_s1[i] += w->wide_s1[half * c + i], w->wide_s2[i] += w->wide_s2[half * c + i];
        for (size_t i = 0; i < (last ? wide.len : c); i++) w->s1[i % c] += w->wide_s1[i], w->s2[i % c] += w->wide_s2[i];
    }
}

static void measure_set(const ncpu_measurement *m, const ncpu_kernel_set *set, const ncpu_measure_args *args,
                        const double *k, double *s1, double *s2)
{
    (m->view->cols ? set->measure_cols : set->measure_runs)(args, k, s1, s2);
}

/* Measures a rejected channel (runs) or 16 columns (cols) again: from the mean that the first sums gave, then, where
 * float cannot hold the squares, in double from its own guess and again from that pass's mean. */
static void measure_again(const ncpu_measurement *m, ncpu_measure_args args, double count, size_t j, size_t width,
                          ncpu_block_workspace *w)
{
    const ncpu_kernel_set *set = &m->kernels->set[m->dtype], *wide = &m->kernels->wide[m->dtype];
    const ncpu_moments_state out = ncpu_state_at(&w->part, j);
    double k[NCPU_PAD] = {0}, s1[NCPU_PAD], s2[NCPU_PAD], memory[4 * NCPU_PAD];
    const ncpu_moments_state part = ncpu_state_in(memory, NCPU_PAD);
    uint8_t ignored[NCPU_PAD], pending[NCPU_PAD];
    memcpy(pending, w->rejected + j, width);
    if (m->view->cols) args.x = (const char *)args.x + j * m->x->size, args.len = width;
    else args.x = (const char *)args.x + (ptrdiff_t)j * args.channel_stride * (ptrdiff_t)m->x->size, args.channels = 1;

    for (int pass = 0; pass < 3; pass++) {
        if (pass == 1) (m->view->cols ? wide->guess_cols : wide->guess_runs)(&args, k);
        else
            for (size_t i = 0; i < width; i++) {
                const double mean = pass ? part.mean[i] : start(m, out.mean[i]);
                k[i] = isfinite(mean) ? mean : pass ? k[i] : w->k[j + i];
            }
        measure_set(m, pass ? wide : set, &args, k, s1, s2);
        m->kernels->finish(width, count, 0, 1, k, s1, s2, &part, ignored);
        int unsettled = 0;
        for (size_t i = 0; i < width; i++) {
            if (!pending[i]) continue;
            if (pass == 0 && !(s2[i] >= ncpu_tiny(m->dtype) * count && s2[i] < INFINITY)) {
                unsettled = 1;
                continue;
            }
            out.mean[i] = part.mean[i], out.mean_tail[i] = part.mean_tail[i];
            out.m2[i] = part.m2[i], out.m2_tail[i] = part.m2_tail[i];
            w->k[j + i] = start(m, part.mean[i]);
            if (pass == 0) pending[i] = 0;
        }
        if (pass == 0 && !unsettled) return;
    }
}

/* changes: (width * size) bytes, OUT: not zero where that byte of a column is not the same in all rows. */
static void columns_change(const ncpu_measure_args *args, size_t size, size_t j, size_t width, uint8_t *changes)
{
    const uint8_t *first = (const uint8_t *)args->x + j * size, *row = first;
    memset(changes, 0, width * size);
    for (size_t i = 0; i < args->rows; i++, row += args->row_stride * (ptrdiff_t)size)
        for (size_t b = 0; b < width * size; b++) changes[b] |= row[b] ^ first[b];
}

static int run_changes(const ncpu_measure_args *args, size_t size, size_t j)
{
    const char *first = (const char *)args->x + (ptrdiff_t)j * args->channel_stride * (ptrdiff_t)size, *row = first;
    for (size_t i = 0; i < args->rows; i++, row += args->row_stride * (ptrdiff_t)size)
        if (memcmp(row, first, size) || memcmp(row, row + size, (args->len - 1) * size)) return 1;
    return 0;
}

/* Channels that are constant, as where a relu never passes, have the moments of any of their elements. */
static void measure_rejected(const ncpu_measurement *m, const ncpu_measure_args *args, double count, size_t j,
                             size_t width, ncpu_block_workspace *w)
{
    const size_t size = m->x->size;
    uint8_t changes[NCPU_PAD * 8], others[NCPU_PAD] = {0};
    if (m->view->cols) columns_change(args, size, j, width, changes);
    for (size_t i = 0; i < width; i++) {
        static const uint8_t none[8] = {0};
        const int change = m->view->cols ? memcmp(changes + i * size, none, size) : run_changes(args, size, j + i);
        if (change) others[i] = w->rejected[j + i], w->rejected[j + i] = 0;
    }
    ncpu_measure_args single = *args;
    single.rows = 1;
    if (!m->view->cols) single.len = 1;
    if (memchr(w->rejected + j, 1, width)) measure_again(m, single, 1, j, width, w);
    memcpy(w->rejected + j, others, width);
    if (memchr(others, 1, width)) measure_again(m, *args, count, j, width, w);
}

void ncpu_measure_block(const ncpu_measurement *m, const ncpu_box *box, int first, ncpu_block_workspace *w)
{
    const ncpu_kernel_set *set = &m->kernels->set[m->dtype];
    const size_t channels = m->view->cols ? box->len : box->channels;
    const double count = (double)ncpu_box_count(m, box);
    ncpu_tile tile = ncpu_tile_in(m->x, m->view, box, w->pack);
    const int beside = m->widened > 1 && channels == m->view->c;
    if (beside && m->x->direct && tile.row_stride != (ptrdiff_t)channels) {
        ncpu_gather(m->x, m->view, box, w->pack);
        tile = (ncpu_tile){w->pack, 0, (ptrdiff_t)channels};
    }
    const ncpu_measure_args args = {.channels = box->channels, .rows = box->rows, .len = box->len, .x = tile.data,
                                    .channel_stride = tile.channel_stride, .row_stride = tile.row_stride};
    if (first) (m->view->cols ? set->guess_cols : set->guess_runs)(&args, w->k);
    if (beside) measure_beside(m, set, args, w);
    else measure_set(m, set, &args, w->k, w->s1, w->s2);
    const size_t step = m->view->cols ? NCPU_PAD : 1;
    if (m->kernels->finish(channels, count, ncpu_tiny(m->dtype), ncpu_near(m->dtype), w->k, w->s1, w->s2, &w->part, w->rejected))
        for (size_t j = 0; j < channels; j += step) {
            const size_t width = least(step, channels - j);
            if (memchr(w->rejected + j, 1, width)) measure_rejected(m, &args, count, j, width, w);
        }
    if (first)
        for (size_t j = 0; j < channels; j++) {
            const double mean = start(m, w->part.mean[j]);
            if (isfinite(mean)) w->k[j] = mean;
        }
}

/* SPDX-License-Identifier: Apache-2.0
 * Local response normalization: boxes of positions with all of their channels, in doubles, with zeros where a window
 * reaches beyond the first channel or the last. */

#include <string.h>

#include "apply.h"
#include "rows.h"
#include "team.h"

enum { BOX = 8192 }; /* elements: a box and its doubles stay in a core's own cache */

typedef struct {
    const ncpu_kernels *kernels;
    ncpu_team *team;
    ncpu_view view;
    ncpu_dtype dtype, real;
    ncpu_operand x, y, residual, dy; /* backward: y is dx */
    int has_residual, backward;
    ncpu_epilogue epilogue;
    ncpu_window window;
    size_t rows, len;            /* of a box: see ncpu_box */
    size_t boxes, tasks, pitch, count; /* doubles from one row of cols to the next; of a box in all */
    char *scratch;
    size_t scratch_size;
} job;

typedef struct {
    double *x, *dy, *squares, *parts; /* the last two with room for windows on both sides */
    void *x_pack, *y_pack, *other_pack;
    void *values, *residual; /* real: one row of a tile */
} workspace;

/* Doubles that a window reaches beyond its own, at most. */
static size_t room_of(const ncpu_window *w) { return (w->before > w->after ? w->before : w->after) * (size_t)w->stride; }

/* The doubles of a box, `room` in front of and behind them, and what is behind the last whole vector. */
static double *take_doubles(ncpu_arena *a, const job *j, size_t room)
{
    double *piece = ncpu_take(a, (j->count + 2 * room + NCPU_PAD) * sizeof(double));
    return piece ? piece + room : NULL;
}

static size_t lay_out(const job *j, char *memory, workspace *w)
{
    ncpu_arena a = {memory, 0};
    const size_t room = room_of(&j->window), elements = j->rows * j->len * (j->view.cols ? 1 : j->view.c);
    const size_t run = j->view.cols ? j->view.c : j->len;
    w->x = take_doubles(&a, j, 0), w->squares = take_doubles(&a, j, room);
    w->dy = w->parts = NULL;
    if (j->backward) w->dy = take_doubles(&a, j, 0), w->parts = take_doubles(&a, j, room);
    const ncpu_operand *other = j->backward ? &j->dy : &j->residual;
    w->x_pack = ncpu_take(&a, j->x.direct ? 0 : elements * j->x.size);
    w->y_pack = ncpu_take(&a, j->y.direct ? 0 : elements * j->y.size);
    w->other_pack = ncpu_take(&a, other->direct ? 0 : elements * other->size);
    w->values = ncpu_take(&a, run * sizeof(double)), w->residual = ncpu_take(&a, run * sizeof(double));
    return a.used;
}

static ncpu_box box_at(const job *j, size_t index)
{
    const ncpu_view *v = &j->view;
    if (v->cols)
        return (ncpu_box){.channels = 1, .row = index * j->rows, .rows = least(j->rows, v->n - index * j->rows), .len = v->c};
    const size_t pieces = divide_up(v->s, j->len), at = index % pieces * j->len, row = index / pieces * j->rows;
    return (ncpu_box){.channels = v->c, .row = row, .rows = least(j->rows, v->n - row), .at = at,
                      .len = least(j->len, v->s - at)};
}

/* ---- A box: its stretches of memory, and where each is among the doubles ---- */

typedef struct {
    ptrdiff_t tile; /* elements */
    size_t doubles;
} place;

static place place_of(const job *j, const ncpu_box *box, const ncpu_tile *t, size_t channel, size_t row)
{
    if (j->view.cols) return (place){(ptrdiff_t)row * t->row_stride, row * j->pitch};
    return (place){(ptrdiff_t)channel * t->channel_stride + (ptrdiff_t)row * t->row_stride,
                   (channel * box->rows + row) * box->len};
}

static void *element(const ncpu_operand *o, const ncpu_tile *t, ptrdiff_t i) { return (char *)t->data + i * (ptrdiff_t)o->size; }

static void read_stretch(const job *j, size_t len, const void *from, double *to, const workspace *w)
{
    const int half = j->dtype != j->real;
    if (half) j->kernels->to_floats[j->dtype](len, from, w->values);
    if (j->real == NCPU_F64) memcpy(to, from, len * sizeof *to);
    else j->kernels->widen(len, half ? w->values : from, to);
}

static void read_box(const job *j, const ncpu_operand *o, const ncpu_box *box, void *pack, double *to, const workspace *w)
{
    const ncpu_tile t = ncpu_tile_in(o, &j->view, box, pack);
    for (size_t i = 0; i < box->channels; i++)
        for (size_t row = 0; row < box->rows; row++) {
            const place p = place_of(j, box, &t, i, row);
            read_stretch(j, box->len, element(o, &t, p.tile), to + p.doubles, w);
        }
}

/* A stretch of results: real numbers, the epilogue, and the data's dtype. */
static void write_stretch(const job *j, size_t len, const double *from, const void *residual, void *to, const workspace *w)
{
    const ncpu_kernels *k = j->kernels;
    const int half = j->dtype != j->real;
    void *values = half || residual ? w->values : to; /* which may be the residual */
    if (j->real == NCPU_F64) memcpy(values, from, len * sizeof *from);
    else k->narrow(len, from, values);
    if (residual && half) k->to_floats[j->dtype](len, residual, w->residual), residual = w->residual;
    if (residual || j->epilogue.activation != NCPU_NONE) {
        ncpu_apply_args args = {.rows = 1, .len = len, .x = values, .y = half ? values : to, .residual = residual,
                                .activation = j->epilogue.activation, .negative_slope = j->epilogue.negative_slope};
        ncpu_set_identity(j->real, &args);
        k->set[j->real].apply_runs(&args);
    }
    if (half) k->from_floats[j->dtype](len, values, to);
}

static void write_box(const job *j, const ncpu_box *box, const double *from, const workspace *w)
{
    const ncpu_tile t = ncpu_tile_out(&j->y, &j->view, box, w->y_pack);
    ncpu_tile residual = {0};
    if (j->has_residual) residual = ncpu_tile_in(&j->residual, &j->view, box, w->other_pack);
    for (size_t i = 0; i < box->channels; i++)
        for (size_t row = 0; row < box->rows; row++) {
            const place p = place_of(j, box, &t, i, row);
            void *to = element(&j->y, &t, p.tile);
            const void *added = NULL;
            if (j->has_residual) added = element(&j->residual, &residual, place_of(j, box, &residual, i, row).tile);
            write_stretch(j, box->len, from + p.doubles, added, to, w);
        }
    ncpu_tile_done(&j->y, &j->view, box, &t);
}

/* Zeros between the rows of cols, and behind the box, where the arithmetic has written. */
static void clear_rooms(const job *j, const ncpu_box *box, size_t room, size_t count, double *values)
{
    for (size_t row = 0; j->view.cols && row < box->rows; row++)
        memset(values + row * j->pitch + box->len, 0, (j->pitch - box->len) * sizeof *values);
    memset(values - room, 0, room * sizeof *values);
    memset(values + count, 0, (room + 8) * sizeof *values);
}

static void do_box(const job *j, const ncpu_box *box, const workspace *w)
{
    const size_t count = j->view.cols ? box->rows * j->pitch : j->view.c * box->rows * box->len;
    const ncpu_kernels *k = j->kernels;
    ncpu_window window = j->window;
    if (!j->view.cols) window.stride = (ptrdiff_t)(box->rows * box->len);
    const size_t room = room_of(&window);
    read_box(j, &j->x, box, w->x_pack, w->x, w);
    k->window_squares(count, w->x, w->squares);
    clear_rooms(j, box, room, count, w->squares);
    if (j->backward) {
        ncpu_window reached = window; /* the channels whose windows have this one */
        reached.before = window.after, reached.after = window.before;
        read_box(j, &j->dy, box, w->other_pack, w->dy, w);
        k->window_parts(&window, count, w->squares, w->x, w->dy, w->parts);
        clear_rooms(j, box, room, count, w->parts);
        k->window_gradient(&reached, count, w->parts, w->x, w->dy);
    } else {
        k->window_divide(&window, count, w->squares, w->x);
    }
    write_box(j, box, j->backward ? w->dy : w->x, w);
}

static void task(void *context, ptrdiff_t number)
{
    const job *j = context;
    const size_t t = (size_t)number, from = j->boxes * t / j->tasks;
    workspace w;
    lay_out(j, j->scratch + t * j->scratch_size, &w);
    for (size_t i = from; i < j->boxes * (t + 1) / j->tasks; i++) {
        if ((i - from) % 16 == 0 && ncpu_team_stopped(j->team)) return;
        const ncpu_box box = box_at(j, i);
        do_box(j, &box, &w);
    }
}

static void plan_window(job *j, const ncpu_local_response *given)
{
    const size_t others = j->view.c - 1;
    const double quarters = 4 * given->beta;
    j->window = (ncpu_window){
        .before = least(given->before, others), .after = least(given->after, others), .stride = 1,
        .share = given->alpha / ((double)given->before + 1 + (double)given->after), .k = given->k, .beta = given->beta,
        .quarters = quarters >= 0 && quarters <= 16 && quarters == (double)(int)quarters ? (int)quarters : -1};
    if (!j->view.cols) j->window.stride = (ptrdiff_t)(j->rows * j->len);
}

static ncpu_status run(job *j, const ncpu_local_response *window)
{
    const ncpu_view *v = &j->view;
    if (v->n * v->c * v->s == 0) return NCPU_OK;
    const size_t positions = BOX / v->c ? BOX / v->c : 1;
    j->len = v->cols ? v->c : least(v->s, positions);
    j->rows = v->cols ? least(v->n, positions) : least(v->n, positions / j->len);
    if (!j->rows) j->rows = 1;
    j->boxes = divide_up(v->n, j->rows) * (v->cols ? 1 : divide_up(v->s, j->len));
    plan_window(j, window);
    j->pitch = v->c + room_of(&j->window); /* of cols, whose stride is 1 */
    j->count = j->rows * (v->cols ? j->pitch : v->c * j->len);

    ncpu_team team;
    workspace w;
    ncpu_team_begin(&team, 32 * (double)v->n * (double)v->s * (double)v->c); /* an element takes as long as moving so much */
    j->team = &team, j->tasks = least(j->boxes, (size_t)team.threads);
    j->scratch_size = lay_out(j, NULL, &w);
    j->scratch = ncpu_allocate(j->tasks * j->scratch_size);
    if (j->scratch) {
        memset(j->scratch, 0, j->tasks * j->scratch_size);
        ncpu_team_run(&team, (ptrdiff_t)j->tasks, task, j);
    }
    const ncpu_status stopped = ncpu_team_end(&team);
    ncpu_release(j->scratch);
    return j->scratch ? stopped : NCPU_ERROR_MEMORY;
}

static ncpu_status plan(job *j, const ncpu_array *x, int channel_axis, const ncpu_array *y)
{
    if (x->dtype > NCPU_BF16 || y->dtype != x->dtype) return NCPU_ERROR_ARGUMENT;
    j->kernels = ncpu_kernels_in_use(), j->dtype = x->dtype, j->real = x->dtype == NCPU_F64 ? NCPU_F64 : NCPU_F32;
    ncpu_status status = ncpu_view_of(x, channel_axis, &j->view);
    if (!status) status = ncpu_operand_of(x, x, &j->view, &j->x);
    if (!status) status = ncpu_operand_of(y, x, &j->view, &j->y);
    j->residual = j->dy = j->x;
    return status;
}

ncpu_status ncpu_local_response_norm(const ncpu_array *x, int channel_axis, const ncpu_local_response *window,
                                     const ncpu_epilogue *epilogue, const ncpu_array *y)
{
    job j = {.backward = 0};
    ncpu_status status = plan(&j, x, channel_axis, y);
    if (!status && epilogue) {
        j.epilogue = *epilogue, j.has_residual = epilogue->residual != NULL;
        status = epilogue->mask ? NCPU_ERROR_UNSUPPORTED : ncpu_check_epilogue(x->dtype, epilogue);
        if (!status && j.has_residual && epilogue->residual->dtype != x->dtype) status = NCPU_ERROR_ARGUMENT;
        if (!status && j.has_residual) status = ncpu_operand_of(epilogue->residual, x, &j.view, &j.residual);
    }
    return status ? status : run(&j, window);
}

ncpu_status ncpu_local_response_norm_backward(const ncpu_array *dy, const ncpu_array *x, int channel_axis,
                                              const ncpu_local_response *window, const ncpu_array *dx)
{
    job j = {.backward = 1};
    ncpu_status status = plan(&j, x, channel_axis, dx);
    if (!status && dy->dtype != x->dtype) status = NCPU_ERROR_ARGUMENT;
    if (!status) status = ncpu_operand_of(dy, x, &j.view, &j.dy);
    return status ? status : run(&j, window);
}

/* SPDX-License-Identifier: Apache-2.0
 * Optimizers: one pass over all parameters as if they lay side by side, cut into equal parts for the team. */

#include <math.h>

#include "sizes.h"
#include "team.h"
#include "view.h"

enum { SMALLEST = 4096, LINE = 64 }; /* elements of a task, and a multiple that no vector crosses */

typedef struct {
    const ncpu_parameter *parameters;
    size_t count, elements, tasks;
    const ncpu_sgd *sgd; /* or else: */
    const ncpu_adamw *adamw;
    const ncpu_kernels *kernels;
} stepping;

static char *at(const void *array, size_t i, size_t size) { return array ? (char *)array + i * size : NULL; }

static ncpu_step_args sgd_args(const ncpu_sgd *how, const ncpu_parameter *p)
{
    return (ncpu_step_args){.rate = how->rate,
                            .decay = p->decayed ? how->weight_decay : 0,
                            .keep_mean = p->step == 1 ? 0 : how->momentum,
                            .take_mean = p->step == 1 ? 1 : 1 - how->dampening,
                            .nesterov = how->nesterov,
                            .momentum = how->momentum};
}

static ncpu_step_args adamw_args(const ncpu_adamw *how, const ncpu_parameter *p)
{
    const double t = (double)p->step;
    return (ncpu_step_args){.rate = how->rate / (1 - pow(how->beta1, t)),
                            .decay = p->decayed ? 1 - how->rate * how->weight_decay : 1,
                            .take_mean = 1 - how->beta1,
                            .keep_square = how->beta2,
                            .take_square = 1 - how->beta2,
                            .spread = 1 / sqrt(1 - pow(how->beta2, t)),
                            .eps = how->eps};
}

/* Elements [from, to) of all parameters, one after the other. */
static void step_task(void *context, ptrdiff_t task)
{
    const stepping *job = context;
    const size_t t = (size_t)task, blocks = divide_up(job->elements, LINE);
    const size_t from = blocks * t / job->tasks * LINE, to = least(blocks * (t + 1) / job->tasks * LINE, job->elements);
    size_t start = 0; /* of this parameter */
    for (size_t k = 0; k < job->count && start < to; start += job->parameters[k++].count) {
        const ncpu_parameter *p = &job->parameters[k];
        const size_t first = from > start ? from - start : 0, end = least(p->count, to - start);
        const size_t size = ncpu_dtype_size(p->dtype);
        if (first >= end) continue;
        ncpu_step_args a = job->sgd ? sgd_args(job->sgd, p) : adamw_args(job->adamw, p);
        a.count = end - first, a.weight = at(p->weight, first, size), a.gradient = at(p->gradient, first, size);
        a.mean = at(p->mean, first, size), a.square = at(p->square, first, size);
        if (job->sgd) job->kernels->sgd[p->dtype](&a);
        else job->kernels->adamw[p->dtype](&a);
    }
}

static ncpu_status run(stepping *job)
{
    double bytes = 0;
    for (size_t k = 0; k < job->count; k++) {
        const ncpu_parameter *p = &job->parameters[k];
        if (p->dtype > NCPU_F64 || (job->adamw && !(p->mean && p->square))) return NCPU_ERROR_ARGUMENT;
        job->elements += p->count; /* read weight and gradient, write weight; read and write mean and square */
        bytes += (3 + 2 * !!p->mean + 2 * !!p->square) * (double)p->count * (double)ncpu_dtype_size(p->dtype);
    }
    ncpu_team team;
    ncpu_team_begin(&team, bytes);
    job->tasks = least((size_t)team.threads, divide_up(job->elements, SMALLEST));
    ncpu_team_run(&team, (ptrdiff_t)job->tasks, step_task, job);
    return ncpu_team_end(&team);
}

ncpu_status ncpu_sgd_step(const ncpu_sgd *how, const ncpu_parameter *parameters, size_t count)
{
    return run(&(stepping){parameters, count, .sgd = how, .kernels = ncpu_kernels_in_use()});
}

ncpu_status ncpu_adamw_step(const ncpu_adamw *how, const ncpu_parameter *parameters, size_t count)
{
    return run(&(stepping){parameters, count, .adamw = how, .kernels = ncpu_kernels_in_use()});
}

/* SPDX-License-Identifier: Apache-2.0
 * Running statistics: committed last, for all channels or none. */

#include <math.h>

#include "sizes.h"

static double updated(double old, double momentum, double batch)
{
    return momentum == 1 ? batch : (1 - momentum) * old + momentum * batch; /* 1 forgets the old value, whatever it was */
}

/* running[j] with batch[j] / divisor. */
static void update(void *running, size_t c, double momentum, const double *batch, double divisor, ncpu_dtype dtype)
{
    double *doubles = dtype == NCPU_F64 ? running : NULL;
    float *floats = dtype == NCPU_F64 ? NULL : running;
    for (size_t j = 0; doubles && j < c; j++) doubles[j] = updated(doubles[j], momentum, batch[j] / divisor);
    for (size_t j = 0; floats && j < c; j++) floats[j] = (float)updated(floats[j], momentum, batch[j] / divisor);
}

/* Whether that would be finite everywhere. */
static int stays_finite(const void *running, size_t c, double momentum, const double *batch, double divisor,
                        ncpu_dtype dtype)
{
    int finite = 1;
    for (size_t j = 0; running && j < c; j++) {
        const double value = updated(ncpu_real(running, j, dtype), momentum, batch[j] / divisor);
        finite &= isfinite(dtype == NCPU_F64 ? value : (double)(float)value) != 0;
    }
    return finite;
}

ncpu_status ncpu_update_running(size_t c, ncpu_dtype dtype, const double *mean, const double *m2, double count,
                                ncpu_running *r)
{
    const double divisor = r->biased ? count : count - 1;
    r->skipped = 0;
    if (r->nonfinite != NCPU_PROPAGATE
        && !(stays_finite(r->mean, c, r->momentum, mean, 1, dtype)
             && stays_finite(r->var, c, r->momentum, m2, divisor, dtype))) {
        r->skipped = r->nonfinite == NCPU_SKIP;
        return r->skipped ? NCPU_OK : NCPU_ERROR_NONFINITE;
    }
    if (r->mean) update(r->mean, c, r->momentum, mean, 1, dtype);
    if (r->var) update(r->var, c, r->momentum, m2, divisor, dtype);
    return NCPU_OK;
}

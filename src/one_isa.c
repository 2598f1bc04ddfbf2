/* SPDX-License-Identifier: Apache-2.0
 * In the place of dispatch.c where the compiler's flags have chosen the instruction set: the single-file form, in which
 * this comes behind kernels.c. */

#include <string.h>

#include "kernels.h"

static const char *const ncpu_isas[] = {NCPU_ISA_NAME, NULL};

const char *const *ncpu_isas_built(void) { return ncpu_isas; }
int ncpu_isa_supported(const char *name) { return strcmp(name, NCPU_ISA_NAME) == 0 ? 1 : -1; }
const char *ncpu_isa(void) { return NCPU_ISA_NAME; }
ncpu_status ncpu_use_isa(const char *name)
{
    return !name || strcmp(name, NCPU_ISA_NAME) == 0 ? NCPU_OK : NCPU_ERROR_ARGUMENT;
}

const ncpu_kernels *ncpu_kernels_in_use(void) { return &JOIN(ncpu_kernels_, NCPU_ISA); }

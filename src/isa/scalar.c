/* SPDX-License-Identifier: Apache-2.0 */
#define NCPU_ISA scalar
#define NCPU_ISA_NAME "scalar"
#define NCPU_SIMD "scalar.h"
#define NCPU_DEFINES_WIDE
#include "../kernels.c"

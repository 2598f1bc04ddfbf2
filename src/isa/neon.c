/* SPDX-License-Identifier: Apache-2.0 */
#define NCPU_ISA neon
#define NCPU_ISA_NAME "neon"
#define NCPU_SIMD "neon.h"
#include "../kernels.c"

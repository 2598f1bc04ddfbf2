/* SPDX-License-Identifier: Apache-2.0 */
#define NCPU_ISA avx2
#define NCPU_ISA_NAME "avx2"
#define NCPU_SIMD "avx2.h"
#include "../kernels.c"

/* SPDX-License-Identifier: Apache-2.0 */
#define NCPU_ISA avx512
#define NCPU_ISA_NAME "avx512"
#define NCPU_SIMD "avx512.h"
#include "../kernels.c"

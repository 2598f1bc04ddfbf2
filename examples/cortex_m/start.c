/* SPDX-License-Identifier: Apache-2.0
 * What a Cortex-M does before main, and semihosting after it: a debugger, or QEMU, takes main's result for its own exit
 * status, and prints what is given to put(). */

#include <stdint.h>

int main(void);
void put(const char *text);
void reset(void);

/* Addresses, from link.ld. */
extern uint32_t data_begin[], data_end[], data_stored[], bss_begin[], bss_end[], stack_top[];

enum { SYS_WRITE0 = 0x04, SYS_EXIT_EXTENDED = 0x20, ADP_STOPPED_APPLICATION_EXIT = 0x20026 };

static void semihost(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

static void leave(uint32_t status)
{
    const uint32_t block[] = {ADP_STOPPED_APPLICATION_EXIT, status};
    for (;;) semihost(SYS_EXIT_EXTENDED, block);
}

void put(const char *text) { semihost(SYS_WRITE0, text); }

void reset(void)
{
    const uint32_t *from = data_stored;
    for (uint32_t *to = data_begin; to < data_end;) *to++ = *from++;
    for (uint32_t *to = bss_begin; to < bss_end;) *to++ = 0;
#ifdef __ARM_FP /* the registers of floats are off: CPACR, full access to coprocessors 10 and 11 */
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20;
    __asm__ volatile("dsb\n\tisb" : : : "memory");
#endif
    leave((uint32_t)main());
}

static void fault(void) { leave(254); }

/* The first sixteen exceptions; no interrupt is enabled. */
__attribute__((section(".vectors"), used)) static const struct {
    uint32_t *stack;
    void (*handlers[15])(void);
} vectors = {stack_top, {reset, fault, fault, fault, fault, fault}};

/*  emu.h - steering the emulation: what a test may set, and what it may ask.

    The environment, for programs that know nothing of it:
        SAE_EMU_SEED     of the order of threads, blocks and streams, of garbage and of the products' error
        SAE_EMU_MEMORY   bytes of device memory
        SAE_EMU_FAIL     CALL:N:ERROR  the Nth call of that name from now gives that error number
        SAE_EMU_DEVICES, SAE_EMU_DRIVER   number of devices, version of the driver (13000 is 13.0) */
#ifndef EMU_H
#define EMU_H
#include <stddef.h>
#include <stdint.h>

extern "C" {
void emu_reset(void); /* as at the start of the program; device memory must be free again */
void emu_seed(uint64_t seed);
void emu_devices(int count, int driver);
void emu_memory(size_t bytes);

/* The nth call (1: the next) of `name`, NULL: of any, gives `error`: an error that CUDA keeps (700, 719)
   stays, as there. The name of kernels is "launch": the launch succeeds and the kernel faults. */
void emu_fail(const char *name, unsigned long nth, int error);
unsigned long emu_calls(const char *name); /* since the reset; NULL: all */

/* What the emulation itself found wrong in a kernel since the reset; "" for nothing. It is printed too,
   unless quiet. */
const char *emu_fault(void);
void emu_quiet(int quiet);

/* Whether the host is kept from device memory (as at the start); off is faster. */
void emu_guard(int on);

size_t emu_in_use(void); /* bytes of device memory not freed */
}
#endif /* EMU_H */

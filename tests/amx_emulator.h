/* amx_emulator.h - AMX on an x86-64 processor that has none: its instructions trap there, and a
 * handler does what the manual says they do, a thread's tiles being the thread's own.
 *
 * What it shows is that operands, strides and the tile configuration are right; it rounds as the
 * processor does. A mistake that the processor would trap ends the test with a sentence. */
#ifndef AMX_EMULATOR_H
#define AMX_EMULATOR_H

/* Emulates from now on (a test runner may have set its own handlers before). 0 where the processor
 * has AMX itself, so that nothing would trap. */
int amx_emulate(void);

#endif

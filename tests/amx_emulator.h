/* amx_emulator.h - AMX on an x86-64 processor that has none: its instructions trap there, and a
 * handler does what the manual says they do, a thread's tiles being the thread's own.
 *
 * What it shows is that operands, strides and the tile configuration are right; it rounds as the
 * processor does. A mistake that the processor would trap ends the test with a sentence. */
#ifndef AMX_EMULATOR_H
#define AMX_EMULATOR_H

/* Emulates from now on, over handlers that a test runner has set. For processes that may not use
 * AMX: where they may, nothing traps. 0: not on this kind of processor. */
int amx_emulate(void);

#endif

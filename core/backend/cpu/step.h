/* step.h - one step of a loop, written once for whole vectors and for the tail, or for each number
 * of rows: with those a constant nothing is left of its branches, and UNROLL keeps arrays in
 * registers.
 */
#ifndef STEP_H
#define STEP_H

#define STEP static inline __attribute__((always_inline)) void

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

#endif

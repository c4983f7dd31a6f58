/* step.h - one step of a loop over columns: written once, for whole vectors and for the tail. With
 * `left` a constant nothing is left of its branches. */
#ifndef STEP_H
#define STEP_H

#define STEP static inline __attribute__((always_inline)) void

#endif

/* gradient.h - signed finite differences: the derivative of a scalar along a random direction,
 * measured and predicted, so that a wrong sign, a dropped term or a shifted index shows. */
#ifndef GRADIENT_H
#define GRADIENT_H

#include <stddef.h>

/* f(ctx) computes the scalar from the current x[n]; dx[n] is its claimed gradient at x. x is
 * restored. Returns |measured - predicted| / max(|measured|, |predicted|, floor) and prints both
 * when above tol. */
typedef double (*ScalarOf)(void *ctx);
double gradient_error(const char *name, ScalarOf f, void *ctx, float *x, const float *dx, size_t n,
                      double step, double tol);
void expect_gradient(const char *name, ScalarOf f, void *ctx, float *x, const float *dx, size_t n,
                     double step, double tol);

/* n numbers of about unit size from a fixed seed */
void fill_random(float *x, size_t n, int seed, float scale);

#endif

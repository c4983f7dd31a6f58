/* gradient.c - see gradient.h. */
#include "tests/gradient.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/base/rng.h"

void fill_random(float *x, size_t n, int seed, float scale) {
    for (size_t i = 0; i < n; i++) x[i] = scale * rng_normal((uint64_t)seed, RNG_TEST, 0, i);
}

double gradient_error(const char *name, ScalarOf f, void *ctx, float *x, const float *dx, size_t n,
                      double step, double tol) {
    float *saved = malloc(n * sizeof *saved), *direction = malloc(n * sizeof *direction);
    double predicted = 0.0, side[2];
    memcpy(saved, x, n * sizeof *x);
    /* half along the claimed gradient, so that the derivative is not small by chance, half at
     * random */
    double norm = 0.0;
    for (size_t i = 0; i < n; i++) norm += (double)dx[i] * dx[i];
    norm = sqrt(norm / (double)n) + 1e-30;
    fill_random(direction, n, 77, 1.0f);
    for (size_t i = 0; i < n; i++) direction[i] = 0.5f * direction[i] + (float)(0.5 * dx[i] / norm);
    for (size_t i = 0; i < n; i++) predicted += (double)dx[i] * direction[i];
    for (int s = 0; s < 2; s++) {
        for (size_t i = 0; i < n; i++) x[i] = saved[i] + (float)((s ? -step : step) * direction[i]);
        side[s] = f(ctx);
    }
    memcpy(x, saved, n * sizeof *x);
    free(saved);
    free(direction);
    double measured = (side[0] - side[1]) / (2.0 * step);
    double size = fmax(fabs(measured), fmax(fabs(predicted), 1e-6));
    double error = fabs(measured - predicted) / size;
    if (!(error <= tol))
        printf("%s: measured %.8g, claimed %.8g, relative error %.3g\n", name, measured, predicted,
               error);
    return error;
}

void expect_gradient(const char *name, ScalarOf f, void *ctx, float *x, const float *dx, size_t n,
                     double step, double tol) {
    assert_true(gradient_error(name, f, ctx, x, dx, n, step, tol) <= tol);
}

/* rope.c - see rope.h. */
#include "core/model/rope.h"

#include <math.h>
#include <stddef.h>

static const float TWO_PI = 6.28318530717958647692f;

const char *rope_type_name(RopeType t) {
    static const char *const names[] = {
        [ROPE_DEFAULT] = "default", [ROPE_LINEAR] = "linear", [ROPE_LLAMA3] = "llama3",
        [ROPE_DYNAMIC] = "dynamic", [ROPE_YARN] = "yarn",     [ROPE_LONGROPE] = "longrope"};
    return names[t];
}

/* Slow frequencies are divided by `factor`, fast ones stay, those between are blended. */
static float llama3_frequency(const RopeScaling *r, float inv) {
    float wavelength = TWO_PI / inv, original = (float)r->original;
    if (wavelength < original / r->high_freq_factor) return inv;
    if (wavelength > original / r->low_freq_factor) return inv / r->factor;
    float fast =
        (original / wavelength - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
    return (1.0f - fast) * inv / r->factor + fast * inv;
}

/* The pair, as a real number, that turns so often within the original positions. */
static double pair_of_turns(const RopeScaling *r, float theta, int rotated, float turns) {
    return rotated * log(r->original / ((double)turns * 6.283185307179586)) / (2.0 * log(theta));
}

/* The same idea by pairs: a ramp between those that turn beta_fast and beta_slow times. */
static float yarn_frequency(const RopeScaling *r, float theta, int rotated, int i, float inv) {
    double low = pair_of_turns(r, theta, rotated, r->beta_fast);
    double high = pair_of_turns(r, theta, rotated, r->beta_slow);
    if (!r->fractional) low = floor(low), high = ceil(high);
    low = fmax(low, 0.0);
    high = fmin(high, rotated - 1);
    if (low == high) high += 0.001;
    float slow = (float)fmin(fmax((i - low) / (high - low), 0.0), 1.0);
    return inv / r->factor * slow + inv * (1.0f - slow);
}

/* The angle per position of pair i of `rotated` channels at the base theta, in f32 as everybody who
 * trained these models computed it. */
static float frequency(const RopeScaling *r, float theta, int rotated, int i) {
    float turn = powf(theta, (float)(2 * i) / (float)rotated), inv = 1.0f / turn;
    switch (r->type) {
    case ROPE_LINEAR: return inv / r->factor;
    case ROPE_LLAMA3: return llama3_frequency(r, inv);
    case ROPE_YARN: return yarn_frequency(r, theta, rotated, i, inv);
    case ROPE_LONGROPE: return 1.0f / (r->short_factor[i] * turn);
    default: return inv;
    }
}

float rope_attention_factor(RopeType type, double factor, int original) {
    if (factor <= 1.0) return 1.0f;
    if (type == ROPE_YARN) return (float)(0.1 * log(factor) + 1.0);
    if (type == ROPE_LONGROPE) return (float)sqrt(1.0 + log(factor) / log(original));
    return 1.0f;
}

Status rope_fits(const ModelConfig *m, int length) {
    int most = m->rope.type == ROPE_LONGROPE  ? m->rope.original
               : m->rope.type == ROPE_DYNAMIC ? m->max_positions
                                              : length;
    if (length <= most) return OK;
    return status_fail(E_USAGE,
                       "rope type \"%s\" gives sequences beyond %d tokens other angles, by the "
                       "length of each, and up to %d are asked for: keep them within %d",
                       rope_type_name(m->rope.type), most, length, most);
}

void rope_fill(float *table, const ModelConfig *m, int length, int windowed) {
    static const RopeScaling unscaled = {.type = ROPE_DEFAULT};
    int local = windowed && m->rope_local_theta > 0.0f;
    const RopeScaling *r = local ? &unscaled : &m->rope;
    float theta = local ? m->rope_local_theta : m->rope_theta;
    float factor = r->attention_factor > 0.0f ? r->attention_factor : 1.0f;
    int R = config_rotated(m), half = R / 2;
    for (int t = 0; t < length; t++) {
        for (int i = 0; i < half; i++) {
            float angle = (float)t * frequency(r, theta, R, i);
            table[(size_t)t * R + i] = cosf(angle) * factor;
            table[(size_t)t * R + half + i] = sinf(angle) * factor;
        }
    }
}

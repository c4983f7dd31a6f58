/* alarms.h - what goes wrong in RLHF, by name: rules over a run's metrics, each with its likely
 * cause and the setting to change. A rule whose condition has held for its window of steps raises
 * its alarm once, and again only after the condition has ended. Alarms go to the log, to
 * alarms.jsonl and onto the page. */
#ifndef ALARMS_H
#define ALARMS_H

#include <stdint.h>
#include "core/run/metrics.h"
#include "core/run/settings.h"

typedef enum { ALARM_WARN, ALARM_STOP } AlarmSeverity;

typedef struct {
    int enabled, may_stop;
    StringList off; /* ids ("A9") or names that stay silent */
    float kl_nats, kl_warn, kl_stop, entropy_share, ratio_max, clipfrac_max, repetition_max,
        duplicates_max, truncated_max, length_correlation, logp_mismatch, data_remarks, length_bias,
        step_time;
    int critic_steps;
} AlarmConfig;
extern const Field alarm_fields[];
extern const int alarm_n_fields;

typedef struct {        /* what a trainer knows of its run beside the metrics */
    double kl_target;   /* nats per sequence that it steers to, 0 none */
    int exact_logp;     /* sampled and trained log-probs must be the same bits */
    int kl_begins_at_0; /* policy and reference are the same weights before the first step */
} AlarmFacts;

typedef struct {
    const char *id, *name, *metric, *cause, *setting;
    AlarmSeverity severity;
    double value, limit;
} Alarm;

/* Everything that rules remember between steps; goes into checkpoints as it is. */
enum { ALARM_RULES_MAX = 40, ALARM_WINDOW = 20 };
typedef struct {
    double last[ALARM_WINDOW]; /* a ring */
    int32_t n, pad;            /* values seen */
} AlarmSeries;
typedef struct {
    int32_t held[ALARM_RULES_MAX], raised[ALARM_RULES_MAX];
    AlarmSeries length, truncated, step_time, score, gold;
    double first_entropy, first_chosen, first_rejected, skipped;
    int32_t steps, pad;
} AlarmState;

/* Takes a row of metrics; *n alarms raised by it, into out[ALARM_RULES_MAX]. */
void alarms_check(AlarmState *s, const AlarmConfig *cfg, const AlarmFacts *facts, int step,
                  const Metrics *m, Alarm *out, int *n);
/* The alarm as a row of alarms.jsonl, without its end of line. */
void alarm_write(Text *t, const Alarm *a, int step, double wall_time);
/* Clears what depends on the time that steps took, so that a checkpoint's bytes do not. */
void alarms_forget_clock(AlarmState *s);
/* Does `alarms.off` name it, or are all off? */
int alarm_is_off(const AlarmConfig *cfg, const char *id, const char *name);

#endif

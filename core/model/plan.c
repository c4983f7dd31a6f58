/* plan.c - see plan.h. */
#include "core/model/plan.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/memory.h"

void plan_add(Plan *p, size_t bytes, const char *fmt, ...) {
    CHECK(p->n < PLAN_ROWS);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(p->row[p->n].name, sizeof p->row[p->n].name, fmt, ap);
    va_end(ap);
    p->row[p->n++].bytes = bytes;
}

/* elements of packed copies, of layers stored as w */
static size_t packed_layers(Backend *b, const ModelConfig *m, Dtype w) {
    return (size_t)m->L *
           (b->packed_count(b, w, config_qkv_rows(m), m->C) +
            b->packed_count(b, w, m->C, m->NH * m->HS) +
            b->packed_count(b, w, config_gate_rows(m), m->C) + b->packed_count(b, w, m->C, m->FF));
}
static size_t packed_head(Backend *b, const ModelConfig *m, Dtype w) {
    return m->lm_head ? b->packed_count(b, w, m->V, m->C) : 0;
}

void plan_frozen(Plan *p, Backend *b, const char *name, const ModelConfig *m, Dtype layers,
                 const char *setting) {
    size_t matrices = weights_quantized_count(m), rest = tensors_count(m) - matrices;
    size_t packed = packed_layers(b, m, b->dtype) * dtype_bytes(b->dtype);
    size_t plain = matrices * dtype_bytes(b->dtype) + packed;
    size_t q8 = matrices / QUANT_BLOCK * dtype_bytes(DT_Q8);
    if (!dtype_quantized(layers)) {
        plan_network(p, b, name, m, PLAN_FROZEN);
        p->q8_saves += plain > q8 ? plain - q8 : 0;
        size_t used = strlen(p->q8_settings);
        snprintf(p->q8_settings + used, sizeof p->q8_settings - used, " --%s q8", setting);
        return;
    }
    size_t head = packed_head(b, m, b->dtype) * dtype_bytes(b->dtype);
    plan_add(p, rest * dtype_bytes(b->dtype), "%s: weights", name);
    plan_add(p, matrices / QUANT_BLOCK * dtype_bytes(layers), "%s: weights in %s", name,
             dtype_name(layers));
    if (head) plan_add(p, head, "%s: packed weights", name);
}

void plan_network(Plan *p, Backend *b, const char *name, const ModelConfig *m, PlanKind kind) {
    size_t count = tensors_count(m);
    Dtype w = kind == PLAN_FROZEN ? b->dtype : DT_F32;
    size_t packed = packed_layers(b, m, w) + packed_head(b, m, w);
    if (packed && b->mirror) packed = count;
    plan_add(p, count * dtype_bytes(w), "%s: weights", name);
    if (packed) plan_add(p, packed * dtype_bytes(b->dtype), "%s: packed weights", name);
    if (kind == PLAN_FROZEN) return;
    plan_add(p,
             count * sizeof(float) +
                 (m->tied && m->lm_head ? (size_t)m->V * (size_t)m->C * sizeof(float) : 0),
             "%s: gradients", name);
    if (kind == PLAN_TRAINED) plan_add(p, 2 * count * sizeof(float), "%s: Adam moments", name);
}

static void add_change(Plan *p, size_t now, size_t then, int micro_tokens, int recompute) {
    if (then >= now || p->n_changes == PLAN_CHANGES) return;
    p->change[p->n_changes].micro_tokens = micro_tokens;
    p->change[p->n_changes].recompute = recompute;
    p->change[p->n_changes++].saves = now - then;
}

Status plan_activations(Plan *p, Backend *b, const WorkspacePlan *plan,
                        const ModelConfig *const *configs, int n, int least) {
    size_t now, then;
    TRY(workspace_create(NULL, b, plan, configs, n, &now));
    plan_add(p, now, "activations (%d tokens)", plan->tokens);
    for (int recompute = plan->recompute; recompute <= plan->train; recompute++) {
        for (int tokens = plan->tokens; tokens >= least; tokens /= 2) {
            WorkspacePlan smaller = *plan;
            smaller.recompute = recompute;
            smaller.tokens = tokens;
            TRY(workspace_create(NULL, b, &smaller, configs, n, &then));
            add_change(p, now, then, tokens, recompute);
        }
    }
    return OK;
}

static double mib(size_t bytes) {
    return (double)bytes / (1 << 20);
}

/* The sentence of a plan that does not fit: the first change that would, then the first with frozen
 * models in q8, or the least that is. */
static Status refuse(const Plan *p, const char *device, const char *verb, size_t total,
                     size_t available) {
    size_t most = 0;
    for (int quantized = 0; quantized <= (p->q8_saves > 0); quantized++) {
        for (int i = 0; i < p->n_changes; i++) {
            size_t saves = p->change[i].saves + (quantized ? p->q8_saves : 0);
            if (saves > most) most = saves;
            if (total - saves > available) continue;
            char recompute[64] = "";
            if (p->change[i].recompute)
                snprintf(recompute, sizeof recompute, " --%s.recompute", verb);
            return status_fail(E_MEMORY,
                               "this run needs %.0f MiB, %s has %.0f MiB: with "
                               "--%s.micro_tokens %d%s%s it needs %.0f MiB",
                               mib(total), device, mib(available), verb, p->change[i].micro_tokens,
                               recompute, quantized ? p->q8_settings : "", mib(total - saves));
        }
    }
    return status_fail(E_MEMORY,
                       "this run needs %.0f MiB, %s has %.0f MiB; the smallest micro_tokens with "
                       "recompute%s would need %.0f MiB: a smaller model, --dtype bf16 or shorter "
                       "sequences (data.max_length) may fit",
                       mib(total), device, mib(available), p->q8_settings, mib(total - most));
}

Status plan_check(const Plan *p, Backend *b, const char *verb, int limit_mib) {
    size_t total = 0, available = limit_mib ? (size_t)limit_mib << 20 : b->memory_free(b);
    size_t resident = memory_resident();
    log_info("memory plan:");
    for (int i = 0; i < p->n; i++) {
        total += p->row[i].bytes;
        log_info("  %-32s %10.1f MiB", p->row[i].name, mib(p->row[i].bytes));
    }
    log_info("  %-32s %10.1f MiB", "total", mib(total));
    if (resident != SIZE_MAX)
        log_info("  %-32s %10.1f MiB", "data and program, beside it", mib(resident));
    return total <= available ? OK : refuse(p, b->device, verb, total, available);
}

/* gguf_model.c - see gguf_model.h. GGUF's converter of llama and smollm3 permutes the rows of q and
 * k so that a rotary pair lies side by side; rotate-half wants the two halves apart, so reading
 * undoes it. It adds 1 to gemma's norms, and turns GPT-2's matrices round as everybody else's. */
#include "core/model/gguf_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"

static const TensorNames gguf_names = {.embedding = "token_embd",
                                       .positions = "position_embd",
                                       .layers = "blk",
                                       .attn_norm = "attn_norm",
                                       .q = "attn_q",
                                       .k = "attn_k",
                                       .v = "attn_v",
                                       .qkv = "attn_qkv",
                                       .q_norm = "attn_q_norm",
                                       .k_norm = "attn_k_norm",
                                       .o = "attn_output",
                                       .attn_post_norm = "post_attention_norm",
                                       .mlp_norm = "ffn_norm",
                                       .gate = "ffn_gate",
                                       .up = "ffn_up",
                                       .gate_up = "ffn_up",
                                       .down = "ffn_down",
                                       .mlp_post_norm = "post_ffw_norm",
                                       .final_norm = "output_norm",
                                       .head = "output"};

/* The same tensor's name there: a TensorNames is nothing but names, looked through side by side. */
static void gguf_name(char *to, size_t size, const ModelConfig *m, const TensorInfo *info) {
    enum { ROLES = sizeof(TensorNames) / sizeof(const char *) };
    const char *const *here = (const char *const *)(const void *)family_row(m->family)->names;
    const char *const *there = (const char *const *)(const void *)&gguf_names;
    const char *layers = family_row(m->family)->names->layers, *rest = info->name;
    size_t prefix = strlen(layers);
    int layer = -1, skip = 0;
    if (!strncmp(rest, layers, prefix) && sscanf(rest + prefix, ".%d.%n", &layer, &skip) == 1)
        rest += prefix + (size_t)skip;
    const char *end = strrchr(rest, '.');
    CHECK(end);
    for (int i = 0; i < ROLES; i++) {
        size_t n = (size_t)(end - rest);
        if (!here[i] || strlen(here[i]) != n || strncmp(here[i], rest, n)) continue;
        if (layer >= 0)
            snprintf(to, size, "blk.%d.%s%s", layer, there[i], end);
        else
            snprintf(to, size, "%s%s", there[i], end);
        return;
    }
    snprintf(to, size, "%s", info->name);
}

int gguf_permutes(Gguf *g) {
    const char *arch = "";
    return gguf_str(g, "general.architecture", GGUF_OPTIONAL, &arch) == OK &&
           (!strcmp(arch, "llama") || !strcmp(arch, "smollm3"));
}

typedef struct {
    const ModelConfig *m;
    const Gguf *g;
    char *known; /* a flag per tensor of the file */
} Known;

static void mark(Known *k, const char *name) {
    const GgufTensor *t = gguf_tensor(k->g, name);
    for (int low = 0, high = gguf_n_tensors(k->g); t && low < high;) { /* they are sorted */
        int middle = low + (high - low) / 2,
            order = strcmp(gguf_tensor_at(k->g, middle)->name, name);
        if (!order) k->known[middle] = 1;
        if (order < 0)
            low = middle + 1;
        else
            high = order ? middle : low;
    }
}

static Status mark_tensor(void *ctx, const TensorInfo *info, Buf *slot) {
    Known *k = ctx;
    char name[96];
    (void)slot;
    gguf_name(name, sizeof name, k->m, info);
    mark(k, name);
    return OK;
}

Status gguf_model_tensors_known(const ModelConfig *m, const Gguf *g) {
    int n = gguf_n_tensors(g);
    Known k = {m, g, calloc((size_t)n + 1, 1)};
    Tensors t = {.layer = calloc((size_t)m->L, sizeof *t.layer)};
    Status s = k.known && t.layer ? tensors_visit(m, &t, mark_tensor, &k)
                                  : status_fail(E_MEMORY, "no memory to read %s", gguf_path(g));
    static const char *const of_rope[] = {"rope_freqs.weight", "rope_factors_short.weight",
                                          "rope_factors_long.weight"};
    for (size_t i = 0; s == OK && i < sizeof of_rope / sizeof *of_rope; i++) mark(&k, of_rope[i]);
    for (int i = 0; s == OK && i < n; i++)
        if (!k.known[i])
            s = status_fail(E_FORMAT, "%s: tensor %s is not supported", gguf_path(g),
                            gguf_tensor_at(g, i)->name);
    free(k.known);
    free(t.layer);
    return s;
}

/* Row of the file that holds row r of the model: within a head of HS rows, (pair i, half h) sits at
 * 2i + h. */
static size_t permuted(size_t r, size_t HS) {
    size_t head = r / HS, at = r % HS, half = HS / 2;
    return head * HS + (at < half ? 2 * at : 2 * (at - half) + 1);
}

/* A vector, in one row of the file. */
static void arrange_vector(float *v, float *room, const ModelConfig *m, size_t n, int swap,
                           int is_norm) {
    memcpy(room, v, n * sizeof *v);
    for (size_t i = 0; i < n; i++) {
        v[i] = room[swap ? permuted(i, (size_t)m->HS) : i];
        if (is_norm && m->norm == NORM_RMS_PLUS_ONE) v[i] -= 1.0f;
    }
}

Status gguf_model_tensor(Weights *w, const Gguf *g, const TensorInfo *info, Buf slot) {
    const char *path = gguf_path(g);
    char name[96];
    gguf_name(name, sizeof name, &w->cfg, info);
    const GgufTensor *t = gguf_tensor(g, name);
    if (!t) return status_fail(E_FORMAT, "%s: tensor %s is missing", path, name);
    size_t rows = info->vector ? 1 : (size_t)info->rows,
           cols = info->vector ? (size_t)info->rows : (size_t)info->cols;
    if (t->rows != rows || t->cols != cols)
        return status_fail(E_FORMAT, "%s: tensor %s is %zu x %zu, the metadata say %zu x %zu", path,
                           name, t->rows, t->cols, rows, cols);
    int swap = gguf_permutes((Gguf *)g) && (strstr(name, ".attn_q.") || strstr(name, ".attn_k."));
    float *row = malloc(2 * cols * sizeof *row);
    if (!row) return status_fail(E_MEMORY, "no memory to read %s", path);
    Status s = OK;
    for (size_t r = 0; r < rows && s == OK; r++) {
        size_t from = swap && !info->vector ? permuted(r, (size_t)w->cfg.HS) : r;
        s = gguf_read(g, t, from, 1, row);
        if (info->vector)
            arrange_vector(row, row + cols, &w->cfg, cols, swap, info->init != INIT_BIAS);
        if (s == OK) w->b->upload(w->b, buf_at(slot, r * cols), row, cols);
    }
    file_forget(t->data, t->bytes);
    free(row);
    return s;
}

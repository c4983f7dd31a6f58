/* gguf_model.c - see gguf_model.h. GGUF's llama converter permutes the rows of q and k so that a
 * rotary pair lies side by side; rotate-half wants the two halves apart, so reading undoes it. */
#include "core/model/gguf_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the architecture "llama" may hold beyond what is computed here. */
static Status refuse_unsupported(Gguf *g, const char *path) {
    int experts = 0, window = 0;
    double scale = 1.0;
    TRY(gguf_int(g, "llama.expert_count", GGUF_OPTIONAL, &experts));
    if (experts > 0)
        return status_fail(E_FORMAT,
                           "%s: llama.expert_count is %d: mixtures of experts are not "
                           "supported",
                           path, experts);
    TRY(gguf_int(g, "llama.attention.sliding_window", GGUF_OPTIONAL, &window));
    if (window > 0)
        return status_fail(E_FORMAT, "%s: llama.attention.sliding_window is %d: not supported",
                           path, window);
    TRY(gguf_float(g, "llama.rope.scale_linear", GGUF_OPTIONAL, &scale));
    if (scale != 1.0)
        return status_fail(E_FORMAT, "%s: llama.rope.scale_linear is %g: not supported", path,
                           scale);
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const char *name = gguf_tensor_at(g, i)->name;
        size_t n = strlen(name);
        if (n > 5 && !strcmp(name + n - 5, ".bias"))
            return status_fail(E_FORMAT, "%s: tensor %s: biases are not supported", path, name);
    }
    return OK;
}

static Status read_config(ModelConfig *m, Gguf *g, const char *path) {
    const char *arch, *scaling = "none";
    double theta = 10000.0, eps = 1e-5;
    TRY(gguf_str(g, "general.architecture", GGUF_REQUIRED, &arch));
    if (strcmp(arch, "llama"))
        return status_fail(E_FORMAT, "%s: architecture \"%s\" is not supported; supported: llama",
                           path, arch);
    TRY(gguf_str(g, "llama.rope.scaling.type", GGUF_OPTIONAL, &scaling));
    if (strcmp(scaling, "none"))
        return status_fail(E_FORMAT, "%s: llama.rope.scaling.type \"%s\" is not supported", path,
                           scaling);
    TRY(refuse_unsupported(g, path));
    if (gguf_tensor(g, "rope_freqs.weight"))
        return status_fail(
            E_FORMAT, "%s: scaled rotary frequencies (rope_freqs.weight) are not supported yet",
            path);
    TRY(gguf_int(g, "llama.embedding_length", GGUF_REQUIRED, &m->C));
    TRY(gguf_int(g, "llama.block_count", GGUF_REQUIRED, &m->L));
    TRY(gguf_int(g, "llama.attention.head_count", GGUF_REQUIRED, &m->NH));
    m->NKV = m->NH;
    TRY(gguf_int(g, "llama.attention.head_count_kv", GGUF_OPTIONAL, &m->NKV));
    TRY(gguf_int(g, "llama.feed_forward_length", GGUF_REQUIRED, &m->FF));
    TRY(gguf_int(g, "llama.context_length", GGUF_REQUIRED, &m->max_positions));
    m->HS = m->NH > 0 ? m->C / m->NH : 0;
    TRY(gguf_int(g, "llama.attention.key_length", GGUF_OPTIONAL, &m->HS));
    int rotated = m->HS;
    TRY(gguf_int(g, "llama.rope.dimension_count", GGUF_OPTIONAL, &rotated));
    if (rotated != m->HS)
        return status_fail(E_FORMAT,
                           "%s: only %d of %d dimensions of a head are rotated: not supported",
                           path, rotated, m->HS);
    TRY(gguf_float(g, "llama.rope.freq_base", GGUF_OPTIONAL, &theta));
    TRY(gguf_float(g, "llama.attention.layer_norm_rms_epsilon", GGUF_OPTIONAL, &eps));
    const GgufTensor *emb = gguf_tensor(g, "token_embd.weight");
    if (!emb) return status_fail(E_FORMAT, "%s: tensor token_embd.weight is missing", path);
    if (emb->rows > (1u << 24))
        return status_fail(E_FORMAT, "%s: %zu embedding rows", path, emb->rows);
    m->V = (int)emb->rows;
    m->tied = gguf_tensor(g, "output.weight") == NULL;
    m->lm_head = 1;
    m->rope_theta = (float)theta;
    m->norm_eps = (float)eps;
    m->init_std = 0.02f;
    m->bos = m->pad = -1;
    TRY(gguf_int(g, "tokenizer.ggml.bos_token_id", GGUF_OPTIONAL, &m->bos));
    TRY(gguf_int(g, "tokenizer.ggml.padding_token_id", GGUF_OPTIONAL, &m->pad));
    m->eos[0] = -1;
    TRY(gguf_int(g, "tokenizer.ggml.eos_token_id", GGUF_OPTIONAL, &m->eos[0]));
    m->n_eos = m->eos[0] >= 0;
    return config_check(m, path);
}

Status gguf_model_config(ModelConfig *m, const char *path) {
    Gguf *g;
    TRY(gguf_open(&g, path));
    Status s = read_config(m, g, path);
    gguf_close(g);
    return s;
}

static void gguf_name(char *to, size_t size, const char *hf) {
    static const struct {
        const char *hf, *gguf;
    } names[] = {{"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
                 {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
                 {"self_attn.o_proj", "attn_output"}, {"post_attention_layernorm", "ffn_norm"},
                 {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
                 {"mlp.down_proj", "ffn_down"}};
    int layer, skip = 0;
    if (!strcmp(hf, "model.embed_tokens.weight"))
        snprintf(to, size, "token_embd.weight");
    else if (!strcmp(hf, "model.norm.weight"))
        snprintf(to, size, "output_norm.weight");
    else if (!strcmp(hf, "lm_head.weight"))
        snprintf(to, size, "output.weight");
    else if (sscanf(hf, "model.layers.%d.%n", &layer, &skip) == 1 && skip) {
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            size_t n = strlen(names[i].hf);
            if (!strncmp(hf + skip, names[i].hf, n) && hf[skip + (int)n] == '.')
                snprintf(to, size, "blk.%d.%s.weight", layer, names[i].gguf);
        }
    }
}

/* Row of the file that holds row r of the model: within a head of HS rows, (pair i, half h) sits at
 * 2i + h. */
static size_t permuted(size_t r, size_t HS) {
    size_t head = r / HS, at = r % HS, half = HS / 2;
    return head * HS + (at < half ? 2 * at : 2 * (at - half) + 1);
}

Status gguf_model_tensor(Weights *w, const Gguf *g, const TensorInfo *info, Buf slot) {
    const char *path = gguf_path(g);
    char name[96] = "";
    gguf_name(name, sizeof name, info->name);
    const GgufTensor *t = gguf_tensor(g, name);
    if (!t) return status_fail(E_FORMAT, "%s: tensor %s is missing", path, name);
    size_t rows = info->vector ? 1 : (size_t)info->rows,
           cols = info->vector ? (size_t)info->rows : (size_t)info->cols;
    if (t->rows != rows || t->cols != cols)
        return status_fail(E_FORMAT, "%s: tensor %s is %zu x %zu, the metadata say %zu x %zu", path,
                           name, t->rows, t->cols, rows, cols);
    int swap = strstr(name, ".attn_q.") || strstr(name, ".attn_k.");
    float *row = malloc(cols * sizeof *row);
    if (!row) return status_fail(E_MEMORY, "no memory to read %s", path);
    Status s = OK;
    for (size_t r = 0; r < rows && s == OK; r++) {
        s = gguf_read(g, t, swap ? permuted(r, (size_t)w->cfg.HS) : r, 1, row);
        if (s == OK) w->b->upload(w->b, buf_at(slot, r * cols), row, cols);
    }
    free(row);
    return s;
}

/* model_info.c - see model_info.h. */
#include "policy/model_info.h"

#include <stdio.h>
#include <string.h>

#include "core/model/family.h"
#include "core/model/hf.h"
#include "core/model/hub.h"
#include "datasets/stage.h"
#include "datasets/template.h"

static void line(const char *what) {
    printf("  %-14s", what);
}

static void print_number(size_t v) { /* 134,515,008 */
    if (v >= 1000) {
        print_number(v / 1000);
        printf(",%03zu", v % 1000);
    } else {
        printf("%zu", v);
    }
}

/* ---- what a llama has not ---- */

static void say(int *said, const char *what) {
    printf("%s%s", *said ? ", " : "", what);
    *said = 1;
}

static void say_number(int *said, const char *what, double v) {
    char text[96];
    snprintf(text, sizeof text, "%s %g", what, v);
    say(said, text);
}

static int layers_in(const LayerSet set, int L) {
    int n = 0;
    for (int l = 0; l < L; l++) n += layer_in(set, l);
    return n;
}

static void say_attention(const ModelConfig *m, int *said) {
    if (m->qkv_bias) say(said, "biases of q, k and v");
    if (m->o_bias) say(said, "a bias behind attention");
    if (m->qk_norm == QK_NORM_HEADS) say(said, "norms of the heads of q and k");
    if (m->qk_norm == QK_NORM_WHOLE) say(said, "norms of q and k");
    if (m->sliding_window) {
        char text[96];
        snprintf(text, sizeof text, "a window of %d positions in %d layers", m->sliding_window,
                 layers_in(m->windowed, m->L));
        say(said, text);
    }
    if (m->attn_softcap > 0.0f) say_number(said, "softcapped attention", (double)m->attn_softcap);
    if (m->query_scalar > 0.0f) say_number(said, "query scale", (double)m->query_scalar);
}

static void say_positions(const ModelConfig *m, int *said) {
    static const char *const ropes[ROPE_TYPES] = {"",        "linear", "llama3",
                                                  "dynamic", "yarn",   "longrope"};
    char text[96];
    if (m->learned_positions) say(said, "learned positions");
    if (m->rope.type != ROPE_DEFAULT) {
        snprintf(text, sizeof text, "%s rotary scaling by %g", ropes[m->rope.type],
                 (double)m->rope.factor);
        say(said, text);
    }
    if (m->rotated) {
        snprintf(text, sizeof text, "%d of %d channels rotated", m->rotated, m->HS);
        say(said, text);
    }
    if (layers_in(m->unrotated, m->L)) {
        snprintf(text, sizeof text, "%d layers without rotary positions",
                 layers_in(m->unrotated, m->L));
        say(said, text);
    }
}

static void print_unusual(const ModelConfig *m) {
    int said = 0;
    line("unusual");
    say_positions(m, &said);
    say_attention(m, &said);
    if (m->norm == NORM_LAYER) say(&said, "LayerNorm");
    if (m->norm == NORM_RMS_PLUS_ONE) say(&said, "norms stored less 1");
    if (m->norms == NORMS_AROUND) say(&said, "norms before and after");
    if (m->norms == NORMS_AFTER) say(&said, "norms after");
    if (m->parallel) say(&said, "parallel halves of a layer");
    if (m->ungated) say(&said, "feed-forward without a gate");
    if (m->mlp_bias) say(&said, "biases of the feed-forward");
    if (m->scaled_embeddings) say(&said, "scaled embeddings");
    if (m->final_softcap > 0.0f) say_number(&said, "softcapped logits", (double)m->final_softcap);
    puts(said ? "" : "nothing: as llama");
}

/* ---- tokenizer ---- */

static void print_token(const Tokenizer *t, const char *what, int id) {
    Text text = {0};
    if (id < 0 || tokenizer_decode(t, &id, 1, 1, &text) != OK) return;
    printf(", %s %s (%d)", what, text.s ? text.s : "", id);
    text_release(&text);
}

static void print_tokenizer(const char *model, const ModelConfig *m) {
    Tokenizer *t = NULL;
    int n;
    line("tokenizer");
    if (stage_tokenizer(&t, &(Stage){.cfg = {.model = model, .tokenizer = ""}}) != OK) {
        printf("cannot be used: %s\n", status_message());
        return;
    }
    printf("%d tokens", tokenizer_vocab_size(t));
    if (tokenizer_vocab_size(t) < m->V)
        printf(" (%d rows behind them are never sampled)", m->V - tokenizer_vocab_size(t));
    print_token(t, "bos", tokenizer_bos(t));
    const int *ends = tokenizer_eos_ids(t, &n);
    for (int i = 0; i < n; i++) print_token(t, "end", ends[i]);
    print_token(t, "pad", tokenizer_pad(t));
    putchar('\n');
    line("template");
    ChatTemplate *chat = NULL;
    Status s = chat_template_of(&chat, t);
    if (s != OK)
        printf("cannot be used: %s\n", status_message());
    else if (!chat)
        puts("none");
    else
        printf("%zu bytes%s\n", strlen(tokenizer_chat_template(t)),
               chat_template_has_marks(chat) ? ", marks what the assistant says" : "");
    chat_template_release(chat);
    tokenizer_release(t);
}

/* ---- memory ---- */

static void print_memory(const ModelConfig *m, size_t parameters) {
    double mib = 1048576.0, n = (double)parameters;
    double cache = 2.0 * m->L * m->NKV * m->HS * 1000;
    line("memory, MiB");
    printf("weights: f32 %.0f, bf16 or f16 %.0f; training in f32 with AdamW: %.0f\n", n * 4 / mib,
           n * 2 / mib, n * 16 / mib);
    line("");
    printf("keys and values of 1000 tokens: f32 %.1f, bf16 %.1f\n", cache * 4 / mib,
           cache * 2 / mib);
}

Status model_info_main(int argc, char **argv) {
    char path[MODEL_PATH_MAX];
    ModelConfig m;
    Text stored = {0};
    if (argc != 1 || argv[0][0] == '-')
        return status_fail(E_USAGE, "rlhf model info MODEL: a directory, a GGUF file or org/name");
    TRY(model_find(path, argv[0]));
    TRY(model_read_config(&m, path));
    TRY(model_storage(&stored, path));
    const FamilyRow *row = family_row(m.family);
    size_t parameters = tensors_count(&m);
    printf("%s\n", path);
    line("family");
    printf("%s (%s)\n", row->type, m.lm_head ? row->causal : row->scorer);
    line("shape");
    printf("%d layers of %d channels, %d query and %d key/value heads of %d, feed-forward %d\n",
           m.L, m.C, m.NH, m.NKV, m.HS, m.FF);
    line("positions");
    printf("%d", m.max_positions);
    if (!m.learned_positions) printf(", rotary base %g", (double)m.rope_theta);
    putchar('\n');
    line("vocabulary");
    printf("%d rows, %s\n", m.V,
           !m.lm_head ? "no language-model head"
           : m.tied   ? "the head is the embedding"
                      : "a head of its own");
    line("parameters");
    print_number(parameters);
    putchar('\n');
    line("stored");
    printf("%s\n", stored.s ? stored.s : "");
    print_unusual(&m);
    if (m.scores) {
        line("scores");
        printf("%d", m.scores);
        if (m.score_std > 0.0) printf(", on held-out data %g +- %g", m.score_mean, m.score_std);
        puts("");
    }
    print_tokenizer(path, &m);
    print_memory(&m, parameters);
    text_release(&stored);
    return fflush(stdout) ? status_fail(E_IO, "cannot write to standard output") : OK;
}

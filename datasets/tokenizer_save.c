/* tokenizer_save.c - writes the three files of a tokenizer that transformers reads. */
#include <stdio.h>
#include "core/base/file.h"
#include "datasets/tokenizer_parts.h"

static const char *true_false(int v) {
    return v ? "true" : "false";
}

static void put_flags(Text *out, const AddedToken *a) {
    text_addf(out,
              ",\"single_word\":%s,\"lstrip\":%s,\"rstrip\":%s,\"normalized\":%s,\"special\":%s}",
              true_false(a->single_word), true_false(a->lstrip), true_false(a->rstrip),
              true_false(a->normalized), true_false(a->special));
}

static void put_added(Text *out, const Tokenizer *t) {
    text_add(out, "\"added_tokens\":[");
    for (int i = 0; i < t->added.n; i++) {
        const AddedToken *a = &t->added.v[i];
        text_addf(out, "%s\n{\"id\":%d,\"content\":", i ? "," : "", a->id);
        json_put_string(out, a->content);
        put_flags(out, a);
    }
    text_add(out, "],\n");
}

/* A token as vocabularies write it. */
static void token_text(Text *out, const Bpe *b, int id) {
    const Token *token = &b->token[id];
    const char *bytes = b->pool.s + token->at;
    if (token->kind == TOKEN_BYTES && !b->by_char)
        alphabet_encode(out, bytes, token->len);
    else
        text_add_bytes(out, bytes, token->len);
}

static void put_vocab(Text *out, const Bpe *b, Text *scratch) {
    text_add(out, "\"vocab\":{");
    int written = 0;
    for (int id = 0; id < b->n; id++) {
        if (b->token[id].kind == TOKEN_HOLE) continue;
        text_clear(scratch);
        token_text(scratch, b, id);
        text_add(out, written++ ? ",\n" : "\n");
        json_put_string_n(out, scratch->s ? scratch->s : "", scratch->len);
        text_addf(out, ":%d", id);
    }
    text_add(out, "},\n");
}

static void put_side(Text *out, const Bpe *b, int id, Text *scratch) {
    text_clear(scratch);
    token_text(scratch, b, id);
    json_put_string_n(out, scratch->s ? scratch->s : "", scratch->len);
}

/* "a b" where no token can hold a space: the byte alphabet has none. */
static void put_merges(Text *out, const Bpe *b, Text *scratch) {
    text_add(out, "\"merges\":[");
    for (int rank = 0; rank < b->n_merges; rank++) {
        text_add(out, rank ? ",\n" : "\n");
        if (b->by_char) {
            text_add(out, "[");
            put_side(out, b, b->merge_left[rank], scratch);
            text_add(out, ",");
            put_side(out, b, b->merge_right[rank], scratch);
            text_add(out, "]");
            continue;
        }
        text_clear(scratch);
        token_text(scratch, b, b->merge_left[rank]);
        text_add(scratch, " ");
        token_text(scratch, b, b->merge_right[rank]);
        json_put_string_n(out, scratch->s, scratch->len);
    }
    text_add(out, "]");
}

static void put_tokenizer(Text *out, const Tokenizer *t) {
    Text scratch = {0};
    text_add(out, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n");
    put_added(out, t);
    text_addf(out, "\"normalizer\":%s,\n\"pre_tokenizer\":", t->source.normalizer);
    text_add(out, t->source.pre_tokenizer);
    text_addf(out, ",\n\"post_processor\":%s,\n\"decoder\":%s,\n", t->source.post_processor,
              t->source.decoder);
    text_add(out, "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":");
    if (t->unk)
        json_put_string(out, t->unk);
    else
        text_add(out, "null");
    text_addf(out,
              ",\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":%s,"
              "\"byte_fallback\":%s,\"ignore_merges\":%s,\n",
              true_false(t->bpe.fuse_unk), true_false(t->bpe.byte_fallback),
              true_false(t->bpe.ignore_merges));
    put_vocab(out, &t->bpe, &scratch);
    put_merges(out, &t->bpe, &scratch);
    text_add(out, "}}\n");
    text_release(&scratch);
}

static void put_named(Text *out, const Tokenizer *t, const char *key, int id) {
    if (id < 0) return;
    json_put_key(out, key);
    if (t->added_by_id[id]) {
        json_put_string(out, t->added_by_id[id]->content);
        return;
    }
    Text name = {0};
    if (id < t->bpe.n) token_text(&name, &t->bpe, id);
    json_put_string_n(out, name.s ? name.s : "", name.len);
    text_release(&name);
}

static void put_special_names(Text *out, const Tokenizer *t) {
    if (t->bos_text) { /* a bos that config.json alone has is no token of templates */
        json_put_key(out, "bos_token");
        json_put_string(out, t->bos_text);
    }
    put_named(out, t, "eos_token", t->eos);
    put_named(out, t, "pad_token", t->pad);
    if (!t->unk) return;
    json_put_key(out, "unk_token");
    json_put_string(out, t->unk);
}

static void put_config(Text *out, const Tokenizer *t) {
    text_add(out, "{");
    put_special_names(out, t);
    json_put_key(out, "added_tokens_decoder");
    text_add(out, "{");
    for (int i = 0; i < t->added.n; i++) {
        const AddedToken *a = &t->added.v[i];
        text_addf(out, "%s\"%d\":{\"content\":", i ? "," : "", a->id);
        json_put_string(out, a->content);
        put_flags(out, a);
    }
    text_add(
        out,
        "},\"clean_up_tokenization_spaces\":false,\"tokenizer_class\":\"PreTrainedTokenizerFast\"");
    if (t->chat_template) {
        json_put_key(out, "chat_template");
        json_put_string(out, t->chat_template);
    }
    text_add(out, "}\n");
}

static void put_map(Text *out, const Tokenizer *t) {
    text_add(out, "{");
    put_special_names(out, t);
    text_add(out, "}\n");
}

Status tokenizer_save(const Tokenizer *t, const char *dir) {
    static const struct {
        const char *name;
        void (*put)(Text *out, const Tokenizer *t);
    } files[] = {{"tokenizer.json", put_tokenizer},
                 {"tokenizer_config.json", put_config},
                 {"special_tokens_map.json", put_map}};
    TRY(file_mkdirs(dir));
    for (int i = 0; i < 3; i++) {
        char path[1200];
        Text text = {0};
        snprintf(path, sizeof(path), "%s/%s", dir, files[i].name);
        files[i].put(&text, t);
        Status s = file_write_atomic(path, text.s, text.len);
        text_release(&text);
        TRY(s);
    }
    return OK;
}

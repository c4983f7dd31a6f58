/* fuzz_tokenizer.c - tokenizer.json, encoding and decoding, chat templates. */
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "datasets/template.h"
#include "datasets/tokenizer.h"

static void expect_ids(const Tokenizer *t, const Ids *ids) {
    for (int i = 0; i < ids->n; i++) CHECK(ids->v[i] >= 0 && ids->v[i] < tokenizer_vocab_size(t));
}

void fuzz_tokenizer(const uint8_t *data, size_t size) {
    static const char text[] = "Hello  w\xc3\xb6rld 123's<|x|>\n\n\xff";
    Tokenizer *t = NULL;
    Ids ids = {0};
    Text back = {0};
    if (tokenizer_open_json(&t, "tokenizer", (const char *)data, size) != OK) return;
    for (int flags = 0; flags < 4; flags++)
        if (tokenizer_encode(t, text, sizeof text - 1, flags, &ids) != OK) break;
    expect_ids(t, &ids);
    tokenizer_decode(t, ids.v, ids.n, 1, &back);
    text_release(&back);
    ids_release(&ids);
    tokenizer_release(t);
}

/* by character with bytes to fall back on, as Llama-2's */
static Tokenizer *by_character(void) {
    Text json = {0};
    Tokenizer *t = NULL;
    text_add(
        &json,
        "{\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true,\"normalized\":false},"
        "{\"id\":1,\"content\":\"</s>\",\"special\":true,\"normalized\":false,\"rstrip\":true}],"
        "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},"
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}]},"
        "\"pre_tokenizer\":null,\"post_processor\":null,\"decoder\":{\"type\":\"Sequence\",\"decoders\":["
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},\"content\":\" \"},"
        "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
        "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
        "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"byte_fallback\":true,"
        "\"vocab\":{\"<unk>\":0,\"</s>\":1");
    for (int i = 0; i < 256; i++) text_addf(&json, ",\"<0x%02X>\":%d", i, 2 + i);
    text_add(&json, ",\"\xe2\x96\x81\":258,\"a\":259,\"b\":260,\"ab\":261,\"\xe2\x96\x81"
                    "ab\":262},"
                    "\"merges\":[\"a b\",\"\xe2\x96\x81 ab\"]}}");
    Status s = tokenizer_open_json(&t, "by character", json.s, json.len);
    CHECK(s == OK);
    text_release(&json);
    return t;
}

static Tokenizer *by_bytes(void) {
    BpeTrainer *b;
    Tokenizer *t;
    CHECK(bpe_trainer_create(&b) == OK);
    CHECK(bpe_trainer_add(b, "the theatre and the then, 12 than", 33) == OK);
    CHECK(bpe_trainer_finish(b, 290, &t) == OK);
    bpe_trainer_release(b);
    return t;
}

/* The first byte: which tokenizer, which flags. Bytes come back as they were. */
void fuzz_bpe(const uint8_t *data, size_t size) {
    static Tokenizer *both[2];
    if (!both[0]) both[0] = by_bytes(), both[1] = by_character();
    if (!size) return;
    const Tokenizer *t = both[data[0] & 1];
    const char *text = (const char *)data + 1;
    size_t n = size - 1;
    Ids ids = {0};
    Text back = {0}, parts = {0};
    TokenizerStream at = {0};
    uint8_t *origin = calloc(n + 1, 1);
    CHECK(origin);
    if (data[0] & 2) {
        for (size_t i = 0; i < n; i++) origin[i] = (uint8_t)(i % 7 < 3);
        CHECK(tokenizer_encode_mixed(t, text, origin, n, 1, &ids) == OK);
    } else {
        CHECK(tokenizer_encode(t, text, n, data[0] >> 2 & 1, &ids) == OK);
    }
    expect_ids(t, &ids);
    CHECK(tokenizer_decode(t, ids.v, ids.n, 1, &back) == OK);
    for (int i = 0; i < ids.n; i++)
        CHECK(tokenizer_decode_next(t, &at, ids.v + i, 1, 1, &parts) == OK);
    CHECK(parts.len == back.len && (!back.len || !memcmp(parts.s, back.s, back.len)));
    if (t == both[0]) CHECK(back.len == n && (!n || !memcmp(back.s, text, n)));
    free(origin);
    ids_release(&ids);
    text_release(&back);
    text_release(&parts);
}

/* A template, and behind a NUL the messages; without one these. */
void fuzz_template(const uint8_t *data, size_t size) {
    static const char talk[] =
        "[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"q <|x|>\"},"
        "{\"role\":\"assistant\",\"content\":\"a\",\"tool_calls\":[{\"n\":1.5}]},"
        "{\"role\":\"user\",\"content\":\"\xc3\xa9\"}]";
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t n = nul ? (size_t)(nul - data) : size;
    char *template = strndup((const char *)data, n);
    const char *messages = nul ? (const char *)nul + 1 : talk, *why;
    size_t len = nul ? size - n - 1 : strlen(talk);
    ChatTemplate *t = NULL;
    JsonDoc *doc = NULL;
    JinjaOutput out = {0};
    CHECK(template);
    if (json_parse(&doc, "messages", 1, messages, len, JSON_STRICT) == OK &&
        json_type(json_root(doc)) == JSON_ARRAY &&
        chat_template_open(&t, "template", template, &(ChatTokens){"<s>", "</s>"}) == OK &&
        chat_template_render_marked(t, json_root(doc), 1, &out, &why) == OK) {
        CHECK(out.text.len == out.data.len);
        for (int i = 0; i < out.n_marks; i++)
            CHECK(out.marks[i].from <= out.marks[i].to && out.marks[i].to <= out.text.len);
    }
    jinja_output_release(&out);
    chat_template_release(t);
    json_release(doc);
    free(template);
}

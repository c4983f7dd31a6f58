/* decode_read.c - the decoder of a tokenizer.json, for models by character: steps over single
 * tokens, then Fuse, then what concerns the start of the text alone. So tokens can be decoded one
 * after the other, as generation does. */
#include <string.h>
#include "datasets/tokenizer_parts.h"

static Status add_step(Decoder *d, const JsonDoc *doc, const Json *node, DecodeStep step) {
    if (d->n == DECODE_STEPS)
        return json_fail(doc, node, "more than %d steps of decoding", DECODE_STEPS);
    d->step[d->n++] = step;
    return OK;
}

static Status read_strip(Decoder *d, Arena *a, const JsonDoc *doc, const Json *node) {
    DecodeStep step = {.kind = DECODE_STRIP};
    int32_t code = 0;
    TRY(json_get_str(doc, node, "content", JSON_REQUIRED, &step.content));
    TRY(json_get_int(doc, node, "start", JSON_REQUIRED, &step.start));
    TRY(json_get_int(doc, node, "stop", JSON_REQUIRED, &step.stop));
    size_t n = strlen(step.content);
    if (n == 0 || (size_t)utf8_char(step.content, n, &code) != n)
        return json_fail(doc, node, "the decoder Strip needs a content of one character");
    if (step.start < 0 || step.stop < 0)
        return json_fail(doc, node, "the decoder Strip needs counts that are not negative");
    if (!d->fused) {
        step.content = arena_strdup(a, step.content);
        return add_step(d, doc, node, step);
    }
    if (step.stop)
        return json_fail(doc, node,
                         "the decoder Strip at the end of a text (\"stop\") is not supported");
    if (code >= 0x80 || (d->n_strip && d->strip != step.content[0]))
        return json_fail(doc, node, "the decoder Strip of \"%s\" behind Fuse is not supported",
                         step.content);
    d->strip = step.content[0];
    if (step.start > 1024 - d->n_strip)
        return json_fail(doc, node, "the decoder Strip of %d characters is not supported",
                         step.start);
    d->n_strip += step.start;
    return OK;
}

static Status read_replace(Decoder *d, Arena *a, const JsonDoc *doc, const Json *node) {
    TRY(add_step(d, doc, node, (DecodeStep){.kind = DECODE_REPLACE}));
    return replacer_read(&d->step[d->n - 1].replace, a, doc, node);
}

static Status read_metaspace(Decoder *d, Arena *a, const JsonDoc *doc, const Json *node) {
    DecodeStep step = {.kind = DECODE_METASPACE};
    TRY(metaspace_read(doc, node, &step.content, &step.start));
    step.content = arena_strdup(a, step.content);
    return add_step(d, doc, node, step);
}

static Status read_node(Decoder *d, Arena *a, const JsonDoc *doc, const Json *node);

static Status read_list(Decoder *d, Arena *a, const JsonDoc *doc, const Json *node) {
    const Json *list = NULL;
    TRY(json_get_node(doc, node, "decoders", JSON_REQUIRED, JSON_ARRAY, &list));
    for (const Json *c = json_first(list); c; c = json_next(c)) TRY(read_node(d, a, doc, c));
    return OK;
}

static Status read_node(Decoder *d, Arena *a, const JsonDoc *doc, const Json *node) {
    const char *type = "";
    TRY(json_node_type(doc, node, &type));
    if (!strcmp(type, "Sequence")) return read_list(d, a, doc, node);
    if (!strcmp(type, "Strip")) return read_strip(d, a, doc, node);
    if (!strcmp(type, "Fuse")) {
        d->fused = 1;
        return OK;
    }
    int replaces = !strcmp(type, "Replace"), spaces = !strcmp(type, "Metaspace");
    int falls_back = !strcmp(type, "ByteFallback");
    if (!replaces && !spaces && !falls_back)
        return json_fail(doc, node,
                         "the decoder \"%s\" is not supported (Replace, Metaspace, ByteFallback, "
                         "Fuse, Strip and Sequence are, and ByteLevel where the pre-tokenizer is)",
                         type);
    if (d->fused)
        return json_fail(doc, node, "the decoder \"%s\" behind Fuse is not supported", type);
    if (replaces) return read_replace(d, a, doc, node);
    if (spaces) return read_metaspace(d, a, doc, node);
    return add_step(d, doc, node, (DecodeStep){.kind = DECODE_BYTE_FALLBACK});
}

/* Byte-level tokens are bytes already: ByteLevel, alone or in a sequence, is all there may be. */
static Status read_byte_level(const JsonDoc *doc, const Json *node) {
    const char *type = "";
    const Json *list = NULL;
    TRY(json_node_type(doc, node, &type));
    if (!strcmp(type, "ByteLevel") || !strcmp(type, "Fuse")) return OK;
    if (strcmp(type, "Sequence"))
        return json_fail(doc, node,
                         "the decoder \"%s\" is not supported with the pre-tokenizer ByteLevel "
                         "(ByteLevel is)",
                         type);
    TRY(json_get_node(doc, node, "decoders", JSON_REQUIRED, JSON_ARRAY, &list));
    for (const Json *c = json_first(list); c; c = json_next(c)) TRY(read_byte_level(doc, c));
    return OK;
}

Status decoder_read(Decoder *d, Arena *a, const JsonDoc *doc, const Json *node, int by_char) {
    if (!by_char) return node ? read_byte_level(doc, node) : OK;
    if (!node)
        return json_fail(doc, NULL,
                         "a tokenizer without pre_tokenizer ByteLevel and without a decoder is not "
                         "supported");
    return read_node(d, a, doc, node);
}

void decoder_release(Decoder *d) {
    for (int i = 0; i < d->n; i++) replacer_release(&d->step[i].replace);
    text_release(&d->pool);
}

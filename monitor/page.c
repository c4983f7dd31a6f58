/* page.c - see page.h. */
#include "monitor/page.h"

#include <string.h>

#include "monitor/assets.h"
#include "monitor/sha256.h"

void page_put_inert(Text *t, const char *json, size_t n) {
    const char *end = json + n, *at;
    for (; (at = memchr(json, '<', (size_t)(end - json))); json = at + 1) {
        text_add_bytes(t, json, (size_t)(at - json));
        text_add(t, "\\u003c");
    }
    text_add_bytes(t, json, (size_t)(end - json));
}

void page_put_escaped(Text *t, const char *s) {
    for (; *s; s++) {
        switch (*s) {
        case '<': text_add(t, "&lt;"); break;
        case '>': text_add(t, "&gt;"); break;
        case '&': text_add(t, "&amp;"); break;
        case '"': text_add(t, "&quot;"); break;
        case '\'': text_add(t, "&#39;"); break;
        default: text_add_bytes(t, s, 1);
        }
    }
}

/* All files of a kind, as they stand between the tags of one element. */
static void put_assets(Text *t, AssetKind kind) {
    for (int i = 0; asset(kind, i).data; i++) {
        text_add_bytes(t, asset(kind, i).data, asset(kind, i).len);
        text_add(t, "\n");
    }
}

static void put_hash(Text *t, AssetKind kind) {
    char hash[45];
    Text content = {0};
    put_assets(&content, kind);
    sha256_base64(hash, content.s, content.len);
    text_addf(t, " 'sha256-%s'", hash);
    text_release(&content);
}

void page_put_policy(Text *t, int live) {
    text_add(t, "default-src 'none'; script-src");
    put_hash(t, ASSET_PLOTS);
    put_hash(t, ASSET_SCRIPT);
    text_add(t, "; style-src");
    put_hash(t, ASSET_STYLE);
    text_add(t, "; base-uri 'none'; form-action 'none'");
    /* a meta element may not say frame-ancestors */
    if (live) text_add(t, "; connect-src 'self'; frame-ancestors 'none'");
}

void page_put_data(Text *t, const char *title, const RunViews *runs, int live) {
    text_add(t, "{");
    json_put_key(t, "title");
    json_put_string(t, title);
    if (live) text_addf(t, ",\"signature\":\"%016llx\"", (unsigned long long)views_signature(runs));
    json_put_key(t, "runs");
    text_add(t, "[");
    for (int i = 0; i < runs->n; i++) {
        if (i) text_add(t, ",");
        view_put(t, runs->run[i], live);
    }
    text_add(t, "]}");
}

static void put_element(Text *t, const char *open, AssetKind kind, const char *close) {
    text_add(t, open);
    put_assets(t, kind);
    text_add(t, close);
}

void page_put(Text *t, const char *title, const RunViews *runs) {
    Text data = {0};
    text_add(t, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                "<meta name=\"color-scheme\" content=\"light dark\">\n"
                "<meta name=\"referrer\" content=\"no-referrer\">\n");
    if (runs) { /* a live page has the header instead */
        text_add(t, "<meta http-equiv=\"Content-Security-Policy\" content=\"");
        page_put_policy(t, 0);
        text_add(t, "\">\n");
    }
    text_add(t, "<title>");
    page_put_escaped(t, title);
    text_add(t, "</title>\n");
    put_element(t, "<style>", ASSET_STYLE, "</style>\n</head>\n<body>\n");
    put_assets(t, ASSET_BODY);
    if (runs)
        page_put_data(&data, title, runs, 0);
    else
        text_add(&data, "{\"live\":true}");
    text_add(t, "<script type=\"application/json\" id=\"data\">");
    page_put_inert(t, data.s, data.len);
    text_add(t, "</script>\n");
    put_element(t, "<script>", ASSET_PLOTS, "</script>\n");
    put_element(t, "<script>", ASSET_SCRIPT, "</script>\n</body>\n</html>\n");
    text_release(&data);
}

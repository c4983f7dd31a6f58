/* added_tokens.c - finds added tokens in a text, leftmost first and longest first, by a trie. */
#include <string.h>
#include "datasets/tokenizer_parts.h"

static int new_node(AddedTokens *a, Arena *arena, uint8_t byte) {
    if (a->n_nodes == a->cap_nodes) {
        int cap = a->cap_nodes ? 2 * a->cap_nodes : 64;
        TrieNode *grown = arena_alloc(arena, (size_t)cap * sizeof(*grown));
        if (a->n_nodes) memcpy(grown, a->node, (size_t)a->n_nodes * sizeof(*grown));
        a->node = grown;
        a->cap_nodes = cap;
    }
    a->node[a->n_nodes] = (TrieNode){0, 0, -1, byte};
    return a->n_nodes++;
}

static int child(const AddedTokens *a, int node, uint8_t byte) {
    int c = a->node[node].child;
    while (c && a->node[c].byte != byte) c = a->node[c].sibling;
    return c;
}

static void insert(AddedTokens *a, Arena *arena, int root, const char *s, size_t n, int token) {
    int node = root;
    a->has[root] = a->starts[root][(uint8_t)s[0]] = 1;
    for (size_t i = 0; i < n; i++) {
        int next = child(a, node, (uint8_t)s[i]);
        if (!next) {
            next = new_node(a, arena, (uint8_t)s[i]);
            a->node[next].sibling = a->node[node].child;
            a->node[node].child = next;
        }
        node = next;
    }
    if (a->node[node].added < 0) a->node[node].added = token;
}

static Status insert_normalized(AddedTokens *a, Arena *arena, const Normalizer *n, int token) {
    const char *s = a->v[token].matched;
    if (!n->n) {
        insert(a, arena, 1, s, strlen(s), token);
        return OK;
    }
    Text normal = {0};
    Status status = normalizer_run(n, s, strlen(s), &normal);
    if (status == OK && normal.len) {
        a->v[token].matched = arena_strdup(arena, normal.s);
        insert(a, arena, 1, normal.s, normal.len, token);
    }
    text_release(&normal);
    return status;
}

Status added_index(AddedTokens *a, Arena *arena, const Normalizer *n) {
    new_node(a, arena, 0);
    new_node(a, arena, 0);
    for (int i = 0; i < a->n; i++) {
        AddedToken *t = &a->v[i];
        t->matched = t->content;
        if (!*t->content) continue;
        if (t->normalized)
            TRY(insert_normalized(a, arena, n, i));
        else
            insert(a, arena, 0, t->content, strlen(t->content), i);
    }
    return OK;
}

static int word_before(const char *s, size_t at) {
    int32_t code = -1;
    if (at == 0) return 0;
    size_t from = utf8_before(s, at);
    utf8_char(s + from, at - from, &code);
    return utf8_is_word(code);
}

static int word_after(const char *s, size_t n, size_t at) {
    int32_t code = -1;
    if (at < n) utf8_char(s + at, n - at, &code);
    return utf8_is_word(code);
}

static const AddedToken *longest_at(const AddedTokens *a, int root, int special, const char *s,
                                    const uint8_t *data, size_t n, size_t at, size_t *end) {
    const AddedToken *best = NULL;
    int node = root;
    for (size_t i = at; i < n; i++) {
        node = child(a, node, (uint8_t)s[i]);
        if (!node) break;
        if (data && data[i]) special = 0;
        int token = a->node[node].added;
        if (token < 0 || (a->v[token].special && !special)) continue;
        best = &a->v[token];
        *end = i + 1;
    }
    return best;
}

int added_find(const AddedTokens *a, int normalized, int special, const char *s,
               const uint8_t *data, size_t n, size_t at, AddedMatch *m) {
    int root = normalized ? 1 : 0;
    if (!a->has[root]) return 0;
    for (size_t i = at; i < n; i++) {
        if (!a->starts[root][(uint8_t)s[i]]) continue;
        size_t end = i;
        const AddedToken *t = longest_at(a, root, special, s, data, n, i, &end);
        if (!t) continue;
        if (t->single_word && (word_before(s, i) || word_after(s, n, end))) {
            i = end - 1;
            continue;
        }
        m->token = t;
        m->from = t->lstrip ? utf8_skip_space_left(s, i, at) : i;
        m->to = t->rstrip ? utf8_skip_space(s, n, end) : end;
        return 1;
    }
    return 0;
}

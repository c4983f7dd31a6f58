/* test_json.c - what must be refused and where, what must be kept, what is written back. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "core/base/json.h"
#include "tests/scratch.h"

/* --- refused texts: the message is "t:" and the second column --- */

static const struct {
    const char *text, *message;
    int flags;
} refused[] = {
    {"", "1:1: the text ends where a value is expected", 0},
    {" \n ", "2:2: the text ends where a value is expected", 0},
    {"{\"a\": \"x\\u0000y\"}", "1:9: \\u0000 is not accepted: text may not contain NUL", 0},
    {"{\"a\\u0000\": 1}", "1:4: \\u0000 is not accepted: text may not contain NUL", 0},
    {"[\"a\xFFz\"]", "1:4: invalid UTF-8", 0},
    {"[\"\xC0\xAF\"]", "1:3: invalid UTF-8", 0},             /* overlong */
    {"[\"\xED\xA0\x80\"]", "1:3: invalid UTF-8", 0},         /* a surrogate */
    {"[\"\xF4\x90\x80\x80\"]", "1:3: invalid UTF-8", 0},     /* above U+10FFFF */
    {"[\"\xE2\x82\"]", "1:3: invalid UTF-8", 0},             /* cut short */
    {"[\"\xC3\xA9\xC3\xA9\xFF\"]", "1:5: invalid UTF-8", 0}, /* columns count characters */
    {"[\"\\ud800\"]", "1:3: a surrogate (\\uD800 to \\uDFFF) stands without its other half", 0},
    {"[\"\\udc00x\"]", "1:3: a surrogate (\\uD800 to \\uDFFF) stands without its other half", 0},
    {"[\"\\ud800\\u0041\"]", "1:3: a surrogate (\\uD800 to \\uDFFF) stands without its other half",
     0},
    {"[\"\\u12g4\"]", "1:3: \\u needs four hexadecimal digits", 0},
    {"[\"\\x41\"]", "1:3: unknown escape sequence", 0},
    {"[\"a\tb\"]", "1:4: a control character inside a string must be escaped", 0},
    {"[\"a\nb\"]", "1:4: the string has no end on its line", 0},
    {"[\"abc", "1:2: the string has no end", 0},
    {"[\"abc\\", "1:6: the string has no end", 0},
    {"{\"a\":1,\n \"b\":2,\n  \"a\":3}", "3:3: the key \"a\" occurs twice", 0},
    {"{\"a\":1, \"\\u0061\":3}", "1:9: the key \"a\" occurs twice", 0}, /* equal once unescaped */
    {"[0, {\"x\": {\"k\":[], \"k\":{}}}]", "1:20: the key \"k\" occurs twice", 0},
    {"[NaN]", "1:2: NaN and Infinity are not JSON", 0},
    {"[Infinity]", "1:2: NaN and Infinity are not JSON", 0},
    {"[1, -Infinity]", "1:5: NaN and Infinity are not JSON", 0},
    {"{\"a\":\n  1e999}", "1:2: the number is too large for a double", 0},
    {"-1e999", "1:1: the number is too large for a double", 0},
    {"[01]", "1:2: a number may not begin with 0 followed by digits", 0},
    {"[-]", "1:2: a number needs a digit after its minus sign", 0},
    {"[1.]", "1:2: a number needs a digit after its point", 0},
    {"[1e+]", "1:2: a number needs a digit in its exponent", 0},
    {"[+1]", "1:2: unexpected character where a value is expected", 0},
    {"[.5]", "1:2: unexpected character where a value is expected", 0},
    {"[0x10]", "1:3: expected ',' or ']'", 0},
    {"[1,]", "1:3: a comma stands before the closing bracket", 0},
    {"{\"a\":1,}", "1:7: a comma stands before the closing bracket", 0},
    {"[1 2]", "1:4: expected ',' or ']'", 0},
    {"{\"a\":1 \"b\":2}", "1:8: expected ',' or '}'", 0},
    {"{\"a\" 1}", "1:6: expected ':' after the key", 0},
    {"{a:1}", "1:2: expected a key in double quotes", 0},
    {"{'a':1}", "1:2: expected a key in double quotes", 0},
    {"[1", "1:1: the array has no end", 0},
    {"{\"a\":1", "1:1: the object has no end", 0},
    {"{\"a\":", "1:6: the text ends where a value is expected", 0},
    {"[1}", "1:3: expected ',' or ']'", 0},
    {"[1]]", "1:4: something follows after the end of the value", 0},
    {"{} x", "1:4: something follows after the end of the value", 0},
    {"true false", "1:6: something follows after the end of the value", 0},
    {"tru", "1:1: unexpected character where a value is expected", 0},
    {"nullx", "1:5: something follows after the end of the value", 0},
    {"[1] // no", "1:5: something follows after the end of the value", 0},
    {"[1, /* x", "1:5: the comment has no end", JSON_COMMENTS},
    {"// c\n[1,\n /* two\n lines */ }", "4:11: unexpected character where a value is expected",
     JSON_COMMENTS},
};

static void refuses_with_position(void **state) {
    (void)state;
    int wrong = 0;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        JsonDoc *doc;
        char expected[200];
        snprintf(expected, sizeof expected, "t:%s", refused[i].message);
        Status s =
            json_parse(&doc, "t", 1, refused[i].text, strlen(refused[i].text), refused[i].flags);
        if (s == E_FORMAT && !doc && !strcmp(status_message(), expected)) continue;
        print_error("%s\n  expected %s\n  got %d %s\n", refused[i].text, expected, s,
                    status_message());
        json_release(doc);
        wrong++;
    }
    assert_int_equal(wrong, 0);
}

static Status parse(JsonDoc **doc, const char *text) {
    return json_parse(doc, "t", 1, text, strlen(text), JSON_STRICT);
}

static void refuses_a_raw_nul(void **state) {
    (void)state;
    JsonDoc *doc;
    assert_int_equal(json_parse(&doc, "t", 1, "[\"a\0b\"]", 7, 0), E_FORMAT);
    assert_int_equal(json_parse(&doc, "t", 1, "[1]\0", 4, 0), E_FORMAT);
    assert_string_equal(status_message(), "t:1:4: something follows after the end of the value");
    assert_int_equal(json_parse(&doc, "t", 1, "\0[1]", 4, 0), E_FORMAT);
}

static void nests_to_a_limit(void **state) {
    (void)state;
    JsonDoc *doc;
    char text[600];
    for (int depth = 127; depth <= 129; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        Status s = json_parse(&doc, "t", 1, text, 2 * (size_t)depth, 0);
        assert_int_equal(s, depth <= 128 ? OK : E_FORMAT);
        if (s != OK) assert_string_equal(status_message(), "t:1:129: nested more than 128 deep");
        json_release(doc);
    }
    char *deep = malloc(1 << 20); /* would overflow the stack of a parser without a limit */
    memset(deep, '[', 1 << 20);
    assert_int_equal(json_parse(&doc, "t", 1, deep, 1 << 20, 0), E_FORMAT);
    free(deep);
}

static void a_number_cjson_would_cut_is_refused(void **state) {
    (void)state;
    JsonDoc *doc;
    char text[80] = "1";
    memset(text + 1, '0', 62);
    assert_int_equal(parse(&doc, text), OK);
    assert_true(json_num(json_root(doc)) == 1e62);
    json_release(doc);
    text[63] = '0';
    assert_int_equal(parse(&doc, text), E_FORMAT);
}

static void every_truncation_is_refused(void **state) {
    (void)state;
    static const char text[] =
        "{\"a\":[1,-2.5e3,\"x\\n\\u00e9\xC3\xA9\",true,false,null],\"b\":{\"c\":{}}}";
    for (size_t n = 0; n < sizeof text - 1; n++) {
        JsonDoc *doc;
        char *exact = malloc(n ? n : 1); /* a sanitizer sees a read beyond */
        memcpy(exact, text, n);
        assert_int_equal(json_parse(&doc, "t", 1, exact, n, 0), E_FORMAT);
        free(exact);
    }
}

static void random_damage_never_crashes(void **state) {
    (void)state;
    static const char text[] =
        "{\"a\":[1,-2.5e3,\"x\\n\\u00e9\"],/* c */\"b\":{\"c\":\"\\ud83d\\ude00\"}}";
    srand(1);
    for (int round = 0; round < 20000; round++) {
        char t[sizeof text];
        memcpy(t, text, sizeof text);
        for (int k = rand() % 4; k >= 0; k--) t[(size_t)rand() % (sizeof text - 1)] = (char)rand();
        JsonDoc *doc;
        if (json_parse(&doc, "t", 1, t, sizeof text - 1, round & 1) == OK) {
            Text again = {0};
            json_put_node(&again, json_root(doc));
            assert_int_equal(json_fail(doc, json_first(json_root(doc)), "x"), E_FORMAT);
            text_release(&again);
        }
        json_release(doc);
    }
}

/* --- accepted --- */

static void accepts(void **state) {
    (void)state;
    static const char *const texts[] = {
        "1",
        "\"\"",
        "null",
        "\xEF\xBB\xBF{}",
        " [ ] ",
        "{\"\":0}",
        "[-0, 0e5, 1E-2]",
        "{\"a\":1,\"A\":2,\"a \":3}",
        "[\"\\ud83d\\ude00\\/\\b\\f\"]",
        "\r\n\t[1,\r\n2]",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        JsonDoc *doc;
        Status s = parse(&doc, texts[i]);
        if (s != OK) print_error("%s\n", status_message());
        assert_int_equal(s, OK);
        json_release(doc);
    }
}

static void comments_in_recipes(void **state) {
    (void)state;
    JsonDoc *doc;
    static const char text[] =
        "// first\n{ /* a */ \"u\": \"http://x/*y*/\", // \"z\": 1,\n\"v\": 2 } // end";
    assert_int_equal(json_parse(&doc, "t", 1, text, strlen(text), JSON_COMMENTS), OK);
    assert_string_equal(json_str(json_get(json_root(doc), "u")), "http://x/*y*/");
    assert_int_equal(json_size(json_root(doc)), 2);
    assert_int_equal(json_fail(doc, json_get(json_root(doc), "v"), "here"), E_FORMAT);
    assert_string_equal(status_message(), "t:3:1: here");
    json_release(doc);
}

static void positions_of_nodes(void **state) {
    (void)state;
    JsonDoc *doc;
    static const char text[] =
        "{\"a}\": [1, \"x,\\\"]\", true, {\"k\": null}],\n  \"b\" : {\"c\": [[], {}, -1.5e3]}, \"d\":7}";
    assert_int_equal(json_parse(&doc, "f.jsonl", 41, text, strlen(text), 0), OK);
    const Json *root = json_root(doc), *a = json_get(root, "a}"), *b = json_get(root, "b");
    const Json *c = json_get(b, "c");
    const struct {
        const Json *node;
        const char *where;
    } nodes[] = {
        {root, "41:1"},
        {a, "41:2"},
        {json_first(a), "41:9"},
        {json_next(json_first(a)), "41:12"},
        {json_next(json_next(json_first(a))), "41:21"},
        {json_next(json_next(json_next(json_first(a)))), "41:27"},
        {json_first(json_next(json_next(json_next(json_first(a))))), "41:28"},
        {b, "42:3"},
        {c, "42:10"},
        {json_first(c), "42:16"},
        {json_next(json_first(c)), "42:20"},
        {json_next(json_next(json_first(c))), "42:24"},
        {json_get(root, "d"), "42:34"},
    };
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
        char expected[64];
        snprintf(expected, sizeof expected, "f.jsonl:%s: no 5", nodes[i].where);
        assert_int_equal(json_fail(doc, nodes[i].node, "no %d", 5), E_FORMAT);
        assert_string_equal(status_message(), expected);
    }
    json_fail(doc, NULL, "whole");
    assert_string_equal(status_message(), "f.jsonl:41: whole");
    json_release(doc);
}

static void getters_check_types(void **state) {
    (void)state;
    JsonDoc *doc;
    assert_int_equal(
        parse(&doc, "{\"s\":\"x\",\"i\":3,\"f\":2.5,\"big\":3000000000,\"t\":true,\"o\":{}}"), OK);
    const Json *r = json_root(doc), *node = NULL;
    const char *s = "kept";
    double d = 0;
    int i = 9;
    assert_int_equal(json_get_str(doc, r, "s", JSON_REQUIRED, &s), OK);
    assert_string_equal(s, "x");
    assert_int_equal(json_get_int(doc, r, "i", JSON_REQUIRED, &i), OK);
    assert_int_equal(i, 3);
    assert_int_equal(json_get_num(doc, r, "f", JSON_REQUIRED, &d), OK);
    assert_true(d == 2.5);
    assert_int_equal(json_get_bool(doc, r, "t", JSON_REQUIRED, &i), OK);
    assert_int_equal(i, 1);
    assert_int_equal(json_get_node(doc, r, "o", JSON_REQUIRED, JSON_OBJECT, &node), OK);
    assert_int_equal(json_size(node), 0);
    assert_int_equal(json_get_int(doc, r, "absent", JSON_OPTIONAL, &i), OK);
    assert_int_equal(i, 1);

    assert_int_equal(json_get_int(doc, r, "absent", JSON_REQUIRED, &i), E_FORMAT);
    assert_string_equal(status_message(), "t:1:1: the key \"absent\" is missing");
    assert_int_equal(json_get_int(doc, r, "f", JSON_REQUIRED, &i), E_FORMAT);
    assert_string_equal(status_message(), "t:1:16: \"f\" must be a whole number, not 2.5");
    assert_int_equal(json_get_int(doc, r, "big", JSON_OPTIONAL, &i), E_FORMAT);
    assert_string_equal(status_message(),
                        "t:1:24: \"big\" is 3000000000, outside the range of an integer");
    assert_int_equal(json_get_str(doc, r, "i", JSON_OPTIONAL, &s), E_FORMAT);
    assert_string_equal(status_message(), "t:1:10: \"i\" must be a string, not a number");
    assert_int_equal(json_get_bool(doc, r, "s", JSON_OPTIONAL, &i), E_FORMAT);
    assert_int_equal(json_get_str(doc, json_get(r, "s"), "k", JSON_OPTIONAL, &s), E_FORMAT);
    json_release(doc);
}

static void files_and_their_names(void **state) {
    (void)state;
    JsonDoc *doc;
    const char *path = scratch_write("bad.json", "{\n\"a\": nope}", 12);
    assert_int_equal(json_parse_file(&doc, path, 0), E_FORMAT);
    assert_non_null(strstr(status_message(), "bad.json:2:6: "));
    assert_int_equal(json_parse_file(&doc, scratch("none.json"), 0), E_IO);
    assert_null(doc);
}

/* --- writing --- */

static void written_string(const char *in, size_t n, const char *out) {
    Text t = {0};
    json_put_string_n(&t, in, n);
    assert_string_equal(t.s, out);
    text_release(&t);
}

static void strings_are_escaped(void **state) {
    (void)state;
    written_string("a\"b\\c\n\t\r\x01", 9, "\"a\\\"b\\\\c\\n\\t\\r\\u0001\"");
    written_string("\xC3\xA9\xF0\x9F\x98\x80", 6, "\"\xC3\xA9\xF0\x9F\x98\x80\"");
    written_string("a\xFFz", 3, "\"a\xEF\xBF\xBDz\"");
    written_string("a\0z", 3, "\"a\xEF\xBF\xBDz\"");
    written_string("\xE2\x82", 2, "\"\xEF\xBF\xBD\xEF\xBF\xBD\"");
    written_string("", 0, "\"\"");
}

static void written_number(double v, const char *out) {
    Text t = {0};
    json_put_number(&t, v);
    assert_string_equal(t.s, out);
    text_release(&t);
}

static void numbers_read_back(void **state) {
    (void)state;
    written_number(0, "0");
    written_number(-3, "-3");
    written_number(0.1, "0.1");
    written_number(123456789012, "123456789012");
    written_number(NAN, "null");
    written_number(-INFINITY, "null");
    srand(2);
    for (int i = 0; i < 2000; i++) {
        double v = ldexp(rand() - RAND_MAX / 2.0, rand() % 600 - 300) / 3;
        float f = (float)ldexp(rand() - RAND_MAX / 2.0, rand() % 100 - 80) / 3;
        Text t = {0};
        json_put_number(&t, v);
        assert_true(strtod(t.s, NULL) == v);
        text_clear(&t);
        json_put_float(&t, f);
        assert_true(strtof(t.s, NULL) == f);
        text_release(&t);
    }
}

static void arrays_keys_and_nodes(void **state) {
    (void)state;
    Text t = {0};
    text_add(&t, "{");
    json_put_key(&t, "i");
    json_put_ints(&t, (int[]){1, -2, 3}, 3);
    json_put_key(&t, "f");
    json_put_floats(&t, (float[]){0.1f, 2}, 2);
    json_put_key(&t, "e");
    json_put_ints(&t, NULL, 0);
    text_add(&t, "}");
    assert_string_equal(t.s, "{\"i\":[1,-2,3],\"f\":[0.1,2],\"e\":[]}");
    JsonDoc *doc;
    assert_int_equal(parse(&doc, t.s), OK);
    Text again = {0};
    json_put_node(&again, json_root(doc));
    assert_string_equal(again.s, t.s);
    json_release(doc);
    text_release(&t);
    text_release(&again);
}

static void validity_of_utf8(void **state) {
    (void)state;
    assert_true(utf8_valid("", 0));
    assert_true(utf8_valid("\xC3\xA9\xEF\xBF\xBF\xF4\x8F\xBF\xBF", 9));
    assert_false(utf8_valid("\x80", 1));
    assert_false(utf8_valid("\xC3", 1));
    assert_false(utf8_valid("\xC1\xBF", 2));
    assert_false(utf8_valid("\xE0\x9F\xBF", 3));
    assert_false(utf8_valid("\xF0\x8F\xBF\xBF", 4));
    assert_false(utf8_valid("\xF5\x80\x80\x80", 4));
}

/* A vocabulary's size; a linear search per key would take minutes. */
static void a_large_object_parses_quickly(void **state) {
    (void)state;
    enum { KEYS = 150000 };
    Text t = {0};
    text_add(&t, "{");
    for (int i = 0; i < KEYS; i++) text_addf(&t, "%s\"token-%d\": %d", i ? ",\n" : "", i, i);
    size_t whole = t.len;
    text_add(&t, "}");
    JsonDoc *doc;
    clock_t began = clock();
    assert_int_equal(json_parse(&doc, "t", 1, t.s, t.len, 0), OK);
    assert_true((double)(clock() - began) / CLOCKS_PER_SEC < 5);
    assert_int_equal(json_size(json_root(doc)), KEYS);
    json_release(doc);
    t.len = whole;
    text_add(&t, ",\n\"token-77\": 0}");
    assert_int_equal(json_parse(&doc, "t", 1, t.s, t.len, 0), E_FORMAT);
    assert_string_equal(status_message(), "t:150001:1: the key \"token-77\" occurs twice");
    text_release(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_with_position),
        cmocka_unit_test(refuses_a_raw_nul),
        cmocka_unit_test(nests_to_a_limit),
        cmocka_unit_test(a_number_cjson_would_cut_is_refused),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(random_damage_never_crashes),
        cmocka_unit_test(accepts),
        cmocka_unit_test(comments_in_recipes),
        cmocka_unit_test(positions_of_nodes),
        cmocka_unit_test(getters_check_types),
        cmocka_unit_test(files_and_their_names),
        cmocka_unit_test(strings_are_escaped),
        cmocka_unit_test(numbers_read_back),
        cmocka_unit_test(arrays_keys_and_nodes),
        cmocka_unit_test(validity_of_utf8),
        cmocka_unit_test(a_large_object_parses_quickly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

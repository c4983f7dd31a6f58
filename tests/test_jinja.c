/* test_jinja.c - chat templates: the language, real templates of models against the reference, and
 * what hostile templates and users can do (nothing but be refused). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "core/base/file.h"
#include "core/base/log.h"
#include "datasets/template.h"
#include "tests/expect.h"

static const char FIXTURES[] = "../shared/fixtures/chat";
static int64_t fixture_time; /* noon of 26 July 2024, local time */

static int setup(void **state) {
    (void)state;
    struct tm tm = {.tm_year = 124, .tm_mon = 6, .tm_mday = 26, .tm_hour = 12, .tm_isdst = -1};
    fixture_time = (int64_t)mktime(&tm);
    log_level(LOG_QUIET);
    return 0;
}

/* ---- small templates ---- */

static const char data_json[] =
    "{\"n\":3,\"f\":0.5,\"t\":true,\"z\":null,\"s\":\"Hello\",\"u\":\"\\u00e9\\u00df x\","
    "\"list\":[1,2,3],\"empty\":[],\"words\":[\"b\",\"A\",\"c\"],\"d\":{\"a\":1,\"b\":\"x\"},"
    "\"m\":[{\"role\":\"user\",\"k\":2},{\"role\":\"bot\",\"k\":1}],\"q\":\"it's \\\"q\\\"\","
    "\"lines\":\"a\\nb\\n\\nc\"}";

/* Renders with the members of data_json as variables. */
static Status render(const char *text, JinjaOutput *out) {
    JinjaVar vars[32];
    Jinja *j = NULL;
    JsonDoc *doc;
    int n = 0;
    expect_ok(json_parse(&doc, "data", 1, data_json, strlen(data_json), JSON_STRICT));
    for (const Json *m = json_first(json_root(doc)); m; m = json_next(m))
        vars[n++] = (JinjaVar){.name = json_key(m), .kind = JINJA_DATA, .json = m, .first = -1};
    vars[n++] = (JinjaVar){.name = "own", .kind = JINJA_TEXT, .text = "<own>"};
    vars[n++] = (JinjaVar){.name = "nothing", .kind = JINJA_NONE};
    Status s = jinja_compile(&j, "test", text, strlen(text));
    if (s == OK) s = jinja_render(j, vars, n, fixture_time, out);
    jinja_release(j);
    json_release(doc);
    return s;
}

typedef struct {
    const char *text, *want;
} Small;

static void expect_small(const Small *v, size_t n) {
    for (size_t i = 0; i < n; i++) {
        JinjaOutput out = {0};
        if (render(v[i].text, &out) != OK) fail_msg("%s\n%s", v[i].text, status_message());
        const char *got = out.text.s ? out.text.s : "";
        if (strcmp(got, v[i].want))
            fail_msg("%s\ngot      \"%s\"\nexpected \"%s\"", v[i].text, got, v[i].want);
        jinja_output_release(&out);
    }
}
#define EXPECT(list) expect_small(list, sizeof(list) / sizeof(*list))

static void test_whitespace(void **state) {
    (void)state;
    static const Small v[] = {
        {"a\n", "a"},
        {"a\n\n", "a\n"},
        {"a\r\nb\rc", "a\nb\nc"},
        {"a\n  {% if t %}\n  b\n  {% endif %}\nc", "a\n  b\nc"},
        {"a  {%- if t -%}  b  {%- endif -%}  c", "abc"},
        {"a\n  {%+ if t %}b{% endif +%}\nc", "a\n  b\nc"},
        {"  {{ n }}\n", "  3"},
        {"a {{- n -}} b", "a3b"},
        {"a{# comment #}\nb", "ab"},
        {"a\n  {#- comment -#}\n  b", "ab"},
        {"{# a #}{# b #}x{##}", "x"},
        {"{% raw %}{{ x }} {% if %}{% endraw %}!", "{{ x }} {% if %}!"},
        {"{%- raw -%}  a{%- endraw -%}  b", "ab"},
        {"{ {{ '}}' }} % }", "{ }} % }"},
        {"{{ {'a': {'b': 1}}['a']['b'] }}", "1"},
        {"x  {% set a = 1 %}  y", "x    y"},
        {"", ""},
    };
    EXPECT(v);
}

static void test_expressions(void **state) {
    (void)state;
    static const Small v[] = {
        {"{{ 1 + 2 * 3 - 4 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }}",
         "3 3 -4 2 3.5 1024"},
        {"{{ 'a' 'b' \"c\" }}{{ 'x' ~ 1 ~ none ~ true }}{{ 'a' + 'b' }}{{ 'ab' * 2 }}",
         "abcx1NoneTrueababab"},
        {"{{ '\\n\\t\\\\\\'\\x41\\u00e9\\q' }}", "\n\t\\'A\xc3\xa9\\q"},
        {"{{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }} {{ 'a' in 'cat' }} {{ 4 not in list }} {{ 'a' in d }}",
         "True False True True True"},
        {"{{ not t }} {{ t and n }} {{ z or 'x' }} {{ n == 3.0 }} {{ [1] == [1] }} {{ (1,) == [1] }}",
         "False 3 x True True False"},
        {"{{ 'y' if n == 3 else 'n' }}{{ 'y' if n == 4 }}{{ 1 if z else 2 if t else 3 }}", "y2"},
        {"{{ list[0] }}{{ list[-1] }}{{ list[1:] }}{{ list[::-1] }}{{ s[1:3] }}{{ s[::-1] }}{{ s[-2:] }}",
         "13[2, 3][3, 2, 1]elolleHlo"},
        {"{{ list[:-1] }}{{ list[5:] }}{{ list[-9:2] }}{{ list[::2] }}{{ u[1] }}",
         "[1, 2][][1, 2][1, 3]\xc3\x9f"},
        {"{{ d.a }}{{ d['b'] }}{{ d.nope }}{{ d['nope'] is defined }}{{ list[9] is undefined }}",
         "1xFalseTrue"},
        {"{{ missing }}{{ missing is defined }}{{ missing|length }}{{ missing == none }}",
         "False0False"},
        {"{{ {'a': 1, \"b\": [1, 'x', none, 1.5]} }} {{ (1, 'a') }} {{ (1,) }} {{ () }}",
         "{'a': 1, 'b': [1, 'x', None, 1.5]} (1, 'a') (1,) ()"},
        {"{{ [q] }} {{ ['a\\nb\\\\', \"it's\"] }}", "['it\\'s \"q\"'] ['a\\nb\\\\', \"it's\"]"},
        {"{{ 1e3 }} {{ 0.1 + 0.2 }} {{ 1e16 }} {{ 1.5e-7 }} {{ 100.0 }} {{ 10 / 5 }}",
         "1000.0 0.30000000000000004 1e+16 1.5e-07 100.0 2.0"},
        {"{{ -n }} {{ -n|abs }} {{ +n }} {{ 3 - -1 }} {{ 2 ** -1 }}", "-3 3 3 4 0.5"},
        {"{{ list + [4] }}{{ (1,) + (2,) }}{{ [0] * 3 }}{{ t + 1 }}",
         "[1, 2, 3, 4](1, 2)[0, 0, 0]2"},
        {"{{ d.items() }}{{ d.keys()|list }}{{ d.values()|list }}{{ d.get('a') }}{{ d.get('c', 7) }}",
         "[('a', 1), ('b', 'x')]['a', 'b'][1, 'x']17"},
        {"{{ m[0].role }} {{ m.0.k }} {{ not m[0].x }}", "user 2 True"},
        {"{{ n is number and not s is number }}{{ 2 is in list }}{{ n is not none }}",
         "TrueTrueTrue"},
    };
    EXPECT(v);
}

static void test_statements(void **state) {
    (void)state;
    static const Small v[] = {
        {"{% if z %}a{% elif n == 3 %}b{% else %}c{% endif %}", "b"},
        {"{% if z %}a{% elif z %}b{% else %}c{% endif %}", "c"},
        {"{% for x in list %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}"
         "{{ loop.last }}{{ loop.length }} {% endfor %}",
         "103TrueFalse3 212FalseFalse3 321FalseTrue3 "},
        {"{% for x in list %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}",
         "<1>2 1<2>3 2<3> "},
        {"{% for x in list if x != 2 %}{{ x }}{{ loop.length }} {% else %}none{% endfor %}",
         "12 32 "},
        {"{% for x in empty %}x{% else %}none{% endfor %}{% for x in missing %}x{% endfor %}",
         "none"},
        {"{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "a=1;b=x;"},
        {"{% for k in d %}{{ k }}{% endfor %}{% for c in 'xy' %}{{ c }}.{% endfor %}", "abx.y."},
        {"{% for a in [1, 2] %}{% for b in [1, 2] %}{{ loop.index }}{{ loop.depth }}{% endfor %}"
         "{{ loop.index }}{% endfor %}",
         "12221"
         "12222"},
        {"{% for x in range(9) %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}"
         "{% endif %}{{ x }}{% endfor %}",
         "023"},
        {"{% set a = 1 %}{% for x in list %}{% set a = x %}{% endfor %}{{ a }}", "1"},
        {"{% set a = 1 %}{% for x in [5, 6] %}{{ a }}{% set a = x %}{{ a }} {% endfor %}",
         "15 16 "},
        {"{% if t %}{% set a = 7 %}{% endif %}{{ a }}", "7"},
        {"{% set a, b = 1, 2 %}{{ b }}{{ a }}{% set c = 1, 2 %}{{ c }}", "21(1, 2)"},
        {"{% set a %}x{{ n }}y{% endset %}{{ a }}{{ a|length }}", "x3y3"},
        {"{% set a | upper %}x{{ n }}y{% endset %}{{ a }}", "X3Y"},
        {"{% set ns = namespace(a=1, b='x') %}{% for x in list %}{% set ns.a = ns.a + x %}{% endfor %}"
         "{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}",
         "7xFalse"},
        {"{% macro f(a, b=2, c='z') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ f(1) }}{{ f(1, c=3) }}"
         "{{ f(b=1, a=0) }}{{ f() }}",
         "[12z][123][01z][2z]"},
        {"{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
         "3210"},
        {"{% macro f() %}{{ x }}{% endmacro %}{% set x = 5 %}{{ f() }}", "5"},
        {"a{% generation %}b{% set x = 1 %}{% endgeneration %}c{{ x }}", "abc"},
        {"{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"},
        {"{{ range(3)|list }}{{ range(1, 7, 2)|list }}{{ range(3, 0, -1)|list }}",
         "[0, 1, 2][1, 3, 5][3, 2, 1]"},
        {"{{ dict(a=1, b=2) }}{{ dict({'x': 1}, y=2)['y'] }}", "{'a': 1, 'b': 2}2"},
        {"{% for x in list: %}{{ x }}{% endfor %}", "123"},
    };
    EXPECT(v);
}

static void test_filters(void **state) {
    (void)state;
    static const Small v[] = {
        {"{{ '  a b ' | trim }}|{{ 'xxaxx'|trim('x') }}|{{ s|upper }}{{ s|lower }}",
         "a b|a|HELLOhello"},
        {"{{ 'hELLO wORLD-x'|title }} {{ 'hELLO wORLD'|capitalize }} {{ u|upper }} {{ 'x'|length }}",
         "Hello World-X Hello world \xc3\x89SS X 1"},
        {"{{ d|tojson }} {{ list|tojson }} {{ q|tojson }} {{ none|tojson }} {{ u|tojson }}",
         "{\"a\": 1, \"b\": \"x\"} [1, 2, 3] \"it's \\\"q\\\"\" null \"\xc3\xa9\xc3\x9f x\""},
        {"{{ {'a': [1, {}], 'b': []}|tojson(indent=2) }}",
         "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}"},
        {"{{ {'b': 1, 'a': '<&>'}|tojson(sort_keys=true) }}{{ list|tojson(separators=(',', ':')) }}",
         "{\"a\": \"<&>\", \"b\": 1}[1,2,3]"},
        {"{{ u|tojson(ensure_ascii=true) }}{{ '\\x01\\n'|tojson }}",
         "\"\\u00e9\\u00df x\"\"\\u0001\\n\""},
        {"{{ list|join(', ') }} {{ list|join }} {{ m|join('/', attribute='role') }}",
         "1, 2, 3 123 user/bot"},
        {"{{ m|selectattr('role', 'equalto', 'bot')|list }}", "[{'role': 'bot', 'k': 1}]"},
        {"{{ m|rejectattr('role', '==', 'bot')|map(attribute='k')|list }}{{ m|selectattr('x')|list }}",
         "[2][]"},
        {"{{ words|map('upper')|join }}{{ [1, 0, '', 'a']|select|list }}{{ list|select('odd')|list }}"
         "{{ list|reject('gt', 1)|list }}",
         "BAC[1, 'a'][1, 3][1]"},
        {"{{ m|map(attribute='x', default='-')|join }}", "--"},
        {"{{ missing|default('x') }}{{ z|default('x') }}{{ z|default('x', true) }}{{ ''|d('y', boolean=true) }}"
         "{{ missing|d }}",
         "xNonexy"},
        {"{{ d|items|list }}{{ d|list }}{{ 'ab'|list }}{{ list|first }}{{ list|last }}{{ empty|first }}",
         "[('a', 1), ('b', 'x')]['a', 'b']['a', 'b']13"},
        {"{{ 'aXbX'|replace('X', '-') }}{{ 'aaa'|replace('a', 'b', 2) }}", "a-b-bba"},
        {"{{ 7|string + 'x' }}{{ ' 42 '|int }}{{ 'x'|int(9) }}{{ '3.9'|int }}{{ 3.7|int }}{{ '1.5'|float }}"
         "{{ 'ff'|int(base=16) }}{{ '<b>'|safe }}",
         "7x429331.5255<b>"},
        {"{{ words|sort|join }}{{ words|sort(reverse=true)|join }}{{ words|sort(case_sensitive=true)|join }}"
         "{{ m|sort(attribute='k')|map(attribute='role')|join(',') }}",
         "AbccbAAbcbot,user"},
        {"{{ [1, 2, 1, 3, 2]|unique|list }}{{ list|reverse|list }}{{ 'abc'|reverse }}",
         "[1, 2, 3][3, 2, 1]cba"},
        {"{{ 'a\\nb\\n\\nc'|indent }}|{{ lines|indent(2, true) }}|{{ lines|indent(width='>', blank=true) }}",
         "a\n    b\n\n    c|  a\n  b\n\n  c|a\n>b\n>\n>c"},
        {"{{ {'b': 1, 'a': 2}|dictsort }}{{ {'b': 1, 'a': 2}|dictsort(by='value') }}"
         "{{ d|dictsort(reverse=true) }}",
         "[('a', 2), ('b', 1)][('b', 1), ('a', 2)][('b', 'x'), ('a', 1)]"},
        {"{{ list|sum }}{{ list|max }}{{ list|min }}{{ m|sum(attribute='k') }}{{ -3|abs }}{{ 2.5|round }}"
         "{{ 2.567|round(1) }}{{ 2.1|round(0, 'ceil') }}{{ 3|round }}",
         "631332.02.63.03"},
        {"{{ list|count }}{{ d|length }}{{ 'a b  c'|wordcount }}{{ missing|list }}{{ missing|join }}",
         "323[]"},
    };
    EXPECT(v);
}

static void test_tests(void **state) {
    (void)state;
    static const char *const hold[] = {
        "n is defined",
        "missing is undefined",
        "z is none",
        "nothing is none",
        "s is string",
        "n is not string",
        "d is mapping",
        "list is not mapping",
        "list is sequence",
        "s is sequence",
        "list is iterable",
        "n is not iterable",
        "n is number",
        "f is number",
        "n is integer",
        "f is not integer",
        "f is float",
        "t is boolean",
        "n is not boolean",
        "t is true",
        "n is not true",
        "false is false",
        "n is equalto 3",
        "n is eq(3)",
        "n is sameas 3",
        "n is ne 4",
        "n is odd",
        "2 is even",
        "6 is divisibleby 3",
        "n is in [1, 3]",
        "n is lt 4",
        "n is ge 3",
        "n is greaterthan(2)",
        "'abc' is lower",
        "'ABC' is upper",
        "range is callable",
        "t is not integer",
        "'a' is not in 'xyz'",
        "missing is iterable",
        "z is not iterable",
        "n is defined and s is string",
        "d.a is defined",
        "not d.c is defined",
    };
    for (size_t i = 0; i < sizeof(hold) / sizeof(*hold); i++) {
        char text[200];
        JinjaOutput out = {0};
        snprintf(text, sizeof(text), "{{ %s }}", hold[i]);
        if (render(text, &out) != OK) fail_msg("%s: %s", text, status_message());
        if (strcmp(out.text.s, "True")) fail_msg("%s is %s", text, out.text.s);
        jinja_output_release(&out);
    }
}

static void test_methods(void **state) {
    (void)state;
    static const Small v[] = {
        {"{{ ' a '.strip() }}|{{ ' a '.lstrip() }}|{{ ' a '.rstrip() }}|{{ '\\n\\na\\n'.strip('\\n') }}",
         "a|a | a|a"},
        {"{{ 'a,b,c'.split(',') }}{{ ' a  b '.split() }}{{ 'a,b,c'.split(',', 1) }}{{ 'a,b,c'.rsplit(',', 1) }}",
         "['a', 'b', 'c']['a', 'b']['a', 'b,c']['a,b', 'c']"},
        {"{{ 'a</think>b'.split('</think>')[-1] }}{{ ''.split(',') }}{{ 'a b c'.split(none, 1) }}",
         "b['']['a', 'b c']"},
        {"{{ s.startswith('He') }}{{ s.endswith('lo') }}{{ s.startswith(('x', 'H')) }}{{ s.upper() }}"
         "{{ s.lower() }}",
         "TrueTrueTrueHELLOhello"},
        {"{{ \"they're bill's\".title() }} {{ 'aBC'.capitalize() }} {{ 'aXa'.replace('a', 'b') }} "
         "{{ 'aa'.replace('a', 'b', 1) }}",
         "They'Re Bill'S Abc bXb ba"},
        {"{{ ', '.join(['a', 'b']) }}{{ u.find('x') }}{{ s.find('z') }}{{ 'abab'.rfind('ab') }}"
         "{{ 'abab'.count('ab') }}",
         "a, b3-122"},
        {"{{ 'a\\nb'.splitlines() }}{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('c') }}"
         "{{ '12'.isdigit() }}{{ 'a1'.isalpha() }}{{ [1, 2, 1].count(1) }}{{ list.index(2) }}",
         "['a', 'b']bcabTrueFalse21"},
        {"{{ {'items': 1}['items'] }}{{ d['get']('a') }}", "11"},
    };
    EXPECT(v);
}

/* ---- refusals ---- */

static void test_refusals(void **state) {
    (void)state;
    static const Small v[] = {
        {"{{ x.y }}", "test:1:6: \"x\" is undefined"},
        {"{{ d.x.y }}", "no attribute \"x\""},
        {"a\n{{ 1 + }}", "test:2:8: expected an expression, found }}"},
        {"{{ 1 + 'a' }}", "cannot be put together"},
        {"{{ 'a' + z }}", "cannot be put together"},
        {"{{ n < 'a' }}", "no order"},
        {"{{ 1 / 0 }}", "division by zero"},
        {"{% for x in 3 %}{% endfor %}", "cannot be iterated"},
        {"{% for a, b in [1] %}{% endfor %}", "cannot be iterated"},
        {"{% for a, b in [[1]] %}{% endfor %}", "1 values cannot be given to 2"},
        {"{{ raise_exception('No\\nway: ' ~ n) }}", "No way: 3"},
        {"{{ nope() }}", "\"nope\" is undefined"},
        {"{{ s() }}", "cannot be called"},
        {"{{ s.format(1) }}", "\"format\""},
        {"{{ list.append(1) }}", "\"append\""},
        {"{{ d.pop('a') }}", "\"pop\""},
        {"{{ s.__class__.__mro__ }}", "no attribute \"__class__\""},
        {"{{ '%s' % n }}", "formatting"},
        {"{{ s|nofilter }}", "test:1:6: the filter \"nofilter\" is not supported"},
        {"{{ s is notest }}", "the test \"notest\" is not supported"},
        {"{% include 'x' %}", "the statement \"include\" is not supported"},
        {"{% import 'x' as y %}", "\"import\""},
        {"{% call f() %}{% endcall %}", "\"call\""},
        {"{{ cycler(1) }}", "\"cycler\""},
        {"{{ loop.cycle(1) }}", "\"loop\" is undefined"},
        {"{% for x in list recursive %}{% endfor %}", "recursive"},
        {"{% if t %}", "has no {% endif %}"},
        {"{% for x in list %}\n{% if t %}\n{% endfor %}", "{% endfor %} ends no block"},
        {"{% endif %}", "ends no block"},
        {"{% if %}{% endif %}", "expected an expression"},
        {"{% break %}", "inside of loops"},
        {"{{ 'a }}", "this string does not end"},
        {"{{ 1 ", "this tag does not end"},
        {"{# a", "this comment does not end"},
        {"{% raw %}a", "this raw block does not end"},
        {"{{ (1 }}", "a bracket that closes none"},
        {"{{ (1] }}", "a bracket that closes none"},
        {"{{ ) }}", "a bracket that closes none"},
        {"{{ $ }}", "means nothing"},
        {"{{ 1 2 }}", "expected }}, found 2"},
        {"{% set true = 1 %}", "cannot be assigned"},
        {"{% set s.x = 1 %}", "no namespace"},
        {"{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "fewer than 2"},
        {"{% macro f(a) %}{% endmacro %}{{ f(b=2) }}", "no parameter \"b\""},
        {"{{ s|trim(1, 2) }}", "does not take these arguments"},
        {"{{ s|replace('a') }}", "needs the argument \"new\""},
        {"{{ f(*list) }}", "unpacked"},
        {"{{ missing|tojson }}", "\"missing\" is undefined"},
        {"{{ 9223372036854775807 + 1 }}", "64 bits"},
        {"{{ 99999999999999999999 }}", "too large"},
        {"{{ range|tojson }}", "cannot be written as JSON"},
        {"{{ {[1]: 2} }}", "cannot be a key"},
        {"{{ list[::0] }}", "zero"},
        {"{% macro f() %}{% generation %}{% endgeneration %}{% endmacro %}", "inside of macros"},
        {"{% set x %}{% generation %}{% endgeneration %}{% endset %}", "inside of a set block"},
    };
    for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
        JinjaOutput out = {0};
        Status s = render(v[i].text, &out);
        if (s != E_FORMAT) fail_msg("%s gives status %d", v[i].text, s);
        if (!strstr(status_message(), v[i].want))
            fail_msg("%s\n\"%s\"\ndoes not say \"%s\"", v[i].text, status_message(), v[i].want);
        jinja_output_release(&out);
    }
}

static void expect_refused(const char *text, const char *part) {
    JinjaOutput out = {0};
    double began = (double)clock() / CLOCKS_PER_SEC;
    Status s = render(text, &out);
    double seconds = (double)clock() / CLOCKS_PER_SEC - began;
    if (s != E_FORMAT || !strstr(status_message(), part))
        fail_msg("%.80s: status %d, \"%s\", not \"%s\"", text, s, status_message(), part);
    if (seconds > 20.0) fail_msg("%.80s took %.1f s", text, seconds);
    jinja_output_release(&out);
}

static char *repeated(Text *t, const char *head, const char *part, int n, const char *tail) {
    text_clear(t);
    text_add(t, head);
    for (int i = 0; i < n; i++) text_add(t, part);
    text_add(t, tail);
    return t->s;
}

static void test_hostile_templates(void **state) {
    (void)state;
    Text t = {0};
    expect_refused(
        "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
        "steps");
    expect_refused("{{ range(1000000) }}", "more than 100000");
    expect_refused("{{ 'a' * 100000000000 }}", "MiB");
    expect_refused("{{ [0] * 100000000000 }}", "MiB");
    expect_refused(
        "{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}"
        "{% endfor %}",
        "MiB");
    expect_refused("{% for i in range(99999) %}{{ s * 1000 }}{% endfor %}", "MiB");
    expect_refused("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "too deeply");
    expect_refused("{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "too deeply");
    expect_refused("{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% set n.x = [n.x] %}"
                   "{% endfor %}{{ n.x }}",
                   "too deeply");
    expect_refused(
        "{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% set n.x = {'a': n.x} %}"
        "{% endfor %}{{ n.x|tojson }}",
        "too deeply");
    expect_refused(
        "{% set n = namespace(x=[], y=[]) %}{% for i in range(9999) %}{% set n.x = [n.x] %}"
        "{% set n.y = [n.y] %}{% endfor %}{{ n.x == n.y }}",
        "too deeply");
    expect_refused("{% set n = namespace() %}{% set n.x = n %}{{ n }}", "cannot be written");
    expect_refused(
        "{% set b = 'a' * 9000000 %}{% for i in range(99999) %}{% if 'b' in b %}{% endif %}"
        "{% endfor %}",
        "steps");
    expect_refused("{{ 2 ** 9999999999 }}", "64 bits");
    expect_refused("{{ range(99999)|map('string')|unique|list }}", "steps");
    expect_refused(repeated(&t, "{{ ", "(", 100000, ""), "too deeply");
    expect_refused(repeated(&t, "{{ ", "-", 100000, "1 }}"), "too deeply");
    expect_refused(repeated(&t, "{{ ", "not ", 100000, "1 }}"), "too deeply");
    expect_refused(repeated(&t, "{{ ", "1 if 1 else ", 50000, "1 }}"), "too deeply");
    expect_refused(repeated(&t, "{{ s", "|trim", 50000, " }}"), "too deeply");
    expect_refused(repeated(&t, "{{ d", ".x", 50000, " }}"), "too deeply");
    expect_refused(repeated(&t, "", "{% if t %}", 50000, ""), "too deeply");
    expect_refused(repeated(&t, "{% set ", "(", 50000, ""), "too deeply");
    expect_refused(repeated(&t, "", "{{", 50000, ""), "bracket");
    expect_refused(repeated(&t, "", "{% raw %}", 50000, ""), "raw block");
    expect_refused(repeated(&t, "", "x", JINJA_TEMPLATE_MAX + 1, ""), "too long");
    expect_refused("\xff", "UTF-8");
    text_release(&t);
}

/* Every beginning of a template, and every template with a byte changed, ends in a status. */
static void test_broken_templates(void **state) {
    (void)state;
    static const char text[] =
        "{%- macro f(a, b=[1]) -%}{{ a|tojson(indent=2) ~ b }}{%- endmacro %}\n{# c #}\n"
        "{% for k, v in d.items() if k is not none %}{% set ns = namespace(x=1) %}{% set ns.x = 2 %}"
        "{{ f(k, b={'x': v}) if loop.first else s[1:-1:2].strip('\\n') }}{% else %}{% endfor %}"
        "{% raw %}{{{% endraw %}{% set z %}q{% endset %}{% generation %}x{% endgeneration %}";
    static const char bytes[] = "{}%#()[]|.,:'\"-+~=\\ x1\n";
    char copy[sizeof(text)];
    JinjaOutput out = {0};
    for (size_t n = 0; n < sizeof(text); n++) {
        memcpy(copy, text, n);
        copy[n] = 0;
        render(copy, &out);
        for (size_t i = 0; i < sizeof(bytes) - 1 && n < sizeof(text) - 1; i++) {
            memcpy(copy, text, sizeof(text));
            copy[n] = bytes[i];
            render(copy, &out);
        }
    }
    expect_ok(render(text, &out));
    jinja_output_release(&out);
}

static void test_long_texts_are_linear(void **state) {
    (void)state;
    JinjaOutput out = {0};
    expect_ok(render(
        "{% set n = namespace(s='') %}{% for i in range(100000) %}{% set n.s = n.s + 'abcdefgh' %}"
        "{% endfor %}{{ n.s|length }} {{ n.s }}",
        &out));
    assert_int_equal(out.text.len, 800007);
    jinja_output_release(&out);
}

/* ---- where bytes are from ---- */

/* The output with what was taken from data in [ ]. */
static void expect_origin(const char *text, const char *want) {
    JinjaOutput out = {0};
    Text shown = {0};
    int in = 0;
    if (render(text, &out) != OK) fail_msg("%s\n%s", text, status_message());
    for (size_t i = 0; i < out.text.len; i++) {
        if (out.data.s[i] != in) text_add(&shown, in ? "]" : "[");
        in = out.data.s[i];
        text_add_bytes(&shown, out.text.s + i, 1);
    }
    if (in) text_add(&shown, "]");
    if (strcmp(shown.s ? shown.s : "", want))
        fail_msg("%s\ngot      %s\nexpected %s", text, shown.s, want);
    text_release(&shown);
    jinja_output_release(&out);
}

static void test_origin(void **state) {
    (void)state;
    static const Small v[] = {
        {"<{{ s }}>{{ own }}", "<[Hello]><own>"},
        {"{{ '<' + s + '>' }}{{ '<' ~ s ~ '>' }}", "<[Hello]><[Hello]>"},
        {"{{ s|upper }}{{ s[1:3] }}{{ s|trim }}{{ s.strip('H') }}{{ (s ~ ' x').title() }}",
         "[HELLOelHelloelloHello] X"},
        {"{{ 'a-b'|replace('-', s) }}{{ (s + '-')|replace('-', '+') }}{{ s.replace('l', 'L') }}",
         "a[Hello]b[Hello]+[He]LL[o]"},
        {"{{ ['a', s]|join('-') }}{{ s.join(['a', 'b']) }}{{ (s ~ ',x').split(',')|join(';') }}",
         "a-[Hello]a[Hello]b[Hello];x"},
        {"{{ d|tojson }}", "{\"[a]\": 1, \"[b]\": \"[x]\"}"},
        {"{{ [s] }}", "['[Hello]']"},
        {"{{ s if s == 'Hello' else 'no' }}{{ 'Hello' }}", "[Hello]Hello"},
        {"{% set x %}<{{ s }}>{% endset %}{{ x }}{{ x|reverse }}", "<[Hello]>>[olleH]<"},
        {"{% macro f(a) %}({{ a }}){% endmacro %}{{ f(s) }}", "([Hello])"},
        {"{{ lines|indent(1) }}", "[a]\n [b]\n\n [c]"},
        {"{{ words|sort|join }}{{ d.keys()|list|join }}{{ s * 2 }}", "[AbcabHelloHello]"},
        {"{{ (own + s)[4:6] }}{{ s|first }}{% for c in s %}{{ c }}{% endfor %}", ">[HHHello]"},
        {"{{ s|replace('', '.') }}", ".[H].[e].[l].[l].[o]."},
        {"{{ strftime_now(s) }}", "[Hello]"},
    };
    for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) expect_origin(v[i].text, v[i].want);
}

/* ---- templates of models ---- */

static void expect_spans(const char *name, int number, const Json *want, const JinjaOutput *out) {
    int n = 0;
    for (const Json *s = json_first(want); s; s = json_next(s), n++) {
        if (n >= out->n_marks) break;
        double from = json_num(json_first(s)), to = json_num(json_next(json_first(s)));
        if (from != (double)out->marks[n].from || to != (double)out->marks[n].to)
            fail_msg("%s, case %d: the answer [%zu, %zu), expected [%g, %g)", name, number,
                     out->marks[n].from, out->marks[n].to, from, to);
    }
    if (n != json_size(want) || n != out->n_marks)
        fail_msg("%s, case %d: %d answers, expected %d", name, number, out->n_marks,
                 json_size(want));
}

static void check_case(const char *name, int number, const ChatTemplate *t, const Json *c) {
    const Json *messages = json_get(c, "messages"), *rendered = json_get(c, "rendered");
    JinjaOutput out = {0};
    Status s = chat_template_render(t, messages, -1,
                                    json_bool(json_get(c, "add_generation_prompt")), &out);
    if (!rendered) {
        if (s != E_FORMAT || strcmp(status_message(), json_str(json_get(c, "error"))))
            fail_msg("%s, case %d: status %d, \"%s\"", name, number, s, status_message());
    } else {
        if (s != OK) fail_msg("%s, case %d: %s", name, number, status_message());
        if (strcmp(out.text.s ? out.text.s : "", json_str(rendered)))
            fail_msg("%s, case %d: got\n%s\nexpected\n%s", name, number, out.text.s,
                     json_str(rendered));
        expect_spans(name, number, json_get(c, "assistant_byte_spans"), &out);
    }
    jinja_output_release(&out);
}

static ChatTemplate *fixture_template(const JsonDoc *doc, const Json *c) {
    ChatTemplate *t;
    ChatTokens tokens = {json_str(json_get(c, "bos_token")), json_str(json_get(c, "eos_token"))};
    expect_ok(
        chat_template_open(&t, "fixture", json_str(json_get(json_root(doc), "template")), &tokens));
    chat_template_set_time(t, fixture_time);
    return t;
}

static int check_fixture(const char *name) {
    char path[300];
    JsonDoc *doc;
    int n = 0;
    snprintf(path, sizeof(path), "%s/%s", FIXTURES, name);
    expect_ok(json_parse_file(&doc, path, JSON_STRICT));
    for (const Json *c = json_first(json_get(json_root(doc), "cases")); c; c = json_next(c)) {
        ChatTemplate *t = fixture_template(doc, c);
        check_case(name, n++, t, c);
        chat_template_release(t);
    }
    json_release(doc);
    return n;
}

static void test_models(void **state) {
    (void)state;
    DIR *dir = opendir(FIXTURES);
    int files = 0, cases = 0;
    if (!dir) {
        print_message("skipped: %s is absent\n", FIXTURES);
        skip();
    }
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (!strstr(entry->d_name, ".json")) continue;
        cases += check_fixture(entry->d_name);
        files++;
    }
    closedir(dir);
    print_message("%d conversations of %d templates\n", cases, files);
    assert_true(files > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whitespace),
        cmocka_unit_test(test_expressions),
        cmocka_unit_test(test_statements),
        cmocka_unit_test(test_filters),
        cmocka_unit_test(test_tests),
        cmocka_unit_test(test_methods),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_hostile_templates),
        cmocka_unit_test(test_broken_templates),
        cmocka_unit_test(test_long_texts_are_linear),
        cmocka_unit_test(test_origin),
        cmocka_unit_test(test_models),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}

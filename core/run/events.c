/* events.c - see events.h. */
#include "core/run/events.h"

#include <math.h>
#include <string.h>

uint32_t events_crc32c(const void *data, size_t n) {
    const unsigned char *p = data;
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

/* --- protocol buffers: a key is the field's number and its wire type --- */

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

static void put_varint(Text *t, uint64_t x) {
    do {
        char byte = (char)(x & 0x7f);
        x >>= 7;
        if (x) byte = (char)(byte | 0x80);
        text_add_bytes(t, &byte, 1);
    } while (x);
}

static void put_key(Text *t, int field, int wire) {
    put_varint(t, (uint64_t)field << 3 | (uint64_t)wire);
}

/* numbers lie in little-endian order whatever the machine's is */
static void put_little(Text *t, uint64_t x, int bytes) {
    for (int i = 0; i < bytes; i++) {
        char byte = (char)(x >> (8 * i) & 0xff);
        text_add_bytes(t, &byte, 1);
    }
}

static void put_double(Text *t, int field, double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    put_key(t, field, FIXED64);
    put_little(t, bits, 8);
}

static void put_float(Text *t, int field, float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    put_key(t, field, FIXED32);
    put_little(t, bits, 4);
}

static void put_bytes(Text *t, int field, const char *s, size_t n) {
    put_key(t, field, BYTES);
    put_varint(t, n);
    text_add_bytes(t, s, n);
}

/* --- records --- */

static uint32_t masked(const void *data, size_t n) {
    uint32_t crc = events_crc32c(data, n);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void put_record(Text *t, const Text *event) {
    size_t at = t->len;
    put_little(t, event->len, 8);
    put_little(t, masked(t->s + at, 8), 4);
    text_add_bytes(t, event->s, event->len);
    put_little(t, masked(event->s, event->len), 4);
}

enum { WALL_TIME = 1, STEP = 2, FILE_VERSION = 3, SUMMARY = 5, SESSION_LOG = 7 }; /* of Event */

static void put_step(Text *event, int64_t step) {
    put_key(event, STEP, VARINT);
    put_varint(event, (uint64_t)step);
}

void events_put_version(Text *t, double wall_time) {
    static const char version[] = "brain.Event:2";
    Text event = {0};
    put_double(&event, WALL_TIME, wall_time);
    put_bytes(&event, FILE_VERSION, version, strlen(version));
    put_record(t, &event);
    text_release(&event);
}

void events_put_start(Text *t, double wall_time, int64_t step) {
    static const char start[] = {8, 1}; /* SessionLog.status = START */
    Text event = {0};
    put_double(&event, WALL_TIME, wall_time);
    put_step(&event, step);
    put_bytes(&event, SESSION_LOG, start, sizeof start);
    put_record(t, &event);
    text_release(&event);
}

/* One Summary.Value: its tag, then `content`, the fields that hold what it is. */
static void put_tagged(Text *t, double wall_time, int64_t step, const char *tag,
                       const Text *content) {
    Text event = {0}, summary = {0}, value = {0};
    put_double(&event, WALL_TIME, wall_time);
    put_step(&event, step);
    put_bytes(&value, 1, tag, strlen(tag));
    text_add_bytes(&value, content->s, content->len);
    put_bytes(&summary, 1, value.s, value.len);
    put_bytes(&event, SUMMARY, summary.s, summary.len);
    put_record(t, &event);
    text_release(&event);
    text_release(&summary);
    text_release(&value);
}

static void put_value(Text *summary, const char *tag, double x) {
    Text value = {0};
    put_bytes(&value, 1, tag, strlen(tag));
    put_float(&value, 2, (float)x);
    put_bytes(summary, 1, value.s, value.len);
    text_release(&value);
}

void events_put_scalars(Text *t, double wall_time, int64_t step, const Metrics *m) {
    Text event = {0}, summary = {0};
    put_double(&event, WALL_TIME, wall_time);
    put_step(&event, step);
    for (int i = 0; i < m->n; i++)
        if (isfinite(m->row[i].value)) put_value(&summary, m->row[i].name, m->row[i].value);
    if (summary.len) {
        put_bytes(&event, SUMMARY, summary.s, summary.len);
        put_record(t, &event);
    }
    text_release(&event);
    text_release(&summary);
}

enum { BINS = 30 };

typedef struct {
    double min, max, num, sum, sum_squares;
    double limit[BINS], count[BINS]; /* the right edges of bins, and how many lie in each */
    int bins;
} Histogram;

static void count_values(Histogram *h, const float *values, int n) {
    *h = (Histogram){.min = INFINITY, .max = -INFINITY};
    for (int i = 0; i < n; i++) {
        double v = values[i];
        if (!isfinite(v)) continue;
        h->min = fmin(h->min, v), h->max = fmax(h->max, v);
        h->num++, h->sum += v, h->sum_squares += v * v;
    }
    if (h->num == 0.0) return;
    double width = (h->max - h->min) / BINS;
    h->bins = width > 0.0 ? BINS : 1;
    for (int i = 0; i < h->bins; i++)
        h->limit[i] = i + 1 < h->bins ? h->min + width * (i + 1) : h->max;
    for (int i = 0; i < n; i++) {
        if (!isfinite(values[i])) continue;
        int bin = width > 0.0 ? (int)((values[i] - h->min) / width) : 0;
        h->count[bin < h->bins ? bin : h->bins - 1]++;
    }
}

static void put_doubles(Text *t, int field, const double *x, int n) {
    put_key(t, field, BYTES);
    put_varint(t, 8 * (uint64_t)n);
    for (int i = 0; i < n; i++) {
        uint64_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        put_little(t, bits, 8);
    }
}

void events_put_histogram(Text *t, double wall_time, int64_t step, const char *tag,
                          const float *values, int n) {
    Histogram h;
    Text proto = {0}, content = {0};
    count_values(&h, values, n);
    if (!h.bins) return;
    const double figures[] = {h.min, h.max, h.num, h.sum, h.sum_squares};
    for (int i = 0; i < 5; i++) put_double(&proto, i + 1, figures[i]);
    put_doubles(&proto, 6, h.limit, h.bins);
    put_doubles(&proto, 7, h.count, h.bins);
    put_bytes(&content, 5, proto.s, proto.len);
    put_tagged(t, wall_time, step, tag, &content);
    text_release(&proto);
    text_release(&content);
}

void events_put_text(Text *t, double wall_time, int64_t step, const char *tag, const char *text,
                     size_t n) {
    static const char shape[] = {0x12, 0x02, 0x08, 0x01};          /* one dimension, of size 1 */
    static const char plugin[] = {0x0a, 0x04, 't', 'e', 'x', 't'}; /* plugin_name */
    Text tensor = {0}, metadata = {0}, content = {0};
    put_key(&tensor, 1, VARINT);
    put_varint(&tensor, 7); /* DT_STRING */
    put_bytes(&tensor, 2, shape, sizeof shape);
    put_bytes(&tensor, 8, text, n);
    put_bytes(&metadata, 1, plugin, sizeof plugin);
    put_bytes(&content, 8, tensor.s, tensor.len);
    put_bytes(&content, 9, metadata.s, metadata.len);
    put_tagged(t, wall_time, step, tag, &content);
    text_release(&tensor);
    text_release(&metadata);
    text_release(&content);
}

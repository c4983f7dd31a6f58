/* safetensors_write.c - the writer, and the table of dtypes. */
#include <string.h>
#include "core/base/json.h"
#include "core/model/safetensors_types.h"

static const DtypeInfo dtypes[] = {
    {"F32", 4, SAFETENSORS_F32},       {"F16", 2, SAFETENSORS_F16},
    {"BF16", 2, SAFETENSORS_BF16},     {"F64", 8, SAFETENSORS_OTHER},
    {"I64", 8, SAFETENSORS_OTHER},     {"I32", 4, SAFETENSORS_OTHER},
    {"I16", 2, SAFETENSORS_OTHER},     {"I8", 1, SAFETENSORS_OTHER},
    {"U64", 8, SAFETENSORS_OTHER},     {"U32", 4, SAFETENSORS_OTHER},
    {"U16", 2, SAFETENSORS_OTHER},     {"U8", 1, SAFETENSORS_OTHER},
    {"BOOL", 1, SAFETENSORS_OTHER},    {"F8_E4M3", 1, SAFETENSORS_OTHER},
    {"F8_E5M2", 1, SAFETENSORS_OTHER}, {"F8_E8M0", 1, SAFETENSORS_OTHER},
};

const DtypeInfo *safetensors_dtype(const char *name) {
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(*dtypes); i++)
        if (!strcmp(name, dtypes[i].name)) return &dtypes[i];
    return NULL;
}

static Status put_entry(Text *header, const SafetensorsEntry *e, uint64_t *offset) {
    const DtypeInfo *info = safetensors_dtype(e->dtype);
    if (!info)
        return status_fail(E_USAGE, "tensor %s: %s is no dtype of safetensors", e->name, e->dtype);
    CHECK(e->rank >= 0 && e->rank <= 4);
    uint64_t bytes = info->bytes;
    json_put_key(header, e->name);
    text_addf(header, "{\"dtype\":\"%s\",\"shape\":[", e->dtype);
    for (int i = 0; i < e->rank; i++) {
        text_addf(header, "%s%zu", i ? "," : "", e->shape[i]);
        if (e->shape[i] && bytes > ((uint64_t)1 << 53) / e->shape[i])
            return status_fail(E_USAGE, "tensor %s is too large for a file", e->name);
        bytes *= e->shape[i];
    }
    text_addf(header, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)*offset,
              (unsigned long long)(*offset + bytes));
    *offset += bytes;
    return OK;
}

static Status put_header(Text *header, const SafetensorsEntry *entries, int n,
                         uint64_t *data_bytes) {
    text_add(header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < n; i++) TRY(put_entry(header, &entries[i], data_bytes));
    text_add(header, "}");
    while (header->len % 8) text_add(header, " ");
    return OK;
}

static Status begin(SafetensorsWriter *w, const char *path, const Text *header) {
    uint64_t len = header->len;
    TRY(file_writer_open(&w->file, path));
    Status s = file_writer_write(&w->file, &len, 8);
    if (s == OK) s = file_writer_write(&w->file, header->s, header->len);
    if (s != OK) file_writer_abort(&w->file);
    return s;
}

Status safetensors_writer_open(SafetensorsWriter *w, const char *path,
                               const SafetensorsEntry *entries, int n) {
    Text header = {0};
    uint64_t data_bytes = 0;
    *w = (SafetensorsWriter){.end = 0};
    Status s = put_header(&header, entries, n, &data_bytes);
    if (s == OK) s = begin(w, path, &header);
    w->end = 8 + header.len + data_bytes;
    text_release(&header);
    return s;
}

Status safetensors_writer_write(SafetensorsWriter *w, const void *data, size_t bytes) {
    if (bytes > w->end - w->file.bytes)
        return status_fail(E_USAGE, "%s: more data than the tensors of the header hold",
                           w->file.path);
    return file_writer_write(&w->file, data, bytes);
}

Status safetensors_writer_commit(SafetensorsWriter *w) {
    if (w->file.bytes == w->end) return file_writer_commit(&w->file);
    Status s =
        status_fail(E_USAGE, "%s: the tensors of the header hold %llu bytes more than were written",
                    w->file.path, (unsigned long long)(w->end - w->file.bytes));
    file_writer_abort(&w->file);
    return s;
}

void safetensors_writer_abort(SafetensorsWriter *w) {
    file_writer_abort(&w->file);
}

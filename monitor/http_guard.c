/* http_guard.c - see http_guard.h. */
#include "monitor/http_guard.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { HOST_MAX = 256 };

static const struct {
    const char *path;
    Endpoint endpoint;
} endpoints[] = {
    {"/", ENDPOINT_PAGE},
    {"/data.json", ENDPOINT_DATA},
    {"/tail", ENDPOINT_TAIL},
};

Endpoint http_endpoint(const char *path) {
    for (size_t i = 0; i < sizeof endpoints / sizeof *endpoints; i++)
        if (!strcmp(path, endpoints[i].path)) return endpoints[i].endpoint;
    return ENDPOINT_NONE;
}

static int is_numeric(const char *address) {
    unsigned char bytes[16];
    return inet_pton(AF_INET, address, bytes) == 1 || inet_pton(AF_INET6, address, bytes) == 1;
}

int http_is_loopback(const char *address) {
    unsigned char v4[4], v6[16];
    if (inet_pton(AF_INET, address, v4) == 1) return v4[0] == 127;
    if (inet_pton(AF_INET6, address, v6) != 1) return 0;
    static const unsigned char one[16] = {[15] = 1};
    return memcmp(v6, one, sizeof one) == 0;
}

/* "name:port", "1.2.3.4:port" or "[::1]:port" without its port and brackets; 0 when malformed. */
static int host_name(char out[HOST_MAX], const char *host) {
    int bracket = host[0] == '[';
    const char *end = bracket ? strchr(host, ']') : host + strcspn(host, ":");
    if (!end) return 0;
    const char *rest = end + bracket;
    size_t n = (size_t)(end - host) - (size_t)bracket;
    if (n == 0 || n >= HOST_MAX) return 0;
    if (*rest && (*rest != ':' || !rest[1] || rest[1 + strspn(rest + 1, "0123456789")])) return 0;
    memcpy(out, host + bracket, n);
    out[n] = '\0';
    return 1;
}

int http_host_allowed(const char *host, const char *bound, const char *machine) {
    char name[HOST_MAX];
    if (!host || !host_name(name, host)) return 0;
    if (!strcasecmp(name, "localhost") || http_is_loopback(name)) return 1;
    if (http_is_loopback(bound)) return 0;
    return is_numeric(name) || (machine && machine[0] && !strcasecmp(name, machine));
}

int http_index(const char *text, int limit) {
    size_t n = text ? strlen(text) : 0;
    if (n < 1 || n > 6 || strspn(text, "0123456789") != n) return -1;
    int i = atoi(text);
    return i < limit ? i : -1;
}

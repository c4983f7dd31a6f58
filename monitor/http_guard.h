/* http_guard.h - which requests the live page answers at all, decided on strings alone. */
#ifndef HTTP_GUARD_H
#define HTTP_GUARD_H

#include <stddef.h>

/* Every address there is; no part of a request ever becomes a file's name. */
typedef enum { ENDPOINT_NONE, ENDPOINT_PAGE, ENDPOINT_DATA, ENDPOINT_TAIL } Endpoint;
Endpoint http_endpoint(const char *path); /* the path as it came, undecoded */

/* May a request with this Host header (NULL: it had none) be answered by a server bound to the
 * numeric address `bound`? A foreign name means that a page from elsewhere had its name resolve to
 * us (DNS rebinding). Loopback: localhost and loopback addresses. Other addresses: any numeric one,
 * localhost, and `machine`, this machine's name. The port may be any, tunnels change it. */
int http_host_allowed(const char *host, const char *bound, const char *machine);

/* Is this numeric address one that only this machine reaches? */
int http_is_loopback(const char *address);

/* A number of digits alone below `limit`; -1 when it is none. */
int http_index(const char *text, int limit);

#endif

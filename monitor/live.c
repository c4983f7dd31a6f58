/* live.c - see live.h. One thread: libmicrohttpd calls answer() from MHD_run_wait. */
#include "monitor/live.h"

#include <arpa/inet.h>
#include <math.h>
#include <microhttpd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/run/progress.h"
#include "monitor/connections.h"
#include "monitor/http_guard.h"
#include "monitor/page.h"

enum {
    HEAD_MAX = 8192,
    POOL = 3 * HEAD_MAX, /* of a connection: its head, what is parsed of it, the answer's head */
    ACCEPTED_MAX = CONNECTIONS_MAX + 16, /* with those that are shut down and not yet gone */
    TAIL_MAX = 1 << 20,
    TICK_MS = 200,
};

/* Of the processor time of all cores, what answering may take, and how much of it can be saved up.
 */
#define SHARE         0.008
#define BURST_SECONDS 0.5

typedef struct {
    const char *host;
    int port;
    char machine[256]; /* this machine's name, for the Host check */
    RunViews runs;
    Connections connections;
    struct MHD_Response *page, *data;
    Text policy;
    double looked, built; /* when the runs were refreshed, and `data` built */
    double saved, spent;  /* processor seconds that may still be taken; those taken so far */
    double counted;       /* when that was */
} Live;

static volatile sig_atomic_t stopping;

static void stop(int signal) {
    (void)signal;
    stopping = 1;
}

/* --- answers --- */

static void put_headers(struct MHD_Response *r, const char *type, const char *policy) {
    const struct {
        const char *name, *value;
    } headers[] = {
        {"Content-Type", type},
        {"Content-Security-Policy", policy},
        {"X-Content-Type-Options", "nosniff"},
        {"X-Frame-Options", "DENY"},
        {"Referrer-Policy", "no-referrer"},
        {"Cross-Origin-Resource-Policy", "same-origin"},
        {"Cache-Control", "no-store"},
    };
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        MHD_add_response_header(r, headers[i].name, headers[i].value);
}

/* Takes the text over. NULL when there is no memory: the connection ends then. */
static struct MHD_Response *response_of(Text *t, const char *type, const char *policy) {
    struct MHD_Response *r = MHD_create_response_from_buffer(t->len, t->s, MHD_RESPMEM_MUST_FREE);
    if (r)
        put_headers(r, type, policy);
    else
        text_release(t);
    return r;
}

static enum MHD_Result send_once(struct MHD_Connection *c, unsigned status,
                                 struct MHD_Response *r) {
    if (!r) return MHD_NO;
    enum MHD_Result result = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return result;
}

static const char NOTHING[] = "default-src 'none'; frame-ancestors 'none'";

static enum MHD_Result refuse(struct MHD_Connection *c, unsigned status, const char *why) {
    Text t = {0};
    text_addf(&t, "%s\n", why);
    struct MHD_Response *r = response_of(&t, "text/plain; charset=utf-8", NOTHING);
    if (r && status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(r, "Allow", "GET, HEAD");
    if (r) MHD_add_response_header(r, "Connection", "close");
    return send_once(c, status, r);
}

static enum MHD_Result send_json(struct MHD_Connection *c, Text *t) {
    return send_once(c, MHD_HTTP_OK, response_of(t, "application/json", NOTHING));
}

/* --- the runs --- */

/* At most four times a second, however many ask. */
static void look(Live *l) {
    double now = clock_seconds();
    if (now - l->looked < 0.25) return;
    views_refresh(&l->runs);
    l->looked = clock_seconds();
}

static enum MHD_Result send_data(Live *l, struct MHD_Connection *c) {
    look(l);
    if (!l->data || l->looked > l->built) {
        Text t = {0}, title = {0};
        views_title(&title, &l->runs);
        page_put_data(&t, title.s, &l->runs, 1);
        text_release(&title);
        if (l->data) MHD_destroy_response(l->data);
        l->data = response_of(&t, "application/json", NOTHING);
        l->built = clock_seconds();
    }
    return l->data ? MHD_queue_response(c, MHD_HTTP_OK, l->data) : MHD_NO;
}

static void take_line(void *ctx, const JsonDoc *doc, const char *line, size_t len) {
    Text *t = ctx;
    (void)doc;
    if (t->s[t->len - 1] != '[') text_add(t, ",");
    text_add_bytes(t, line, len);
}

/* Appends "name":{"rows":[...],"at":"position"}; 0 when the page must begin anew. A client that has
 * all that was there when we last looked, `seen`, is answered without touching the file. */
static int put_news(Text *t, const RunView *run, const char *name, const char *position,
                    const TailPos *seen) {
    char path[VIEW_PATH];
    TailPos at;
    TailResult r = {0};
    if (!position || !tail_pos_parse(&at, position)) return 0;
    if (snprintf(path, sizeof path, "%s/%s.jsonl", run->dir, name) >= VIEW_PATH) return 0;
    json_put_key(t, name);
    text_add(t, "{\"rows\":[");
    int news = at.offset != seen->offset || at.mark != seen->mark;
    if (news && (tail_read(&r, &at, path, TAIL_MAX, take_line, t) != OK || r.cut)) return 0;
    text_add(t, "],\"at\":\"");
    tail_pos_put(t, &at);
    text_add(t, "\"}");
    return 1;
}

static const char *argument(struct MHD_Connection *c, const char *name) {
    return MHD_lookup_connection_value(c, MHD_GET_ARGUMENT_KIND, name);
}

/* /tail?run=I&metrics=P&samples=P&alarms=P: the rows behind positions that the page was given. */
static enum MHD_Result send_tail(Live *l, struct MHD_Connection *c) {
    static const char *const logs[] = {"metrics", "samples", "alarms"};
    look(l);
    int i = http_index(argument(c, "run"), l->runs.n), good = i >= 0;
    Text t = {0};
    text_add(&t, "{");
    json_put_key(&t, "signature");
    text_addf(&t, "\"%016llx\"", (unsigned long long)views_signature(&l->runs));
    for (int k = 0; good && k < 3; k++) {
        const RunView *run = l->runs.run[i];
        const TailPos *seen[] = {&run->at_metrics, &run->at_samples, &run->at_alarms};
        good = put_news(&t, run, logs[k], argument(c, logs[k]), seen[k]);
    }
    if (!good) {
        text_clear(&t);
        text_add(&t, "{\"reset\":true");
    }
    text_add(&t, "}");
    return send_json(c, &t);
}

/* --- requests --- */

static int descriptor_of(struct MHD_Connection *c) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info ? info->connect_fd : -1;
}

static size_t head_size(struct MHD_Connection *c) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    return info ? info->header_size : 0;
}

static const char *header(struct MHD_Connection *c, const char *name) {
    return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

static int has_body(struct MHD_Connection *c) {
    const char *length = header(c, "Content-Length");
    return header(c, "Transfer-Encoding") || (length && strcmp(length, "0"));
}

static enum MHD_Result answer(void *ctx, struct MHD_Connection *c, const char *url,
                              const char *method, const char *version, const char *body,
                              size_t *body_size, void **seen) {
    Live *l = ctx;
    (void)version, (void)body, (void)body_size;
    if (!*seen) connections_answer(&l->connections, descriptor_of(c), clock_seconds());
    if (strcmp(method, "GET") && strcmp(method, "HEAD"))
        return refuse(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD are answered");
    if (head_size(c) > HEAD_MAX)
        return refuse(c, MHD_HTTP_REQUEST_HEADER_FIELDS_TOO_LARGE,
                      "a request's head may have 8 KiB");
    if (!http_host_allowed(header(c, "Host"), l->host, l->machine))
        return refuse(c, MHD_HTTP_FORBIDDEN, "this name is not one of this server");
    if (has_body(c)) return refuse(c, MHD_HTTP_BAD_REQUEST, "a request has no body here");
    if (!*seen) { /* libmicrohttpd asks twice; an answer to the first ends the connection */
        *seen = l;
        return MHD_YES;
    }
    switch (http_endpoint(url)) {
    case ENDPOINT_PAGE: return MHD_queue_response(c, MHD_HTTP_OK, l->page);
    case ENDPOINT_DATA: return send_data(l, c);
    case ENDPOINT_TAIL: return send_tail(l, c);
    case ENDPOINT_NONE: break;
    }
    return refuse(c, MHD_HTTP_NOT_FOUND, "there is nothing at this address");
}

static void answered(void *ctx, struct MHD_Connection *c, void **seen,
                     enum MHD_RequestTerminationCode how) {
    Live *l = ctx;
    (void)seen, (void)how;
    connections_done(&l->connections, descriptor_of(c), clock_seconds());
}

static void connected(void *ctx, struct MHD_Connection *c, void **socket,
                      enum MHD_ConnectionNotificationCode what) {
    Live *l = ctx;
    (void)socket;
    if (what == MHD_CONNECTION_NOTIFY_STARTED)
        connections_add(&l->connections, descriptor_of(c), clock_seconds());
    else
        connections_remove(&l->connections, descriptor_of(c));
}

/* --- the server --- */

typedef union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} Address;

static Status address_of(Address *a, unsigned *flags, const Live *l) {
    memset(a, 0, sizeof *a);
    if (inet_pton(AF_INET, l->host, &a->v4.sin_addr) == 1) {
        a->v4.sin_family = AF_INET;
        a->v4.sin_port = htons((uint16_t)l->port);
        return OK;
    }
    if (inet_pton(AF_INET6, l->host, &a->v6.sin6_addr) == 1) {
        a->v6.sin6_family = AF_INET6;
        a->v6.sin6_port = htons((uint16_t)l->port);
        *flags |= MHD_USE_IPv6;
        return OK;
    }
    return status_fail(E_USAGE, "--host %s is no numeric address: 127.0.0.1, ::1, 0.0.0.0",
                       l->host);
}

static double processor_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Sleeps off what was taken beyond our share; meanwhile requests wait in their sockets. */
static void keep_to_share(Live *l) {
    double now = clock_seconds(), spent = processor_seconds();
    double share = SHARE * (double)sysconf(_SC_NPROCESSORS_ONLN);
    l->saved = fmin(BURST_SECONDS, l->saved + share * (now - l->counted)) - (spent - l->spent);
    l->counted = now;
    l->spent = spent;
    if (l->saved < 0.0) usleep((useconds_t)(1e6 * fmin(-l->saved / share, 0.1)));
}

static void be_silent(void *ctx, const char *fmt, va_list ap) {
    (void)ctx, (void)fmt, (void)ap; /* what clients do wrong is not ours to tell */
}

static Status start(struct MHD_Daemon **out, Live *l) {
    unsigned flags = MHD_USE_ERROR_LOG | MHD_USE_AUTO;
    Address address;
    TRY(address_of(&address, &flags, l));
    *out =
        MHD_start_daemon(flags, 0, NULL, NULL, answer, l, MHD_OPTION_EXTERNAL_LOGGER, be_silent,
                         NULL, MHD_OPTION_SOCK_ADDR, &address.any, MHD_OPTION_CONNECTION_LIMIT,
                         (unsigned)ACCEPTED_MAX, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)POOL,
                         MHD_OPTION_NOTIFY_CONNECTION, connected, l, MHD_OPTION_NOTIFY_COMPLETED,
                         answered, l, MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_END);
    if (!*out)
        return status_fail(E_IO, "cannot listen on %s port %d; is it in use?", l->host, l->port);
    return OK;
}

static void announce(struct MHD_Daemon *daemon, Live *l) {
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT);
    int six = strchr(l->host, ':') != NULL;
    if (info) l->port = info->port;
    if (!http_is_loopback(l->host))
        log_warn("everyone who reaches %s port %d can read these runs", l->host, l->port);
    printf("http://%s%s%s:%d/\n", six ? "[" : "", l->host, six ? "]" : "", l->port);
    fflush(stdout);
}

static Status serve(Live *l) {
    struct MHD_Daemon *daemon;
    Text page = {0};
    page_put_policy(&l->policy, 1);
    page_put(&page, "rlhf.c", NULL);
    l->page = response_of(&page, "text/html; charset=utf-8", l->policy.s);
    if (!l->page) return status_fail(E_MEMORY, "no memory for the page");
    TRY(start(&daemon, l));
    announce(daemon, l);
    l->saved = BURST_SECONDS;
    l->counted = clock_seconds();
    l->spent = processor_seconds();
    while (!stopping) {
        MHD_run_wait(daemon, TICK_MS);
        connections_expire(&l->connections, clock_seconds());
        keep_to_share(l);
    }
    MHD_stop_daemon(daemon);
    return OK;
}

static void on_signals(void) {
    struct sigaction end = {.sa_handler = stop}, ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGINT, &end, NULL);
    sigaction(SIGTERM, &end, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
}

static Status usage(void) {
    return status_fail(E_USAGE,
                       "rlhf monitor RUN_DIR [RUN_DIR ...] [--port 8080] [--host 127.0.0.1]");
}

Status live_main(int argc, char **argv) {
    Live l = {.host = "127.0.0.1", .port = 8080};
    const char *paths[VIEWS_MAX];
    int n = 0;
    for (int i = 0; i < argc; i++) {
        if (!strcmp(argv[i], "--port") && i + 1 < argc) {
            if ((l.port = http_index(argv[++i], 65536)) < 0)
                return status_fail(E_USAGE, "--port %s is no port", argv[i]);
        } else if (!strcmp(argv[i], "--host") && i + 1 < argc) {
            l.host = strcmp(argv[++i], "localhost") ? argv[i] : "127.0.0.1";
        } else if (argv[i][0] == '-' || n == VIEWS_MAX) {
            return usage();
        } else {
            paths[n++] = argv[i];
        }
    }
    if (!n) return usage();
    TRY(views_open(&l.runs, paths, n, 1));
    gethostname(l.machine, sizeof l.machine - 1);
    on_signals();
    if (nice(10) == -1) log_debug("the page runs at the trainers' priority");
    Status s = serve(&l);
    if (l.page) MHD_destroy_response(l.page);
    if (l.data) MHD_destroy_response(l.data);
    text_release(&l.policy);
    views_close(&l.runs);
    return s;
}

/* test_live.c - the live page as its clients meet it: a process with raw sockets in front. */
#include <arpa/inet.h>
#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "monitor/connections.h"
#include "monitor/http_guard.h"
#include "monitor/live.h"
#include "monitor/tail.h"
#include "tests/scratch.h"

/* --- rules, without sockets --- */

static void host_headers(void **state) {
    (void)state;
    static const struct {
        const char *host, *bound;
        int allowed;
    } cases[] = {
        {"127.0.0.1:8080", "127.0.0.1", 1},
        {"localhost:8080", "127.0.0.1", 1},
        {"LocalHost", "127.0.0.1", 1},
        {"127.0.0.1", "127.0.0.1", 1},
        {"[::1]:8080", "::1", 1},
        {"localhost:9000", "127.0.0.1", 1},
        {"evil.example", "127.0.0.1", 0},
        {"evil.example:8080", "127.0.0.1", 0},
        {NULL, "127.0.0.1", 0},
        {"", "127.0.0.1", 0},
        {":8080", "127.0.0.1", 0},
        {"localhost.evil.example", "127.0.0.1", 0},
        {"127.0.0.1.nip.io", "127.0.0.1", 0},
        {"localhost:", "127.0.0.1", 0},
        {"localhost:80x", "127.0.0.1", 0},
        {"localhost@evil", "127.0.0.1", 0},
        {"[::1", "127.0.0.1", 0},
        {"[::1]x", "127.0.0.1", 0},
        {"10.0.0.7:8080", "127.0.0.1", 0},
        {"box", "127.0.0.1", 0},
        {"10.0.0.7:8080", "0.0.0.0", 1},
        {"box:8080", "0.0.0.0", 1},
        {"evil.example", "0.0.0.0", 0},
        {"localhost", "10.0.0.7", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (http_host_allowed(cases[i].host, cases[i].bound, "box") != cases[i].allowed)
            fail_msg("Host: %s at %s should be %s", cases[i].host ? cases[i].host : "(none)",
                     cases[i].bound, cases[i].allowed ? "allowed" : "refused");
}

static void endpoints(void **state) {
    (void)state;
    static const char *const none[] = {"",
                                       "//",
                                       "/index.html",
                                       "/data.json/",
                                       "/../data.json",
                                       "/DATA.JSON",
                                       "/metrics.jsonl",
                                       "data.json",
                                       "/tail/",
                                       "/%64ata.json"};
    assert_int_equal(http_endpoint("/"), ENDPOINT_PAGE);
    assert_int_equal(http_endpoint("/data.json"), ENDPOINT_DATA);
    assert_int_equal(http_endpoint("/tail"), ENDPOINT_TAIL);
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        if (http_endpoint(none[i]) != ENDPOINT_NONE) fail_msg("\"%s\" is an address", none[i]);
    assert_int_equal(http_index("7", 8), 7);
    assert_int_equal(http_index("8", 8), -1);
    assert_int_equal(http_index("-1", 8), -1);
    assert_int_equal(http_index("1 ", 8), -1);
    assert_int_equal(http_index("", 8), -1);
    assert_int_equal(http_index(NULL, 8), -1);
}

static int is_open(int fd) {
    char byte;
    return recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) != 0; /* 0: the other end was shut down */
}

static void places(void **state) {
    (void)state;
    Connections c = {0};
    int pair[CONNECTIONS_MAX + 2][2];
    for (int i = 0; i < CONNECTIONS_MAX + 2; i++)
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair[i]), 0);
    for (int i = 0; i < CONNECTIONS_MAX; i++) connections_add(&c, pair[i][0], 100 + i);
    assert_int_equal(connections_count(&c), CONNECTIONS_MAX);
    connections_answer(&c, pair[0][0], 140); /* whoever is being answered stays */
    connections_add(&c, pair[CONNECTIONS_MAX][0], 141);
    assert_int_equal(connections_count(&c), CONNECTIONS_MAX);
    assert_true(is_open(pair[0][1]));
    assert_false(is_open(pair[1][1])); /* it had waited longest */
    assert_true(is_open(pair[2][1]));

    connections_remove(&c, pair[1][0]); /* its end, seen late, takes nobody's place */
    assert_int_equal(connections_count(&c), CONNECTIONS_MAX);
    for (int i = 2; i <= CONNECTIONS_MAX; i++) connections_answer(&c, pair[i][0], 142);
    connections_add(&c, pair[CONNECTIONS_MAX + 1][0], 143); /* all are being answered */
    assert_false(is_open(pair[CONNECTIONS_MAX + 1][1]));

    connections_done(&c, pair[0][0], 150);
    connections_expire(&c, 150 + ASK_SECONDS - 1);
    assert_true(is_open(pair[0][1]));
    connections_expire(&c, 150 + ASK_SECONDS + 1); /* a next request that does not come */
    assert_false(is_open(pair[0][1]));
    assert_true(is_open(pair[2][1]));
    connections_expire(&c, 142 + READ_SECONDS + 1); /* answers that nobody reads */
    assert_int_equal(connections_count(&c), 0);
    for (int i = 0; i < CONNECTIONS_MAX + 2; i++) close(pair[i][0]), close(pair[i][1]);
}

/* --- a server --- */

static pid_t server;
static int port;

static int start(void **state) {
    int out[2];
    char line[128] = "";
    (void)state;
    file_mkdirs(scratch("run"));
    scratch_write("run/recipe.json", "{}", 2);
    scratch_write("run/metrics.jsonl", "{\"step\":1,\"loss\":3}\n", 20);
    if (pipe(out) != 0) return -1;
    server = fork();
    if (server == 0) {
        dup2(out[1], STDOUT_FILENO);
        char *argv[] = {(char *)scratch("run"), "--port", "0"};
        Status s = live_main(3, argv);
        fflush(NULL);
        _exit(s == OK ? 0 : 1);
    }
    close(out[1]);
    FILE *fp = fdopen(out[0], "r");
    if (!fp || !fgets(line, sizeof line, fp)) return -1;
    fclose(fp);
    return sscanf(line, "http://127.0.0.1:%d/", &port) == 1 ? 0 : -1;
}

static int stop(void **state) {
    int status;
    (void)state;
    kill(server, SIGTERM);
    return waitpid(server, &status, 0) == server && status == 0 ? 0 : -1;
}

static int client(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval limit = {.tv_sec = 30}; /* only so that a failure ends */
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

/* Sends a whole request and reads to the end; the caller asks for Connection: close. */
static int ask(Text *answer, const char *request) {
    int fd = client(), status = 0;
    char buffer[4096];
    ssize_t n;
    text_clear(answer);
    for (size_t done = 0; done < strlen(request); done += (size_t)n)
        if ((n = send(fd, request + done, strlen(request) - done, MSG_NOSIGNAL)) <= 0) break;
    while ((n = recv(fd, buffer, sizeof buffer, 0)) > 0) text_add_bytes(answer, buffer, (size_t)n);
    close(fd);
    if (answer->s) sscanf(answer->s, "HTTP/1.1 %d", &status);
    return status;
}

#define CLOSE "\r\nHost: localhost\r\nConnection: close\r\n\r\n"

static int status_of(const char *first_line, const char *rest) {
    Text request = {0}, answer = {0};
    text_addf(&request, "%s%s", first_line, rest);
    int status = ask(&answer, request.s);
    text_release(&request);
    text_release(&answer);
    return status;
}

static void requests(void **state) {
    (void)state;
    static const struct {
        const char *line;
        int status;
    } cases[] = {
        {"GET / HTTP/1.1", 200},
        {"GET /?x=1 HTTP/1.1", 200},
        {"HEAD / HTTP/1.1", 200},
        {"GET /data.json HTTP/1.1", 200},
        {"GET /tail HTTP/1.1", 200}, /* "begin anew" */
        {"POST / HTTP/1.1", 405},
        {"PUT /data.json HTTP/1.1", 405},
        {"DELETE /data.json HTTP/1.1", 405},
        {"OPTIONS * HTTP/1.1", 405},
        {"GET /metrics.jsonl HTTP/1.1", 404},
        {"GET /../../../etc/passwd HTTP/1.1", 404},
        {"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1", 404},
        {"GET //etc/passwd HTTP/1.1", 404},
        {"GET /run/recipe.json HTTP/1.1", 404},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int status = status_of(cases[i].line, CLOSE);
        if (status != cases[i].status)
            fail_msg("%s gave %d and not %d", cases[i].line, status, cases[i].status);
    }
    assert_int_equal(
        status_of("GET / HTTP/1.1", "\r\nHost: evil.example\r\nConnection: close\r\n\r\n"), 403);
    assert_int_equal(
        status_of("GET / HTTP/1.1",
                  "\r\nHost: localhost\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"),
        400);
    int without = status_of("GET / HTTP/1.1", "\r\nConnection: close\r\n\r\n"); /* no Host at all */
    assert_in_range(without, 400, 403);
}

static void heads_and_headers(void **state) {
    (void)state;
    Text t = {0}, request = {0};
    assert_int_equal(ask(&t, "HEAD / HTTP/1.1" CLOSE), 200);
    assert_string_equal(strstr(t.s, "\r\n\r\n"), "\r\n\r\n"); /* nothing behind it */
    assert_non_null(
        strstr(t.s, "Content-Security-Policy: default-src 'none'; script-src 'sha256-"));
    assert_non_null(strstr(t.s, "X-Content-Type-Options: nosniff"));
    assert_null(strstr(t.s, "Access-Control"));
    for (int size = 7000; size <= 9216; size += 2216) {
        text_clear(&request);
        text_add(&request, "GET / HTTP/1.1\r\nX-Long: ");
        while (request.len < (size_t)size - 50) text_add(&request, "a");
        text_add(&request, CLOSE);
        assert_int_equal(ask(&t, request.s), size < 8192 ? 200 : 431);
    }
    text_release(&t);
    text_release(&request);
}

/* The position that an answer gives behind "name":{..."at":" */
static void position_in(char out[64], const char *answer, const char *name) {
    char key[32];
    snprintf(key, sizeof key, "\"%s\":{", name);
    const char *at = strstr(answer, key);
    assert_non_null(at);
    at = strstr(at, "\"at\":\"");
    assert_non_null(at);
    assert_int_equal(sscanf(at, "\"at\":\"%63[0-9a-f-]", out), 1);
}

/* Asks until the answer has `what`: the server looks at files a few times a second. */
static void ask_until(Text *answer, const char *request, const char *what) {
    for (int tries = 0; tries < 500; tries++) {
        ask(answer, request);
        if (strstr(answer->s, what)) return;
        usleep(20000);
    }
    fail_msg("there never was %s in %s", what, answer->s);
}

static void rows_come_as_they_are_written(void **state) {
    (void)state;
    Text t = {0}, request = {0};
    char at[64];
    assert_int_equal(ask(&t, "GET /tail?run=0&metrics=0-0&samples=0-0&alarms=0-0 HTTP/1.1" CLOSE),
                     200);
    assert_non_null(strstr(t.s, "\"rows\":[{\"step\":1,\"loss\":3}]"));
    position_in(at, t.s, "metrics");
    text_addf(&request, "GET /tail?run=0&metrics=%s&samples=0-0&alarms=0-0 HTTP/1.1" CLOSE, at);
    ask(&t, request.s);
    assert_non_null(strstr(t.s, "\"metrics\":{\"rows\":[],"));
    scratch_write("run/metrics.jsonl", "{\"step\":1,\"loss\":3}\n{\"step\":2,\"loss\":2}\n", 40);
    ask_until(&t, request.s, "\"metrics\":{\"rows\":[{\"step\":2,\"loss\":2}],");
    scratch_write("run/metrics.jsonl", "{\"step\":9,\"loss\":3}\n{\"step\":2,\"loss\":2}\n", 40);
    ask_until(&t, request.s, "{\"reset\":true}"); /* another log under the same name */
    text_release(&t);
    text_release(&request);
}

static int descriptors_of_server(void) {
    char path[64];
    int n = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)server);
    DIR *d = opendir(path);
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n;
}

/* 32 who say nothing do not keep the 33rd out; the first of them goes. */
static void the_33rd(void **state) {
    (void)state;
    int idle[CONNECTIONS_MAX];
    char byte;
    for (int i = 0; i < CONNECTIONS_MAX; i++) idle[i] = client();
    assert_int_equal(status_of("GET / HTTP/1.1", CLOSE), 200);
    assert_true(recv(idle[0], &byte, 1, 0) <= 0);
    for (int i = 0; i < CONNECTIONS_MAX; i++) close(idle[i]);
}

static void five_hundred_slow_sockets(void **state) {
    (void)state;
    enum { SLOW = 500 };
    static int slow[SLOW];
    struct rlimit limit = {0};
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < SLOW + 50) limit.rlim_cur = SLOW + 50;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) skip();
    for (int i = 0; i < SLOW; i++) {
        slow[i] = client();
        send(slow[i], "GET / HTTP/1.1\r\nHost: loc", 25, MSG_NOSIGNAL);
        if (i % 50 == 49) assert_int_equal(status_of("GET / HTTP/1.1", CLOSE), 200);
    }
    assert_in_range(descriptors_of_server(), 1, CONNECTIONS_MAX + 48);
    for (int i = 0; i < SLOW; i++) send(slow[i], "a", 1, MSG_NOSIGNAL);
    assert_int_equal(status_of("GET /data.json HTTP/1.1", CLOSE), 200);
    for (int i = 0; i < SLOW; i++) close(slow[i]);
    assert_int_equal(status_of("GET / HTTP/1.1", CLOSE), 200);
}

/* Bytes that are no HTTP end the connection and nothing else. */
static void noise(void **state) {
    (void)state;
    uint32_t seed = 12345;
    Text t = {0};
    for (int i = 0; i < 200; i++) {
        char bytes[301];
        int fd = client();
        for (int k = 0; k < 300; k++)
            seed = seed * 1664525u + 1013904223u, bytes[k] = (char)(seed >> 24);
        if (i % 2) memcpy(bytes, "GET /tail?run=", 14);
        memcpy(bytes + 296, "\r\n\r\n", 4);
        send(fd, bytes, 300, MSG_NOSIGNAL);
        shutdown(fd, SHUT_WR);
        while (recv(fd, bytes, sizeof bytes, 0) > 0) continue;
        close(fd);
    }
    assert_int_equal(ask(&t, "GET / HTTP/1.1" CLOSE), 200);
    text_release(&t);
}

static void usage(void **state) {
    (void)state;
    char *none[] = {"--port", "1"}, *port_of[] = {"x", "--port", "70000"},
         *absent[] = {"/nowhere/at/all"};
    char *host[] = {(char *)scratch("run"), "--host", "example.org"};
    assert_int_equal(live_main(2, none), E_USAGE);
    assert_int_equal(live_main(3, port_of), E_USAGE);
    assert_int_equal(live_main(1, absent), E_USAGE);
    assert_int_equal(live_main(3, host), E_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(host_headers),
        cmocka_unit_test(endpoints),
        cmocka_unit_test(places),
        cmocka_unit_test(requests),
        cmocka_unit_test(heads_and_headers),
        cmocka_unit_test(rows_come_as_they_are_written),
        cmocka_unit_test(the_33rd),
        cmocka_unit_test(five_hundred_slow_sockets),
        cmocka_unit_test(noise),
        cmocka_unit_test(usage),
    };
    return cmocka_run_group_tests(tests, start, stop);
}

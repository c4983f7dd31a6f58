/* connections.c - see connections.h. */
#include "monitor/connections.h"

#include <stddef.h>
#include <sys/socket.h>

static void drop(Connection *place) {
    shutdown(place->fd, SHUT_RDWR);
    place->used = 0;
}

static Connection *free_place(Connections *c) {
    Connection *oldest = NULL;
    for (int i = 0; i < CONNECTIONS_MAX; i++) {
        Connection *p = &c->place[i];
        if (!p->used) return p;
        if (!p->answering && (!oldest || p->since < oldest->since)) oldest = p;
    }
    if (oldest) drop(oldest);
    return oldest;
}

static Connection *place_of(Connections *c, int fd) {
    for (int i = 0; i < CONNECTIONS_MAX; i++)
        if (c->place[i].used && c->place[i].fd == fd) return &c->place[i];
    return NULL; /* dropped before */
}

static void note(Connections *c, int fd, int answering, double now) {
    Connection *place = place_of(c, fd);
    if (place) *place = (Connection){.used = 1, .fd = fd, .answering = answering, .since = now};
}

void connections_add(Connections *c, int fd, double now) {
    Connection *place = free_place(c);
    if (place)
        *place = (Connection){.used = 1, .fd = fd, .since = now};
    else
        shutdown(fd, SHUT_RDWR);
}

void connections_answer(Connections *c, int fd, double now) {
    note(c, fd, 1, now);
}

void connections_done(Connections *c, int fd, double now) {
    note(c, fd, 0, now);
}

void connections_remove(Connections *c, int fd) {
    Connection *place = place_of(c, fd);
    if (place) place->used = 0;
}

void connections_expire(Connections *c, double now) {
    for (int i = 0; i < CONNECTIONS_MAX; i++) {
        Connection *p = &c->place[i];
        if (p->used && now - p->since > (p->answering ? READ_SECONDS : ASK_SECONDS)) drop(p);
    }
}

int connections_count(const Connections *c) {
    int n = 0;
    for (int i = 0; i < CONNECTIONS_MAX; i++) n += c->place[i].used;
    return n;
}

/* connections.h - who is connected: a bound on how many, and on how long one may take.
 *
 * The newest client wins: when all places are taken, the one that has kept us waiting longest for
 * its request goes. A socket that never asks thus cannot keep others out. */
#ifndef CONNECTIONS_H
#define CONNECTIONS_H

enum { CONNECTIONS_MAX = 32 };
/* Seconds to send a request from connecting or from the last answer; seconds to take an answer. */
#define ASK_SECONDS  10.0
#define READ_SECONDS 30.0

typedef struct {
    int used, fd, answering;
    double since;
} Connection;

typedef struct {
    Connection place[CONNECTIONS_MAX];
} Connections; /* {0} is empty */

/* Connections are told by their descriptors, which are shut down here and never closed: their owner
 * sees the end, closes, and says so with connections_remove. */
void connections_add(Connections *c, int fd, double now);
void connections_answer(Connections *c, int fd, double now); /* its request is here */
void connections_done(Connections *c, int fd, double now);   /* its answer is out */
void connections_remove(Connections *c, int fd);
/* Drops those that took too long. */
void connections_expire(Connections *c, double now);
int connections_count(const Connections *c);

#endif

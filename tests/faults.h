/* faults.h - put in front of the sources that sh_alarms.sh plants faults into: which one is on. */
#ifndef FAULTS_H
#define FAULTS_H

#include <stdlib.h>
#include <string.h>

static inline int fault(const char *name) {
    const char *on = getenv("FAULT");
    return on && !strcmp(on, name);
}

#endif

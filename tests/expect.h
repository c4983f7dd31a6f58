/* expect.h - what many tests expect of a call. Comes after cmocka.h. */
#ifndef EXPECT_H
#define EXPECT_H

#include "core/base/status.h"

static inline void expect_ok(Status s) {
    if (s != OK) fail_msg("status %d: %s", s, status_message());
}

#endif

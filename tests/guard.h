/* guard.h - a backend whose buffers cannot be read or written outside its kernels: whoever above
 * the page dereferences a Buf dies at once. */
#ifndef GUARD_H
#define GUARD_H

#include "core/backend/backend.h"

/* The CPU's page for this storage type behind locked memory; one at a time. */
Backend *guard_create(const char *dtype);
void guard_release(Backend *b);

#endif

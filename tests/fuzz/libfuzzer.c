/* libfuzzer.c - a target under libFuzzer, chosen by the variable FUZZ_TARGET. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/status.h"
#include "core/base/log.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const FuzzTarget *target;
    if (!target) {
        const char *name = getenv("FUZZ_TARGET");
        for (int i = 0; name && i < fuzz_n_targets; i++)
            if (!strcmp(fuzz_targets[i].name, name)) target = &fuzz_targets[i];
        CHECK(target);
        log_level(LOG_QUIET);
    }
    target->run(data, size);
    return 0;
}

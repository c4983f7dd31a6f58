#!/bin/sh
# sh_resume.sh - a few kills for every trainer; `make crash-test N=20` is the long version.
sh tests/crash.sh 3 && RLHF_FLAGS="--dtype bf16" exec sh tests/crash.sh 1

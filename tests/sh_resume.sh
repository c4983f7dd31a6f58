#!/bin/sh
# sh_resume.sh - a few kills for every trainer; `make crash-test N=20` is the long version.
exec sh tests/crash.sh 3

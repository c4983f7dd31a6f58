#!/bin/sh
# families.sh - our copies of a tiny model of each family, read by transformers: the same log-probabilities,
# scores and greedy tokens. Skipped where Python has no torch or transformers (PYTHON=... picks one).
PYTHON=${PYTHON:-python3}
BUILD=${BUILD:-build}
if ! "$PYTHON" -c 'import torch, transformers, safetensors' 2> /dev/null; then
    echo "test-reference: skipped, $PYTHON has no torch, transformers and safetensors"
    exit 0
fi
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
"$BUILD/tests/test_families" --write "$dir" > /dev/null || exit 1
"$PYTHON" tests/reference/make_families.py --check "$dir"

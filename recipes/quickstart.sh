#!/bin/sh
# quickstart.sh [SEED [--key value ...]] - runs recipes/quickstart.json and shows what came out: a table, and
# three held-out prompts answered by the SFT, PPO and DPO models side by side. `make quickstart` calls it.
set -eu
seed=${1:-1}
[ $# -eq 0 ] || shift
dir=runs/quickstart
rlhf=${BUILD:-build}/rlhf
if [ -n "${RUN_DIR:-}" ]; then dir=$RUN_DIR; fi
$rlhf run recipes/quickstart.json --run.dir "$dir" --seed "$seed" --run.overwrite "$@"
$rlhf summary "$dir"

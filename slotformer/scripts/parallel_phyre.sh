#!/usr/bin/env bash
# Extract the slots of PHYRE in TOTAL_SPLIT jobs of one GPU each:
#   CPUS_PER_TASK=8 ./slotformer/scripts/parallel_phyre.sh PARTITION PY_FILE PARAMS WEIGHT TOTAL_SPLIT [python args...]
# QOS, TIME and PYTHON are handed on to sbatch_run.sh.
set -euo pipefail

fail() { printf 'error: %s\n' "$1" >&2; exit 2; }

if (( $# < 5 )); then
    fail "parallel_phyre.sh needs PARTITION PY_FILE PARAMS WEIGHT TOTAL_SPLIT [python args...], found $# of the first five
example: $0 gpu slotformer/base_slots/extract_phyre_slots.py \\
    slotformer/base_slots/configs/savi_phyre_params-fold0.py \\
    pretrained/savi_phyre_params-fold0/model_30.pth 10 --save_path data/PHYRE"
fi
partition=$1 py_file=$2 params=$3 weight=$4 TOTAL_SPLIT=$5
shift 5
CPUS_PER_TASK=${CPUS_PER_TASK:-8}

for variable in TOTAL_SPLIT CPUS_PER_TASK; do
    [[ ${!variable} =~ ^[1-9][0-9]*$ ]] || fail "$variable must be a whole number above 0, found '${!variable}'"
done

export GPUS=1 CPUS_PER_GPU=$CPUS_PER_TASK MEM_PER_CPU=4 NODES=1
for (( split = 0; split < TOTAL_SPLIT; split++ )); do
    "$(dirname "${BASH_SOURCE[0]}")/sbatch_run.sh" "$partition" "phyre_slots-split$split" "$py_file" none \
        --params "$params" --weight "$weight" --split "$split" --total_split "$TOTAL_SPLIT" --cpus "$CPUS_PER_TASK" "$@"
done

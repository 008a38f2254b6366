#!/usr/bin/env bash
# Submit the same training several times, with seeds 1, 2, ...; SAVi needs luck, the best of three is worth keeping:
#   REPEAT=3 ./slotformer/scripts/dup_run_sbatch.sh PARTITION JOB_NAME PY_FILE DDP PARAMS [python args...]
# Run i has a copy <params>-dup<i>.py of the params file, and so a checkpoint folder of its own. The variables of
# sbatch_run.sh hold here too.
set -euo pipefail

fail() { printf 'error: %s\n' "$1" >&2; exit 2; }

if (( $# < 5 )); then
    fail "dup_run_sbatch.sh needs PARTITION JOB_NAME PY_FILE DDP PARAMS [python args...], found $# of the first five
example: $0 gpu savi_obj3d_params slotformer/scripts/train.py none \\
    slotformer/base_slots/configs/savi_obj3d_params.py --task base_slots"
fi
partition=$1 job_name=$2 py_file=$3 ddp=$4 params=${5%.py}
shift 5
REPEAT=${REPEAT:-3}

[[ $REPEAT =~ ^[1-9][0-9]*$ ]] || fail "REPEAT must be a whole number above 0, found '$REPEAT'"
[[ -f $params.py ]] || fail "$params.py: no such params file (seen from $PWD)"

for (( i = 1; i <= REPEAT; i++ )); do
    cp -- "$params.py" "$params-dup$i.py"
    "$(dirname "${BASH_SOURCE[0]}")/sbatch_run.sh" "$partition" "$job_name-dup$i" "$py_file" "$ddp" \
        --params "$params-dup$i.py" --seed "$i" "$@"
done

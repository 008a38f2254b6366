#!/usr/bin/env bash
# Submit a training (or any other Python script) to Slurm, from the folder in which it is to run:
#   GPUS=4 ./slotformer/scripts/sbatch_run.sh PARTITION JOB_NAME PY_FILE DDP [python args...]
# DDP: the word ddp starts one process per GPU, anything else a single one. A training near its time limit saves,
# goes back to the queue and continues there.
set -euo pipefail

fail() { printf 'error: %s\n' "$1" >&2; exit 2; }

if (( $# < 4 )); then
    fail "sbatch_run.sh needs PARTITION JOB_NAME PY_FILE DDP [python args...], found $# of the first four
example: GPUS=2 $0 gpu savi_obj3d_params slotformer/scripts/train.py ddp --task base_slots \\
    --params slotformer/base_slots/configs/savi_obj3d_params.py --ddp"
fi
partition=$1 job_name=$2 py_file=$3 ddp=$4
shift 4

GPUS=${GPUS:-1}                    # of each node
CPUS_PER_GPU=${CPUS_PER_GPU:-8}
MEM_PER_CPU=${MEM_PER_CPU:-5}      # GB
QOS=${QOS:-normal}
TIME=${TIME:-0}                    # as Slurm writes it; 0: no limit
NODES=${NODES:-1}
PYTHON=${PYTHON:-python}

for variable in GPUS CPUS_PER_GPU MEM_PER_CPU NODES; do
    [[ ${!variable} =~ ^[1-9][0-9]*$ ]] || fail "$variable must be a whole number above 0, found '${!variable}'"
done
[[ -f $py_file ]] || fail "$py_file: no such Python file (seen from $PWD; start this in the root of the repository)"
[[ -n ${job_name##*/} && $job_name != *\\* ]] ||
    fail "JOB_NAME '$job_name' must neither end with a slash nor hold backslashes: its log is named after it"
for value in "$partition" "$job_name" "$QOS" "$TIME"; do
    [[ $value != *[[:cntrl:]]* ]] || fail "PARTITION, JOB_NAME, QOS and TIME must be one line each, found '$value'"
done
(( NODES == 1 )) || [[ $ddp == ddp ]] || fail "NODES=$NODES needs the word ddp as fourth argument, found '$ddp'"
command -v sbatch > /dev/null || fail "sbatch not found: Slurm is not installed here
run this on a login node of a cluster, or start without Slurm: $PYTHON $py_file ..."

directive() {  # --option=value for a #SBATCH line
    local value=${2//\\/\\\\}
    printf '#SBATCH --%s="%s"\n' "$1" "${value//\"/\\\"}"
}

cpus=$(( GPUS * CPUS_PER_GPU ))
command=("$PYTHON" "$py_file" "$@")
if [[ $ddp == ddp ]]; then
    command=("$PYTHON" -m core.training.launch --processes "$GPUS" --nodes "$NODES" "$py_file" "$@")
fi
if (( NODES > 1 )); then  # the nodes end some moments apart, all of them with their own exit code
    command=(srun --ntasks="$NODES" --ntasks-per-node=1 --cpus-per-task="$cpus" --kill-on-bad-exit=0 --wait=60 "${command[@]}")
fi

log=checkpoint/${job_name##*/}/$(date +%Y-%m-%d_%H:%M:%S).log
mkdir -p -- "${log%/*}"
job=run-${job_name//\//_}.slrm
trap 'rm -f -- "$job"' EXIT
{
    echo '#!/usr/bin/env bash'
    directive job-name "$job_name"
    directive partition "$partition"
    directive qos "$QOS"
    directive time "$TIME"
    directive nodes "$NODES"
    directive ntasks-per-node 1
    directive cpus-per-task "$cpus"
    directive mem-per-cpu "${MEM_PER_CPU}G"
    directive gres "gpu:$GPUS"
    directive output "${log//%/%%}"
    echo '#SBATCH --open-mode=append --requeue --signal=B:USR1@120'
    printf 'python=%q\ncommand=(' "$PYTHON"
    printf ' %q' "${command[@]}"
    echo ' )'
    cat << 'END'

echo "job $SLURM_JOB_ID on partition ${SLURM_JOB_PARTITION:-unknown}, restarts: ${SLURM_RESTART_COUNT:-0}"
echo "conda prefix: ${CONDA_PREFIX:-none}"
"$python" --version
echo "gcc: $(gcc --version 2> /dev/null | head -n 1)"
echo "nvcc: $(nvcc --version 2> /dev/null | grep release)"

export PYTHONUNBUFFERED=1
# Where the processes of several nodes meet: this is the first of them.
if (( SLURM_JOB_NUM_NODES > 1 )); then
    export MASTER_ADDR=${MASTER_ADDR:-$(hostname)} MASTER_PORT=${MASTER_PORT:-$(( 20000 + SLURM_JOB_ID % 10000 ))}
fi

# Slurm sends USR1 to this shell alone, some time before the end; TERM, when it wants the node back, to all processes.
asked='' running=''
pass_on() { asked=$1 again=yes; kill -s "$1" $running 2> /dev/null; }
trap 'pass_on USR1' USR1
trap 'pass_on TERM' TERM
"${command[@]}" &
running=$!
again=yes
while [[ $again ]]; do  # a signal ends the waiting, not the training
    again=''
    wait $running
    code=$?
done
echo "ended with exit code $code${asked:+ after the signal $asked}"
# 75: asked to stop, and saved. What was pre-empted by TERM Slurm requeues itself, what was cancelled it does not.
if [[ $asked == USR1 && $code == 75 ]]; then
    scontrol requeue "$SLURM_JOB_ID" || echo "not requeued: submit the same command again, and it continues"
fi
exit $code
END
} > "$job"
sbatch "$job"
echo "log: $log"

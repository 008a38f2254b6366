#!/usr/bin/env bash
# Train EfficientMORL or Slot Attention. Every variable can be set from outside:
#   ENV=tetrominoes DATA_PATH=data/tetrominoes OUT_DIR=runs/emorl ./emorl/scripts/train.sh [key=value ...]
# What follows the command overrides the configuration. The same command started again continues the run.
set -euo pipefail

gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)
NUM_GPUS=${NUM_GPUS:-$(( gpus > 0 ? gpus : 1 ))}   # processes; on the CPU they talk through gloo
SEED=${SEED:-1201}
DDP_PORT=${DDP_PORT:-0}                            # where several processes meet; 0: any free port
ENV=${ENV:-clevr6-96x96}                           # clevr6-96x96, multi_dsprites, tetrominoes, clevr6-128x128, clevrtex
MODEL=${MODEL:-EMORL}                              # EMORL or SlotAttention
DATA_PATH=${DATA_PATH:-data/$ENV}                  # folder of the .h5 files; for clevrtex the one with clevrtex_full/
[[ $MODEL == SlotAttention ]] && global_batch=64 || global_batch=32
BATCH_SIZE=${BATCH_SIZE:-$(( global_batch / NUM_GPUS ))}   # per process
OUT_DIR=${OUT_DIR:-runs/emorl}
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$repository/.venv/bin/python
PYTHON=${PYTHON:-$([[ -x $venv ]] && echo "$venv" || echo python3)}

configuration=$repository/emorl/configs/train/$ENV/$MODEL.json
if [[ ! -f $configuration ]]; then
    echo "no configuration $configuration; there are:" >&2
    (cd "$repository/emorl/configs/train" && ls -1 -- */*.json) >&2
    exit 1
fi
mkdir -p "$OUT_DIR"/{weights,runs,tb}
export SACRED_OBSERVATORY=${SACRED_OBSERVATORY-$OUT_DIR/runs}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( ($(nproc) + NUM_GPUS - 1) / NUM_GPUS ))}

[[ $DDP_PORT != 0 ]] && export MASTER_PORT=$DDP_PORT

run=emorl-$ENV-seed-$SEED
[[ $MODEL != EMORL ]] && run=emorl-$ENV-$MODEL-seed-$SEED

data=("dataset.data_path=$DATA_PATH")
[[ $ENV == clevrtex ]] && data=("texdataset.path=$DATA_PATH")

exec "$PYTHON" "$repository/emorl/train.py" --processes "$NUM_GPUS" with "$configuration" \
    "${data[@]}" \
    seed="$SEED" \
    training.batch_size="$BATCH_SIZE" \
    training.run_suffix="$run" \
    training.DDP_port="$DDP_PORT" \
    training.out_dir="$OUT_DIR" \
    "$@"

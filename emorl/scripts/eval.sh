#!/usr/bin/env bash
# Evaluate a trained EfficientMORL or Slot Attention. Every variable can be set from outside:
#   ENV=tetrominoes DATA_PATH=data/tetrominoes OUT_DIR=runs/emorl \
#   CHECKPOINT=emorl-tetrominoes-seed-1201-state-200000.pth ./emorl/scripts/eval.sh [key=value ...]
# What follows the command overrides the configuration.
set -euo pipefail

NUM_GPUS=${NUM_GPUS:-1}                            # evaluation runs as one process
SEED=${SEED:-2}
DDP_PORT=${DDP_PORT:-29500}
ENV=${ENV:-clevr6-96x96}
JSON_FILE=${JSON_file:-${JSON_FILE:-EMORL}}        # EMORL, SlotAttention, EMORL_dci, ...; JSON_file as in the original
EVAL_TYPE=${EVAL_TYPE:-ARI_MSE_KL}                 # a folder of emorl/configs/test/$ENV
DATA_PATH=${DATA_PATH:-data/$ENV}
OUT_DIR=${OUT_DIR:-runs/emorl}
CHECKPOINT=${CHECKPOINT:-}                         # file name in $OUT_DIR/weights
DISENTANGLE_SLOT=${DISENTANGLE_SLOT:-0}
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$repository/.venv/bin/python
PYTHON=${PYTHON:-$([[ -x $venv ]] && echo "$venv" || echo python3)}

configuration=$repository/emorl/configs/test/$ENV/$EVAL_TYPE/$JSON_FILE.json
if [[ ! -f $configuration ]]; then
    echo "no configuration $configuration; there are:" >&2
    (cd "$repository/emorl/configs/test" && ls -1 -- */*/*.json) >&2
    exit 1
fi
if [[ $NUM_GPUS != 1 ]]; then
    echo "NUM_GPUS=$NUM_GPUS: evaluation runs as one process, set NUM_GPUS=1" >&2
    exit 1
fi

data=("dataset.data_path=$DATA_PATH")
[[ $ENV == clevrtex ]] && data=("texdataset.path=$DATA_PATH")

exec "$PYTHON" "$repository/emorl/eval.py" with "$configuration" \
    "${data[@]}" \
    seed="$SEED" \
    test.DDP_port="$DDP_PORT" \
    test.checkpoint="$CHECKPOINT" \
    test.disentangle_slot="$DISENTANGLE_SLOT" \
    test.out_dir="$OUT_DIR" \
    "$@"

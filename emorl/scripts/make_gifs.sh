#!/usr/bin/env bash
# Gifs of what every slot's most active latent dimensions do to a picture: eval.sh with other defaults.
#   ENV=tetrominoes DATA_PATH=data/tetrominoes OUT_DIR=runs/emorl \
#   CHECKPOINT=emorl-tetrominoes-seed-1201-state-200000.pth ./emorl/scripts/make_gifs.sh [key=value ...]
set -euo pipefail

export SEED=${SEED:-1000}
export EVAL_TYPE=${EVAL_TYPE:-make_gifs}
exec "$(dirname "${BASH_SOURCE[0]}")/eval.sh" "$@"

#!/usr/bin/env bash
# Three models times two data sets, then one table: PYTHON=.venv/bin/python bash examples/leaderboard/sweep.sh [STEPS]
set -euo pipefail
python=${PYTHON:-python} out=${OUT:-runs/sweep}
for data in multi_dsprites tetrominoes; do
    "$python" tools/make_data.py "$data" --root "$out/data/$data" --train 2000 --test 100
    for model in "slota --slots 6 --decoder_grid 2" "genesisv2 --slots 6" "gnm --std 0.1"; do
        # shellcheck disable=SC2086 # a model and its flags are several words
        "$python" clevrtex/experiments/${model/ /.py run } --data "$data-(32,32)" --data_root "$out/data" --dir "$out" \
            --tag sweep --max_steps "${1:-1000}" --batch_size 8 --learning_rate 5e-4 --workers no --resident --quiet
    done
done
"$python" tools/evaluate.py "$out"/*/*/sweep --data multi_dsprites tetrominoes --data-root "$out/data" --out "$out/evaluation"

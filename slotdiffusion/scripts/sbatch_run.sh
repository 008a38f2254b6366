#!/usr/bin/env bash
# As slotformer/scripts/sbatch_run.sh, which says what it takes, for the scripts of SlotDiffusion.
exec "$(dirname "${BASH_SOURCE[0]}")/../../slotformer/scripts/sbatch_run.sh" "$@"

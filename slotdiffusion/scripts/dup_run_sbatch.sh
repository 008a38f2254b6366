#!/usr/bin/env bash
# As slotformer/scripts/dup_run_sbatch.sh, which says what it takes, for the scripts of SlotDiffusion.
exec "$(dirname "${BASH_SOURCE[0]}")/../../slotformer/scripts/dup_run_sbatch.sh" "$@"

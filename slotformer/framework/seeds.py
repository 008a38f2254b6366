"""The same training with several seeds, because slots come out well with some and badly with others."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from core.files import replacing
from core.training.launch import run_process
from core.training.signals import STOPPED_EXIT_CODE
from slotformer.framework.checkpoints import EpochFiles
from slotformer.framework.tasks import is_lower_better
from slotformer.framework.training import CHECKPOINT, MODELS

BEST = "best by "


def train_seeds(count: int, name: str, command: Sequence[str]) -> int:
    """Run `command`, a script and its flags, once for each seed, and compare the runs; the exit code.

    Run i is called `<name>-seed<i>`. A run that fails is left out of the table; a stop signal ends all, and the same
    command continues.
    """
    plain = _without_seeds(command)
    codes = {}
    for seed in range(count):
        print(f"seed {seed} of 0 to {count - 1}", flush=True)
        codes[seed] = run_process([*plain, "--seed", str(seed), "--name", f"{name}-seed{seed}"])
        if codes[seed] == STOPPED_EXIT_CODE:
            return STOPPED_EXIT_CODE
    finished = [seed for seed, code in codes.items() if code == 0]
    rows = {seed: _final_scores(CHECKPOINT / f"{name}-seed{seed}") for seed in finished}
    print("\n".join(compare(name, rows)))
    return next((code for code in codes.values() if code), 0)


def _without_seeds(command: Sequence[str]) -> list[str]:
    """The command without --seeds and --name and what they say."""
    kept, skips = [], False
    for word in command:
        flag, equals, _ = word.partition("=")
        if skips:
            skips = False
        elif flag in ("--seeds", "--name"):
            skips = not equals
        else:
            kept.append(word)
    return kept


def _final_scores(folder: Path) -> dict[str, float]:
    """The last validation of a run, and the best value of the score that chooses its best epoch."""
    newest = EpochFiles(folder / MODELS, 1).files.newest()
    state = newest[1]["validation"]
    return {**state["scores"], f"{BEST}{state['best_by']}": state["best"], "epoch of the best": state["best_epoch"]}


def compare(name: str, rows: dict[int, dict[str, float]]) -> list[str]:
    """A table of the runs, with mean and spread; it is written to `checkpoint/<name>-seeds.json`, too."""
    if not rows:
        return ["no run has finished"]
    columns = sorted({column for row in rows.values() for column in row})
    chosen_by = next(column for column in columns if column.startswith(BEST))
    choose = min if is_lower_better(chosen_by) else max
    best = choose(rows, key=lambda seed: rows[seed][chosen_by])
    summary = {
        column: {"mean": mean(values), "std": stdev(values) if len(values) > 1 else 0.0}
        for column in columns
        if (values := [row[column] for row in rows.values() if column in row])
    }
    path = CHECKPOINT / f"{name}-seeds.json"
    with replacing(path) as partial:
        partial.write_text(json.dumps({"runs": rows, "summary": summary, "best": best}, indent=2) + "\n")
    width = max(map(len, columns))
    lines = [" ".join([f"{'':{width}}", *(f"{f'seed {seed}':>10}" for seed in rows), f"{'mean':>10}", f"{'std':>10}"])]
    for column in columns:
        cells = [f"{row[column]:10.4g}" if column in row else f"{'-':>10}" for row in rows.values()]
        cells += [f"{summary[column][what]:10.4g}" for what in ("mean", "std")]
        lines.append(" ".join([f"{column:{width}}", *cells]))
    lines.append(f"{chosen_by}: seed {best}, {CHECKPOINT / f'{name}-seed{best}' / MODELS / 'best.pth'}")
    lines.append(f"written to {path}")
    return lines

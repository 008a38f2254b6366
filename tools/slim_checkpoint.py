"""Copy a checkpoint without the state of its training (optimiser, random numbers), to publish or to keep.

    python tools/slim_checkpoint.py runs/emorl/weights/my-run-state-200000.pth my-model.pth

The copy holds the weights and the run record: evaluation and `core.runs.load_model` open it, a training cannot be
continued from it. It is about a third as large.
"""

import sys
from pathlib import Path

from core.commandline import StrictParser
from core.training.checkpoint import CheckpointError, load, save

KEPT = ("step", "model", "run", "seconds")


def main(words: list[str]) -> int:
    parser = StrictParser("tools/slim_checkpoint.py", __doc__)
    parser.add_argument("source", type=Path, help="a checkpoint of any paper of this repository")
    parser.add_argument("target", type=Path, help="the file to write; it must not exist")
    arguments = parser.parse(words)
    if arguments.target.exists():
        parser.error(f"{arguments.target} exists: remove it, or choose another name")
    try:
        state = load(arguments.source)
        if missing := {"model", "run"} - state.keys():
            raise CheckpointError(f"{arguments.source}: holds no {' and no '.join(sorted(missing))}, nothing to keep")
        arguments.target.parent.mkdir(parents=True, exist_ok=True)
        save(arguments.target, {key: state[key] for key in KEPT if key in state})
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    before, after = (path.stat().st_size / 1e6 for path in (arguments.source, arguments.target))
    print(f"{arguments.target}: {after:.1f} MB of {before:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

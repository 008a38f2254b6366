"""From nothing to objects in a few minutes: make pictures, train, evaluate, draw.

    python tools/demo.py

Everything lands in runs/demo: the data, the run, result.json and result.png. A run that was interrupted continues.
"""

import argparse
import json
import shlex
import shutil
import sys
import time
from pathlib import Path

from core.commandline import StrictParser, natural, positive

ROOT = Path(__file__).parents[1]
CONFIGS = Path("emorl/configs/demo")
NEXT = """
What to try next
  look at the curves        .venv/bin/tensorboard --logdir {out}/tb
  train longer              .venv/bin/python tools/demo.py --steps 20000 --out runs/demo-long
  another seed              .venv/bin/python tools/demo.py --seed 2 --out runs/demo-seed-2
  the published models      ENV=tetrominoes DATA_PATH={data} OUT_DIR=runs/emorl ./emorl/scripts/train.sh
  what the numbers mean     emorl/README.md
  your own pictures         README.md, "Your own data"
"""


def run(*words: object) -> None:
    """Show a command of the repository and run it; a failure ends the demonstration with its exit code."""
    from core.training.launch import run_process

    command = [str(word) for word in words]
    print(f"  $ python {shlex.join(command)}", flush=True)
    if code := run_process(["-W", "ignore", *command], cwd=ROOT):
        sys.exit(code)


def relative(path: Path) -> Path:
    """Seen from the repository's root, where that is shorter."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def parse(words: list[str]) -> argparse.Namespace:
    parser = StrictParser("tools/demo.py", __doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of everything (runs/demo)")
    parser.add_argument("--steps", type=positive, default=6000, help="training steps (6000)")
    parser.add_argument("--train", type=positive, default=20000, help="training pictures (20000)")
    parser.add_argument("--test", type=positive, default=320, help="held-out pictures (320)")
    parser.add_argument("--seed", type=natural, default=1)
    parser.add_argument(
        "--processes", type=positive, default=2, help="training processes, which share a batch of 32 (2)"
    )
    return parser.parse(words)


def main(words: list[str]) -> int:
    arguments = parse(words)
    out = relative((ROOT / arguments.out).resolve())
    data = out / "data"
    began = time.perf_counter()

    print(f"\n1/4  Tetrominoes-format pictures of 35x35 pixels -> {data}", flush=True)
    sizes = ["--train", arguments.train, "--test", arguments.test]
    run("tools/make_data.py", "tetrominoes", "--root", data, *sizes, "--seed", arguments.seed)

    print(f"\n2/4  a small Slot Attention learns to split them into objects, from a random start -> {out}", flush=True)
    batch = max(1, 32 // arguments.processes)
    processes = ["--processes", arguments.processes] if arguments.processes > 1 else []
    common = [f"dataset.data_path={data}", f"seed={arguments.seed}"]
    overrides = [f"training.out_dir={out}", f"training.iters={arguments.steps - 1}", f"training.batch_size={batch}"]
    run("emorl/train.py", *processes, "with", CONFIGS / "train.json", *common, *overrides)

    checkpoint = f"demo-state-{arguments.steps - 1}.pth"
    print(f"\n3/4  evaluation on {arguments.test} held-out pictures -> {out}/results", flush=True)
    evaluation = [f"test.out_dir={out}", f"test.checkpoint={checkpoint}"]
    run("emorl/eval.py", "with", CONFIGS / "eval.json", *common, *evaluation)

    results = ROOT / out / "results" / "demo" / f"{checkpoint}-seed={arguments.seed}"
    scores = json.loads((results / "ARI_MSE_KL.json").read_text())
    result = {
        "fg_ari": scores["fg_ari"]["mean"],
        "mse": scores["mse"]["mean"],
        "train_seconds": round(train_seconds(ROOT / out / "weights" / checkpoint), 1),
        "steps": arguments.steps,
        "seed": arguments.seed,
        "model": "LocalSlotAttention",
        "data": {"format": "tetrominoes", "train": arguments.train, "test": arguments.test},
    }
    (ROOT / out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    shutil.copyfile(results / "panel.png", ROOT / out / "result.png")

    print(f"\n4/4  {out}/result.png shows held-out pictures, {out}/result.json the figures", flush=True)
    print(f"  FG-ARI {result['fg_ari']:.3f} (1 is perfect), MSE {result['mse']:.4f}, ", end="")
    print(f"{result['train_seconds']:.0f} s of training, {time.perf_counter() - began:.0f} s in all")
    print(NEXT.format(out=out, data=data))
    return 0


def train_seconds(checkpoint: Path) -> float:
    """Seconds in the training loop, over all starts of the run."""
    from core.training.checkpoint import load

    return load(checkpoint)["seconds"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Make three data sets, train models of all five papers on them for minutes, score all on all, and draw a report.

    python examples/leaderboard/run.py --readme README.md

trainings.toml says what is made and trained, with which commands. Everything lands in runs/leaderboard: data, runs,
evaluation, report, and the table, leaderboard.md. The same command skips what is finished and goes on with what was
interrupted. Exit codes: 0 done, 130 interrupted, else that of the command that failed.
"""

import json
import os
import resource
import shlex
import shutil
import sys
import tomllib
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.commandline import StrictParser, positive
from core.files import replacing
from core.outcome import exit_code_of

ROOT = Path(__file__).parents[2]
PLAN = Path(__file__).with_name("trainings.toml")
BEGIN, END = "<!-- leaderboard -->", "<!-- /leaderboard -->"
RESULTS = Path("evaluation/results.jsonl")
REMARK = """\
Trained here by `make leaderboard`, for minutes of one CPU core each at reduced sizes, to show that the machinery works,
not what the models are worth. FG-ARI and PSNR (dB) of up to {limit} test samples of generated sets; bold where the
model was trained on that set. OSRT, which needs cameras, is scored on three views of a scene that it draws from one.
Blocks of equal size, which do not look at the picture, show how much of an FG-ARI is free."""


class Steps:
    """Commands of the repository, run in the folder `out`; `out/steps.json` remembers them.

    Each has the `command` line and the `seconds` of processor time that it took, over all starts that ended by
    themselves or were interrupted; `finished` says whether it succeeded.
    """

    def __init__(self, out: Path):
        self.out = out
        self.repository = os.path.relpath(ROOT, out) if out.is_relative_to(ROOT) else str(ROOT)
        self.environment = {"OMP_NUM_THREADS": "1", "OBJECTCENTRIC_CACHE": str(out / "cache"), **os.environ}
        self.file = out / "steps.json"
        self.known = json.loads(self.file.read_text()) if self.file.is_file() else {}

    def run(self, name: str, words: Sequence[str], depends_on: Sequence[str] = ()) -> None:
        """Run a command unless it is finished and so were those that it depends on. Exits the process if it fails."""
        from core.training.launch import run_process

        command = [f"{self.repository}/{words[0]}", *words[1:]]
        line = shlex.join(["python", *command])
        wanted = {"command": line, "behind": {other: self.known[other]["seconds"] for other in depends_on}}
        step = self.known.setdefault(name, {"seconds": 0.0, "finished": False})
        if step["finished"] and all(step[key] == value for key, value in wanted.items()):
            print(f"{name}: finished before", flush=True)
            return
        print(f"\n{name}\n  $ {line}", flush=True)
        step |= wanted | {"finished": False}
        before = _seconds_of_children()
        try:
            code = run_process(["-W", "ignore", *command], cwd=self.out, env=self.environment)
            step["finished"] = code == 0
        finally:
            step["seconds"] += round(_seconds_of_children() - before, 1)
            with replacing(self.file) as partial:
                partial.write_text(json.dumps(self.known, indent=2) + "\n")
        if code:
            print(f"{name} failed; repeat the command to go on from here", file=sys.stderr)
            sys.exit(code)


def _seconds_of_children() -> float:
    """Processor time of all processes that this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def train(steps: Steps, training: Mapping[str, Any], quick: bool) -> Path:
    """Train one model of the plan; its run folder, seen from that of the leaderboard."""
    if "config" in training and not (steps.out / training["run"]).exists():
        (steps.out / training["run"]).mkdir(parents=True)
        shutil.copy(ROOT / training["config"], steps.out / training["run"])
    length = training["quick" if quick else "length"]
    steps.run(training["name"], shlex.split(training["command"].format(repo=steps.repository, length=length)))
    (found,) = steps.out.glob(training["run"])
    return found.relative_to(steps.out)


def of_blocks(data: str, root: Path, limit: int) -> float:
    """Mean FG-ARI of the best grid of equal blocks, which knows nothing of a picture."""
    import numpy as np

    from core.data.spec import DataSpec
    from core.metrics.segmentation import foreground_ari_of_blocks

    spec = DataSpec.parse(data)
    source = spec.open("test", root, masks=True) if spec.kind == "views" else spec.open_whole("test", root)
    masks = source.read(np.arange(min(limit, len(source))))["mask"]
    return float(foreground_ari_of_blocks(masks.flatten(0, -3).long()))


def table_of(
    steps: Steps, trainings: Sequence[Mapping[str, Any]], runs: Sequence[Path], sets: Sequence[str], limit: int
) -> str:
    """The leaderboard in Markdown: a row for each run, FG-ARI and PSNR on every data set."""
    results = results_of(steps.out, limit)
    header = ["model", "paper", "trained on", "minutes", *(f"{data}: FG-ARI, PSNR" for data in sets)]
    rows = []
    for training, run in zip(trainings, runs):
        own = [results[str(run), data] for data in sets]
        cells = [_cell(result, result["data"] == training["data"]) for result in own]
        minutes = f"{steps.known[training['name']]['seconds'] / 60:.1f}"
        rows.append([own[0]["model"], f"`{own[0]['paper']}`", f"`{training['data']}`", minutes, *cells])
    blocks = [f"{of_blocks(data, steps.out / 'data', limit):.2f}, -" for data in sets]
    rows.append(["best grid of equal blocks", "-", "-", "-", *blocks])
    lines = [f"| {' | '.join(row)} |\n" for row in (header, ["---"] * len(header), *rows)]
    return f"{REMARK.format(limit=limit)}\n\n{''.join(lines)}"


def results_of(out: Path, limit: int) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The last results of every run on the first `limit` samples, by run and data.

    The file may hold more: of weights that are gone, or of other numbers of samples.
    """
    from core.provenance import file_hash

    found = {}
    for result in map(json.loads, (out / RESULTS).read_text().splitlines()):
        weight = out / result["weight"]["file"]
        is_there = weight.is_file() and file_hash(weight) == result["weight"]["sha256"]
        if is_there and result["num_samples"] == min(limit, result["samples_of_split"]):
            found[result["run"], result["data"]] = result
    return found


def _cell(result: Mapping[str, Any], is_own: bool) -> str:
    if "not_applicable" in result:
        return "not applicable"
    text = f"{result['scores']['fg_ari']['mean']:.2f}, {result['scores']['psnr']['mean']:.1f}"
    return f"**{text}**" if is_own else text


def write_between_markers(path: Path, text: str) -> None:
    """Replace what stands between the markers of a file. ValueError if it has none."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"--readme {path}: has no lines {BEGIN} and {END} to put the table between")
    with replacing(path) as partial:
        partial.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


def make(arguments: Namespace) -> int:
    """Run all steps of the plan that are not finished, and write the table; 0. Exits the process where one fails."""
    plan, out = tomllib.loads(PLAN.read_text()), arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    steps, sets, trainings = Steps(out), list(plan["data"]), plan["training"]
    for data, of_data in plan["data"].items():
        words = shlex.split(of_data["quick" if arguments.quick else "make"])
        steps.run(f"data-{data}", ["tools/make_data.py", *words, "--workers", str(arguments.workers)])
    runs = [train(steps, training, arguments.quick) for training in trainings]
    limit, names = 4 if arguments.quick else 100, [training["name"] for training in trainings]
    words = [*map(str, runs), "--data", *sets, "--data-root", "data", "--out"]
    of_scores, of_page = ["--limit", str(limit)], ["--results", str(RESULTS), "--samples", "4"]
    steps.run("evaluate", ["tools/evaluate.py", *words, str(RESULTS.parent), *of_scores], names)
    steps.run("report", ["tools/report.py", *words, "report", *of_page], ["evaluate"])
    table = table_of(steps, trainings, runs, sets, limit)
    (out / "leaderboard.md").write_text(table)
    if arguments.readme:
        write_between_markers(arguments.readme, table)
    print(f"\n{table}\ntable in {out / 'leaderboard.md'}, page in {out / 'report' / 'index.html'}")
    return 0


def main(words: list[str]) -> int:
    parser = StrictParser("examples/leaderboard/run.py", __doc__)
    what = "folder of everything (default: runs/leaderboard)"
    parser.add_argument("--out", type=Path, default=ROOT / "runs/leaderboard", metavar="DIR", help=what)
    parser.add_argument(
        "--readme", type=Path, metavar="FILE", help=f"write the table there, too, between {BEGIN} lines"
    )
    parser.add_argument(
        "--workers", type=positive, default=2, metavar="N", help="processes that make data (default: 2)"
    )
    parser.add_argument("--quick", action="store_true", help="a few pictures and steps each, to see that all works")
    arguments = parser.parse(words)
    return exit_code_of(lambda: make(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

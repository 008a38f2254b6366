"""Choose actions for PHYRE's test tasks by their imagined outcome, and measure how soon one solves the task (AUCCESS).

    python slotformer/phyre_planning/test_phyre_planning.py \\
        --params slotformer/video_prediction/configs/slotformer_phyre_params-fold0.py \\
        --weight pretrained/slotformer_phyre_params-fold0/model_50.pth \\
        --task_cls_params slotformer/phyre_planning/configs/readout_phyre_params-fold0.py \\
        --task_cls_weight pretrained/readout_phyre_params-fold0/model_50.pth \\
        --savi_params slotformer/base_slots/configs/savi_phyre_params-fold0.py \\
        --savi_weight pretrained/savi_phyre_params-fold0/model_30.pth --split 0 --total_split 10
    python slotformer/phyre_planning/test_phyre_planning.py --collect pretrained/readout_phyre_params-fold0/test

The first scores one part of the candidates, which are the first 10,000 actions of PHYRE's list (the stand-in for PHYRE
has 1,000) in each test task, and writes pred_conf-<split>.npy, pred_logit-<split>.npy and gt_status-<split>.npy to the
folder test/ beside the weight of the classifier. The same command continues an interrupted one. The second puts all
parts in a folder together (all_conf.npy, all_logit.npy, all_gt.npy), prints success rates and AUCCESS, also of random
and of perfect orders, and writes auccess.json there; of several folders, one for each fold, also their mean.
Exit codes: 0 done, 1 error, 2 misuse, 75 stopped by a signal, 130 interrupted.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.commandline import StrictParser, natural, positive
from core.outcome import exit_code_of

if TYPE_CHECKING:
    import numpy as np

    from slotformer.framework.extraction import Trained
    from slotformer.framework.params import BaseParams
    from slotformer.phyre_planning.planner import Candidates

SCRIPT = "slotformer/phyre_planning/test_phyre_planning.py"
MODELS = {"": "SlotFormer", "task_cls_": "the classifier", "savi_": "SAVi"}
"""The three models, by the beginning of their flags."""
OF_TRAINING = ("data_ratio", "pos_ratio", "num_actions", "num_tasks")
"""Keys that choose the trials which a model was trained on."""


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = StrictParser(SCRIPT, __doc__)
    for prefix, name in MODELS.items():
        parser.add_argument(f"--{prefix}params", metavar="FILE", help=f"configuration of {name}, with or without .py")
        what = f"checkpoint of {name}, ours or the original's"
        parser.add_argument(f"--{prefix}weight", type=Path, metavar="FILE", help=what)
        what = f"other values for keys of the configuration of {name}; give those of its training, too"
        parser.add_argument(f"--{prefix}set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=what)
    what = "which part of the candidates to do, from 0; -1 does all (default: -1)"
    parser.add_argument("--split", type=int, default=-1, metavar="N", help=what)
    parser.add_argument("--total_split", type=positive, default=10, metavar="N", help="parts (default: 10)")
    what = "put the parts in these folders together and score them, instead of computing one; a folder for each fold"
    parser.add_argument("--collect", nargs="+", type=Path, default=[], metavar="DIR", help=what)
    what = "folder to write to (default: test, with --as_original test_as_original, beside the classifier's weight)"
    parser.add_argument("--save_path", type=Path, metavar="DIR", help=what)
    parser.add_argument("--bs", type=positive, default=128, metavar="N", help="actions at a time (default: 128)")
    what = "processes that make first frames, per process that computes (default: 8)"
    parser.add_argument("--cpus", type=natural, default=8, metavar="N", help=what)
    what = "show the classifier what the original's planner shows it, by mistake: see the README"
    parser.add_argument("--as_original", action="store_true", help=what)
    parser.add_argument("--bf16", action="store_true", help="mixed precision with bfloat16")
    what = "one process per GPU; without GPUs as many as SlotFormer's configuration says in `gpus`"
    parser.add_argument("--ddp", action="store_true", help=what)
    parser.add_argument("--local_rank", type=int, default=0, help="as older launchers pass it; has no effect")
    arguments = parser.parse(words)
    if not -1 <= arguments.split < arguments.total_split:
        parser.error(f"--split {arguments.split}: expected -1, or 0 to {arguments.total_split - 1} (--total_split)")
    needed = [f"{prefix}{part}" for prefix in MODELS for part in ("params", "weight")]
    if not arguments.collect and (missing := [flag for flag in needed if not getattr(arguments, flag)]):
        parser.error(f"--{', --'.join(missing)}: needed to plan, or --collect DIR to score what was planned")
    return arguments


# One part


def plan(arguments: Namespace, words: Sequence[str]) -> int:
    """Score a part of the candidates; the exit code."""
    from core.training.launch import end_processes
    from core.training.signals import STOPPED_EXIT_CODE
    from slotformer.framework.extraction import launched
    from slotformer.phyre_planning.planner import check_together, open_candidates, part_of
    from slotformer.phyre_planning.results import PartWriter
    from slotformer.phyre_planning.scores import world_of

    configurations = read_configurations(arguments)
    check_together(**configurations)
    params = configurations["params"]
    if (code := launched(arguments, params, words)) is not None:
        return code
    candidates = open_candidates(params)
    trained = open_planner(arguments, configurations, candidates)
    default = "test_as_original" if arguments.as_original else "test"
    folder = arguments.save_path or arguments.task_cls_weight.parent / default
    part = part_of(candidates.statuses.size, arguments.split, arguments.total_split)
    writer = PartWriter(folder, arguments.split, part, candidates.statuses)
    if trained.is_main:
        trained.provenance.claim(folder)
    trained.accelerator.wait_for_everyone()
    is_done = writer.is_done()
    if not is_done and not score(trained, writer, candidates, configurations["savi_params"], arguments):
        return STOPPED_EXIT_CODE
    end_processes(trained.accelerator)
    if trained.is_main:
        if is_done:
            writer.remove_parts()
        else:
            writer.finish()
        print(world_of(trained.provenance.to_dict()))
        print(f"part {arguments.split}, {len(part):,} of {candidates.statuses.size:,} actions: {folder}", end="")
        print(" has it already" if is_done else "")
        print(f"when all parts are there: python {SCRIPT} --collect {folder}")
    return 0


def read_configurations(arguments: Namespace) -> dict[str, "BaseParams"]:
    """Of the three models, by their flags. Raises ParamsError."""
    from slotformer import base_slots, phyre_planning, video_prediction
    from slotformer.framework.extraction import read_params

    kinds = zip(
        MODELS,
        (video_prediction, phyre_planning, base_slots),
        ("SingleStepSlotFormer", "PHYREReadout", "StoSAVi"),
    )
    return {
        f"{prefix}params": read_params(
            Namespace(params=getattr(arguments, f"{prefix}params"), set=getattr(arguments, f"{prefix}set")), task, model
        )
        for prefix, task, model in kinds
    }


def open_planner(
    arguments: Namespace, configurations: Mapping[str, "BaseParams"], candidates: "Candidates"
) -> "Trained":
    """The three models as one, on its device. Raises CheckpointError for weights of other models."""
    import torch

    from core.data.phyre_trials import open_world
    from core.provenance import Provenance, file_hash
    from core.training.checkpoint import load, load_weights
    from core.training.launch import make_accelerator
    from slotformer import base_slots, original, phyre_planning, video_prediction
    from slotformer.framework.extraction import Trained, notes, settings_of
    from slotformer.phyre_planning.planner import Planner

    accelerator = make_accelerator("bf16" if arguments.bf16 else "fp32")
    models, weights = {}, {prefix: getattr(arguments, f"{prefix}weight") for prefix in MODELS}
    for prefix, task in zip(MODELS, (video_prediction, phyre_planning, base_slots)):
        params, weight = configurations[f"{prefix}params"], weights[prefix]
        models[prefix] = task.build_model(params)
        load_weights(models[prefix], original.read_weights(weight, models[prefix]), weight)
        if accelerator.is_main_process:
            for note in notes(load(weight), params):
                print(f"note: {weight}: {note}", file=sys.stderr)
    planner = Planner(models["savi_"], models[""], models["task_cls_"], arguments.as_original)
    decisive = {
        "weights_sha256": {f"{prefix}weight": file_hash(weight) for prefix, weight in weights.items()},
        "configs": {
            flag: {key: value for key, value in settings_of(params.to_dict()).items() if key not in OF_TRAINING}
            for flag, params in configurations.items()
        },
        "precision": "bf16" if arguments.bf16 else "fp32",
        "as_original": arguments.as_original,
        "source": open_world().source,
        "world": open_world().version,
        "tasks": candidates.tasks,
        "num_actions": len(candidates.actions),
    }
    remarks = {
        "is_phyre": open_world().is_phyre,
        "weights": {f"{prefix}weight": str(weight) for prefix, weight in weights.items()},
        "torch": str(torch.__version__),
    }
    planner.to(accelerator.device, memory_format=torch.channels_last)
    return Trained(planner.eval(), accelerator, Provenance(decisive, remarks))


def score(
    trained: "Trained", writer: Any, candidates: "Candidates", savi_params: "BaseParams", arguments: Namespace
) -> bool:
    """Add what is missing of the part to `writer`, a PartWriter; False if a signal stopped it."""
    import numpy as np

    from slotformer.framework.extraction import video_noise

    if trained.is_main:
        writer.begin()
    trained.accelerator.wait_for_everyone()
    missing = np.setdiff1d(candidates.valid(writer.part), writer.numbers())
    trained.accelerator.wait_for_everyone()  # all processes share out the same list
    device = trained.accelerator.device

    def use(batch: Mapping, numbers: "np.ndarray") -> None:
        noise = video_noise(savi_params.seed, [str(number) for number in numbers], 1, device)
        writer.add(numbers, trained.model.answer(batch["image"], noise).float().cpu().numpy())

    frames = candidates.first_frames(savi_params)
    if not trained.go_through(frames, missing.tolist(), arguments.bs, use, "actions imagined", arguments.cpus):
        return False
    trained.report_speed()
    return True


# All parts


def report(folders: Sequence[Path]) -> int:
    """Score the parts in every folder, print and keep what comes out, and the mean of several; the exit code."""
    from slotformer.phyre_planning.scores import lines_on, lines_on_folds, mean_over_folds, report_on

    reports = [report_on(folder) for folder in folders]
    for folder, found in zip(folders, reports):
        _write(folder / "auccess.json", found)
        print("\n".join(lines_on(found)))
    if len(reports) > 1:
        mean = mean_over_folds(reports)
        _write(folders[0] / f"auccess_of_{len(folders)}_folds.json", mean)
        print("\n".join(lines_on_folds(mean)))
    return 0


def _write(file: Path, found: Mapping[str, Any]) -> None:
    from core.files import replacing

    with replacing(file) as partial:
        partial.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")


def main(words: Sequence[str]) -> int:
    """Plan, or score plans, as the command line says; the exit code."""
    arguments = parse_arguments(words)
    if arguments.collect:
        return exit_code_of(lambda: report(arguments.collect))
    return exit_code_of(lambda: plan(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

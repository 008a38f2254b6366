"""From pictures of PHYRE to plans, by the documents' commands at a small size."""

from pathlib import Path

import numpy as np
import pytest

from core.metrics.phyre import auccess, solved_within
from tests import dynamics_runs, planning_runs, slotformer_runs
from tests.conftest import Runner
from tests.planning_runs import SAVI, SLOTFORMER, read_report
from tests.slotformer_runs import rows

CONFIGS = {
    "base_slots": slotformer_runs.CONFIGS / f"{SAVI}.py",
    "video_prediction": dynamics_runs.CONFIGS / f"{SLOTFORMER}.py",
    "phyre_planning": planning_runs.CONFIG,
}
WORLD = ("num_tasks=100", "num_actions=200", "resolution=(64,64)", "slot_size=32", "gpus=1", "num_workers=0")
SLOTS = ("num_slots=4", "slot_dict.num_slots=4", "video_len=4")
DECODER = ("dec_dict.dec_channels=(32,16,16,16)", "dec_dict.dec_resolution=(8,8)")
ENCODER = ("enc_dict.enc_channels=(3,16,16,16,16)", "enc_dict.enc_ks=3", "enc_dict.enc_out_channels=32")
ROLLOUT = ("rollout_dict.cond_len=3", "rollout_dict.num_layers=2", "rollout_dict.num_heads=4")
READOUT = tuple(f"readout_dict.{entry}" for entry in ("num_slots=4", "d_model=64", "ffn_dim=128", "num_heads=4"))
SETTINGS = {
    "base_slots": (*WORLD, *SLOTS, *DECODER, *ENCODER, "pred_dict.pred_type=mlp", "pred_dict.pred_rnn=False"),
    "video_prediction": (*WORLD, *SLOTS, *DECODER, *ROLLOUT, "n_sample_frames=4", "load_img=False"),
    "phyre_planning": (*WORLD, *READOUT, "video_len=4"),
}
OF_SAVI = ("train_batch_size=8", "val_batch_size=100", "n_samples=2", "save_interval=1.0", "warmup_steps_pct=0.05")
OF_OTHERS = ("train_batch_size=64", "val_batch_size=256", "n_samples=2", "max_epochs=20", "eval_interval=10", "lr=1e-3")
MARGIN, ERRORS = 15.0, 5.0
"""Points of AUCCESS, and standard errors over tasks, that the planner must be above random orders."""


@pytest.mark.slow
def test_a_planner_beats_random_orders(run: Runner, tmp_path: Path) -> None:
    """SAVi on single frames, then on pairs of frames; roll-outs of three frames. Twelve minutes of one core."""

    def do(script: str, *words: object) -> str:
        done = run(f"slotformer/{script}.py", *words, cwd=tmp_path, timeout=5400, OMP_NUM_THREADS=1)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def train(task: str, name: str, *flags: object, settings: tuple) -> Path:
        words = ("--task", task, "--params", CONFIGS[task], "--name", name, "--resident", *flags)
        do("scripts/train", *words, "--set", *SETTINGS[task], *settings)
        return tmp_path / "checkpoint" / name / "models" / "best.pth"

    def apply(task: str, script: str, weight: Path, *flags: object, settings: tuple = ()) -> str:
        words = ("--params", CONFIGS[task], "--weight", weight, "--save_path", "data/PHYRE", "--vid_len", 4)
        return do(script, *words, *flags, "--set", *SETTINGS[task], *settings)

    single = ("n_sample_frames=1", "max_epochs=4", "eval_interval=4", "lr=1e-3")
    frames = train("base_slots", "savi_frames", "--bf16", settings=(*OF_SAVI, *single))
    pairs = ("n_sample_frames=2", "max_epochs=1", "lr=5e-4")
    savi = train("base_slots", SAVI, "--bf16", "--init", frames, settings=(*OF_SAVI, *pairs))
    apply("base_slots", "base_slots/extract_phyre_slots", savi)
    decoder = (f"dec_dict.dec_ckp_path={savi}",)
    slotformer = train("video_prediction", SLOTFORMER, settings=(*OF_OTHERS, *decoder))
    apply("video_prediction", "video_prediction/rollout_phyre_slots", slotformer, settings=decoder)
    classifier = train("phyre_planning", planning_runs.CONFIG.stem, settings=(*OF_OTHERS, "eval_interval=2"))
    labels = np.array(planning_runs.labels_of("val", *WORLD[:2], "data_ratio=0.1", "pos_ratio=0.2"))
    found = [row["val/acc_0.50"] for row in rows(classifier.parents[1]) if "val/acc_0.50" in row]
    assert max(found) > 1 - labels.mean() + 0.02, "better than to say that nothing is ever solved"

    models = {
        "": (slotformer, "video_prediction"),
        "task_cls_": (classifier, "phyre_planning"),
        "savi_": (savi, "base_slots"),
    }
    words: list[object] = []
    for prefix, (weight, task) in models.items():
        words += [f"--{prefix}params", CONFIGS[task], f"--{prefix}weight", weight, f"--{prefix}set", *SETTINGS[task]]
    for part in range(2):
        do("phyre_planning/test_phyre_planning", *words, "--split", part, "--total_split", 2)
    results = classifier.parent / "test"
    print(do("phyre_planning/test_phyre_planning", "--collect", results))
    report = read_report(results)
    statuses = np.load(results / "all_gt.npy")
    assert report["AUCCESS"]["oracle"] == pytest.approx(100 * (statuses == 1).any(axis=1).mean())
    solved = solved_within(np.load(results / "all_logit.npy"), statuses)
    assert report["AUCCESS"]["SlotFormer"] == pytest.approx(100 * auccess(solved))
    gain = report["over_random"]
    assert gain["mean"] == pytest.approx(report["AUCCESS"]["SlotFormer"] - report["AUCCESS"]["random"])
    assert gain["mean"] > max(MARGIN, ERRORS * gain["standard_error"])

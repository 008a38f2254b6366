"""SAVi finds the objects of generated videos like OBJ3D's, and SlotFormer predicts how they move on."""

import json
import os
from pathlib import Path

import pytest

from slotformer.video_prediction.evaluation import COPY
from tests import dynamics_runs, slotformer_runs
from tests.conftest import Runner
from tests.slotformer_runs import losses, rows

VIDEOS = ("--scenes", 1000, "--frames", 16, "--width", 64, "--height", 64, "--samples", 4)
OBJECTS = ("--fewest", 1, "--most", 2, "--seed", 3)
RUN = ("video_len=16", "gpus=1", "num_workers=0", "n_samples=2")
SLOTS = ("num_slots=4", "slot_size=64", "dec_dict.dec_channels=(64,32,16,16)")
# Every frame by itself: on clips, the model of this size learns to swap slots from frame to frame.
SAVI = (
    *("enc_dict.enc_channels=(3,16,16,16,16)", "enc_dict.enc_ks=3", "enc_dict.enc_out_channels=64"),
    *("pred_dict.pred_type=restart", "pred_dict.pred_rnn=False"),
)
OF_SAVI = (
    *("n_sample_frames=1", "train_batch_size=8", "val_batch_size=60", "max_epochs=6", "eval_interval=2", "lr=1e-3"),
    *("warmup_steps_pct=0.05", "save_interval=1.0", "san_check_val_step=0"),
)
SLOTFORMER = ("input_frames=4", "n_sample_frames=14", "rollout_dict.num_layers=2", "rollout_dict.num_heads=4")
OF_DYNAMICS = (
    *("train_batch_size=32", "val_batch_size=50", "max_epochs=60", "eval_interval=15", "lr=1e-3"),
    "loss_dict.use_img_recon_loss=False",
)
OF_PICTURES = ("train_batch_size=8", "val_batch_size=50", "max_epochs=4", "eval_interval=1", "lr=3e-4")
BLOCKS_MARGIN, COPY_MARGIN = 0.10, 0.3
"""FG-ARI above the best grid of blocks; PSNR of predicted frames above that of the last frame that was seen, in dB."""


@pytest.mark.slow
def test_slotformer_predicts_the_objects_that_savi_finds(run: Runner, tmp_path: Path) -> None:
    """Ten frames of 64x64 from four; dynamics of slots first, then with pictures. Half an hour of a core."""

    def do(script: str, *words: object) -> None:
        done = run(script, *words, cwd=tmp_path, timeout=5400, OMP_NUM_THREADS=1)
        assert done.returncode == 0, done.stderr

    def train(params: Path, name: str, *flags: object, settings: tuple) -> Path:
        words = ("--task", params.parents[1].name, "--params", params, "--name", name, "--resident", "--bf16")
        do("slotformer/scripts/train.py", *words, *flags, "--set", *settings)
        return tmp_path / "checkpoint" / name / "models" / "best.pth"

    do("tools/make_data.py", "obj3d", "--root", tmp_path, *VIDEOS, *OBJECTS, "--workers", os.cpu_count())
    common = (f"data_root={tmp_path / 'OBJ3D'}", *RUN, *SLOTS)
    config = slotformer_runs.CONFIGS / "savi_obj3d_params.py"
    savi = train(config, "savi", settings=(*common, *SAVI, *OF_SAVI))
    validated = [row for row in rows(savi.parents[1]) if "val/fg_ari" in row][-1]
    score, blocks = validated["val/fg_ari"], validated["val/fg_ari_of_blocks"]
    curve = losses(savi.parents[1])
    fifth = len(curve) // 5

    slots = tmp_path / "slots.h5"
    words = ("--params", config, "--weight", savi, "--save_path", slots, "--set", *common, *SAVI)
    do("slotformer/base_slots/extract_slots.py", *words)
    config = dynamics_runs.CONFIGS / "slotformer_obj3d_params.py"
    common = (*common, f"slots_root={slots}", f"dec_dict.dec_ckp_path={savi}", *SLOTFORMER)
    dynamics = train(config, "dynamics", settings=(*common, *OF_DYNAMICS))
    weight = train(config, "slotformer", "--init", dynamics, settings=(*common, *OF_PICTURES))
    words = ("--params", config, "--weight", weight, "--n_sample_frames", 14, "--set", *common)
    do("slotformer/video_prediction/test_vp.py", *words)
    report = json.loads(weight.with_name(f"best-vp-{config.stem}.json").read_text())
    psnr = {name: values["psnr"] for name, values in report["scores"].items()}
    print(f"FG-ARI {score:.3f}, blocks {blocks:.3f}; PSNR of 10 predicted frames {psnr}")
    assert sum(curve[-fifth:]) < 0.5 * sum(curve[:fifth])
    assert score > blocks + BLOCKS_MARGIN
    assert report["rollout_len"] == 10
    assert psnr["SlotFormer"] > psnr[COPY] + COPY_MARGIN

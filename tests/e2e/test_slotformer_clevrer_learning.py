"""SAVi finds the objects of generated videos like CLEVRER's, and Aloe answers questions about them from its slots."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.data.clevrer import Clevrer
from core.metrics.segmentation import foreground_ari, foreground_ari_of_blocks, hard_labels
from core.runs import load_model
from tests import slotformer_runs, vqa_runs
from tests.conftest import MadeOnce, Runner
from tests.slotformer_runs import losses, rows

VIDEOS = ("--scenes", 1500, "--frames", 12, "--fps", 4, "--width", 64, "--height", 64, "--samples", 4)
OBJECTS = ("--fewest", 2, "--most", 3, "--zoom", 1.7, "--seed", 7)
RUN = ("video_len=12", "gpus=1", "num_workers=0")
# Every frame by itself, as on OBJ3D.
SAVI = (
    *("num_slots=4", "slot_size=64", "enc_dict.enc_channels=(3,16,16,16,16)", "enc_dict.enc_ks=3"),
    *("enc_dict.enc_out_channels=64", "dec_dict.dec_channels=(64,32,16,16)", "pred_dict.pred_type=restart"),
    "loss_dict.kld_method=none",
)
OF_SAVI = (
    *("n_sample_frames=1", "train_batch_size=8", "val_batch_size=60", "max_epochs=5", "lr=1e-3", "clip_grad=-1"),
    *("warmup_steps_pct=0.05", "n_samples=2", "save_interval=1.0", "san_check_val_step=0"),
)
ALOE = (
    *("max_n_objects=3", "slot_size=64", "n_sample_frames=6"),
    *("transformer_dict.num_layers=4", "transformer_dict.ffn_dim=256"),
)
EPOCHS = 12
OF_ALOE = ("train_batch_size=64", f"max_epochs={EPOCHS}", "eval_interval=2")
BLOCKS_MARGIN, SEVERAL_MARGIN, SLOTS_MARGIN = 0.04, 0.12, 0.02
"""FG-ARI above the best grid of blocks, as validated and of frames with several objects; descriptive answers that are
right beyond those of the model that sees no slots."""


@pytest.fixture(scope="module")
def clevrer(run: Runner, made_once: MadeOnce) -> Path:
    """1,500 generated videos of three seconds, of which 1,200 are for training, and questions about them."""

    def make(folder: Path) -> None:
        words = ("tools/make_data.py", "clevrer", "--root", folder, *VIDEOS, *OBJECTS, "--workers", os.cpu_count())
        done = run(*words, timeout=5400)
        assert done.returncode == 0, done.stderr

    return made_once("clevrer-learning", make) / "CLEVRER"


def of_several_objects(weight: Path, clevrer: Path) -> tuple[float, float]:
    """FG-ARI of the validation's frames with two objects or more, and that of the best grid of blocks.

    A lone object in one slot counts 1, in two 0: frames with one tell nothing about objects kept apart.
    """
    model = load_model(weight)[0].eval()
    source = Clevrer(clevrer, "val", num_frames=1, video_len=12, masks=True)
    truth: list[Tensor] = []
    labels: list[Tensor] = []
    for indices in torch.arange(len(source)).split(60):
        batch = source.read(indices.numpy())
        with torch.inference_mode():
            masks = model.decompose({"video": batch["video"].float() / 255}).masks
        labels.append(hard_labels(masks.flatten(0, 1)))
        truth.append(batch["mask"].flatten(0, 1).long())
    objects, slots = torch.cat(truth), torch.cat(labels)
    several = torch.tensor([len(frame[frame > 0].unique()) > 1 for frame in objects])
    blocks = foreground_ari_of_blocks(objects[several])
    return float(foreground_ari(objects[several], slots[several]).nanmean()), float(blocks)


def fall(curve: list[float]) -> float:
    """The mean of its last fifth, as a share of that of the first."""
    fifth = len(curve) // 5
    return round(sum(curve[-fifth:]) / sum(curve[:fifth]), 3)


@pytest.mark.slow
def test_aloe_answers_from_the_slots_that_savi_finds(run: Runner, clevrer: Path, tmp_path: Path) -> None:
    """Videos of 64x64; 15,501 questions to learn from. Three quarters of an hour of a core with the rendering."""

    def do(script: str, *words: object) -> None:
        done = run(script, *words, cwd=tmp_path, timeout=5400, OMP_NUM_THREADS=1)
        assert done.returncode == 0, done.stderr

    def train(params: Path, name: str, *flags: object, settings: tuple) -> Path:
        words = ("--task", params.parents[1].name, "--params", params, "--name", name, *flags)
        do("slotformer/scripts/train.py", *words, "--set", *settings)
        return tmp_path / "checkpoint" / name

    common = (f"data_root={clevrer}", *RUN)
    config = slotformer_runs.CONFIGS / "stosavi_clevrer_params.py"
    savi = train(config, "savi", "--resident", "--bf16", settings=(*common, *SAVI, *OF_SAVI))
    weight = savi / "models" / "best.pth"
    validated = [row for row in rows(savi) if "val/fg_ari" in row][-1]
    score, blocks = validated["val/fg_ari"], validated["val/fg_ari_of_blocks"]
    of_several, blocks_of_several = of_several_objects(weight, clevrer)
    slots = tmp_path / "clevrer_slots.h5"
    words = ("--params", config, "--weight", weight, "--save_path", slots, "--set", *common, *SAVI)
    do("slotformer/base_slots/extract_slots.py", *words)

    config = vqa_runs.CONFIGS / f"{vqa_runs.OBSERVED}.py"
    common = (*common, *ALOE, f"slots_root={slots}")
    fallen, right = {"savi": fall(losses(savi))}, {}
    for name, blind in (("aloe", ()), ("question_only", ("question_only=True",))):
        aloe = train(config, name, settings=(*common, *OF_ALOE, *blind))
        weight = aloe / "models" / "epoch" / f"model_{EPOCHS}.pth"
        do(vqa_runs.SCRIPT, "--params", config, "--weight", weight, "--split", "val", "--set", *common, *blind)
        fallen[name] = fall(losses(aloe))
        report = json.loads(weight.with_name(f"{weight.stem}-vqa-{config.stem}-val.json").read_text())
        assert report["question_only"] == bool(blind)
        right[name] = {kind: round(found["acc"], 4) for kind, found in report["scores"].items()}
    print(f"FG-ARI {score:.3f}, blocks {blocks:.3f}; ", end="")
    print(f"of several objects {of_several:.3f}, blocks {blocks_of_several:.3f}; ", end="")
    print(f"answers {right}; losses fall to {fallen}")
    assert score > blocks + BLOCKS_MARGIN
    assert of_several > blocks_of_several + SEVERAL_MARGIN
    assert right["aloe"]["descriptive"] > right["question_only"]["descriptive"] + SLOTS_MARGIN
    assert fallen["savi"] < 0.5
    assert fallen["aloe"] < 0.8

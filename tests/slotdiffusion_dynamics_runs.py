"""Small trainings of SlotDiffusion's models of Physion, with slots and frozen weights that the test makes up."""

from pathlib import Path

import numpy as np
import torch

from core.data.physion import SPLITS, labelled_videos, listed_videos
from core.data.slots import write_h5
from core.training.checkpoint import save
from slotdiffusion.vp_vqa import Keys, build_model
from slotformer.framework.params import BaseParams, load_params, parse_overrides
from tests.conftest import ROOT
from tests.slotdiffusion_runs import AUTOENCODER, CODES, UNET
from tests.tiny_diffusion import trained

CONFIGS = ROOT / "slotdiffusion" / "vp_vqa" / "configs"
DYNAMICS, READOUT = "ldmslotformer_physion_params-res128", "readout_physion_params"
FRAMES, NUM_SLOTS, SLOT_SIZE = 12, 3, 16
DECODER = (
    *(f"dec_dict.vae_dict.enc_dec_dict.{entry}" for entry in AUTOENCODER),
    *(f"dec_dict.vae_dict.vq_dict.{entry}" for entry in CODES),
    *(f"dec_dict.unet_dict.{entry}" for entry in UNET),
)
"""As tests.slotdiffusion_runs makes SlotDiffusion small."""
RUN = ("print_iter=1", "num_workers=0", "gpus=1", "n_samples=1", "resolution=(32,32)", f"video_len={FRAMES}")
SMALL = {
    DYNAMICS: (
        *(f"num_slots={NUM_SLOTS}", f"slot_size={SLOT_SIZE}", "dropout=0.0", "lr=1e-3", "train_batch_size=8"),
        *("val_batch_size=6", "n_sample_frames=4", "input_frames=3", "eval_interval=1", "rollout_dict.num_layers=2"),
        *("rollout_dict.num_heads=2", "rollout_dict.d_model=16", "rollout_dict.ffn_dim=32", *DECODER),
    ),
    READOUT: (
        *(f"num_slots={NUM_SLOTS}", f"slot_size={SLOT_SIZE}", "lr=0.2", "train_batch_size=4", "val_batch_size=3"),
        "eval_interval=3",
    ),
}
"""Keys that make each configuration quick."""


def small_params(config: str, *settings: str) -> BaseParams:
    return load_params(CONFIGS / config, Keys, parse_overrides([*RUN, *SMALL[config], *settings]))


def write_slots(data: Path, folder: Path) -> None:
    """physion_<subset>_slots.h5 of all videos: random walks; one slot of one frame tells the label."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for subset, splits in SPLITS.items():
        made = []
        for split in splits:
            known = {} if subset == "training" else dict(zip(*labelled_videos(data, subset, split)[:2]))
            for video in listed_videos(data, subset, split):
                slots = rng.normal(scale=0.1, size=(FRAMES, NUM_SLOTS, SLOT_SIZE)).cumsum(axis=0).astype(np.float32)
                slots[rng.integers(FRAMES), 1, 0] += 4 * known.get(video, 0)
                made.append((split, video.name, slots))
        write_h5(folder / f"physion_{subset}_slots.h5", made, {})


def write_decoder(folder: Path) -> str:
    """A SlotDiffusion that is not trained, but without weights that are zero; the setting that names it."""
    torch.manual_seed(0)
    model = trained(build_model(small_params(DYNAMICS)))
    weights = {name: value for name, value in model.state_dict().items() if name.startswith("dm_decoder.")}
    save(folder / "savi_ldm.pth", {"model": weights})
    return f"dec_dict.dec_ckp_path={folder / 'savi_ldm.pth'}"


def train_words(config: str, name: str, *flags: object, settings: tuple = (), epochs: int = 1) -> list:
    """The documents' command for the fixture `run`."""
    words = ("slotdiffusion/scripts/train.py", "--task", "vp_vqa", "--params", CONFIGS / config, "--name", name)
    return [*words, *flags, "--set", *RUN, *SMALL[config], f"max_epochs={epochs}", *settings]


def script_words(script: str, config: str, weight: Path, *flags: object, settings: tuple = ()) -> list:
    """The documents' command for a script that uses a trained model."""
    words = (f"slotdiffusion/vp_vqa/{script}.py", "--params", CONFIGS / config, "--weight", weight)
    return [*words, *flags, "--set", *RUN, *SMALL[config], *settings]

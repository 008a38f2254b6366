"""Small trainings of SlotFormer's models of dynamics, with slots and frozen weights that the test makes up."""

from pathlib import Path

import numpy as np
import torch

from core.data.slot_writer import save_array
from core.data.slots import write_h5
from core.training.checkpoint import save
from slotformer import base_slots
from slotformer.base_slots.data import open_data
from slotformer.framework.params import BaseParams, load_params, parse_overrides
from slotformer.video_prediction import Keys
from slotformer.video_prediction.data import DATASETS
from tests.conftest import ROOT
from tests.slotformer_runs import CONFIGS as BASE_CONFIGS
from tests.slotformer_runs import SMALL as SMALL_BASE

CONFIGS = ROOT / "slotformer" / "video_prediction" / "configs"
BASES = {
    "slotformer_obj3d_params": "savi_obj3d_params",
    "slotformer_clevrer_params": "stosavi_clevrer_params",
    "slotformer_phyre_params-fold0": "savi_phyre_params-fold0",
    "slotformer_physion_params": "steve_physion_params",
}
"""The configuration of each model that finds the slots."""
ROLLOUT = (
    "rollout_dict.num_layers=2",
    "rollout_dict.num_heads=2",
    "rollout_dict.d_model=16",
    "rollout_dict.ffn_dim=32",
)
SLOTS = ("num_slots=3", "slot_size=16", "dropout=0.0", "lr=1e-3", *ROLLOUT)
RUN = ("train_batch_size=2", "val_batch_size=3", "n_samples=1", "print_iter=1", "gpus=1")
PHYRE = ("num_actions=8", "num_tasks=2", "data_ratio=0.5", "pos_ratio=0.5")
SAVI = ("dec_dict.dec_channels=(16,8,8,8,8)",)
WORDS = ("dvae_dict.vocab_size=32", "dec_dict.dec_num_layers=1", "dec_dict.dec_num_heads=2")
SMALL = {
    "slotformer_obj3d_params": (*SAVI, "n_sample_frames=5", "input_frames=3", "video_len=9"),
    "slotformer_clevrer_params": (*SAVI, "n_sample_frames=5", "input_frames=3", "video_len=16"),
    "slotformer_phyre_params-fold0": (*SAVI, *PHYRE, "n_sample_frames=5", "video_len=5", "rollout_dict.cond_len=3"),
    "slotformer_physion_params": (*WORDS, "n_sample_frames=4", "input_frames=3", "video_len=12"),
}


def small_params(config: str, *settings: str) -> BaseParams:
    return load_params(CONFIGS / f"{config}.py", Keys, parse_overrides([*SLOTS, *RUN, *SMALL[config], *settings]))


def write_slots(config: str, data: Path, folder: Path) -> str:
    """Random slots of all videos of a data set in `folder`; the setting that names them."""
    params = small_params(config, f"data_root={data}")
    params.dataset = DATASETS[params.dataset]
    sources = {split: open_data(params, split, None) for split in ("train", "val")}
    rng = np.random.default_rng(0)

    def draw(length: int) -> np.ndarray:
        return rng.standard_normal((length, params.num_slots, params.slot_size), dtype=np.float32)

    if params.dataset == "phyre":
        for split, source in sources.items():
            (folder / f"{split}_slots").mkdir(parents=True)
            for trial in range(len(source)):
                save_array(folder / f"{split}_slots" / f"{trial:06d}.npy", draw(1 + trial % 6))
        return f"slots_root={folder}/{{}}_slots"
    names = ((split, name) for split, source in sources.items() for name in source.names)
    write_h5(folder / "slots.h5", ((*entry, draw(len(sources["val"].stems))) for entry in names), {})
    return f"slots_root={folder}/slots.pkl"


def write_base(config: str, folder: Path) -> list[str]:
    """Untrained weights of the models whose parts are taken over; the settings that name them."""
    base = BASES[config]
    overrides = parse_overrides([*SMALL_BASE[base], "slot_size=16", "slot_dict.num_slots=3"])
    torch.manual_seed(0)
    model = base_slots.build_model(load_params(BASE_CONFIGS / f"{base}.py", base_slots.Keys, overrides))
    save(folder / "base.pth", {"model": model.state_dict()})
    settings = [f"dec_dict.dec_ckp_path={folder / 'base.pth'}"]
    if base == "steve_physion_params":
        save(folder / "dvae.pth", {"model": model.dvae.state_dict()})
        settings.append(f"dvae_dict.dvae_ckp_path={folder / 'dvae.pth'}")
    return settings


def train_words(
    config: str, data: Path, name: str, folder: Path, *flags: object, settings: tuple = (), epochs: int = 1
) -> list:
    """The documents' command for the fixture `run`; `folder` has what `write_slots` and `write_base` write."""
    words = ("slotformer/scripts/train.py", "--task", "video_prediction", "--params", CONFIGS / f"{config}.py")
    made = (f"data_root={data}", *inputs_of(config, data, folder), f"max_epochs={epochs}")
    return [*words, "--name", name, *flags, "--set", *SLOTS, *RUN, *SMALL[config], *made, *settings]


def inputs_of(config: str, data: Path, folder: Path) -> list[str]:
    """The settings that name slots and frozen weights, made if they are not there."""
    settings = folder / f"{config}.txt"
    if not settings.exists():
        own = folder / config
        own.mkdir(parents=True)
        settings.write_text("\n".join([write_slots(config, data, own), *write_base(config, own)]))
    return settings.read_text().split("\n")

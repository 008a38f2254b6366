"""Small trainings of SlotDiffusion's models of videos, for the tests."""

from pathlib import Path

from slotdiffusion.video_based import Keys
from slotformer.framework.params import BaseParams, load_params, parse_overrides
from tests.conftest import ROOT

CONFIGS = ROOT / "slotdiffusion" / "video_based" / "configs"
DATA = ("resolution=(32,32)", "video_len=6", "train_batch_size=4", "val_batch_size=2", "n_samples=1", "gpus=1")
RUN = ("print_iter=1", "num_workers=0", "dropout=0.0", "lr=1e-3")
SLOTS = ("num_slots=3", "slot_size=16", "pred_dict.pred_num_heads=2", "n_sample_frames=2", "video_len=6")
CONVOLUTIONS = ("enc_dict.enc_channels=(3,8,8)", "enc_dict.enc_out_channels=16")
AUTOENCODER = ("ch=32", "ch_mult=[1,1,1]", "num_res_blocks=1")
CODES = ("n_embed=32", "percept_loss_w=0.0")
UNET = (
    *("model_channels=32", "channel_mult=(1,2)", "num_res_blocks=1", "attention_resolutions=(2,)"),
    *("num_head_channels=16", "dropout=0.0"),
)
SMALL = {
    "vqvae": ("percept_loss_w=0.0", "vq_dict.n_embed=32", *(f"enc_dec_dict.{entry}" for entry in AUTOENCODER)),
    "dvae": ("vocab_size=32",),
    "savi": (*SLOTS, *CONVOLUTIONS, "dec_dict.dec_channels=(16,8,8)"),
    "steve": (
        *(*SLOTS, *CONVOLUTIONS, "dvae_dict.vocab_size=32", "dec_lr=1e-3"),
        *("dec_dict.dec_num_layers=1", "dec_dict.dec_num_heads=2"),
    ),
    "savi_ldm": (
        *(*SLOTS, *CONVOLUTIONS, "dec_lr=1e-3"),
        *(f"dec_dict.vae_dict.enc_dec_dict.{entry}" for entry in AUTOENCODER),
        *(f"dec_dict.vae_dict.vq_dict.{entry}" for entry in CODES),
        *(f"dec_dict.unet_dict.{entry}" for entry in UNET),
    ),
}
"""Keys that make each model quick. ResNets are replaced by convolutions."""


def config_of(kind: str, level: str = "d") -> Path:
    """For MOVi-`level`, or for Physion where that is the level."""
    data = level if level == "physion" else f"movi{level}"
    return CONFIGS / kind / f"{kind}_{data}_params-res128.py"


def small_settings(kind: str, data: Path, level: str = "d", *settings: str) -> list[str]:
    """What makes the published configuration small."""
    has_resnet = level in ("d", "physion") and kind in ("savi", "steve", "savi_ldm")
    convolutions = ("enc_dict.resnet=''",) if has_resnet else ()
    return [f"data_root={data}", *DATA, *RUN, *SMALL[kind], *convolutions, *settings]


def small_params(kind: str, data: Path, level: str = "d", *settings: str) -> BaseParams:
    return load_params(config_of(kind, level), Keys, parse_overrides(small_settings(kind, data, level, *settings)))


def train_words(
    kind: str, data: Path, name: str, *flags: object, level: str = "d", settings: tuple = (), epochs: int = 1
) -> list:
    """The documents' command on small videos, for the fixture `run`."""
    words = ("slotdiffusion/scripts/train.py", "--task", "video_based", "--params", config_of(kind, level))
    small = small_settings(kind, data, level, f"max_epochs={epochs}", *settings)
    return [*words, "--name", name, *flags, "--set", *small]


def evaluation_words(script: str, kind: str, weight: Path, data: Path, *flags: object, level: str = "d") -> list:
    """The documents' command for a script that sends videos through a trained model."""
    words = (f"slotdiffusion/video_based/{script}.py", "--params", config_of(kind, level), "--weight", weight)
    return [*words, *flags, "--set", *small_settings(kind, data, level)]

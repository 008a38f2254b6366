"""Small trainings of SlotDiffusion's models of videos and of pictures, for the tests."""

from collections.abc import Callable
from pathlib import Path

from slotdiffusion import img_based, video_based
from slotformer.framework.params import BaseParams, load_params, parse_overrides
from tests.conftest import ROOT, Runner
from tests.slotformer_runs import newest

CONFIGS = ROOT / "slotdiffusion" / "video_based" / "configs"
PICTURE_CONFIGS = ROOT / "slotdiffusion" / "img_based" / "configs"
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
WORDS = ("dvae_dict.vocab_size=32", "dec_lr=1e-3", "dec_dict.dec_num_layers=1", "dec_dict.dec_num_heads=2")
LATENTS = (
    "dec_lr=1e-3",
    *(f"dec_dict.vae_dict.enc_dec_dict.{entry}" for entry in AUTOENCODER),
    *(f"dec_dict.vae_dict.vq_dict.{entry}" for entry in CODES),
    *(f"dec_dict.unet_dict.{entry}" for entry in UNET),
)
SMALL = {
    "vqvae": ("percept_loss_w=0.0", "vq_dict.n_embed=32", *(f"enc_dec_dict.{entry}" for entry in AUTOENCODER)),
    "dvae": ("vocab_size=32",),
    "savi": (*SLOTS, *CONVOLUTIONS, "dec_dict.dec_channels=(16,8,8)"),
    "steve": (*SLOTS, *CONVOLUTIONS, *WORDS),
    "savi_ldm": (*SLOTS, *CONVOLUTIONS, *LATENTS),
}
"""Keys that make each model quick. ResNets are replaced by convolutions."""


def config_of(kind: str, level: str = "d") -> Path:
    """For MOVi-`level`, or for Physion where that is the level."""
    data = level if level == "physion" else f"movi{level}"
    return CONFIGS / kind / f"{kind}_{data}_params-res128.py"


def small_settings(kind: str, data: Path, level: str = "d", *settings: str) -> list[str]:
    """What makes the published configuration small."""
    has_resnet = level in ("d", "e", "physion") and kind in ("savi", "steve", "savi_ldm")
    convolutions = ("enc_dict.resnet=''",) if has_resnet else ()
    return [f"data_root={data}", *DATA, *RUN, *SMALL[kind], *convolutions, *settings]


def small_params(kind: str, data: Path, level: str = "d", *settings: str) -> BaseParams:
    return load_params(
        config_of(kind, level), video_based.Keys, parse_overrides(small_settings(kind, data, level, *settings))
    )


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


PICTURES = ("resolution=(32,32)", "train_batch_size=4", "val_batch_size=2", "n_samples=2", "gpus=1")
PICTURE_SLOTS = ("num_slots=3", "slot_size=16", "enc_dict.resnet=''", *CONVOLUTIONS)
SMALL_FOR_PICTURES = {
    "vqvae": SMALL["vqvae"],
    "dvae": SMALL["dvae"],
    "sa": (*PICTURE_SLOTS, "dec_dict.dec_channels=(16,8,8)"),
    "slate": (*PICTURE_SLOTS, *WORDS),
    "sa_ldm": (*PICTURE_SLOTS, *LATENTS),
    "sa_ldm_dino": (*PICTURE_SLOTS, *LATENTS, "enc_dict.dino=''"),
}
NEEDS = {
    "savi_ldm": ("vqvae", "dec_dict.vae_dict.vqvae_ckp_path"),
    "steve": ("dvae", "dvae_dict.dvae_ckp_path"),
    "sa_ldm": ("vqvae", "dec_dict.vae_dict.vqvae_ckp_path"),
    "sa_ldm_dino": ("vqvae", "dec_dict.vae_dict.vqvae_ckp_path"),
    "slate": ("dvae", "dvae_dict.dvae_ckp_path"),
}
"""The model that another stands on, and the key that says where its weights are."""


def picture_config_of(kind: str, dataset: str = "clevrtex") -> Path:
    side = 224 if dataset in ("coco", "voc") else 128
    return PICTURE_CONFIGS / kind / f"{kind}_{dataset}_params-res{side}.py"


def small_picture_settings(kind: str, data: Path, *settings: str) -> list[str]:
    """What makes the published configuration small. DINO, as ResNets, is replaced by convolutions."""
    return [f"data_root={data}", *PICTURES, *RUN, *SMALL_FOR_PICTURES[kind], *settings]


def small_picture_params(kind: str, data: Path, *settings: str) -> BaseParams:
    overrides = parse_overrides(small_picture_settings(kind, data, *settings))
    return load_params(picture_config_of(kind), img_based.Keys, overrides)


def picture_train_words(
    kind: str, data: Path, name: str, *flags: object, dataset: str = "clevrtex", settings: tuple = (), epochs: int = 1
) -> list:
    """The documents' command on small pictures, for the fixture `run`."""
    words = ("slotdiffusion/scripts/train.py", "--task", "img_based", "--params", picture_config_of(kind, dataset))
    small = small_picture_settings(kind, data, f"max_epochs={epochs}", *settings)
    return [*words, "--name", name, *flags, "--set", *small]


def picture_evaluation_words(
    script: str, kind: str, weight: Path, data: Path, *flags: object, dataset: str = "clevrtex"
) -> list:
    """The documents' command for a script that sends pictures through a trained model."""
    words = (f"slotdiffusion/img_based/{script}.py", "--params", picture_config_of(kind, dataset), "--weight", weight)
    return [*words, *flags, "--set", *small_picture_settings(kind, data)]


class TrainedOnce(dict):
    """Folders of trainings of one epoch, by kind of model, made in `cwd` when they are first asked for.

    `words_of` is one of the functions above; the models that another stands on are trained before.
    """

    def __init__(self, run: Runner, words_of: Callable[..., list], data: Path, cwd: Path):
        super().__init__()
        self.run, self.words_of, self.data, self.cwd = run, words_of, data, cwd

    def __missing__(self, kind: str) -> Path:
        settings = ()
        if kind in NEEDS:
            base, key = NEEDS[kind]
            settings = (f"{key}={newest(self[base])}",)
        done = self.run(*self.words_of(kind, self.data, kind, settings=settings), cwd=self.cwd)
        assert done.returncode == 0, done.stderr
        assert f"finished; the weights are in checkpoint/{kind}/models" in done.stdout
        self[kind] = self.cwd / "checkpoint" / kind
        return self[kind]


def copied(weight: Path, folder: Path) -> Path:
    """A weight in a folder of its own, beside which results lie."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.pth").write_bytes(weight.read_bytes())
    return folder / "model.pth"

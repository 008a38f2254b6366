"""The configurations of models of pictures, and the data sets that they name."""

from pathlib import Path

import numpy as np
import pytest
import torch

from slotdiffusion import img_based
from slotdiffusion.img_based.data import DATASETS, build_dataset, open_split
from slotformer.framework.params import BaseParams, ParamsError, load_params, parse_overrides
from tests.conftest import ROOT

CONFIGS = ROOT / "slotdiffusion" / "img_based" / "configs"
KEYS = ["gpus", "max_epochs", "save_interval", "eval_interval", "save_epoch_end", "lr", "clip_grad", "warmup_steps_pct"]
PUBLISHED = {
    "sa_clevrtex": (1, 200, 2, 5, False, 4e-4, -1, 0.025, 64, 128),
    "sa_celeba": (1, 100, 2, 5, False, 4e-4, -1, 0.025, 64, 128),
    "sa_ldm_clevrtex": (1, 400, 2, 4, True, 1e-4, 1, 0.05, 64, 128),
    "sa_ldm_celeba": (1, 200, 0.5, 2, True, 1e-4, 1, 0.05, 64, 128),
    "sa_ldm_dino_coco": (1, 100, 0.25, 4, False, 1e-4, 0.05, 0.05, 64, 64),
    "sa_ldm_dino_voc": (1, 500, 0.5, 10, False, 1e-4, 0.05, 0.05, 64, 64),
    "slate_clevrtex": (1, 200, 0.5, 4, True, 1e-4, 1, 0.05, 64, 128),
    "slate_celeba": (1, 100, 0.5, 2, True, 1e-4, 1, 0.05, 64, 128),
    "vqvae_clevrtex": (2, 100, 0.5, 4, True, 1e-3, -1, 0.05, 32, 64),
    "vqvae_celeba": (2, 100, 0.5, 4, True, 1e-3, -1, 0.05, 32, 64),
    "vqvae_coco": (4, 100, 0.5, 4, True, 1e-3, -1, 0.05, 16, 32),
    "vqvae_voc": (4, 800, 1, 16, False, 1e-3, -1, 0.05, 16, 32),
    "dvae_clevrtex": (1, 100, 0.5, 4, True, 1e-3, -1, 0.05, 64, 128),
    "dvae_celeba": (1, 100, 0.5, 4, True, 1e-3, -1, 0.05, 64, 128),
}
MILLIONS = {
    # Of parameters, all and trained, without the causal masks that the original counts among SLATE's.
    "sa_clevrtex": (5.19, 5.19),
    "sa_ldm_clevrtex": (151.4, 137.6),
    "vqvae_clevrtex": (13.86, 13.86),
    "dvae_clevrtex": (0.68, 0.68),
    "slate_clevrtex": (18.96 - 8.39, 9.89),
}


def path_of(name: str) -> Path:
    kind, dataset = name.rsplit("_", 1)
    return CONFIGS / kind / f"{name}_params-res{224 if dataset in ('coco', 'voc') else 128}.py"


def load(name: str, *settings: str) -> BaseParams:
    return load_params(path_of(name), img_based.Keys, parse_overrides(settings))


def test_every_file_is_known() -> None:
    assert {path.name for path in CONFIGS.rglob("*_params-res*.py")} == {path_of(name).name for name in PUBLISHED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_values(name: str) -> None:
    params = load(name)
    kind, dataset = name.rsplit("_", 1)
    found = [getattr(params, key) for key in (*KEYS, "train_batch_size", "val_batch_size")]
    assert found == list(PUBLISHED[name])
    assert (params.project, params.n_samples, params.optimizer, params.num_workers) == ("SlotDiffusion", 10, "Adam", 8)
    assert params.dataset == dataset
    assert params.data_root == "./data/" + {"clevrtex": "CLEVRTex", "celeba": "CelebA"}.get(dataset, dataset.upper())
    is_photo = dataset in ("coco", "voc")
    assert params.resolution == ((224, 224) if is_photo else (128, 128))
    if "vae" in kind:
        assert not params.load_mask
        return
    slots = {"clevrtex": 11, "celeba": 4, "coco": 7, "voc": 6}[dataset]
    size = 256 if dataset == "coco" else 192
    assert params.slot_dict == {
        "num_slots": slots, "slot_size": size, "slot_mlp_size": 2 * size, "num_iterations": 3
    }  # fmt: skip
    assert params.get("dec_lr") == {"sa": None, "slate": 3e-4}.get(kind, 2e-4)
    assert params.get("load_anno" if is_photo else "load_mask") == (dataset != "celeba")
    if kind.startswith("sa_ldm"):
        vae = params.dec_dict["vae_dict"]
        assert vae["vqvae_ckp_path"] == f"./pretrained/vqvae_{dataset}_params-res{params.resolution[0]}.pth"
        assert params.dec_dict["resolution"] == ((56, 56) if is_photo else (32, 32))
        assert params.dec_dict["unet_dict"]["context_dim"] == size
        assert params.enc_dict["enc_out_channels"] == size
        assert (vae["enc_dec_dict"]["resolution"], vae["vq_dict"]["n_embed"]) == (params.resolution[0], 4096)


@pytest.mark.parametrize("name", MILLIONS)
def test_models_have_the_published_size(name: str) -> None:
    with torch.device("meta"):
        model = img_based.build_model(load(name))
    parameters = [value for key, value in model.named_parameters() if "percept" not in key and "lpips" not in key]
    counts = [sum(value.numel() for value in parameters), sum(p.numel() for p in parameters if p.requires_grad)]
    assert [count / 1e6 for count in counts] == pytest.approx(MILLIONS[name], rel=0.005)


def small(name: str, root: Path, *settings: str) -> BaseParams:
    side = 32 if name.endswith(("coco", "voc")) else 16
    return load(name, f"data_root={root}", f"resolution=({side},{side})", *settings)


@pytest.fixture(scope="module")
def pictures(generated) -> Path:
    """Folder with ten small scenes of each of the data sets."""
    words = "--scenes 10 --width 64 --height 48 --samples 1 --seed 1"
    return generated(
        "pictures", f"clevrtex {words}", "celeba --scenes 10 --seed 1", f"coco {words}", f"voc {words}"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "folder", "sizes", "keys"),
    [
        ("sa_ldm_clevrtex", ".", (8, 1, 1), {"mask"}),
        ("vqvae_clevrtex", ".", (8, 1, 1), set()),
        ("sa_celeba", "CelebA", (8, 1, 1), set()),
        ("sa_ldm_dino_coco", "COCO", None, {"mask", "overlap", "semantic"}),
        ("vqvae_coco", "COCO", None, set()),
        ("sa_ldm_dino_voc", "VOC", (8, 2, 2), {"mask", "overlap", "semantic"}),
    ],
)
def test_data_of_the_configurations(pictures: Path, name: str, folder: str, sizes, keys: set[str]) -> None:
    params = small(name, pictures / folder)
    training, validation = build_dataset(params)
    test = open_split(params, "test", masks=bool(keys))
    assert sizes is None or (len(training), len(validation), len(test)) == sizes
    assert set(training.read(np.arange(2))) == {"image"}
    for source in (validation, test):
        batch = source.read(np.arange(1))
        assert set(batch) == {"image"} | keys
        assert batch["image"].shape == (1, 3, *params.resolution)
        assert all(batch[key].shape == (1, *params.resolution) for key in keys)
        if "mask" in keys:
            assert batch["mask"].unique().tolist() == list(range(int(batch["mask"].max()) + 1))


def test_crowded_pictures_can_be_left_out(pictures: Path) -> None:
    counts = [len(open_split(small("sa_ldm_clevrtex", pictures, f"max_obj={n}"), "train", False)) for n in (8, 11, -1)]
    assert 0 < counts[0] < counts[1] == counts[2] == 8


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    params = small("sa_ldm_dino_coco", tmp_path, "dataset=cocoa")
    with pytest.raises(ParamsError, match=r"dataset 'cocoa' is not one of .*; did you mean 'coco'\?"):
        build_dataset(params)
    params = small("sa_ldm_dino_coco", tmp_path, "resolution=(32,48)")
    with pytest.raises(ParamsError, match=r"resolution \(32, 48\): .* of coco, give equal sides"):
        build_dataset(params)
    assert set(DATASETS) == {"clevrtex", "celeba", "coco", "voc", "folder"}

"""EfficientMORL's metrics and its reader of `.h5` files against the original's."""

from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from core.data.multi_object_h5 import MultiObjectH5
from core.metrics.reconstruction import mixture_mse
from core.metrics.segmentation import adjusted_rand_index, hard_labels, labels_from_masks, match_objects_to_slots
from tests.parity.golden import Case


def close(ours: Tensor | np.ndarray, theirs: Tensor, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    ours = torch.as_tensor(ours).detach()
    torch.testing.assert_close(ours.to(theirs.dtype).reshape(theirs.shape), theirs, rtol=rtol, atol=atol)


def check_ari(case: Case, tmp_path: Path) -> None:
    for name, of in case.info["cases"].items():
        truth = labels_from_masks(case[f"in/{name}/true"].squeeze(2))
        predicted = hard_labels(case[f"in/{name}/pred"].squeeze(2))
        ours = adjusted_rand_index(truth, predicted, ignore_background=of["exclude_background"], undefined=0.0)
        close(ours, case[f"out/{name}/ari"], rtol=0, atol=1e-5)


def check_mse_and_matching(case: Case, tmp_path: Path) -> None:
    ours = mixture_mse(case["in/mse/image"], case["in/mse/colors"], case["in/mse/masks"].squeeze(2))
    close(ours, case["out/mse"], rtol=1e-5, atol=0)
    for name in case.info["cases"]:
        truth = labels_from_masks(case[f"in/{name}/true"].squeeze(1)[None])[0]
        predicted = hard_labels(case[f"in/{name}/pred"].squeeze(1))
        objects, slots = match_objects_to_slots(truth, predicted, case[f"in/{name}/presence"])
        assert objects.tolist() == case[f"out/{name}/gt_idx"].tolist()
        assert slots.tolist() == case[f"out/{name}/pred_idx"].tolist()


def check_dataset(case: Case, tmp_path: Path) -> None:
    labels = case["in/clevr/labels"].numpy()
    entities = case.arrays["in/clevr/factors"].shape[1]
    with h5py.File(tmp_path / "clevr.h5", "w") as file:
        file["test/imgs"] = case.arrays["in/clevr/imgs"]
        file["test/masks"] = np.stack([(labels == e) * np.uint8(255) for e in range(entities)], axis=1)[..., None]
        file["test/factors"] = case.arrays["in/clevr/factors"]
    for style in ("clevr-small", "clevr-large"):
        sample = MultiObjectH5(tmp_path / "clevr.h5", "test", style, masks=True, factors=True).read(np.array([0]))
        difference = sample["image"][0].int() - case[f"out/{style}/imgs_u8"].int()
        assert difference.abs().max() <= 1
        truth = case[f"out/{style}/masks_u8"].squeeze(1)
        assert torch.equal(sample["mask"], labels_from_masks(truth[None]))
        assert torch.equal(sample["factors"][0], case[f"out/{style}/factors"])
    with h5py.File(tmp_path / "small.h5", "w") as file:
        file["train/imgs"], file["train/masks"] = case.arrays["in/small/imgs"], case.arrays["in/small/masks"]
    source = MultiObjectH5(tmp_path / "small.h5", "train", masks=True)
    assert len(source) == case["out/plain/len"]
    sample = source.read(np.array([1]))
    close(sample["image"][0].float() / 255 * 2 - 1, case["out/plain/imgs"], rtol=0, atol=1e-6)
    assert torch.equal(sample["mask"], labels_from_masks(case["out/plain/masks"].squeeze(1)[None].byte()))

"""Folders that generated pictures lie in, and distances between them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float, Num
from torch import Tensor

from core.data.errors import DataError
from core.provenance import Provenance
from slotdiffusion.framework.generation import pixels_of, slots_of, start_noise
from slotdiffusion.framework.output_folders import PictureFolder, fid, frechet_distance

CPU = torch.device("cpu")


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, 16, 12, 3), np.uint8)


def test_a_folder_holds_pictures_of_one_origin(tmp_path: Path) -> None:
    folder = PictureFolder(tmp_path / "eval" / "recon_imgs")
    folder.claim(Provenance({"weight_sha256": "a"}))
    folder.write(3, picture(0))
    assert folder.has(3)
    assert not folder.has(0)
    assert [path.name for path in folder.path.iterdir()] == ["3.png"], "nothing but pictures"
    np.testing.assert_array_equal(folder.read(3, 16), picture(0))
    folder.claim(Provenance({"weight_sha256": "a"}))
    with pytest.raises(DataError, match=r"(?s)recon_imgs: holds results of other weights.*'a' -> 'b'"):
        folder.claim(Provenance({"weight_sha256": "b"}))


class Means:
    """Of the channels."""

    metric = "distance of means"

    def __call__(self, pictures: Num[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3"]:
        return pictures.float().mean(dim=(2, 3)) / 255


def test_distances_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # no weights there
    real, generated = PictureFolder(tmp_path / "real"), PictureFolder(tmp_path / "generated")
    for number in range(5):
        real.write(number, picture(number))
        generated.write(number, picture(number) // 2)
    found = {count: frechet_distance(real, generated, range(5), CPU, Means(), count) for count in (1, 2, 5)}
    assert found[1] == pytest.approx(found[2])
    assert found[1] == pytest.approx(found[5])
    assert (found[1]["num_real"], found[1]["num_generated"]) == (5, 5)
    means = np.stack([picture(number).mean(axis=(0, 1, 2)) for number in range(5)]).mean(axis=0) / 255
    assert found[1][Means.metric] == pytest.approx((means**2).sum() / 4, rel=0.05), "deviations hardly matter"
    assert frechet_distance(real, real, range(5), CPU, Means())[Means.metric] == pytest.approx(0, abs=1e-9)
    scores, remark = fid(real, generated, range(5), CPU)
    assert scores == {}
    assert "FID is left out" in remark
    assert "pt_inception-2015-12-05-6726825d.pth" in remark
    assert fid(real, generated, range(1), CPU) == ({}, "FID is left out: it needs two pictures")


def test_pictures_are_videos_of_one_frame() -> None:
    image = torch.rand(2, 3, 4, 4)
    assert torch.equal(pixels_of({"image": image}), pixels_of({"video": image[:, None]}))

    class Model(torch.nn.Module):
        def extract(self, batch: dict[str, Tensor]) -> Tensor:
            return torch.zeros(2, 5, 7)

    assert slots_of(Model(), {"image": image}).shape == (2, 1, 5, 7)
    noise = start_noise(0, [4, 7], CPU)("start", (2, 1, 3, 2, 2))
    assert not torch.equal(noise[0], noise[1]), "every picture has noise of its own"

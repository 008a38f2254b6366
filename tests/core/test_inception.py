"""The layout of FID's Inception, how it pools, and where its weights come from."""

from pathlib import Path

import pytest
import torch

from core.metrics.inception import WEIGHTS, Block, InceptionV3, load_inception
from core.metrics.pretrained import MissingWeightsError
from core.training.checkpoint import CheckpointError

SHAPES = {
    "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
    "Conv2d_4a_3x3.bn.running_var": (192,),
    "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
    "Mixed_5d.branch_pool.conv.weight": (64, 288, 1, 1),
    "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
    "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
    "Mixed_6e.branch7x7dbl_4.conv.weight": (192, 192, 7, 1),
    "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
    "Mixed_7b.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
    "Mixed_7c.branch3x3_2a.conv.weight": (384, 384, 1, 3),
    "fc.weight": (1008, 2048),
}
"""Of the published file."""


def test_names_and_sizes_are_those_of_the_published_file() -> None:
    state = InceptionV3().state_dict()
    assert {name: tuple(state[name].shape) for name in SHAPES} == SHAPES
    assert sum(name.endswith("conv.weight") for name in state) == 94
    assert sum(value.numel() for name, value in state.items() if name.endswith(("weight", "bias"))) == 23_850_960


def test_features_of_bytes_and_of_fractions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(InceptionV3().state_dict(), tmp_path / "weights.pth")
    network = load_inception(tmp_path / "weights.pth")
    pictures = torch.randint(0, 256, (1, 3, 24, 32), dtype=torch.uint8)
    features = network(pictures)
    assert features.shape == (1, 2048)
    torch.testing.assert_close(network(pictures / 255), features)
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth"):
        load_inception(tmp_path / "other.pth")


def test_means_leave_the_padding_out_and_the_last_block_takes_maxima() -> None:
    ramp = torch.arange(9.0).view(1, 1, 3, 3)
    for largest, corner in ((False, (0 + 1 + 3 + 4) / 4), (True, 4.0)):
        block = Block(1, [[("1x1", 1, (1, 1))]], 1, largest).eval()
        torch.nn.init.ones_(block.branch_pool.conv.weight)
        assert block(ramp)[0, 1, 0, 0].item() == pytest.approx(corner, rel=1e-3), "but for the normalisation"
    halving = Block(1, [[("3x3", 2, (3, 3))]], None).eval()
    assert halving(ramp).shape == (1, 3, 1, 1)
    assert halving(ramp)[0, 2].item() == 8


def test_missing_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingWeightsError, match=f"FID.*\n  {WEIGHTS} from https://github.com/mseitzer/pytorch-fid"):
        load_inception()

"""Decomposition: what validate refuses, and how it is sliced and moved."""

import dataclasses

import pytest
import torch

from core.types import Decomposition


def decomposition(leading=(3,), num_slots=4, size=5, **replaced):
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(*leading, num_slots, size, size, generator=generator).softmax(dim=-3)
    rgb = torch.rand(*leading, num_slots, 3, size, size, generator=generator)
    fields = {
        "recon": (masks.unsqueeze(-3) * rgb).sum(dim=-4),
        "masks": masks,
        "rgb": rgb,
        "slots": torch.randn(*leading, num_slots, 8, generator=generator),
        "extras": {
            "depth": torch.arange(leading[0]),
            "name": "a",
            "steps": [torch.ones(leading[0], 2)],
            "beta": torch.tensor(2.0),
        },
    }
    return unchecked(**fields | replaced)


def unchecked(**fields):
    """A Decomposition past the import hook, which would refuse wrong shapes before `validate` sees them."""
    made = object.__new__(Decomposition)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


@pytest.mark.parametrize("leading", [(3,), (3, 2)])
def test_valid_ones_pass_and_come_back(leading):
    valid = decomposition(leading)
    assert valid.validate() is valid
    assert valid.is_video is (len(leading) == 2)
    assert (len(valid), valid.num_slots) == (3, 4)
    bare = Decomposition(recon=valid.recon, masks=valid.masks).validate()
    assert bare.rgb is None
    assert bare.slots is None
    assert bare.extras == {}


def test_hard_and_half_precision_masks_pass():
    masks = torch.eye(4).view(1, 4, 2, 2)
    assert Decomposition(recon=torch.zeros(1, 3, 2, 2), masks=masks).validate().masks is masks
    soft = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).softmax(dim=1).half()
    assert Decomposition(recon=torch.zeros(1, 3, 8, 8).half(), masks=soft).validate().masks is soft


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"recon": torch.zeros(3, 1, 5, 5)}, r"recon: expected \(B, 3, H, W\) .* found \(3, 1, 5, 5\)"),
        ({"recon": torch.zeros(3, 5, 5)}, r"recon: expected .* found \(3, 5, 5\)"),
        ({"recon": torch.zeros(0, 3, 5, 5)}, r"recon: expected .* without empty axes"),
        ({"masks": torch.ones(3, 4, 1, 5, 5) / 4}, r"masks: expected \(3, K, 5, 5\) .* found \(3, 4, 1, 5, 5\)"),
        ({"masks": torch.ones(2, 4, 5, 5) / 4}, r"masks: expected \(3, 4, 5, 5\) .* found \(2, 4, 5, 5\)"),
        ({"masks": torch.ones(3, 4, 6, 6) / 4}, r"masks: expected \(3, 4, 5, 5\) .* found \(3, 4, 6, 6\)"),
        ({"masks": torch.ones(3, 0, 5, 5)}, r"masks: expected \(3, K, 5, 5\)"),
        ({"rgb": torch.zeros(3, 5, 3, 5, 5)}, r"rgb: expected \(3, 4, 3, 5, 5\) .* found \(3, 5, 3, 5, 5\)"),
        ({"slots": torch.zeros(12, 8)}, r"slots: expected \(3, 4, D\) .* found \(12, 8\)"),
        (
            {"extras": {"boxes": {"first": torch.zeros(4, 2)}}},
            r"extras\['boxes'\]: expected the batch of 3 .* found \(4, 2\)",
        ),
        ({"masks": torch.ones(3, 4, 5, 5)}, r"masks: expected sums of one over the 4 slots .* off by up to 3"),
        ({"masks": torch.ones(3, 4, 5, 5) * 0.2505}, r"masks: expected sums of one .* off by up to 0.002"),
        (
            {"masks": torch.tensor([2.0, -1, 0, 0]).view(1, 4, 1, 1).expand(3, 4, 5, 5)},
            "masks: expected no negative values, found -1",
        ),
        ({"recon": torch.full((3, 3, 5, 5), -0.5)}, r"recon: expected values in \[0, 1\], found -0.5 to -0.5"),
        ({"recon": torch.full((3, 3, 5, 5), torch.nan)}, "recon: 225 of 225 values are NaN or infinite"),
        ({"slots": torch.full((3, 4, 8), torch.inf)}, "slots: 96 of 96 values are NaN or infinite"),
    ],
)
def test_validate_says_what_is_wrong(replaced, message):
    with pytest.raises(ValueError, match="Decomposition." + message):
        decomposition(**replaced).validate()


def test_slices_keep_the_batch_axis_and_reach_into_extras():
    whole = decomposition()
    part = whole[1:]
    assert torch.equal(part.recon, whole.recon[1:])
    assert torch.equal(part.slots, whole.slots[1:])
    assert part.extras["depth"].tolist() == [1, 2]
    assert part.extras["steps"][0].shape == (2, 2)
    assert (part.extras["name"], part.extras["beta"].item()) == ("a", 2.0)
    part.validate()

    for index in (-1, 2):
        last = whole[index]
        assert last.masks.shape == (1, 4, 5, 5)
        assert torch.equal(last.masks[0], whole.masks[2])
    assert torch.equal(whole[[2, 0]].rgb, whole.rgb[[2, 0]])
    assert torch.equal(whole[torch.tensor([True, False, True])].rgb, whole.rgb[[0, 2]])
    assert len(whole[:8]) == 3
    assert [len(one) for one in whole] == [1, 1, 1]
    with pytest.raises(IndexError, match="image 3 of a batch of 3"):
        whole[3]
    assert Decomposition(recon=whole.recon, masks=whole.masks)[:1].rgb is None


def test_moves_and_detaches_every_tensor():
    source = decomposition(slots=torch.randn(3, 4, 8, requires_grad=True))
    detached = source.detach()
    assert source.slots.requires_grad
    assert not detached.slots.requires_grad
    moved = source.to("meta")
    assert {moved.recon.device.type, moved.slots.device.type, moved.extras["steps"][0].device.type} == {"meta"}
    assert source.cpu().rgb.device.type == "cpu"


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        decomposition().recon = torch.zeros(3, 3, 5, 5)

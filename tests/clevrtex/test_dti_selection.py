"""The greedy search for sprites against layering everything anew for every candidate."""

import pytest
import torch
from torch import Tensor

from clevrtex.models.dti_selection import covering, select, visibility

SIZE, SLOTS, SPRITES = (24, 32), 3, 4


def placed(count: int = 3, num_backgrounds: int = 1) -> dict[str, Tensor]:
    """Arguments of `select`, unmultiplied, and of random content."""
    generator = torch.Generator().manual_seed(3)
    shape = (SLOTS, count, SPRITES)
    return {
        "image": torch.rand(count, 3, *SIZE, generator=generator),
        "rgb": torch.rand(*shape, 3, *SIZE, generator=generator),
        "masks": torch.rand(*shape, *SIZE, generator=generator).round(),
        "backgrounds": torch.rand(num_backgrounds, count, 3, *SIZE, generator=generator),
        "covers": covering(torch.randn(count, 3, generator=generator), SLOTS),
    }


def whole_error(given: dict[str, Tensor], chosen: Tensor, ground: Tensor) -> Tensor:
    """Mean squared error of every image for a choice of sprites (L, B), made by layering everything."""
    every = torch.arange(len(given["image"]))
    there = (chosen < SPRITES)[..., None, None]
    masks = given["masks"][torch.arange(SLOTS)[:, None], every, chosen.clamp(max=SPRITES - 1)] * there
    rgb = given["rgb"][torch.arange(SLOTS)[:, None], every, chosen.clamp(max=SPRITES - 1)]
    masks = torch.cat((torch.ones_like(masks[:1]), masks)).transpose(0, 1)
    rgb = torch.cat((given["backgrounds"][ground, every][None], rgb)).transpose(0, 1)
    recon = (visibility(masks, given["covers"])[:, :, None] * rgb).sum(dim=1)
    return (recon - given["image"]).square().flatten(1).mean(dim=1)


def greedy(given: dict[str, Tensor], rounds: int, penalty: float | None) -> tuple[Tensor, Tensor]:
    """`select` by layering everything anew for every candidate."""
    count = len(given["image"])
    chosen, ground = torch.full((SLOTS, count), SPRITES), torch.zeros(count, dtype=torch.long)
    for _ in range(rounds):
        choices = [whole_error(given, chosen, torch.full_like(ground, m)) for m in range(len(given["backgrounds"]))]
        ground = torch.stack(choices).argmin(dim=0)
        for slot in range(SLOTS):
            errors = []
            for sprite in range(SPRITES if penalty is None else SPRITES + 1):
                chosen[slot] = sprite
                errors.append(whole_error(given, chosen, ground) + (penalty or 0) * (sprite < SPRITES))
            chosen[slot] = torch.stack(errors).argmin(dim=0)
    return chosen, ground


@pytest.mark.parametrize("penalty", [None, 1e-4, 10.0])
@pytest.mark.parametrize(("num_backgrounds", "rounds"), [(1, 1), (1, 3), (3, 2)])
def test_selection_is_that_of_layering_everything(num_backgrounds: int, rounds: int, penalty: float | None) -> None:
    given = placed(5, num_backgrounds)
    expected = greedy(given, rounds, penalty)
    sprites = given["rgb"] * given["masks"].unsqueeze(3)
    found = select(given["image"], sprites, given["masks"], given["backgrounds"], given["covers"], rounds, penalty)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    if penalty is None:
        assert found[0].max() < SPRITES
    elif penalty > 1:
        assert (found[0] == SPRITES).all()
    if num_backgrounds > 1:
        assert len(found[1].unique()) > 1


def test_selection_finds_what_a_picture_is_made_of() -> None:
    """Three squares that do not meet, each in every slot's reach."""
    masks = torch.zeros(SPRITES, *SIZE)
    for sprite in range(SPRITES):
        masks[sprite, 2:10, 8 * sprite : 8 * sprite + 6] = 1
    rgb = torch.rand(SPRITES, 3, 1, 1).expand(-1, -1, *SIZE)
    background = torch.rand(1, 1, 3, *SIZE)
    image = background[0] * (1 - masks[[0, 3]].sum(dim=0))
    image = image + (rgb * masks[:, None])[[0, 3]].sum(dim=0)
    everywhere = masks.expand(SLOTS, 1, -1, -1, -1)
    covers = covering(torch.zeros(1, 3), SLOTS)
    chosen, _ = select(image, rgb * everywhere.unsqueeze(3), everywhere, background, covers, 3, 1e-4)
    assert sorted(chosen[:, 0].tolist()) == [0, 3, SPRITES], "and one slot stays empty"


def test_covering() -> None:
    covers = covering(torch.tensor([[2.0, -1.0, 0.5]]), 3)[0]
    torch.testing.assert_close(covers[1:, 1:] + covers[1:, 1:].T, 1 - torch.eye(3))
    torch.testing.assert_close(covers[[2, 3, 3], [1, 1, 2]], torch.tensor([2.0, -1.0, 0.5]).sigmoid())
    assert covers[0].tolist() == [0.0] * 4
    assert covers[1:, 0].tolist() == [1.0] * 3
    assert covering(torch.zeros(2, 0), 1).tolist() == [[[0.0, 0.0], [1.0, 0.0]]] * 2

"""Which sprites explain a picture best, and how chosen sprites cover each other (Monnier et al. 2021, section 3.3).

Shapes: B images, L slots, K sprites, M backgrounds. Entries E = L + 1 of a picture are the background, then the slots.
`covers` (B, E, E) says at [j, i] to what degree entry j lies before entry i.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def covering(logits: Float[Tensor, "B pairs"], num_slots: int) -> Float[Tensor, "B E E"]:
    """`covers` from a logit for each pair of slots: (1, 0), (2, 0), (2, 1), ... The background covers nothing."""
    rows, columns = torch.tril_indices(num_slots, num_slots, -1, device=logits.device)
    covers = logits.new_zeros(len(logits), num_slots, num_slots)
    degrees = logits.sigmoid()
    covers[:, rows, columns] = degrees
    covers[:, columns, rows] = 1 - degrees
    return F.pad(F.pad(covers, (1, 0), value=1.0), (0, 0, 1, 0))


def visibility(masks: Float[Tensor, "B E H W"], covers: Float[Tensor, "B E E"]) -> Float[Tensor, "B E H W"]:
    """What is seen of every entry: its mask times 1 - covers * mask of every other."""
    visible = masks
    for j in range(1, masks.shape[1]):
        visible = visible * (1 - covers[:, j, :, None, None] * masks[:, j, None])
    return visible


@torch.no_grad()
def select(
    image: Float[Tensor, "B 3 H W"],
    sprites: Float[Tensor, "L B K 3 H W"],
    masks: Float[Tensor, "L B K H W"],
    backgrounds: Float[Tensor, "M B 3 H W"],
    covers: Float[Tensor, "B E E"],
    rounds: int,
    penalty: float | None,
) -> tuple[Int64[Tensor, "L B"], Int64[Tensor, "B"]]:
    """The sprite in every slot, K for none, and the background, by greedy search for the least squared error.

    sprites, masks: placed in every slot; colours times mask, and the mask.
    penalty: added to the mean squared error of a slot that is not left empty; None: no slot may be.

    It begins with the background alone. In each round every slot in turn takes the sprite that suits what the others
    have. These fixed, the picture is affine in the slot's sprite: S - mask T + colours P, with what is seen of the
    others without it, S, how much of that it would cover, T, and how much of it would be seen, P.
    """
    num_slots, count, num_sprites = masks.shape[:3]
    every = torch.arange(count, device=image.device)
    image, sprites, masks, backgrounds = (values.flatten(-2) for values in (image, sprites, masks, backgrounds))
    chosen = torch.full((num_slots, count), num_sprites, device=image.device)
    ground = torch.zeros_like(every)
    entries = image.new_zeros(count, num_slots + 1, *image.shape[1:])
    covering_masks = image.new_zeros(num_slots, count, image.shape[2])
    ones = image.new_ones(count, num_slots + 1, image.shape[2])

    def leaves(slot: int) -> Tensor:
        """How much of every entry the slot leaves to be seen."""
        return 1 - covers[:, slot + 1, :, None] * covering_masks[slot][:, None]

    for number in range(rounds):
        behind = [ones]  # what slots from this one on leave, from the last one to the first
        for slot in reversed(range(num_slots)):
            behind.append(behind[-1] * leaves(slot) if number else ones)
        seen = behind.pop()
        if number == 0 or len(backgrounds) > 1:
            objects = (entries[:, 1:] * seen[:, 1:, None]).sum(dim=1)
            ground = _errors(image - objects, backgrounds.transpose(0, 1) * seen[:, None, :1]).argmin(dim=1)
            entries[:, 0] = backgrounds[ground, every]
        before = ones
        for slot in range(num_slots):
            seen = before * behind.pop()
            entries[:, slot + 1] = 0
            weights = torch.stack((torch.ones_like(covers[:, 0]), covers[:, slot + 1]), dim=1)
            shown, covered = torch.bmm(weights, (entries * seen[:, :, None]).flatten(2)).view(count, 2, 3, -1).unbind(1)
            missing = image - shown
            change = sprites[slot] * seen[:, None, slot + 1, None]
            change.addcmul_(masks[slot].unsqueeze(2), covered[:, None], value=-1)
            errors = _errors(missing, change)
            if penalty is not None:
                empty = missing.square().flatten(1).mean(dim=1, keepdim=True)
                errors = torch.cat((errors + penalty, empty), dim=1)
            choice = errors.argmin(dim=1)
            chosen[slot] = choice
            there, choice = (choice < num_sprites)[:, None], choice.clamp(max=num_sprites - 1)
            entries[:, slot + 1] = sprites[slot][every, choice] * there[:, None]
            covering_masks[slot] = masks[slot][every, choice] * there
            before = before * leaves(slot)
    return chosen, ground


def _errors(target: Float[Tensor, "B 3 P"], found: Float[Tensor, "B K 3 P"]) -> Float[Tensor, "B K"]:
    """Mean squared difference."""
    return (found - target[:, None]).square().flatten(2).mean(dim=2)

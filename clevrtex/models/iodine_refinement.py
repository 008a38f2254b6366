"""How IODINE refines a posterior (Greff et al. 2019, section 3.2): the refinement network and what it sees."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clevrtex.models.iodine_decoder import coordinate_grid

PICTURE_CHANNELS = 17
State = tuple[Float[Tensor, "S L"], Float[Tensor, "S L"]]
"""Hidden and cell state of the LSTM for S slots."""


class Explanation(NamedTuple):
    """How K slots explain their image as a mixture per pixel and colour channel."""

    rgb: Float[Tensor, "B K 3 H W"]
    mask_logits: Float[Tensor, "B K H W"]
    log_masks: Float[Tensor, "B K H W"]
    log_likelihoods: Float[Tensor, "B K 3 H W"]
    """Of every slot alone, less 0.5 ln 2 pi."""
    log_evidence: Float[Tensor, "B H W"]
    """Of the mixture, summed over colour channels."""

    def leave_one_out(self) -> Float[Tensor, "B K H W"]:
        """The evidence without slot k, whose share of the pixel goes to the others; without gradient."""
        log_masks = self.log_masks.detach()
        joint = log_masks[:, :, None] + self.log_likelihoods.detach()
        return (_sum_of_others(joint) - _sum_of_others(log_masks)[:, :, None]).sum(dim=2)


def explain(image: Float[Tensor, "B 3 H W"], pictures: Float[Tensor, "B K 4 H W"], std: float) -> Explanation:
    """Score decoded `pictures`, logits of RGB and mask, against `image` (Greff et al. 2019, eq. 2)."""
    rgb, mask_logits = pictures[:, :, :3].sigmoid(), pictures[:, :, 3]
    log_masks = mask_logits.log_softmax(dim=1)
    log_likelihoods = (image[:, None] - rgb).square() * (-0.5 / std**2) - math.log(std)
    log_evidence = (log_masks[:, :, None] + log_likelihoods).logsumexp(dim=1).sum(dim=1)
    return Explanation(rgb, mask_logits, log_masks, log_likelihoods, log_evidence)


def _sum_of_others(logs: Float[Tensor, "B K *pixels"]) -> Float[Tensor, "B K *pixels"]:
    """log sum exp over all j != k: what comes before k and what comes after it, so that nothing is subtracted."""
    nothing = torch.full_like(logs[:, 0], -torch.inf)
    before, after = [nothing], [nothing]
    for following, preceding in zip(logs[:, :-1].unbind(1), logs[:, 1:].flip(1).unbind(1)):
        before.append(torch.logaddexp(before[-1], following))
        after.append(torch.logaddexp(after[-1], preceding))
    return torch.logaddexp(torch.stack(before, dim=1), torch.stack(after[::-1], dim=1))


class RefinementInputs(nn.Module):
    """Assembles what the refinement network sees, in the original's order; six of its inputs are normalised."""

    def __init__(self, image_size: tuple[int, int], slot_size: int):
        super().__init__()
        self.norm_evidence = nn.LayerNorm((1, *image_size))
        self.norm_leave_one_out = nn.LayerNorm((1, *image_size))
        self.norm_of_rgb = nn.LayerNorm((3, *image_size))
        self.norm_of_masks = nn.LayerNorm((1, *image_size))
        self.norm_of_mean = nn.LayerNorm(slot_size)
        self.norm_of_scale = nn.LayerNorm(slot_size)
        self.register_buffer("grid", coordinate_grid(*image_size), persistent=False)

    def forward(
        self,
        images: Float[Tensor, "B K 3 H W"],
        found: Explanation,
        parameters: Float[Tensor, "B K D2"],
        of_rgb: Float[Tensor, "B K 3 H W"],
        of_masks: Float[Tensor, "B K H W"],
        of_parameters: Float[Tensor, "B K D2"],
    ) -> tuple[Float[Tensor, "B K 17 H W"], Float[Tensor, "B K D4"]]:
        """Pictures and vectors of every slot; `of_rgb`, ... are the gradients of the loss (constants).

        `images` is the image that each slot is shown. Gradient flows through `parameters`, rgb, masks and the
        posterior over slots.
        """
        every_slot = (*images.shape[:2], -1, -1, -1)
        pictures = (
            images,
            found.rgb,
            found.log_masks[:, :, None],
            found.mask_logits[:, :, None],
            found.log_likelihoods.sum(dim=2).log_softmax(dim=1)[:, :, None],
            self.norm_of_rgb(of_rgb),
            self.norm_of_masks(of_masks[:, :, None]),
            self.norm_evidence(found.log_evidence.detach()[:, None, None]).expand(every_slot),
            self.norm_leave_one_out(found.leave_one_out()[:, :, None]),
            self.grid.expand(every_slot),
        )
        of_mean, of_scale = of_parameters.chunk(2, dim=-1)
        vectors = (parameters, self.norm_of_mean(of_mean), self.norm_of_scale(of_scale))
        return torch.cat(pictures, dim=2), torch.cat(vectors, dim=-1)


class RefinementNetwork(nn.Module):
    """Proposes an update of lambda: strided convolutions over the pictures, then an LSTM that sees the vectors too."""

    def __init__(self, slot_size: int, channels: int, lstm_size: int):
        super().__init__()
        layers = []
        for inputs in (PICTURE_CHANNELS, channels, channels, channels):
            layers += [nn.Conv2d(inputs, channels, 3, stride=2, padding=1), nn.ELU(inplace=True)]
        self.convolutions = nn.Sequential(*layers)
        self.summary = nn.Linear(channels, lstm_size)
        self.lstm = nn.LSTMCell(lstm_size + 4 * slot_size, lstm_size)
        self.update = nn.Linear(lstm_size, 2 * slot_size)

    def forward(
        self, pictures: Float[Tensor, "S 17 H W"], vectors: Float[Tensor, "S D4"], state: State | None
    ) -> tuple[Float[Tensor, "S D2"], State]:
        """The update and the state of the S slots; `state` is None before the first step."""
        features = self.convolutions(pictures.contiguous(memory_format=torch.channels_last)).float().mean(dim=(2, 3))
        with torch.autocast(pictures.device.type, enabled=False):
            state = self.lstm(torch.cat((F.elu(self.summary(features)), vectors), dim=-1), state)
            return self.update(state[0]), state

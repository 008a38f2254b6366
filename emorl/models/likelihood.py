"""Negative log-likelihood of an image under its slots, and its gradient without a kept graph."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from emorl.models.decoders import compose

LikelihoodName = Literal["Gaussian", "GMM"]


def gaussian_nll(
    image: Float[Tensor, "N 3 H W"],
    rgb: Float[Tensor, "N K 3 H W"],
    log_masks: Float[Tensor, "N K H W"],
    log_std: float,
) -> Float[Tensor, "N"]:
    """Nats per image of N(sum_k m_k x_k, std^2), less the constant 0.5 ln 2 pi per value; `image` in [0, 1]."""
    squares = (image - compose(log_masks.exp(), rgb)).square().flatten(1).sum(dim=1)
    return log_std * image[0].numel() + squares / (2 * math.exp(2 * log_std))


def mixture_nll(
    image: Float[Tensor, "N 3 H W"],
    rgb: Float[Tensor, "N K 3 H W"],
    log_masks: Float[Tensor, "N K H W"],
    log_std: float,
) -> Float[Tensor, "N"]:
    """Nats per image of a mixture over slots per pixel and channel (Emami et al. 2021, eq. 3), less 0.5 ln 2 pi."""
    squares = (image[:, None] - rgb).square() / (2 * math.exp(2 * log_std))
    return log_std * image[0].numel() - torch.logsumexp(log_masks[:, :, None] - squares, dim=1).flatten(1).sum(dim=1)


class Score(NamedTuple):
    """How well slots explain their images, and the pictures they decode to (without gradient)."""

    nll: Float[Tensor, "N"]
    rgb: Float[Tensor, "N K 3 H W"] | None
    log_masks: Float[Tensor, "N K H W"] | None
    mask_logits: Float[Tensor, "N K H W"] | None


ScoreFunction = Callable[..., Score]


class ScoreWithGradient(torch.autograd.Function):
    """Evaluate `score(images, slots, *terms)` and its gradient in one go, and keep only the gradient.

    EfficientMORL needs d nll / d slots of every refinement step at once, and the same gradient (scaled) again when
    the total loss is back-propagated. Taking it here frees the decoder's activations before the next step starts, and
    spares one decoder backward per step. Images are scored `chunk` at a time, which bounds the memory.

    `score` reads `parameters` itself; they are arguments so that autograd (and DDP) see the dependence.
    Returns the sum of the nll over images (differentiable), then the fields of Score without gradient.
    """

    @staticmethod
    def forward(ctx, score, images, chunk, keep_pictures, num_terms, slots, *terms_and_parameters):
        """The sum of the nll, then per image nll [N] and, if kept, rgb, log masks and mask logits."""
        sources = [value.detach().requires_grad_(value.requires_grad) for value in terms_and_parameters[:num_terms]]
        terms = tuple(sources)
        sources += terms_and_parameters[num_terms:]
        wanted = [value for value in sources if value.requires_grad]
        scores, of_slots, totals = [], [], None
        for image, slot in zip(images.split(chunk), slots.detach().split(chunk)):
            with torch.enable_grad():
                slot = slot.requires_grad_()
                scored = score(image, slot, *terms)
                of_slot, *gradients = torch.autograd.grad(scored.nll.sum(), [slot, *wanted])
            of_slots.append(of_slot)
            totals = gradients if totals is None else [total.add_(new) for total, new in zip(totals, gradients)]
            pictures = scored[1:] if keep_pictures else ()
            scores.append([scored.nll.detach(), *(picture.detach() for picture in pictures)])
        ctx.save_for_backward(torch.cat(of_slots), *totals)
        ctx.wanted = [value.requires_grad for value in sources]
        outputs = [torch.cat(values) for values in zip(*scores)]
        ctx.mark_non_differentiable(*outputs)
        return (outputs[0].sum(), *outputs)

    @staticmethod
    def backward(ctx, of_sum, *_):
        of_slots, *totals = ctx.saved_tensors
        gradients = iter(of_sum * total for total in totals)
        return (None,) * 5 + (of_sum * of_slots, *(next(gradients) if want else None for want in ctx.wanted))

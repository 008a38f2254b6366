"""IODINE (Greff et al. 2019): iterative amortised inference of slots, as the ClevrTex benchmark trains it.

Shapes: B images, K slots, D slot size, T iterations; lambda = (mean | unconstrained variance) [B, K, 2 D].
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clevrtex.models.iodine_decoder import BroadcastDecoder
from clevrtex.models.iodine_refinement import Explanation, RefinementInputs, RefinementNetwork, State, explain
from core.nn.noise import Noise, ShardedNoise, standard_normal
from core.types import Decomposition
from emorl.models.initialisation import init_small


@dataclass
class Inference:
    """What inference found; everything but the loss belongs to the last iteration."""

    loss: Float[Tensor, ""]
    """Sum over iterations i = 1 .. T of i / T times the negative bound, mean over images."""
    nll: Float[Tensor, "B"]
    kl: Float[Tensor, "B"]
    slots: Float[Tensor, "B K D"]
    """The samples that were decoded,"""
    parameters: Float[Tensor, "B K D2"]
    """from the posteriors of this lambda."""
    rgb: Float[Tensor, "B K 3 H W"]
    log_masks: Float[Tensor, "B K H W"]


def variance_of(parameters: Float[Tensor, "B K D2"]) -> Float[Tensor, "B K D"]:
    """Variances of the posteriors: the softplus of the second half of lambda."""
    return F.softplus(parameters.chunk(2, dim=-1)[1])


def sample(parameters: Float[Tensor, "B K D2"], noise: Float[Tensor, "B K D"]) -> Float[Tensor, "B K D"]:
    """Reparameterised: mean + standard deviation * noise."""
    return parameters.chunk(2, dim=-1)[0] + variance_of(parameters).sqrt() * noise


def kl_divergence(parameters: Float[Tensor, "B K D2"]) -> Float[Tensor, "B"]:
    """KL of the posteriors from N(0, 1) in nats, summed over slots."""
    mean, variance = parameters.chunk(2, dim=-1)[0], variance_of(parameters)
    return 0.5 * (variance + mean.square() - 1 - variance.log()).sum(dim=(1, 2))


class IODINE(nn.Module):
    """Posteriors of slots, refined from the gradient of their own loss (Greff et al. 2019), for `image_size` (h, w).

    `std` is that of a pixel's colour. `checkpointing` computes the decoder again in the backward pass, which changes no
    number and keeps at most one decoding in memory, not `num_iterations`. `as_original` shows the refinement of slot k
    of image b the image (b K + k) mod B of the batch, as the original code does: the right one in batches of one only.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (128, 128),
        num_slots: int = 11,
        num_iterations: int = 5,
        slot_size: int = 128,
        lstm_size: int = 256,
        channels: int = 64,
        kl_weight: float = 1.0,
        std: float = 0.1,
        checkpointing: bool = False,
        as_original: bool = False,
    ):
        super().__init__()
        self.num_slots = num_slots
        self.num_iterations = num_iterations
        self.slot_size = slot_size
        self.kl_weight = kl_weight
        self.std = std
        self.checkpointing = checkpointing
        self.as_original = as_original
        self.initial = nn.Parameter(torch.cat((torch.zeros(slot_size), torch.ones(slot_size))))
        self.decoder = BroadcastDecoder(image_size, slot_size, channels)
        self.refinement_inputs = RefinementInputs(image_size, slot_size)
        self.refinement = RefinementNetwork(slot_size, channels, lstm_size)
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""
        init_small(self.decoder)
        init_small(self.refinement)

    def unused_parameters(self) -> bool:
        """Whether a step leaves a parameter without gradient, which DDP must be told."""
        return self.num_iterations == 1

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Training loss of `batch["image"]` (B, 3, H, W in [0, 1]), and nll and KL of the last iteration in nats."""
        image = batch["image"]
        found = self(image, self.noise.at(step, image.device) if self.noise else None)
        return {"loss": found.loss, "recon_loss": found.nll.mean(), "kl": found.kl.mean()}

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Decomposition:
        """Pictures of the last iteration; slots are the means of its posteriors.

        The result of an image does not depend on what else is in the batch, but for `as_original`.
        Extras: `posterior_std`, the decoded `samples`, and `nll` and `kl` per image (nats).
        """
        image = batch["image"]
        found = self(image, noise, images_per_mean=None if self.as_original else 1)
        masks = found.log_masks.exp()
        return Decomposition(
            recon=(masks[:, :, None] * found.rgb).sum(dim=1),
            masks=masks,
            rgb=found.rgb,
            slots=found.parameters.chunk(2, dim=-1)[0],
            extras={
                "posterior_std": variance_of(found.parameters).sqrt(),
                "samples": found.slots,
                "nll": found.nll,
                "kl": found.kl,
            },
        )

    def forward(
        self, image: Float[Tensor, "B 3 H W"], noise: Noise | None = None, images_per_mean: int | None = None
    ) -> Inference:
        """Infer the slots of `image` in [0, 1]; the draws `iteration_0`, ... have the shape of the slots.

        The refinement sees the gradient of the mean loss of `images_per_mean` images, by default of the whole (global)
        batch, and normalises it; what is left of the scale is the epsilon of the normalisation.
        Evaluation takes these gradients too, but keeps no graph.
        """
        noise = noise or standard_normal(image.device)
        images_per_mean = images_per_mean or len(image) * (self.noise.count if self.noise else 1)
        differentiable = self.training and torch.is_grad_enabled()
        loss, state = image.new_zeros(()), None
        parameters = self.initial.expand(len(image), self.num_slots, -1)
        for i in range(self.num_iterations):
            refine = i + 1 < self.num_iterations
            if not (differentiable and parameters.requires_grad):
                parameters = parameters.detach().requires_grad_(refine)
            with torch.set_grad_enabled(differentiable or refine):
                slots = sample(parameters, noise(f"iteration_{i}", (*parameters.shape[:2], self.slot_size)))
                found = self._explain(image, slots)
                nll, kl = -found.log_evidence.sum(dim=(1, 2)), kl_divergence(parameters)
                objective = nll + self.kl_weight * kl
                if refine:
                    gradients = torch.autograd.grad(
                        objective.sum() / images_per_mean,
                        (found.rgb, found.log_masks, parameters),
                        retain_graph=differentiable,
                    )
            with torch.set_grad_enabled(differentiable):
                loss = loss + (i + 1) / self.num_iterations * objective.mean()
                if refine:
                    parameters, state = self._refine(image, found, parameters, gradients, state)
        return Inference(loss, nll.detach(), kl.detach(), slots, parameters, found.rgb, found.log_masks)

    def _explain(self, image: Float[Tensor, "B 3 H W"], slots: Float[Tensor, "B K D"]) -> Explanation:
        pictures = self.decoder(slots.flatten(0, 1), self.checkpointing)
        return explain(image, pictures.unflatten(0, slots.shape[:2]), self.std)

    def _refine(
        self,
        image: Float[Tensor, "B 3 H W"],
        found: Explanation,
        parameters: Float[Tensor, "B K D2"],
        gradients: tuple[Tensor, Tensor, Tensor],
        state: State | None,
    ) -> tuple[Float[Tensor, "B K D2"], State]:
        if self.as_original:
            images = image.repeat(self.num_slots, 1, 1, 1).unflatten(0, parameters.shape[:2])
        else:
            images = image[:, None].expand(-1, self.num_slots, -1, -1, -1)
        pictures, vectors = self.refinement_inputs(images, found, parameters, *gradients)
        update, state = self.refinement(pictures.flatten(0, 1), vectors.flatten(0, 1), state)
        return parameters + update.view(parameters.shape), state

"""GNM (Jiang and Ahn 2020): objects in the cells of a grid, tied together by a global latent variable.

Shapes: B images, N objects, D size of an object's appearance. Differs from the original code, with equal numbers:
training decodes nothing from the prior, and all that is pasted of an object is pasted at once.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clevrtex.models.annealing import Ramp
from clevrtex.models.cells import Objects, with_rest
from clevrtex.models.celu_layers import convolution, mlp, stack, subpixel
from clevrtex.models.frames import paste_frames
from clevrtex.models.glimpses import paste
from clevrtex.models.gnm_architecture import Architecture
from clevrtex.models.gnm_objects import EPSILON, ObjectDistribution, ObjectNetwork, ObjectRenderer, Rendering
from clevrtex.models.gnm_structdraw import Painting, StructuredDraw
from clevrtex.models.latents import bernoulli_kl, gaussian, standard_normal_prior
from core.nn.noise import Noise, ShardedNoise, standard_normal
from core.types import Decomposition
from emorl.models.gaussian import DiagonalGaussian, kl_divergence

TEMPERATURE = Ramp(1000, 20_000, 1.0, 0.5)
PRESENCE_PRIOR = Ramp(0, 4000, 0.1, 0.001)
KL_WEIGHTS = {
    "kl_global": Ramp(0, 100_000, 0.0, 1.0),
    "kl_aux_where": Ramp(0, 500, 10.0, 1.0),
    "kl_aux_bg": Ramp(0, 50_000, 50.0, 1.0),
}
"""Of the terms whose weight is not always one."""
WHERE_PRIOR = ((-1.5, 0.0, 0.0, 0.0), (0.1, 0.3, 1.0, 1.0))
"""Means and standard deviations of scale, log ratio and shift."""
LEAST_PRESENCE = 1e-5
CURRICULUM_END = 500
CURRICULUM_ALPHA = 0.9
CURRICULUM_PRESENCE = 0.99
FRAME_SIDE, FRAME_WIDTH = 42, 3


def in_curriculum(step: int) -> bool:
    """Whether objects and background share every pixel in fixed parts, so that neither explains all at the start."""
    return 0 < step < CURRICULUM_END


@dataclass
class Scene:
    """Samples of all latent variables, and what they look like."""

    painting: Painting
    background: Float[Tensor, "B D_bg"]
    objects: Objects
    rendering: Rendering


@dataclass
class Inference:
    """What one pass found. `log_likelihood` and the weighted `kl` terms are in nats per image."""

    scene: Scene
    posterior: ObjectDistribution
    prior: ObjectDistribution
    background_posterior: DiagonalGaussian
    background_prior: DiagonalGaussian
    log_likelihood: Float[Tensor, "B"]
    kl: dict[str, Float[Tensor, "B"]]


class GNM(nn.Module):
    """GNM for square images of `image_size` (h, w), with pixels of standard deviation `std`.

    `what_size`, `background_size` and `global_size` are those of the latent variables of an object, the background and
    a step of structured DRAW. The `architecture` is by default the published one, fitted to the image.

    The model remembers the step that it was trained to, whose temperature evaluation uses; `as_original` takes that of
    step 0, as the original does with a restored model.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (128, 128),
        std: float = 0.2,
        what_size: int = 64,
        background_size: int = 10,
        global_size: int = 32,
        architecture: Architecture | None = None,
        as_original: bool = False,
    ):
        super().__init__()
        architecture = architecture or Architecture.for_images(image_size)
        self.std = std
        self.as_original = as_original
        self.image_size = image_size
        self.background_size = background_size
        channels = architecture.encoder[-1].channels
        self.encoder = stack(convolution, 3, architecture.encoder)
        self.draw = StructuredDraw(channels, global_size, architecture)
        self.object_network = ObjectNetwork(channels, what_size, architecture)
        self.renderer = ObjectRenderer(what_size, architecture)
        self.background_posterior = mlp(
            channels * architecture.num_cells**2, (*architecture.background_posterior, 2 * background_size)
        )
        self.background_prior = mlp(
            architecture.draw_steps * global_size, (*architecture.background_prior, 2 * background_size)
        )
        self.background_decoder = stack(subpixel, background_size, architecture.background_decoder, plain_end=True)
        self.register_buffer("where_prior", torch.tensor(WHERE_PRIOR), persistent=False)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Negative ELBO with weighted KLs, mean over images; `batch["image"]` (B, 3, H, W) in [0, 1].

        Terms in nats per image: `rec_loss`, the log-likelihood, which is to be large; `kl`, the sum of the weighted
        `kl_*`; `elbo`, their difference.
        """
        image = batch["image"]
        if self.training:
            self.step.fill_(step)
        found = self(image, self.noise.at(step, image.device) if self.noise else None, step)
        terms = {name: value.mean() for name, value in found.kl.items()}
        log_likelihood, kl = found.log_likelihood.mean(), torch.stack(list(terms.values())).sum()
        elbo = log_likelihood - kl
        return {"loss": -elbo, "elbo": elbo, "rec_loss": log_likelihood, "kl": kl, **terms}

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Decomposition:
        """What every object covers with its colours, nearer ones or not, and as slot 0 what they leave over.

        Masks that sum to more than one somewhere are scaled down there. Extras, of objects only: `presence` (B, N),
        `boxes` (B, N, 4) in pixels, `depth` (B, N), `what` (B, N, D); `counts` (B,), `background` (B, 3, H, W),
        `canvas_with_bbox` (B, 3, H, W), and per image `kl` and `nll` (nats).
        """
        found = self(batch["image"], noise, self._step_of_evaluation())
        extras = {"kl": torch.stack(list(found.kl.values())).sum(dim=0), "nll": -found.log_likelihood}
        return self._decomposition(found.scene, extras)

    @torch.no_grad()
    def sample(self, count: int, noise: Noise | None = None, mode: bool = False) -> Decomposition:
        """`count` pictures from the prior. With `mode` only the canvas is sampled, the rest is at its most likely."""
        noise = noise or standard_normal(self.step.device)
        return self._decomposition(self.imagine(self.draw(count, noise), noise, mode), {})

    @torch.no_grad()
    def reconstruct_from_prior(
        self, image: Float[Tensor, "B 3 H W"], noise: Noise | None = None, mode: bool = False
    ) -> Decomposition:
        """The canvases of images, with objects and background from the prior that these give."""
        noise = noise or standard_normal(image.device)
        painting = self.draw(len(image), noise, self.encoder(image).float())
        return self._decomposition(self.imagine(painting, noise, mode), {})

    def forward(self, image: Float[Tensor, "B 3 H W"], noise: Noise | None = None, step: int = 0) -> Inference:
        """Infer the scene of `image` in [0, 1] as at a step of training.

        The draws are `background` (B, D), those of `StructuredDraw` and those of `ObjectDistribution.sample`.
        """
        noise = noise or standard_normal(image.device)
        features = self.encoder(image).float()
        background_posterior = gaussian(self.background_posterior(features.flatten(1)))
        background = background_posterior.sample(noise("background", (len(image), self.background_size)))
        painting = self.draw(len(image), noise, features)
        background_prior = gaussian(self.background_prior(painting.latents.flatten(1)))
        posterior, prior = self.object_network(features), self.object_network(painting.canvas)
        objects = posterior.sample(noise, TEMPERATURE(step))
        scene = Scene(painting, background, objects, self._render(background, objects, step))
        squares = ((image - scene.rendering.picture) / self.std).square().flatten(1).sum(dim=1)
        log_likelihood = -squares / 2 - image[0].numel() * (math.log(self.std) + math.log(2 * math.pi) / 2)
        kl = self._kl(scene, posterior, prior, background_posterior, background_prior, step)
        return Inference(scene, posterior, prior, background_posterior, background_prior, log_likelihood, kl)

    def imagine(self, painting: Painting, noise: Noise, mode: bool = False) -> Scene:
        """The objects and the background that the prior has for a canvas; with `mode` the most likely ones."""
        background_prior = gaussian(self.background_prior(painting.latents.flatten(1)))
        prior = self.object_network(painting.canvas)
        step = self._step_of_evaluation()
        if mode:
            background, objects = background_prior.mean, prior.mode()
        else:
            background = background_prior.sample(noise("background", tuple(background_prior.mean.shape)))
            objects = prior.sample(noise, TEMPERATURE(step))
        return Scene(painting, background, objects, self._render(background, objects, step))

    def _step_of_evaluation(self) -> int:
        return 0 if self.as_original else int(self.step)

    def _render(self, background: Float[Tensor, "B D_bg"], objects: Objects, step: int) -> Rendering:
        decoded = self.background_decoder(background[:, :, None, None]).float().sigmoid()
        if not in_curriculum(step):
            return self.renderer(objects, decoded)
        seen = replace(objects, presence=objects.presence.clamp(max=CURRICULUM_PRESENCE))
        return self.renderer(seen, decoded, CURRICULUM_ALPHA)

    def _kl(
        self,
        scene: Scene,
        posterior: ObjectDistribution,
        prior: ObjectDistribution,
        background_posterior: DiagonalGaussian,
        background_prior: DiagonalGaussian,
        step: int,
    ) -> dict[str, Float[Tensor, "B"]]:
        """The terms with their weights: from the learnt prior, and as `aux` from fixed ones that guide the training."""
        probability, standard = posterior.presence_logit.sigmoid(), standard_normal_prior(scene.background)
        presence = scene.objects.presence.clamp(min=LEAST_PRESENCE)
        kl = {
            "kl_pres": bernoulli_kl(probability, prior.presence_logit.sigmoid()),
            "kl_aux_pres": bernoulli_kl(probability, PRESENCE_PRIOR(step)),
            "kl_where": kl_divergence(posterior.where, prior.where),
            "kl_aux_where": presence * kl_divergence(posterior.where, DiagonalGaussian(*self.where_prior)),
            "kl_what": kl_divergence(posterior.what, prior.what),
            "kl_aux_what": presence * kl_divergence(posterior.what, standard),
            "kl_depth": kl_divergence(posterior.depth, prior.depth),
            "kl_aux_depth": presence * kl_divergence(posterior.depth, standard),
            "kl_bg": kl_divergence(background_posterior, background_prior)[:, None],
            "kl_aux_bg": kl_divergence(background_posterior, standard)[:, None],
            "kl_global": kl_divergence(scene.painting.posterior, scene.painting.prior),
        }
        weights = {name: KL_WEIGHTS[name](step) if name in KL_WEIGHTS else 1.0 for name in kl}
        return {name: weights[name] * value.sum(dim=1) for name, value in kl.items()}

    def _decomposition(self, scene: Scene, extras: dict[str, Tensor]) -> Decomposition:
        objects, rendering = scene.objects, scene.rendering
        colours = paste(rendering.colours, objects.where, self.image_size, EPSILON)
        extras |= objects.extras(self.image_size)
        extras |= {
            "background": rendering.background,
            "canvas_with_bbox": (rendering.picture + self.frames(objects)).clamp(0, 1),
        }
        return Decomposition(
            recon=rendering.picture.clamp(0, 1),
            masks=with_rest(rendering.masks),
            rgb=torch.cat((rendering.background[:, None], colours), dim=1),
            extras=extras,
        )

    def frames(self, objects: Objects) -> Float[Tensor, "B 3 H W"]:
        """A frame around every object on black, green where it is present, red where it is not."""
        colours = torch.stack((1 - objects.presence, objects.presence, torch.zeros_like(objects.presence)), dim=-1)
        return paste_frames(objects.where, colours, self.image_size, FRAME_SIDE, FRAME_WIDTH, EPSILON).clamp(0, 1)

"""SPAIR (Crawford and Pineau 2019) as in the ClevrTex benchmark: objects in the cells of a grid before a background.

Shapes: B images, N cells row by row. Differs from the original code, with equal numbers: cells that do not depend on
each other are inferred together, and decoded, pasted and compared with their priors all at once.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clevrtex.models.broadcast_vae import BroadcastDecoder, ConvEncoder
from clevrtex.models.glimpses import boxes
from clevrtex.models.presence import Presence, PresenceName, count_prior, presence_name
from clevrtex.models.spair_backbones import LARGE_CELL, SMALL_CELL, large_backbone, small_backbone
from clevrtex.models.spair_cells import MLP, CellEncoder, Cells
from clevrtex.models.spair_rendering import Rendering, render
from core.nn.noise import Noise, ShardedNoise, standard_normal
from core.types import Decomposition
from emorl.models.gaussian import DiagonalGaussian, kl_divergence

WHERE_PRIOR = ((-2.197, -2.197, 0.0, 0.0), (0.5, 0.5, 1.0, 1.0))
"""Means and standard deviations of width, height, x and y before they are squashed."""
BACKGROUND_PRIOR_STD = 3.0
BASELINE_RATE = 10.0

PresenceKL = Literal["original", "match", "ind"]


@dataclass
class Inference:
    """What one pass found. Log-likelihood and weighted divergences are in nats."""

    cells: Cells
    patches: Float[Tensor, "B N 4 h w"]
    """Colours of the objects, and their opacities times their presences."""
    rendering: Rendering
    log_likelihood: Float[Tensor, "B"]
    kl: dict[str, Float[Tensor, "B N"]]
    background_latents: Float[Tensor, "B D_bg"]
    background_kl: Float[Tensor, "B"]


class SPAIR(nn.Module):
    """SPAIR for images of `image_size` (h, w).

    An object is decoded as a patch of `patch_size` (h, w) and pasted into a box of at most `anchor` pixels. Cells have
    32 pixels if `large`, else 12; `reach` is how far a cell sees others, `passed` the number of features that its
    networks hand on. `background_size` is the background's latent size, 0 for a black one.

    The prior of the presences is over their number (`presence_kl` original; match compares distributions in place of
    probabilities) or one for all cells (ind). `factored` takes a softmax over the objects' depths. `reinforce` learns
    a baseline, which presences without a gradient need. `simple` is the variant with one network for box, depth and
    presence.

    Scheduled values bear the original's names: `z_pres_prior_p` is the prior's parameter, `z_pres_temperature` and
    `pres_dist_name` are those of the presences, `output_hparam` is the standard deviation of a pixel, `beta_*` are
    weights of the divergences, and `mask` is how much those of an object depend on its presence.

    Raises ValueError for pictures that are smaller than a cell.

    `as_original` repeats what the original does otherwise: with a `mask` the simple variant takes the boxes' divergence
    for the depths', `kl` is a mean over cells, and `factored` multiplies objects by their share twice and knows no
    mixture of objects and background.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (128, 128),
        patch_size: tuple[int, int] = (24, 24),
        anchor: float = 48,
        what_size: int = 64,
        background_size: int = 1,
        large: bool = True,
        reach: int = 1,
        passed: int = 100,
        presence_kl: PresenceKL = "original",
        factored: bool = False,
        reinforce: bool = False,
        simple: bool = False,
        std: float = 0.15,
        as_original: bool = False,
    ):
        super().__init__()
        self.image_size = image_size
        self.presence_kl = presence_kl
        self.factored = factored
        self.reinforce = reinforce
        self.as_original = as_original
        self.backbone = large_backbone() if large else small_backbone()
        self.cells = CellEncoder(
            grid_size=_grid_size(self.backbone, image_size),
            cell_size=LARGE_CELL if large else SMALL_CELL,
            anchor=anchor,
            image_size=image_size,
            glimpse_size=patch_size,
            what_size=what_size,
            passed=passed,
            reach=reach,
            together=simple,
        )
        self.object_decoder = BroadcastDecoder(patch_size, what_size, 4)
        self.background_encoder = ConvEncoder(3, background_size) if background_size else None
        self.background_decoder = BroadcastDecoder(image_size, background_size, 3) if background_size else None
        self.baseline = MLP(self.cells.num_inputs, 1, ()).requires_grad_(reinforce)
        self.register_buffer("where_prior", torch.tensor(WHERE_PRIOR), persistent=False)
        self.register_buffer("z_pres_prior_p", torch.tensor(1e-4))
        self.register_buffer("z_pres_temperature", torch.tensor(1.0))
        self.register_buffer("output_hparam", torch.tensor(std), persistent=False)
        self.pres_dist_name = "relaxedbernoulli"
        self.beta_pres = self.beta_what = self.beta_where = self.beta_depth = 2.7
        self.mask = 0.0
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""

    def param_groups(self) -> list[dict]:
        """The baseline learns ten times as fast as the rest."""
        others = [value for name, value in self.named_parameters() if not name.startswith("baseline.")]
        return [{"params": others, "lr": 1.0}, {"params": self.baseline.parameters(), "lr": BASELINE_RATE}]

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Negative ELBO with weighted KLs, mean over images; `batch["image"]` (B, 3, H, W) in [0, 1].

        Terms in nats per image: `rec_loss`, the log-likelihood, which is to be large; the weighted `kl_where`,
        `kl_what`, `kl_depth`, `kl_pres` and `kl_bg`, and `kl`, their sum; `elbo`. With `reinforce` also `base_loss`,
        the squared error of the baseline, and `rein_loss`, which gives presences without a gradient theirs.
        """
        image = batch["image"]
        found = self(image, self.noise.at(step, image.device) if self.noise else None)
        per_cell = torch.stack(list(found.kl.values())).sum(dim=0)
        log_likelihood, background_kl = found.log_likelihood, found.background_kl
        terms = {name: value.sum(dim=1).mean() for name, value in found.kl.items()} | {"kl_bg": background_kl.mean()}
        kl = per_cell.mean() if self.as_original else torch.stack(list(terms.values())).sum()
        elbo = (log_likelihood - per_cell.sum(dim=1) - background_kl).mean()
        terms |= {"loss": -elbo, "elbo": elbo, "kl": kl, "rec_loss": log_likelihood.mean()}
        if self.reinforce:
            terms |= self._reinforcement(found, per_cell)
            terms["loss"] = terms["loss"] + terms["base_loss"]
            if presence_name(self.pres_dist_name) == "bernoulli":
                terms["loss"] = terms["loss"] + terms["rein_loss"]
        return terms

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Decomposition:
        """What every object covers with its colours, nearer ones or not, and as slot 0 what they leave over.

        Masks that sum to more than one somewhere are scaled down there. Extras, of objects only: `presence` (B, N),
        `boxes` (B, N, 4) in pixels, `depth` (B, N), `what` (B, N, D), `glimpses` (B, N, 3, h, w) as they are decoded;
        `counts` (B,), `background` (B, 3, H, W), `heatmap` (B, rows, columns) of the presences' probabilities, and per
        image `kl` and `nll` (nats).
        """
        found = self(batch["image"], noise)
        cells, rendering = found.cells, found.rendering
        presence, masks = cells.presence[..., 0], rendering.masks()
        masks = torch.cat(((1 - masks.sum(dim=1, keepdim=True)).clamp(min=0), masks), dim=1)
        return Decomposition(
            recon=rendering.canvas.clamp(0, 1),
            masks=masks / masks.sum(dim=1, keepdim=True),
            rgb=torch.cat((rendering.background[:, None], rendering.colours()), dim=1),
            extras={
                "presence": presence,
                "counts": presence.round().sum(dim=1),
                "boxes": boxes(cells.window, self.image_size),
                "depth": cells.depth[..., 0],
                "what": cells.what,
                "glimpses": found.patches[:, :, :3] * found.patches[:, :, 3:],
                "background": rendering.background,
                "heatmap": cells.probability[..., 0].unflatten(1, self.cells.grid_size),
                "kl": torch.stack(list(found.kl.values())).sum(dim=(0, 2)) + found.background_kl,
                "nll": -found.log_likelihood,
            },
        )

    def forward(self, image: Float[Tensor, "B 3 H W"], noise: Noise | None = None) -> Inference:
        """Infer what is in `image` in [0, 1].

        The draws are those of `CellEncoder`, `background` (B, D), and `presence_kl` (B, N, 1) for divergences of the
        presences that have no closed form.
        """
        noise = noise or standard_normal(image.device)
        name = presence_name(self.pres_dist_name)
        features = self.backbone(image).float().flatten(2).transpose(1, 2)
        cells = self.cells(image, features, noise, name, self.z_pres_temperature)
        background, background_latents, background_kl = self._background(image, noise)
        colours, opacity = self.object_decoder(cells.what.flatten(0, 1)).split((3, 1), dim=1)
        opacity = opacity * cells.presence.flatten(0, 1)[..., None, None]
        patches = torch.cat((colours, opacity), dim=1).unflatten(0, cells.what.shape[:2])
        rendering = render(patches, cells.window, cells.depth, background, self.factored, self.as_original)
        # The original asks twice for the likelihood of the same canvas, which makes no mixture.
        mixture = self.factored and not self.as_original
        log_likelihood = rendering.log_likelihood(image, self.output_hparam, mixture)
        kl = self._kl(cells, name, noise)
        return Inference(cells, patches, rendering, log_likelihood, kl, background_latents, background_kl)

    def _background(
        self, image: Float[Tensor, "B 3 H W"], noise: Noise
    ) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B D_bg"], Float[Tensor, "B"]]:
        """Its picture, its latents, and their divergence from the prior."""
        if self.background_encoder is None:
            return torch.zeros_like(image), image.new_zeros(len(image), 0), image.new_zeros(len(image))
        posterior = self.background_encoder(image)
        latents = posterior.sample(noise("background", tuple(posterior.mean.shape)))
        prior = DiagonalGaussian(image.new_zeros(1), image.new_full((1,), BACKGROUND_PRIOR_STD))
        return self.background_decoder(latents), latents, kl_divergence(posterior, prior)

    def _kl(self, cells: Cells, name: PresenceName, noise: Noise) -> dict[str, Float[Tensor, "B N"]]:
        """Weighted divergences of the cells."""
        presence = cells.presence[..., 0]
        standard = DiagonalGaussian(presence.new_zeros(1), presence.new_ones(1))
        where, what, depth = (
            self._masked(kl_divergence(DiagonalGaussian(mean, std), prior), presence)
            for mean, std, prior in (
                (cells.where_mean, cells.where_std, DiagonalGaussian(*self.where_prior)),
                (cells.what_mean, cells.what_std, standard),
                (cells.depth_mean, cells.depth_std, standard),
            )
        )
        if self.as_original and self.mask and self.cells.together is not None:
            depth = where
        return {
            "kl_where": self.beta_where * where,
            "kl_what": self.beta_what * what,
            "kl_depth": self.beta_depth * depth,
            "kl_pres": self.beta_pres * self._presence_kl(cells, name, noise),
        }

    def _masked(self, nats: Float[Tensor, "B #N"], presence: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        return (1 - self.mask) * nats + self.mask * nats * presence

    def _presence_kl(self, cells: Cells, name: PresenceName, noise: Noise) -> Float[Tensor, "B N"]:
        probability = cells.probability[..., 0]
        if self.presence_kl == "ind":
            prior = self.z_pres_prior_p.expand_as(probability)
        else:
            prior = count_prior(cells.presence[..., 0].detach(), self.z_pres_prior_p)
        if self.presence_kl == "original":
            name = "bernoulli"
        p, q = (Presence(value, name, self.z_pres_temperature) for value in (probability, prior))
        return p.kl(q, noise("presence_kl", (*probability.shape, 1))[None, ..., 0])

    def _reinforcement(self, found: Inference, per_cell: Float[Tensor, "B N"]) -> dict[str, Float[Tensor, ""]]:
        """The score-function gradient of presences (Williams 1992), with a learnt baseline.

        What a presence costs is the divergence of its cell and those after it, less what can be said for the image.
        """
        cells, presence = found.cells, found.cells.presence[..., 0]
        baseline = self.baseline(cells.inputs.detach())[0][..., 0]
        gain = (found.log_likelihood - found.background_kl)[:, None]
        cost = per_cell.flip(1).cumsum(dim=1).flip(1) - self._masked(gain, presence)
        error = cost.detach() - baseline
        distribution = Presence(cells.probability, presence_name(self.pres_dist_name), self.z_pres_temperature)
        score = distribution.log_prob(cells.presence)[..., 0]
        return {
            "base_loss": error.square().sum(dim=1).mean(),
            "rein_loss": (error.detach() * score).sum(dim=1).mean(),
        }


def _grid_size(backbone: nn.Module, image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of cells. Raises ValueError where there is none."""
    dry = deepcopy(backbone).to("meta")
    try:
        return tuple(dry(torch.empty(1, 3, *image_size, device="meta")).shape[2:])
    except RuntimeError as error:
        raise ValueError(f"pictures of {image_size[0]}x{image_size[1]} are too small; take larger ones") from error

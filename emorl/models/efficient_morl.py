"""EfficientMORL (Emami, He, Ranka, Rangarajan 2021): efficient iterative amortised inference of slots.

Shapes: N images, K slots, D slot size, L layers, I refinement steps;
lambda = (mean | unconstrained scale) [N, K, 2 D].
Differs from the original code, with equal numbers: no second-order graph, one decoder backward per step whose
activations are freed at once (`ScoreWithGradient`), the factorised first decoder layer, batched DualGRU products.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.nn.noise import Noise, ShardedNoise, standard_normal
from core.types import Decomposition
from emorl.models.decoders import DecoderName, Decoding, build_decoder, compose
from emorl.models.encoder import PixelEncoder
from emorl.models.gaussian import DiagonalGaussian, kl_divergence
from emorl.models.geco import GECO
from emorl.models.hvae import BottomUpInference, ConditionalPrior, PriorName, hierarchical_kl
from emorl.models.initialisation import init_small
from emorl.models.likelihood import LikelihoodName, Score, ScoreWithGradient, gaussian_nll, mixture_nll
from emorl.models.refinement import RefinementNetwork


@dataclass
class Inference:
    """Everything one pass of inference found. Lists over steps hold the HVAE first, then every refinement."""

    loss: Float[Tensor, ""]
    kl_layers: list[Float[Tensor, "N K"]]
    posteriors: list[DiagonalGaussian]
    priors: list[DiagonalGaussian]
    attention: list[Float[Tensor, "N K P"]]
    parameters: list[Float[Tensor, "N K D2"]]
    """lambda of every step."""
    samples: list[Float[Tensor, "N K D"]]
    """The slots that were decoded at every step."""
    scores: list[Score]
    kl_refined: list[Float[Tensor, "N K"]] = field(default_factory=list)
    updates: list[Float[Tensor, "N K D2"]] = field(default_factory=list)
    layer_samples: list[Float[Tensor, "N K D"]] = field(default_factory=list)
    """Samples of the HVAE layers below the last, when asked for,"""
    layer_scores: list[Score] = field(default_factory=list)
    """and their decodings."""

    @property
    def nll(self) -> Float[Tensor, "N"]:
        return self.scores[-1].nll

    @property
    def kl(self) -> Float[Tensor, "N"]:
        """Of the last step: one refined KL if there is refinement, else the sum over the hierarchy."""
        last = self.kl_refined[-1:] or self.kl_layers
        return torch.stack(last).sum(dim=(0, 2)).detach()

    @property
    def posterior(self) -> DiagonalGaussian:
        """q after the last step."""
        return DiagonalGaussian.from_parameters(self.parameters[-1])


class EfficientMORL(nn.Module):
    """Two-stage inference of slots (Emami et al. 2021): an L-layer hierarchical VAE, then I refinements of its top.

    `log_std` is the natural log of the image's standard deviation. `refinement_curriculum` holds (from step, I) pairs
    for training; evaluation makes `refinement_iters` steps. With `geco` (GECO's arguments) the nll enters the loss
    through its constraint from the warm start on, in evaluation always: the refinement depends on the nll's weight.
    `small_init` starts as the original does, with weights so small that slots show plain grey and a DualGRU that
    saturates; without it PyTorch's defaults apply, and the pictures begin to depend on the slots much sooner.
    `hidden` is the number of channels of encoder and decoder. `images_per_chunk` is how many images the decoder scores
    at a time: it bounds the memory and changes no number beyond rounding. None chooses: one on the CPU, whose caches it
    suits, all on a GPU.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        num_slots: int,
        slot_size: int,
        num_layers: int = 3,
        refinement_iters: int = 3,
        log_std: float = -2.302585092994046,
        decoder: DecoderName = "iodine",
        likelihood: LikelihoodName = "Gaussian",
        prior: PriorName = "reversed++",
        dual_gru: bool = True,
        kl_weight: float = 1.0,
        refinement_curriculum: list[tuple[int, int]] | None = None,
        geco: dict[str, float] | None = None,
        small_init: bool = True,
        hidden: int = 64,
        images_per_chunk: int | None = None,
    ):
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"Net.stochastic_layers={num_layers}: at least one layer is needed")
        self.num_slots = num_slots
        self.refinement_iters = refinement_iters
        self.refinement_curriculum = refinement_curriculum
        self.prior_name = prior
        self.kl_weight = kl_weight
        self.log_std = log_std
        self.likelihood = {"Gaussian": gaussian_nll, "GMM": mixture_nll}[likelihood]
        self.images_per_chunk = images_per_chunk
        self.encoder = PixelEncoder(image_size, hidden)
        self.inference = BottomUpInference(hidden, slot_size, num_layers, dual_gru)
        self.prior = ConditionalPrior(slot_size)
        self.decoder = build_decoder(decoder, slot_size, image_size, hidden)
        self.refinement = RefinementNetwork(slot_size)
        self.geco = GECO(**geco) if geco else None
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""
        if small_init:
            self._init_weights()
        elif dual_gru:
            self.inference.gru.init_uniform()

    def _init_weights(self) -> None:
        """Very small weights, except where the original keeps PyTorch's: positions of the encoder, norms, GRUs."""
        for module in (self.encoder.convolutions, self.encoder.mlp, self.prior, self.decoder):
            init_small(module)
        inference = self.inference
        for module in (inference.to_query, inference.to_key, inference.to_value):
            init_small(module)
        for module in (inference.mean_mlp, inference.scale_mlp, getattr(inference, "project_update", nn.Identity())):
            init_small(module)
        for module in (self.refinement.encoding, self.refinement.mean, self.refinement.scale):
            init_small(module)

    def unused_parameters(self) -> bool:
        """Whether some step leaves a parameter without gradient, which DDP must be told."""
        curriculum = self.refinement_curriculum or []
        iters = [count for _, count in curriculum]
        if all(start > 0 for start, _ in curriculum):
            iters.append(self.refinement_iters)  # until the first entry begins
        return min(iters) == 0 or self.inference.num_layers == 1

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Training loss of `batch["image"]` (N, 3, H, W in [0, 1]) and what the log shows, as scalars on the device."""
        image = batch["image"]
        noise = self.noise.at(step, image.device) if self.noise else None
        found = self(image, step, noise=noise)
        terms = {"loss": found.loss, "nll": found.nll.mean(), "kl": found.kl.mean()}
        for i, update in enumerate(found.updates):
            terms[f"norm_delta_lamda_{i}"] = update.detach().norm(dim=-1).mean()
        return terms

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Decomposition:
        """The last step's pictures and posterior means; the result does not depend on what else is in the batch.

        Extras: `posterior` (mean and std), `kl` and `nll` per image (nats), `attention` of the last layer (N, K, H, W).
        """
        image = batch["image"]
        found = self(image, None, noise=noise, keep_pictures=True, images_per_mean=1)
        score = found.scores[-1]
        masks = score.log_masks.exp()
        return Decomposition(
            recon=compose(masks, score.rgb),
            masks=masks,
            rgb=score.rgb,
            slots=found.posterior.mean.detach(),
            extras={
                "posterior_std": found.posterior.std.detach(),
                "kl": found.kl,
                "nll": found.nll,
                "attention": found.attention[-1].unflatten(-1, image.shape[-2:]),
            },
        )

    def unroll(self, batch: dict[str, Tensor], noise: Noise | None = None) -> list[Decomposition]:
        """The decomposition after every layer of the HVAE and every refinement, from samples of their posteriors.

        Extras: `log_masks` and `attention` (N, K, H, W); refinements repeat the attention of the last layer. `slots`
        are the samples that were decoded.
        """
        image = batch["image"]
        found = self(image, None, noise=noise, keep_pictures=True, decode_layers=True, images_per_mean=1)
        scores = [*found.layer_scores, *found.scores]
        attention = [maps.unflatten(-1, image.shape[-2:]) for maps in found.attention]
        attention += attention[-1:] * (len(scores) - len(attention))
        return [
            Decomposition(
                recon=compose(score.log_masks.exp(), score.rgb),
                masks=score.log_masks.exp(),
                rgb=score.rgb,
                slots=slots.detach(),
                extras={"log_masks": score.log_masks, "attention": maps},
            )
            for score, slots, maps in zip(scores, [*found.layer_samples, *found.samples], attention)
        ]

    def infer_codes(
        self, image: Float[Tensor, "N 3 H W"], noise: Noise | None = None, *, sample: bool = False
    ) -> Float[Tensor, "N K D"]:
        """What `decode_slots` reads: the means of the final posterior, or a sample of it (draw `eval_sample`)."""
        noise = noise or standard_normal(image.device)
        posterior = self(image, None, noise=noise, images_per_mean=1, score_last=False).posterior
        codes = posterior.sample(noise("eval_sample", tuple(posterior.mean.shape))) if sample else posterior.mean
        return codes.detach()

    def decode_slots(self, codes: Float[Tensor, "S D"]) -> Decoding:
        """RGB in [0, 1] and mask logits of S codes, each by itself."""
        return self.decoder(codes)

    def forward(
        self,
        image: Float[Tensor, "N 3 H W"],
        step: int | None,
        *,
        noise: Noise | None = None,
        keep_pictures: bool = False,
        decode_layers: bool = False,
        images_per_mean: int | None = None,
        score_last: bool = True,
    ) -> Inference:
        """Infer the slots of `image` in [0, 1].

        `step` is the training step that GECO's warm start and the curriculum look at; None stands for a trained model.
        The refinement network sees the gradient of the mean loss, so its input scales with 1 / (images in that mean):
        `images_per_mean`, by default the whole (global) batch. 1 gives every image the result it has alone.
        Without `score_last` the last samples are drawn but not decoded: `loss` and `scores` lack the last step.
        """
        noise = noise or standard_normal(image.device)
        images_per_mean = images_per_mean or len(image) * (self.noise.count if self.noise else 1)
        num_refinements = self.num_refinements(step)
        differentiable = self.training and torch.is_grad_enabled()
        with torch.set_grad_enabled(differentiable):
            features = self.encoder(2 * image - 1).float()
            with self._precision_of_scores(image):
                terms = self.decoder.shared_terms()
            with self._full_precision(image):
                layers, draws, attention = self.inference(features, self.num_slots, noise)
        if not differentiable:
            # Evaluation keeps no graph but that from lambda to its loss, which the refinement needs.
            layers[-1].requires_grad_(num_refinements > 0)
        with torch.set_grad_enabled(differentiable or num_refinements > 0):
            posteriors = [DiagonalGaussian.from_parameters(layer) for layer in layers]
            samples = [posterior.sample(draw) for posterior, draw in zip(posteriors, draws)]
            with self._full_precision(image):
                kl_layers, priors = hierarchical_kl(posteriors, self.prior, self.prior_name == "bottom_up", noise)
            found = Inference(
                image.new_zeros(()), kl_layers, posteriors, priors, attention, layers[-1:], samples[-1:], []
            )
            if decode_layers:
                found.layer_samples = samples[:-1]
                with torch.no_grad(), self._precision_of_scores(image):
                    found.layer_scores = [self._score(image, sample, *terms) for sample in samples[:-1]]
            self._refine(found, image, step, num_refinements, terms, noise, keep_pictures, images_per_mean, score_last)
        if not differentiable:
            found.loss = found.loss.detach()
        return found

    def _refine(
        self, found, image, step, num_refinements, terms, noise, keep_pictures, images_per_mean, score_last
    ) -> None:
        """Score the HVAE's slots, then refine and score `num_refinements` times; adds to `found` (eq. 7 to 10)."""
        state, loss = None, None
        prior = found.priors[0] if self.prior_name == "reversed++" else DiagonalGaussian.standard_like(found.priors[0])
        kl = torch.stack(found.kl_layers).sum(dim=(0, 2))
        for i in range(num_refinements + 1):
            if i > 0:
                parameters = found.parameters[-1]
                with self._precision_of_scores(image):
                    gradient = torch.autograd.grad(loss, parameters, retain_graph=self.training)[0]
                with self._full_precision(image):
                    update, state = self.refinement(gradient * (len(image) / images_per_mean), parameters, state)
                if not self.training:
                    update, state = update.detach(), state.detach()
                    parameters = parameters.detach().requires_grad_()
                parameters = parameters + update
                posterior = DiagonalGaussian.from_parameters(parameters)
                kl_slots = kl_divergence(posterior, prior)
                kl = kl_slots.sum(dim=1)
                found.parameters.append(parameters)
                found.samples.append(posterior.sample(noise(f"refine_{i}", tuple(posterior.mean.shape))))
                found.updates.append(update.detach())
                found.kl_refined.append(kl_slots.detach())
            if i == num_refinements and not score_last:
                return
            needs_gradient = self.training or i < num_refinements
            nll, score = self._score_batch(image, found.samples[-1], terms, needs_gradient, keep_pictures)
            found.scores.append(score)
            loss = self._objective(nll / len(image), kl.mean(), step)
            found.loss = found.loss + (num_refinements + 3 - i) / (num_refinements + 1) * loss

    def _score_batch(self, image, slots, terms, needs_gradient, keep_pictures) -> tuple[Tensor, Score]:
        """The nll summed over images, differentiable if need be, and the scores without gradient."""
        if not (needs_gradient and torch.is_grad_enabled()):
            with torch.no_grad(), self._precision_of_scores(image):
                score = self._score(image, slots, *terms)
            return score.nll.sum(), score
        parameters = self.decoder.own_parameters() if self.training else []
        chunk = self.images_per_chunk or (1 if image.device.type == "cpu" else len(image))
        with self._precision_of_scores(image):
            total, nll, *pictures = ScoreWithGradient.apply(
                self._score, image, chunk, keep_pictures, len(terms), slots, *terms, *parameters
            )
        return total, Score(nll, *(pictures or (None, None, None)))

    def _score(self, image: Float[Tensor, "N 3 H W"], slots: Float[Tensor, "N K D"], *terms: Tensor) -> Score:
        rgb, logits = self.decoder(slots.flatten(0, 1), terms)
        rgb, logits = (value.unflatten(0, slots.shape[:2]) for value in (rgb, logits))
        log_masks = logits.log_softmax(dim=1)
        return Score(self.likelihood(image, rgb, log_masks, self.log_std), rgb, log_masks, logits)

    def _objective(self, nll: Float[Tensor, ""], kl: Float[Tensor, ""], step: int | None) -> Float[Tensor, ""]:
        if self.geco and self.kl_weight and (step is None or step >= self.geco.warm_start):
            return self.kl_weight * kl - self.geco.constraint(nll)
        return nll + self.kl_weight * kl

    def num_refinements(self, step: int | None) -> int:
        """I: at a training step as the curriculum has it, else `refinement_iters`."""
        return self.refinement_iters if not self.training or step is None else self.refinements_in_training(step)

    def refinements_in_training(self, step: int) -> int:
        """I at a training step: that of the last curriculum entry that has begun."""
        begun = [count for start, count in self.refinement_curriculum or [] if step >= start]
        return begun[-1] if begun else self.refinement_iters

    @staticmethod
    def _full_precision(image: Tensor) -> torch.autocast:
        """Slots, posteriors and the refinement stay float32 under autocast; encoder and decoder may not."""
        return torch.autocast(image.device.type, enabled=False)

    @classmethod
    def _precision_of_scores(cls, image: Tensor) -> AbstractContextManager:
        """float32 under fp16: the gradient that a score comes with sums over pixels, and no loss scale protects it."""
        device = image.device.type
        is_half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
        return cls._full_precision(image) if is_half else nullcontext()

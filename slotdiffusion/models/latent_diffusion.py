"""Latent diffusion (Rombach et al. 2022) conditioned on slots: the decoder of SlotDiffusion (Wu et al. 2023).

Shapes: F pictures, N slots of size S; what is denoised has C channels and h x w places.
Differs from the original code, with equal numbers: the keys and values of slots are made once for all steps of a
sampler, and so are the coefficients of the solver.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from inspect import signature
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from core.nn.noise import Noise
from core.spelling import nearest
from slotdiffusion.models.ancestral import sample_ancestral
from slotdiffusion.models.average import WeightAverage
from slotdiffusion.models.ddim import check_ddim_steps, sample_ddim
from slotdiffusion.models.diffusion import (
    TARGETS,
    Correction,
    Estimate,
    Estimator,
    Maps,
    Moment,
    clip_to_range,
    dynamic_threshold,
    estimate_from,
    training_target,
)
from slotdiffusion.models.dpm_solver import check_evaluations, multistep_updates, singlestep_updates, solve
from slotdiffusion.models.noise_schedule import NoiseSchedule, make_betas
from slotdiffusion.models.unet import SlotKeys, Times, UNet
from slotdiffusion.models.vqvae import VQVAE, FrozenVQVAE, pictures_of
from slotformer.framework.params import ParamsError

Context = Float[Tensor, "F N S"] | Float[Tensor, "F S h w"]
"""Slots to attend to, or maps."""
CONDITIONING_KEYS = ("crossattn", "concat", None)
"""Attention to slots, maps as further channels, or nothing to go by."""
SAMPLERS = ("dpm", "dpm_multistep", "ddim", "ancestral")
ORIGINAL_NETWORK_TIMESTEPS = 1000
"""In which the original's solver counts the network's times, however many there are."""
VAE_KEYS = ("vae_type", "vqvae_ckp_path", "enc_dec_dict", "vq_dict")
FIXED = {"dims": 2, "resblock_updown": False, "conv_resample": True, "n_embed": None}
"""Entries of `unet_dict` for what no published model has, and the one value that they may have."""
UNUSED = {"logvar_init"}
"""Entries of `diffusion_dict` that say nothing, in the original neither."""


@dataclass(frozen=True)
class DiffusionSettings:
    """What `diffusion_dict` says."""

    pred_target: str = "eps"
    z_scale_factor: float = 1.0
    timesteps: int = 1000
    beta_schedule: str = "linear"
    linear_start: float = 1e-4
    linear_end: float = 2e-2
    cosine_s: float = 8e-3
    log_every_t: int = 200
    """Steps between the states that sampling step by step shows."""

    @staticmethod
    def of(diffusion_dict: Mapping[str, Any]) -> "DiffusionSettings":
        """Raises ParamsError for an entry unknown here."""
        known = [field.name for field in fields(DiffusionSettings)]
        settings = _known("dec_dict.diffusion_dict", diffusion_dict, known, UNUSED)
        if settings.get("pred_target", "eps") not in TARGETS:
            raise ParamsError(f"diffusion_dict: pred_target={settings['pred_target']!r} is not one of {TARGETS}")
        return DiffusionSettings(**settings)

    def schedule(self) -> NoiseSchedule:
        ranges = (self.linear_start, self.linear_end, self.cosine_s)
        return NoiseSchedule(make_betas(self.beta_schedule, self.timesteps, *ranges))


def _known(
    name: str,
    given: Mapping[str, Any],
    known: Collection[str],
    ignored: Collection[str] = (),
    lists: Collection[str] = (),
    needed: Collection[str] = (),
) -> dict[str, Any]:
    """`given` without what is ignored.

    Raises ParamsError for another entry than the known ones, for `lists` that are none, and without what is needed.
    """
    kept = {key: value for key, value in given.items() if key not in ignored}
    for key, value in kept.items():
        if key not in known:
            raise ParamsError(f"{name} has no {key!r}{nearest(key, [*known, *ignored])}")
        if key in lists and not isinstance(value, list | tuple):
            raise ParamsError(f"{name}: {key} is {value!r}, expected a list of numbers")
    if missing := [key for key in needed if key not in kept]:
        raise ParamsError(f"{name} needs {', '.join(missing)}: add it to the configuration")
    return kept


def build_unet(unet_dict: Mapping[str, Any]) -> UNet:
    """Raises ParamsError for an entry unknown here, and for what no published model has."""
    for key, value in FIXED.items():
        if unet_dict.get(key, value) != value:
            raise ParamsError(f"dec_dict.unet_dict: {key}={unet_dict[key]!r} is not built here, only {value!r}")
    lists = ("attention_resolutions", "channel_mult")
    return UNet(**_known("dec_dict.unet_dict", unet_dict, signature(UNet).parameters, FIXED, lists))


def build_vae(vae_dict: Mapping[str, Any], z_scale_factor: float) -> FrozenVQVAE:
    """Untrained: whoever builds the model loads `vqvae_ckp_path` (`load_vqvae`).

    Raises ParamsError for an entry unknown here, and for another autoencoder than a VQ-VAE.
    """
    parts = ("enc_dec_dict", "vq_dict")
    _known("dec_dict.vae_dict", vae_dict, VAE_KEYS, needed=parts)
    if vae_dict.get("vae_type", "VQVAE") != "VQVAE":
        raise ParamsError(f"dec_dict.vae_dict: vae_type={vae_dict['vae_type']!r} is not built here, only 'VQVAE'")
    known, lists, arguments = signature(VQVAE).parameters, ("ch_mult", "attn_resolutions"), {}
    for part in parts:
        arguments |= _known(f"dec_dict.vae_dict.{part}", vae_dict[part], known, lists=lists)
    return FrozenVQVAE(VQVAE(**arguments), z_scale_factor)


def build_decoder(dec_dict: Mapping[str, Any], ignored: Collection[str] = (), **others: Any) -> "LatentDiffusion":
    """That of `dec_dict`, of which `ignored` entries say something else; `others` are arguments unless it says them.

    Raises ParamsError for an entry unknown here, and without one that is needed.
    """
    needed = ("resolution", "unet_dict", "diffusion_dict")
    known = _known("dec_dict", dec_dict, signature(LatentDiffusion).parameters, ignored, ("resolution",), needed)
    return LatentDiffusion(**{**others, **known})


class Condition(NamedTuple):
    """What a network is told beside time and noisy picture; the same at every step of a sampler."""

    maps: Float[Tensor, "F S h w"] | None
    slots: SlotKeys | None


class ConditionalUNet(nn.Module):
    """A UNet and how it learns of the context."""

    def __init__(self, unet: UNet, conditioning_key: str | None):
        super().__init__()
        self.diffusion_model = unet
        self.conditioning_key = conditioning_key

    def condition(self, context: Context | None) -> Condition:
        """What `forward` reads of the context."""
        if self.conditioning_key == "crossattn":
            return Condition(None, self.diffusion_model.project(context))
        return Condition(context if self.conditioning_key == "concat" else None, None)

    def forward(self, noisy: Maps, times: Times, condition: Condition) -> Maps:
        inputs = noisy if condition.maps is None else torch.cat((noisy, condition.maps), dim=1)
        return self.diffusion_model(inputs, times, condition.slots)


class LatentDiffusion(nn.Module):
    """A UNet that denoises what a frozen VQ-VAE makes of pictures; without `vae_dict` the pictures themselves.

    resolution: (h, w) of what is denoised.
    vae_dict, unet_dict, diffusion_dict: as in the configurations.
    use_ema: keep an average of the UNet's weights, which `update_average` moves and `average_scope` puts in.
    conditioning_key: how the UNet learns of the context, which the batch calls `cond_stage_key`.
    as_original: tell the network times in thousandths in the solver, also if there are not a thousand.

    Raises ParamsError for entries of the dictionaries that are unknown here.
    """

    def __init__(
        self,
        resolution: Sequence[int],
        unet_dict: Mapping[str, Any],
        diffusion_dict: Mapping[str, Any],
        vae_dict: Mapping[str, Any] | None = None,
        use_ema: bool = False,
        conditioning_key: str | None = "crossattn",
        cond_stage_key: str = "slots",
        as_original: bool = False,
    ):
        super().__init__()
        if cond_stage_key != "slots":
            raise ParamsError(f"dec_dict: cond_stage_key={cond_stage_key!r}: what there is to go by is 'slots'")
        if conditioning_key not in CONDITIONING_KEYS:
            raise ParamsError(f"dec_dict: conditioning_key={conditioning_key!r} is not one of {CONDITIONING_KEYS}")
        self.resolution = tuple(resolution)
        self.settings = DiffusionSettings.of(diffusion_dict)
        self.schedule = self.settings.schedule()
        unet = build_unet(unet_dict)
        if conditioning_key != "crossattn" and unet.context_dim is not None:
            raise ParamsError(
                f"dec_dict: with conditioning_key={conditioning_key!r} unet_dict.context_dim must be None"
            )
        self.model = ConditionalUNet(unet, conditioning_key)
        self.vae = build_vae(vae_dict, self.settings.z_scale_factor) if vae_dict else None
        self.model_ema = WeightAverage(self.model) if use_ema else None
        self.channels: int = self.model.diffusion_model.out_channels
        self.network_timesteps = ORIGINAL_NETWORK_TIMESTEPS if as_original else len(self.schedule)
        for name in ("alphas", "sigmas"):
            values = torch.from_numpy(getattr(self.schedule, name)).float()
            self.register_buffer(name, values, persistent=False)

    def check_fits(self, picture_size: tuple[int, int], slot_size: int) -> None:
        """Whether slots and pictures of these sizes can be its context and what it draws.

        Raises ParamsError unless it attends to slots, unless they go with `resolution` and `context_dim`, and unless
        VQ-VAE and UNet can halve the pictures as often as they do.
        """
        key, unet = self.model.conditioning_key, self.model.diffusion_model
        if key != "crossattn":
            raise ParamsError(
                f"dec_dict: conditioning_key={key!r} does not let the denoiser see slots: set it to 'crossattn', and "
                f"unet_dict.context_dim to {slot_size}, the slot_size"
            )
        factor = self.vae.vqvae.factor if self.vae else 1
        if (expected := tuple(side // factor for side in picture_size)) != self.resolution:
            raise ParamsError(
                f"dec_dict: resolution={self.resolution}, but what is denoised of pictures of {tuple(picture_size)} is "
                f"{expected}"
            )
        if any(side % (factor * unet.factor) for side in picture_size):
            raise ParamsError(
                f"resolution {tuple(picture_size)}: the levels of VQ-VAE and UNet halve pictures again and again; set "
                f"the sides to multiples of {factor * unet.factor}, or shorten dec_dict.unet_dict.channel_mult"
            )
        if unet.context_dim != slot_size:
            raise ParamsError(f"dec_dict.unet_dict: context_dim={unet.context_dim} must be {slot_size}, the slot_size")

    def clean(self, batch: dict[str, Tensor]) -> Maps:
        """What is denoised of all F pictures of a batch: their latents, not quantised, which may be there already.

        See `FrozenVQVAE.latents`.
        """
        return self.vae.latents(batch) if self.vae else pictures_of(batch).flatten(0, -4)

    def loss(self, clean: Maps, context: Context | None, noise: Noise) -> Float[Tensor, ""]:
        """Mean squared error of the prediction for pictures at random times.

        Draws: `t` (F,), a standard normal whose distribution function, times the number of steps, is rounded down to
        the time; then `noise`, of the shape of `clean`.
        """
        count = len(self.schedule)
        shares = torch.special.ndtr(noise("t", (len(clean),)))
        times = (shares * count).long().clamp(max=count - 1)
        return self.loss_at(clean, context, times, noise("noise", tuple(clean.shape)))

    def loss_at(
        self, clean: Maps, context: Context | None, times: Int64[Tensor, " F"], noise: Maps
    ) -> Float[Tensor, ""]:
        """The loss at given `times` from 0 on and with given noise; float32 under autocast."""
        target = training_target(self.settings.pred_target, clean, noise, *self._moment(times))
        found = self.model(self.noisy(clean, times, noise), times, self.model.condition(context))
        return F.mse_loss(found.float(), target)

    def noisy(self, clean: Maps, times: Int64[Tensor, "#F"], noise: Maps) -> Maps:
        """x_t of `clean` at `times` of the pictures, or one for all."""
        alpha, sigma = self._moment(times)
        return alpha * clean + sigma * noise

    def _moment(self, times: Int64[Tensor, "#F"]) -> tuple[Float[Tensor, "#F 1 1 1"], Float[Tensor, "#F 1 1 1"]]:
        return self.alphas[times][:, None, None, None], self.sigmas[times][:, None, None, None]

    @torch.no_grad()
    def sample(self, context: Context | None, noise: Noise, **options: Any) -> Float[Tensor, "F 3 H W"]:
        """Pictures of a context, in [-1, 1] but for errors; `options` are those of `sample_states`."""
        return self.decode(self.sample_states(context, noise, **options)[-1])

    @torch.no_grad()
    def sample_states(
        self,
        context: Context | None,
        noise: Noise,
        sampler: str = "dpm",
        steps: int | None = None,
        eta: float = 0.0,
        same_noise: bool = False,
        count: int | None = None,
    ) -> list[Maps]:
        """What a sampler passes through from pure noise to the sample, which is the last.

        dpm            DPM-Solver++ of order 3, `steps` evaluations; None: one for 50 steps of training, at least 20
        dpm_multistep  the same of order 2, one evaluation a step
        ddim           DDIM, about `steps` steps; None: a fifth of those of training, at least 200; `eta` is its noise
        ancestral      all steps of training

        Every estimate of the clean picture goes to the nearest codes of the VQ-VAE; without one it is cut to [-1, 1].
        Draws: `start`, then `step_noise` if the sampler is random, each of the shape of the sample; with `same_noise`
        for one picture alone, which all share. `count` is the number of pictures where there is no context.

        Raises ValueError for another sampler, and for a number of steps that it cannot take.
        """
        steps = self.number_of_steps(sampler, steps)
        shape = (len(context) if count is None else count, self.channels, *self.resolution)

        def draw(name: str, shape: tuple[int, ...]) -> Tensor:
            return noise(name, (1, *shape[1:])).expand(shape) if same_noise else noise(name, shape)

        start = draw("start", shape)
        estimate = self.estimator(context, self._correction(sampler))
        if sampler == "ancestral":
            return sample_ancestral(start, self.schedule, estimate, draw, self.settings.log_every_t)
        if sampler == "ddim":
            return sample_ddim(start, self.schedule, estimate, draw, steps, eta)
        updates_of = singlestep_updates if sampler == "dpm" else multistep_updates
        return solve(start, updates_of(self.schedule, steps, self.network_timesteps), estimate)

    def number_of_steps(self, sampler: str = "dpm", steps: int | None = None) -> int:
        """The `steps` of `sample_states`, by default if None. Raises ValueError as it does."""
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler={sampler!r} is not one of {SAMPLERS}")
        total = len(self.schedule)
        if sampler == "ancestral":
            return total
        if sampler == "ddim":
            steps = max(200, total // 5) if steps is None else steps
            check_ddim_steps(total, steps)
        else:
            steps = max(20, total // 50) if steps is None else steps
            check_evaluations(steps)
        return steps

    def generate(
        self,
        slots: Float[Tensor, "B T N D"],
        noise: Noise,
        together: int,
        steps: int | None = None,
        same_noise: bool = False,
        sampler: str = "dpm",
    ) -> Float[Tensor, "B T 3 H W"]:
        """Frames of videos from their slots, in [-1, 1] but for errors, by a sampler that draws nothing but its start.

        For `steps` and `sampler` see `sample_states`. With the average of weights, if there is one. The draw `start` is
        (B, T, C, h, w), or with `same_noise` (1, C, h, w) for all frames. So many frames `together` as fit the memory;
        it changes no number.
        """
        frames, size = slots.flatten(0, 1), (self.channels, *self.resolution)
        if same_noise:
            starts = noise("start", (1, *size)).expand(len(frames), *size)
        else:
            starts = noise("start", (*slots.shape[:2], *size)).flatten(0, 1)
        with self.average_scope():
            pictures = [
                self.sample(few, lambda name, shape, start=start: start, steps=steps, sampler=sampler)
                for few, start in zip(frames.split(together), starts.split(together))
            ]
        return torch.cat(pictures).float().unflatten(0, slots.shape[:2])

    def estimator(self, context: Context | None, correct: Correction) -> Estimator:
        """What samplers ask; the context is read once, and every estimate of the clean picture is corrected."""
        condition = self.model.condition(context)

        def estimate(state: Maps, moment: Moment) -> Estimate:
            times = torch.full((1,), moment.time, device=state.device)
            found = self.model(state, times, condition).float()
            return estimate_from(self.settings.pred_target, found, state, moment, correct)

        return estimate

    def decode(self, clean: Maps) -> Float[Tensor, "F 3 H W"]:
        """Pictures, by way of the codebook, in [-1, 1] but for errors."""
        return self.vae.decode(clean) if self.vae else clean

    def _correction(self, sampler: str) -> Correction:
        if self.vae:
            return self.vae.quantize
        return dynamic_threshold if sampler.startswith("dpm") else clip_to_range

    def update_average(self) -> None:
        """Once after every step of the optimiser; nothing without `use_ema`."""
        if self.model_ema is not None:
            self.model_ema.update(self.model)

    @contextmanager
    def average_scope(self) -> Iterator[None]:
        """Inside, the UNet has the average for its weights, if there is one."""
        if self.model_ema is None:
            yield
        else:
            with self.model_ema.scope(self.model):
                yield

"""The models that tools/bench.py measures, at their published sizes, and what their originals cost."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Benchmark:
    """A model at its published size. Original: units per step and peak resident MiB of its process, at `batch`."""

    build: Callable[[], tuple[Any, dict[str, tuple[int, ...]]]]
    """Gives the model and the shape of one sample of every input."""
    batch: int
    original_units: float
    original_mb: int
    clip_norm: float | None = None
    optimizer: str | Callable[[Any], Any] | None = "Adam"
    """Of torch.optim, or what makes one for the model; None: a step is `decompose` without gradients."""

    inputs: Callable[[int], dict[str, Any]] | None = None
    """Makes a batch of so many samples where shapes do not say it all."""


def emorl(configuration: str) -> Callable[[], tuple[Any, dict[str, tuple[int, ...]]]]:
    def build() -> tuple[Any, dict[str, tuple[int, ...]]]:
        from emorl.models import build_model
        from emorl.settings import arguments_of_model, complete

        config = complete(ROOT / "emorl" / "configs" / "train" / f"{configuration}.json", "training")
        return build_model(**arguments_of_model(config, "training")), {"image": tuple(config["Net"]["input_size"])}

    return build


def clevrtex(module: str, model: str, **options: Any) -> Callable[[], tuple[Any, dict[str, tuple[int, ...]]]]:
    def build() -> tuple[Any, dict[str, tuple[int, ...]]]:
        kind = getattr(importlib.import_module(f"clevrtex.models.{module}"), model)
        return kind(**options), {"image": (3, 128, 128)}

    return build


def slotformer(module: str, model: str, frames: int = 6, **options: Any) -> Any:
    """A model of slotformer/base_slots; clips of `frames` pictures of its resolution."""

    def build() -> tuple[Any, dict[str, tuple[int, ...]]]:
        kind = getattr(importlib.import_module(f"slotformer.base_slots.models.{module}"), model)
        return kind(**options), {"video": (frames, 3, *options["resolution"])}

    return build


def movie(
    module: str, model: str, frames: int = 3, with_latents: bool = False, **options: Any
) -> Callable[[], tuple[Any, dict[str, tuple[int, ...]]]]:
    """A model of slotdiffusion as configured for MOVi-E; clips of `frames`, perhaps with their latents."""

    def build() -> tuple[Any, dict[str, tuple[int, ...]]]:
        kind = getattr(importlib.import_module(f"slotdiffusion.models.{module}"), model)
        latents = {"latents": (frames, 3, 32, 32)} if with_latents else {}
        return kind(resnet="resnet18", **options), {"video": (frames, 3, 128, 128)} | latents

    return build


def dynamics(configuration: str, with_video: bool) -> Callable[[], tuple[Any, dict[str, tuple[int, ...]]]]:
    """A model of slotformer/video_prediction; clips of slots, and of pictures if the configuration compares them."""

    def build() -> tuple[Any, dict[str, tuple[int, ...]]]:
        model, params = of_task("video_prediction", configuration)
        shapes = {"slots": (params.n_sample_frames, params.num_slots, params.slot_size)}
        if with_video:
            shapes["video"] = (params.n_sample_frames, 3, *params.resolution)
        return model, shapes

    return build


def of_task(task: str, configuration: str) -> tuple[Any, Any]:
    """The model of a task of slotformer and its configuration."""
    from slotformer.framework.params import load_params

    package = importlib.import_module(f"slotformer.{task}")
    params = load_params(ROOT / "slotformer" / task / "configs" / f"{configuration}.py", package.Keys)
    return package.build_model(params), params


def physion_readout() -> tuple[Any, dict[str, tuple[int, ...]]]:
    model, params = of_task("physion_vqa", "readout_physion_params")
    return model, {"slots": (params.video_len, params.readout_dict["num_slots"], params.slot_size), "label": ()}


def phyre_readout() -> tuple[Any, dict[str, tuple[int, ...]]]:
    model, params = of_task("phyre_planning", "readout_phyre_params-fold0")
    options = params.readout_dict
    return model, {"slots": (len(options["sel_slots"]), options["num_slots"], params.slot_size), "label": ()}


def aloe() -> tuple[Any, dict[str, tuple[int, ...]]]:
    return of_task("clevrer_vqa", "aloe_clevrer_params")[0], {}


def aloe_questions(count: int) -> dict[str, Any]:
    """Three in four are descriptive, the others have seven choices; texts are as long as CLEVRER's."""
    import torch

    others, choices = count // 4, 7 * (count // 4)
    lengths = {"cls": torch.linspace(8, 20, count - others), "mc": torch.linspace(13, 23, choices)}
    batch = {
        "cls_label": torch.randint(1, 22, (count - others,)),
        "mc_label": torch.randint(2, (choices,)),
        "mc_flag": torch.arange(others).repeat_interleave(7),
        "cls_video_emb": torch.randn(count - others, 25, 7, 128),
        "mc_video_emb": torch.randn(others, 25, 7, 128),
    }
    places = torch.arange(23)
    for kind, words in lengths.items():
        batch |= {
            f"{kind}_q_tokens": torch.randint(1, 82, (len(words), 23)),
            f"{kind}_q_places": places.repeat(len(words), 1),
            f"{kind}_q_pad_mask": places >= words[:, None],
        }
    return batch


def light_field(
    encoder: str, decoder: str, num_rays: int = 2048
) -> Callable[[], tuple[Any, dict[str, tuple[int, ...]]]]:
    """A model of osrt as configured for CLEVR3D: one input view; without target rays to render that view."""

    def build() -> tuple[Any, dict[str, tuple[int, ...]]]:
        from osrt.models import build_model

        options = {"pos_start_octave": -5}
        model = build_model(encoder, options | ({"num_slots": 6} if encoder == "osrt" else {}), decoder, options)
        shapes = {"input_images": (1, 3, 120, 160), "input_camera_pos": (1, 3), "input_rays": (1, 120, 160, 3)}
        return model, shapes | {f"target_{name}": (num_rays, 3) for name in ("camera_pos", "rays", "pixels")}

    return build


def of_experiment(name: str) -> Callable[[Any], Any]:
    """The optimiser of a ClevrTex experiment."""

    def build(model: Any) -> Any:
        from clevrtex.framework.catalogue import experiment_class

        return experiment_class(name)().build_optimizer(model)

    return build


def dtisprites() -> tuple[Any, dict[str, tuple[int, ...]]]:
    model, shapes = clevrtex("dtisprites", "DTISprites")()
    model.set_epoch(160)  # from then on all of it takes part
    return model, shapes


def dvae() -> tuple[Any, dict[str, tuple[int, ...]]]:
    from slotformer.base_slots.models.dvae import dVAE

    return dVAE(), {"video": (1, 3, 128, 128)}


def vqvae() -> tuple[Any, dict[str, tuple[int, ...]]]:
    import torch

    from core.metrics.perceptual import BACKBONES, LPIPS
    from slotdiffusion.models.vqvae import VQVAE

    model = VQVAE()
    model.lpips = LPIPS("vgg", {name: 0.05 * torch.randn(shape) for name, shape in BACKBONES["vgg"].weights().items()})
    return model, {"video": (1, 3, 128, 128)}


def steve_optimizer(model: Any) -> Any:
    import torch

    from slotformer.base_slots.models.steve import parameter_groups

    return torch.optim.Adam(parameter_groups(model, 1e-4, 3e-4), fused=True)


def diffusion_optimizer(model: Any) -> Any:
    import torch

    from slotformer.base_slots.models.steve import parameter_groups

    return torch.optim.Adam(parameter_groups(model, 1e-4, 2e-4, "dm_decoder"), fused=True)


STOSAVI_CLEVRER = {
    "num_slots": 7,
    "kernel_mlp": False,
    "pred_type": "mlp",
    "pred_rnn": False,
    "kld_method": "var-0.01",
}

SAVI_DIFFUSION = {
    "module": "savi_diffusion",
    "model": "SAViDiffusion",
    "dec_dict": {
        "resolution": (32, 32),
        "vae_dict": {"enc_dec_dict": {}, "vq_dict": {}},
        "unet_dict": {},
        "diffusion_dict": {"linear_start": 0.0015, "linear_end": 0.0195},
    },
}

BENCHMARKS = {
    "emorl-tetrominoes": Benchmark(emorl("tetrominoes/EMORL"), 2, 0.99, 462, clip_norm=5.0),
    "emorl-multi_dsprites": Benchmark(emorl("multi_dsprites/EMORL"), 2, 8.5, 1168, clip_norm=5.0),
    "emorl-clevr6-96": Benchmark(emorl("clevr6-96x96/EMORL"), 2, 33.4, 1907, clip_norm=5.0),
    "slotattention-tetrominoes": Benchmark(emorl("tetrominoes/SlotAttention"), 2, 0.31, 420),
    "slotattention-multi_dsprites": Benchmark(emorl("multi_dsprites/SlotAttention"), 2, 1.46, 539),
    "slotattention-clevr6-96": Benchmark(emorl("clevr6-96x96/SlotAttention"), 2, 4.5, 774),
    "clevrtex-slota": Benchmark(clevrtex("slot_attention", "SlotAttention"), 1, 6.2, 824),
    "clevrtex-monet": Benchmark(clevrtex("monet", "MONet"), 1, 13.0, 1542, optimizer="RMSprop"),
    "clevrtex-genesisv2": Benchmark(clevrtex("genesisv2", "GenesisV2"), 1, 4.3, 1019),
    "clevrtex-iodine": Benchmark(clevrtex("iodine", "IODINE"), 1, 58, 3231, clip_norm=5.0),
    "clevrtex-effmorl": Benchmark(clevrtex("effmorl", "EffMORL"), 1, 49, 2398, clip_norm=5.0),
    "clevrtex-gnm": Benchmark(clevrtex("gnm", "GNM"), 2, 0.84, 677, clip_norm=1.0, optimizer="RMSprop"),
    "clevrtex-space": Benchmark(
        clevrtex("space", "SPACE"), 2, 9.3, 1540, clip_norm=1.0, optimizer=of_experiment("space")
    ),
    "clevrtex-spair": Benchmark(clevrtex("spair", "SPAIR"), 2, 0.95, 550, clip_norm=1.0),
    "clevrtex-spair-bg4": Benchmark(clevrtex("spair", "SPAIR", background_size=4), 2, 1.0, 550, clip_norm=1.0),
    "clevrtex-spair-small": Benchmark(clevrtex("spair", "SPAIR", large=False), 2, 5.2, 993, clip_norm=1.0),
    "clevrtex-dtisprites": Benchmark(dtisprites, 2, 11.1, 1810),
    "clevrtex-marionette": Benchmark(clevrtex("marionette", "MarioNette"), 2, 24.5, 3450, optimizer="AdamW"),
    "savi-obj3d": Benchmark(slotformer("savi", "StoSAVi", resolution=(64, 64)), 1, 6.1, 786, clip_norm=0.05),
    "stosavi-clevrer": Benchmark(
        slotformer("savi", "StoSAVi", resolution=(64, 64), **STOSAVI_CLEVRER), 1, 6.6, 805, clip_norm=0.05
    ),
    "dvae-physion": Benchmark(dvae, 1, 0.9, 641),
    "steve-physion": Benchmark(
        slotformer("steve", "STEVE", resolution=(128, 128)), 1, 20, 2763, clip_norm=0.05, optimizer=steve_optimizer
    ),
    "slotformer-obj3d": Benchmark(dynamics("slotformer_obj3d_params", True), 1, 5.2, 779),
    "slotformer-clevrer": Benchmark(dynamics("slotformer_clevrer_params", True), 1, 6.5, 864),
    "slotformer-phyre": Benchmark(dynamics("slotformer_phyre_params-fold0", False), 1, 1.3, 627),
    "slotformer-physion": Benchmark(dynamics("slotformer_physion_params", False), 1, 2.2, 839),
    "aloe-clevrer": Benchmark(aloe, 8, 5.5, 1908, inputs=aloe_questions),
    "readout-physion": Benchmark(physion_readout, 16, 0.22, 419),
    "readout-phyre": Benchmark(phyre_readout, 32, 0.19, 420),
    "savi-movie": Benchmark(movie("savi", "SAVi"), 1, 14.0, 1430, clip_norm=0.05),
    "steve-movie": Benchmark(movie("steve", "STEVE"), 1, 18.5, 2730, clip_norm=0.05, optimizer=steve_optimizer),
    "vqvae-movie": Benchmark(vqvae, 1, 6.8, 1200),
    "savi_ldm-movie": Benchmark(movie(**SAVI_DIFFUSION), 1, 17.3, 3170, clip_norm=0.05, optimizer=diffusion_optimizer),
    "savi_ldm-movie-latents": Benchmark(
        movie(**SAVI_DIFFUSION, with_latents=True), 1, 17.3, 3170, clip_norm=0.05, optimizer=diffusion_optimizer
    ),
    "savi_ldm-movie-sampling": Benchmark(movie(**SAVI_DIFFUSION, frames=2), 1, 44, 1150, optimizer=None),
    "osrt-clevr3d": Benchmark(light_field("osrt", "slot_mixer"), 1, 8.7, 2140),
    "osrt-clevr3d-broadcast": Benchmark(light_field("osrt", "spatial_broadcast"), 1, 22, 2345),
    "srt-clevr3d": Benchmark(light_field("srt", "srt"), 1, 6.6, 1444),
    "osrt-clevr3d-rendering": Benchmark(light_field("osrt", "slot_mixer"), 1, 19, 2140, optimizer=None),
    "osrt-clevr3d-broadcast-rendering": Benchmark(
        light_field("osrt", "spatial_broadcast"), 1, 57, 2345, optimizer=None
    ),
    "srt-clevr3d-rendering": Benchmark(light_field("srt", "srt"), 1, 18, 1444, optimizer=None),
}

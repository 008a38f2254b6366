"""Checks of SRT's and OSRT's models, their parts, their training and its schedule."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.training.schedules import warmup_then_exponential
from osrt.models import DECODERS, ENCODERS, LightField, build_model
from osrt.models.decoder import Decoder, Rendered
from osrt.models.encodings import PositionalEncoding, RayEncoder
from osrt.models.nerf import (
    NeRFDecoder,
    composite,
    depths_by_shares,
    distance_to_floor,
    points_at,
    stratified_depths,
)
from osrt.models.slot_attention import SlotAttention
from osrt.models.transformer import Transformer
from tests.parity.golden import Case, Check
from tests.parity.steps import trainer_by_hand

ENCODER_SIZES = {
    "num_octaves": "OCT",
    "base_channels": "BASE",
    "dim": "TOK",
    "num_heads": "EH",
    "dim_head": "EHD",
    "mlp_dim": "EMLP",
}
DECODER_SIZES = {
    "slot_mixer": {"num_octaves": "OCT", "latent_dim": "ZD", "num_heads": "DH", "hidden_dim": "RHID"},
    "spatial_broadcast": {"num_octaves": "OCT", "latent_dim": "ZD", "hidden_dim": "RHID"},
    "srt": {"num_octaves": "OCT", "latent_dim": "SRT_ZD", "num_heads": "DH", "hidden_dim": "RHID"},
    "old_srt": {"num_octaves": "OCT", "latent_dim": "SRT_ZD", "num_heads": "DH"},
}


def sizes(case: Case, names: Mapping[str, str]) -> dict[str, int]:
    """Constructor arguments for the sizes that the case was recorded with; none for the published ones."""
    dims = case.info["dims"]
    return {} if isinstance(dims, str) else {argument: dims[name]["value"] for argument, name in names.items()}


def encoder_sizes(case: Case, kind: str) -> dict[str, int]:
    return sizes(case, ENCODER_SIZES | ({"slot_hidden_dim": "SLOT_HID"} if kind == "osrt" else {}))


def build(case: Case) -> LightField:
    """The model of the case's configuration, with PyTorch's own generator for its weights."""
    config = case.info["config"]["model"]
    return build_model(
        config["encoder"],
        config.get("encoder_kwargs", {}) | encoder_sizes(case, config["encoder"]),
        config["decoder"],
        config.get("decoder_kwargs", {}) | sizes(case, DECODER_SIZES[config["decoder"]]),
        config.get("use_default_init", False),
    )


def limits(case: Case) -> dict[str, float]:
    """How far outputs may lie apart."""
    given = case.info["tolerance"]
    return {"rtol": given.get("rtol", 0.0), "atol": given.get("atol", 0.0)}


def close(case: Case, name: str, ours: Tensor, **given: float) -> None:
    theirs = case[f"out/{name}"]
    torch.testing.assert_close(
        ours.detach().to(theirs.dtype), theirs, **(given or limits(case)), msg=lambda text: f"{name}: {text}"
    )


def check_gradients(case: Case, module: nn.Module, rtol: float = 2e-3) -> None:
    """Norms of the gradients of all parameters."""
    norms = case.tensors("grad/")
    found = {name: value.grad for name, value in module.named_parameters()}
    assert norms
    assert norms.keys() == found.keys()
    largest = max(float(norm) for norm in norms.values())
    for name, norm in norms.items():
        ours = torch.zeros(()) if found[name] is None else found[name]
        torch.testing.assert_close(
            ours.double().norm(),
            norm.double(),
            rtol=rtol,
            atol=1e-6 * largest,
            msg=lambda text, n=name: f"{n}: {text}",
        )


def check_output(case: Case, name: str, ours: Tensor, module: nn.Module) -> None:
    """An output, the loss that weighs it with the case's cotangent, and the gradients of all parameters."""
    close(case, name, ours)
    loss = (ours * case["in/cotangent"]).sum()
    # A sum of terms of either sign: rounding is that of the terms.
    close(case, "loss", loss, rtol=limits(case)["rtol"], atol=limits(case)["atol"] * ours.numel() ** 0.5)
    loss.backward()
    check_gradients(case, module)


def check_position_encoding(case: Case, tmp_path: Path) -> None:
    for given in case.info["combos"]:
        encoding = PositionalEncoding(given["num_octaves"], given["start_octave"])
        for name, points in (("pos", "coords"), ("unit", "unit")):
            close(case, f"{name}_{given['key_suffix']}", encoding(case[f"in/{points}"]))


def check_ray_encoding(case: Case, tmp_path: Path) -> None:
    for given in case.info["combos"]:
        number = given["key_suffix"]
        encoder = RayEncoder(**{name: value for name, value in given.items() if name != "key_suffix"})
        rays = case["in/rays"]
        image = encoder(case["in/pos"][:, None, None].expand_as(rays), rays)
        close(case, f"image_{number}", image.permute(0, 3, 1, 2))
        close(case, f"query_{number}", encoder(case["in/query_pos"], case["in/query_rays"]))


def check_transformer(case: Case, tmp_path: Path) -> None:
    options = dict(case.info["kwargs"])
    assert options.pop("selfatt") == ("kv_dim" not in options)
    options["num_heads"] = options.pop("heads")
    transformer = Transformer(**options)
    transformer.load_state_dict(case.tensors("state/"))
    looked = transformer.prepare(case["in/z"]) if "in/z" in case else ()
    check_output(case, "y", transformer(case["in/x"], looked), transformer)


def check_slot_attention(case: Case, tmp_path: Path) -> None:
    module = SlotAttention(**case.info["kwargs"])
    module.load_state_dict(case.tensors("state/"))
    check_output(case, "slots", module(case["in/inputs"]), module)


def check_encoder(case: Case, tmp_path: Path) -> None:
    kind, output = ("osrt", "slots") if case.info["class"] == "OSRTEncoder" else ("srt", "latents")
    encoder = ENCODERS[kind](**case.info["kwargs"], **encoder_sizes(case, kind))
    encoder.load_state_dict(case.tensors("state/"))
    views = (case[f"in/input_{name}"] for name in ("images", "camera_pos", "rays"))
    check_output(case, output, encoder(*views), encoder)


CLASSES = {
    "SlotMixerDecoder": "slot_mixer",
    "SpatialBroadcastDecoder": "spatial_broadcast",
    "ImprovedSRTDecoder": "srt",
    "SRTDecoder": "old_srt",
}


def check_decoder(case: Case, tmp_path: Path) -> None:
    kind = CLASSES[case.info["class"]]
    decoder: Decoder = DECODERS[kind](**case.info["kwargs"], **sizes(case, DECODER_SIZES[kind]))
    decoder.load_state_dict(case.tensors("state/"))
    latents = case["in/z"].requires_grad_()
    found: Rendered = decoder(decoder.prepare(latents), case["in/camera_pos"], case["in/rays"])
    assert (found.segmentation is not None) == ("out/segmentation" in case)
    if found.segmentation is not None:
        close(case, "segmentation", found.segmentation)
    check_output(case, "pixels", found.pixels, decoder)
    close(case, "grad_z", latents.grad)


def check_volume(case: Case, tmp_path: Path) -> None:
    """The steps of rendering a volume; its sizes are those that the json's sentence states."""
    words = case.info["functions"].replace(",", " ").replace("(", " ").split()
    far = float(words[words.index("max_dist") + 1])
    near = float(words[words.index("min_dist") + 1])
    floor = float(case.info["functions"].partition("min_z=")[2].partition(")")[0])
    camera_pos, rays = case["in/camera_pos"], case["in/rays"]
    for suffix, plane in (("", None), ("_minz", floor)):
        theirs = case[f"out/depths{suffix}"]
        limit = distance_to_floor(camera_pos, rays, far, plane)
        depths = stratified_depths(near, limit, torch.full_like(theirs, 0.5))
        close(case, f"depths{suffix}", depths)
        close(case, f"points{suffix}", points_at(camera_pos, rays, depths))
    rgba, expected, shares = composite(case["out/depths"], case["in/density"], case["in/values"])
    close(case, "rgba", rgba)
    close(case, "expected_depth", expected)
    close(case, "depth_dist", shares)
    theirs = case["out/fine_depths"]
    quantiles = torch.linspace(0, 1, theirs.shape[-1]).expand_as(theirs)
    fine = depths_by_shares(near, far, case["out/depths"], case["out/depth_dist"], quantiles)
    close(case, "fine_depths", fine)
    close(case, "fine_points", points_at(camera_pos, rays, fine))


def check_nerf(case: Case, tmp_path: Path) -> None:
    state, options = case.tensors("state/"), dict(case.info["forward_kwargs"])
    assert options.pop("deterministic")
    latent_dim = state["coarse_net.transformer.layers.0.0.fn.to_kv.weight"].shape[1]
    names = {"num_octaves": "OCT", "num_heads": "EH", "dim_head": "EHD", "mlp_dim": "EMLP"}
    for kind in ("asis", "fixed"):
        decoder = NeRFDecoder(
            **case.info["kwargs"], as_original=kind == "asis", latent_dim=latent_dim, **sizes(case, names)
        )
        decoder.load_state_dict(state)
        found = decoder(decoder.prepare(case["in/z"]), case["in/camera_pos"], case["in/rays"], **options)
        close(case, f"{kind}_pixels", found.pixels)
        close(case, f"{kind}_depth", found.depths)
        close(case, f"{kind}_coarse_img", found.coarse_pixels)
        close(case, f"{kind}_coarse_depth", found.coarse_depths)


def check_loss(case: Case, tmp_path: Path) -> None:
    model, batch = build(case), case.tensors("in/")
    model.load_state_dict(case.tensors("state/"))
    latents = encode(model, batch)
    found = model.decode(latents, batch["target_camera_pos"], batch["target_rays"])
    close(case, "z", latents)
    close(case, "pixels", found.pixels)
    if found.segmentation is not None:
        close(case, "segmentation", found.segmentation)
    errors = (found.pixels - batch["target_pixels"]).square().mean(dim=(1, 2))
    for name in ("loss_per_scene", "term_mse", "eval_mse"):
        close(case, name, errors)
    close(case, "eval_psnr", -10 * errors.log10())
    terms = model.loss(batch, 0)
    close(case, "loss", terms["loss"])
    close(case, "loss", terms["mse"])
    terms["loss"].backward()
    check_gradients(case, model)


def encode(model: LightField, batch: Mapping[str, Tensor]) -> Tensor:
    return model.encode(batch["input_images"], batch["input_camera_pos"], batch["input_rays"])


def formula_state(case: Case) -> dict[str, Tensor]:
    """Weights at the published size, as the formula in the json makes them from their names."""
    state = {}
    for number, (name, shape) in enumerate(sorted(case.info["state_dict_shapes"].items())):
        x = np.arange(int(np.prod(shape)), dtype=np.uint64) * np.uint64(2654435761)
        x = (x + np.uint64(case.info["S"] + 977 * (number + 1))).astype(np.uint32)
        x ^= x >> np.uint32(16)
        x *= np.uint32(2246822519)
        x ^= x >> np.uint32(13)
        x *= np.uint32(3266489917)
        x ^= x >> np.uint32(16)
        values = x / 2.0**32 - 0.5
        if name.endswith("initial_slots"):
            values *= 12**0.5
        elif len(shape) > 1:
            values *= ((24 if len(shape) == 4 else 12) / np.prod(shape[1:])) ** 0.5
        else:
            values = (1 if is_norm_weight(name) else 0) + 0.1 * values
        state[name] = torch.from_numpy(values.astype(np.float32)).reshape(shape)
    return state


def is_norm_weight(name: str) -> bool:
    *_, module, kind = name.split(".")
    return "norm" in module and kind == "weight"


def check_published(case: Case, tmp_path: Path) -> None:
    model, batch, given = build(case), case.tensors("in/"), case.info["tolerance"]
    model.load_state_dict(formula_state(case))
    counts = {name: sum(value.numel() for value in part.parameters()) for name, part in model.named_children()}
    assert counts == case.info["num_params"]
    with torch.no_grad():
        latents = encode(model, batch)
        found = model.decode(latents, batch["target_camera_pos"], batch["target_rays"])
    close(case, "z", latents, rtol=0, atol=given["z_atol"])
    close(case, "pixels", found.pixels, rtol=0, atol=given["pixels_atol"])
    if found.segmentation is not None:
        close(case, "segmentation", found.segmentation, rtol=0, atol=given["pixels_atol"])
    loss = model.loss(batch, 0)["loss"]
    close(case, "loss", loss, rtol=given["loss_rtol"], atol=0)
    loss.backward()
    check_gradients(case, model, given["grad_rtol"])


def check_initialisation(case: Case, tmp_path: Path) -> None:
    pairs = {"osrt": ("osrt", "slot_mixer"), "osrt-sb": ("osrt", "spatial_broadcast"), "srt": ("srt", "srt")}
    torch.manual_seed(0)
    checked = set()
    for kind, (encoder, decoder) in pairs.items():
        for name, value in build_model(encoder, {}, decoder, {}).state_dict().items():
            key = f"{kind}/{name}"
            mean, deviation, low, high = case[f"out/{key}"].tolist()
            checked.add(key)
            assert (float(value.min()) == low == high) == (deviation == 0), key
            if value.numel() < 500 or deviation == 0:
                assert abs(float(value.mean()) - mean) <= 6 * deviation, key
                continue
            spread = 0.03 if value.numel() > 10_000 else 0.25
            assert abs(float(value.std()) - deviation) <= spread * deviation, key
            assert abs(float(value.mean()) - mean) <= 6 * deviation / value.numel() ** 0.5, key
            # Normal draws have no bounds, but their extremes differ little.
            bound = max(-low, high) * (1.35 if "initial_slots" in key or is_tiny(deviation) else 1.02)
            assert float(value.abs().max()) <= bound, key
    assert checked == case.tensors("out/").keys()


def is_tiny(deviation: float) -> bool:
    return deviation < 1e-5


def check_schedule(case: Case, tmp_path: Path) -> None:
    defaults = {"lr_warmup": 10000, "decay_it": 100000, "peak_lr": 4e-4, "decay_rate": 0.5}
    for name in case.tensors("out/lr_"):
        given = next((c for c in case.info["combos"] if str(c["key_suffix"]) == name), defaults)
        factor = warmup_then_exponential(given["lr_warmup"], given["decay_it"], given["decay_rate"])
        ours = [given["peak_lr"] * factor(step) for step in case["in/it"].tolist()]
        np.testing.assert_allclose(ours, case[f"out/lr_{name}"].numpy(), **case.info["tolerance"], err_msg=name)


def check_trajectory(case: Case, tmp_path: Path) -> None:
    model, batch, given = build(case), case.tensors("in/"), case.info["tolerance"]
    model.load_state_dict(case.tensors("state/"))
    begin = {name: value.clone() for name, value in model.state_dict().items()}
    training: dict[str, Any] = case.info["config"]["training"]
    losses, rates = case["out/loss_per_step"], case["out/lr_per_step"]
    trainer = trainer_by_hand(
        model.train(),
        torch.optim.Adam(model.parameters(), lr=1e-4),
        len(losses) - 1,
        tmp_path,
        schedule=warmup_then_exponential(training["lr_warmup"], training["decay_it"], 0.16),
    )
    for step in range(len(losses)):
        terms = trainer.step(step, batch)
        np.testing.assert_allclose(float(terms["loss"]), losses[step], rtol=given["loss_rtol"])
        np.testing.assert_allclose(float(terms["mse"]), case["out/mse_per_step"][step], rtol=given["loss_rtol"])
        used = trainer.optimizer.param_groups[0]["lr"]
        np.testing.assert_allclose(used, rates[step], rtol=given["lr_rtol"])
    changes = case.tensors("out/change/")
    assert changes.keys() == begin.keys()
    for name, value in model.state_dict().items():
        if not name.endswith("norm_slots.bias"):
            ours = (value - begin[name]).double().norm()
            np.testing.assert_allclose(ours, changes[name], rtol=given["change_rtol"], err_msg=name)


CHECKS: dict[str, Check] = {
    "PositionalEncoding": check_position_encoding,
    "RayEncoder": check_ray_encoding,
    "Transformer": check_transformer,
    "SlotAttention": check_slot_attention,
    "ImprovedSRTEncoder": check_encoder,
    "OSRTEncoder": check_encoder,
    "SlotMixerDecoder": check_decoder,
    "SpatialBroadcastDecoder": check_decoder,
    "ImprovedSRTDecoder": check_decoder,
    "SRTDecoder": check_decoder,
    "coarse sampling": check_volume,
    "NerfDecoder": check_nerf,
    "OSRT + trainer loss": check_loss,
    "OSRT": check_published,
    "OSRT training loop": check_trajectory,
    "init-stats": check_initialisation,
    "LrScheduler": check_schedule,
}

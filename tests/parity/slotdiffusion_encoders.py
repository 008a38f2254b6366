"""Checks of SlotDiffusion's slot encoders, their predictors, and its baselines SAVi, STEVE, SA and SLATE."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slotdiffusion.models.dino import DINOEncoder, VisionTransformer
from slotdiffusion.models.sa import SA
from slotdiffusion.models.savi import SAVi
from slotdiffusion.models.slate import SLATE
from slotdiffusion.models.steve import STEVE
from slotformer.base_slots.models.predictors import (
    ResidualMLPPredictor,
    RNNPredictorWrapper,
    TransformerPredictor,
)
from slotformer.base_slots.models.steve import parameter_groups
from tests.parity.clevrtex_models import in_order
from tests.parity.golden import Case, Check
from tests.parity.slotdiffusion_cases import check_gradients, check_steps, close, gradients_of
from tests.parity.slotformer_steve import ExponentialNoise, load

PATHS = {"dvae_ckp_path"}
OF_TRAINING = {"optimizer", "lr", "dec_lr", "min_lr", "total_steps", "warmup_steps", "clip_grad"}
"""Entries of a case's configuration that are no arguments of the model."""


def build(case: Case, kind: type[nn.Module]) -> nn.Module:
    """The model of a case, with its weights."""
    arguments: dict[str, Any] = {}
    for key, value in case.info["config"].items():
        arguments |= value if isinstance(value, dict) else {key: value}
    arguments = {key: value for key, value in arguments.items() if key not in PATHS | OF_TRAINING}
    if kind in (SAVi, STEVE, SLATE):
        arguments["dropout"] = 0.0
    model = kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()})
    theirs = case.tensors("state/")
    for key, dtype in case.info.get("state_dtypes_not_float32", {}).items():
        theirs[key] = theirs[key].to(getattr(torch, dtype))
    load(model, theirs)
    return model


def batch_of(case: Case) -> dict[str, Tensor]:
    images = case["in/img"]
    return {"video" if images.ndim == 5 else "image": images / 2 + 0.5}


def compare(case: Case, ours: dict[str, Tensor]) -> None:
    """All recorded outputs; some hold the first clip or picture alone."""
    for name, theirs in case.tensors("out/").items():
        close(case, name, ours[name][: len(theirs)] if theirs.ndim else ours[name])


def check_pixels(case: Case, kind: type[nn.Module]) -> None:
    model, images = build(case, kind), case["in/img"]
    video = images if images.ndim == 5 else images[:, None]
    slots = model.track(video, in_order([])).slots
    pictures = model.decode(slots)
    features = model.encoder(video.flatten(0, 1))
    ours = {"slots": slots, "recon_img": pictures.recon, "masks": pictures.masks}
    if images.ndim == 4:
        ours = {name: value[:, 0] for name, value in ours.items()}
    ours |= {
        "recons_frame0": pictures.rgb[:, 0],
        "resnet_feat_mean_frame0": features.mean(dim=(2, 3)),
        "resnet_feat_corner_frame0": features[:, :, :2, :2],
        **model.loss(batch_of(case), 0),
    }
    compare(case, ours)
    ours["loss"].backward()
    check_gradients(case, gradients_of(model))
    with torch.no_grad():
        found = model.eval().decompose(batch_of(case)).validate()
    torch.testing.assert_close(found.slots, slots.view_as(found.slots))


def check_savi(case: Case, tmp_path: Path) -> None:
    if "out/loss_per_step" in case:
        model = build(case, SAVi)
        groups = [{"params": list(model.parameters()), "lr": case.info["config"]["lr"]}]
        check_steps(case, tmp_path, model, groups, batch_of(case))
    else:
        check_pixels(case, SAVi)


def check_sa(case: Case, tmp_path: Path) -> None:
    check_pixels(case, SA)


def check_words(case: Case, kind: type[nn.Module]) -> None:
    model, images, batch = build(case, kind), case["in/img"], batch_of(case)
    video = images if images.ndim == 5 else images[:, None]
    track = model.track(video, in_order([]))
    slots, tokens = track.slots.flatten(0, 1), model.dvae.tokenize(images).flatten(-2)
    tokens = tokens.flatten(0, -2)
    logits = model.trans_decoder(slots, tokens[:, :-1])
    ours = {"slots": track.slots, "masks": track.attention.unflatten(-1, model.grid)}
    if images.ndim == 4:
        ours = {name: value[:, 0] for name, value in ours.items()}
    ours |= {"target_token_id": tokens, **model.loss(batch, 0)}
    for name, part in (("head", slice(case["out/logits_head"].shape[1])), ("tail", slice(-few(case), None))):
        ours[f"logits_{name}"] = logits[:, part]
    ours["loss"].backward()
    gradients = gradients_of(model)
    if "in/exp_noise" in case:
        model.use_img_recon_loss, model.noise = True, ExponentialNoise(case)
        ours["img_recon_loss"] = model.loss(batch, 0)["img_recon_loss"]
    model.eval()
    if "out/generated_ids" in case:
        found = model.trans_decoder.generate(slots, case["out/generated_ids"].shape[1], with_logits=True)
        ours |= {"generated_ids": found.tokens, "generated_logits": found.logits}
    ours["detokenized_targets_frame0"] = model.dvae.detokenize(tokens.unflatten(1, model.words_size))
    compare(case, ours)
    check_gradients(case, gradients)
    with torch.no_grad():
        model.decompose(batch).validate()


def few(case: Case) -> int:
    """Positions at the end whose logits are recorded."""
    return case["out/logits_tail"].shape[1] if "out/logits_tail" in case else 1


def check_steve(case: Case, tmp_path: Path) -> None:
    if "out/loss_per_step" in case:
        model, config = build(case, STEVE), case.info["config"]
        check_steps(case, tmp_path, model, parameter_groups(model, config["lr"], config["dec_lr"]), batch_of(case))
    else:
        check_words(case, STEVE)


def check_slate(case: Case, tmp_path: Path) -> None:
    check_words(case, SLATE)


def described_transformer(words: str, channels: int) -> TransformerPredictor:
    """From words like "2 layers, 4 heads, ffn 4c, pre-norm"."""
    layers, heads, factor, norm = re.fullmatch(
        r"(\d+) layers?, (\d+) heads, ffn (\d+)c, (pre|post)-norm", words
    ).groups()
    sizes = int(layers), int(heads), int(factor) * channels
    return TransformerPredictor(channels, *sizes, norm_first=norm == "pre", dropout=0.0)


def described_predictor(words: str, channels: int, rnn_hidden: int) -> nn.Module:
    if found := re.fullmatch(r"(LSTM|GRU) over \(transformer (.+)\)", words):
        cell, base = found.groups()
        return RNNPredictorWrapper(described_transformer(base, channels), channels, rnn_hidden, rnn_cell=cell)
    if found := re.fullmatch(r"\[([\dc,]+)\] (not )?norm_first", words):
        sizes, is_after = found.groups()
        factors = [int(size.removesuffix("c") or 1) for size in sizes.split(",")]
        return ResidualMLPPredictor([factor * channels for factor in factors], norm_first=not is_after)
    return described_transformer(words, channels)


def check_predictors(case: Case, tmp_path: Path) -> None:
    config, gradients, outputs = dict(case.info["config"]), {}, {}
    sizes, slots = (config.pop("channels"), config.pop("rnn_hidden")), case["in/x"]
    predictors = {name: described_predictor(words, *sizes) for name, words in config.items()}
    for name, predictor in predictors.items():
        predictor.load_state_dict(case.tensors(f"state/{name}."))
        if isinstance(predictor, RNNPredictorWrapper):
            steps, memory, current = [], None, slots
            for _ in range(len(case[f"out/{name}_steps"])):
                current, memory = predictor(current, memory)
                steps.append(current)
            outputs[f"{name}_steps"] = torch.stack(steps)
        else:
            outputs[name] = predictor(slots)[0]
    outputs["loss"] = torch.stack([value.square().mean() for value in outputs.values()]).sum()
    outputs["loss"].backward()
    for name in case.tensors("out/"):
        close(case, name, outputs[name])
    for name, predictor in predictors.items():
        gradients |= {f"{name}.{key}": value for key, value in gradients_of(predictor).items()}
    check_gradients(case, gradients)


def check_dino(case: Case, tmp_path: Path) -> None:
    config, images = dict(case.info["config"]), case["in/img"]
    assert config.pop("hidden_act") == "gelu"
    encoder = DINOEncoder(VisionTransformer(**config), tuple(images.shape[-2:]))
    theirs = case.tensors("state/")
    encoder.load_state_dict({key: value for key, value in theirs.items() if not key.startswith("dino.pooler.")})
    close(case, "feat", encoder(images))


CHECKS: dict[str, Check] = {
    "dino-encoder": check_dino,
    "predictors": check_predictors,
    "sa": check_sa,
    "savi": check_savi,
    "slate": check_slate,
    "steve": check_steve,
}

"""SRT and OSRT: light fields of scenes, from a few posed views (Sajjadi et al. 2022)."""

import inspect
from collections.abc import Mapping
from typing import Any, get_type_hints

from torch import nn

from core.spelling import nearest
from osrt.models.encoder import OSRTEncoder, SRTEncoder
from osrt.models.light_field import LightField
from osrt.models.linear import use_default_init as begin_with_default
from osrt.models.nerf import NeRFDecoder
from osrt.models.slot_mixer import SlotMixerDecoder
from osrt.models.spatial_broadcast import SpatialBroadcastDecoder
from osrt.models.srt_decoder import OldSRTDecoder, SRTDecoder
from osrt.options import complaint

ENCODERS: dict[str, type[nn.Module]] = {"srt": SRTEncoder, "osrt": OSRTEncoder}
DECODERS: dict[str, type[nn.Module]] = {
    "slot_mixer": SlotMixerDecoder,
    "spatial_broadcast": SpatialBroadcastDecoder,
    "srt": SRTDecoder,
    "old_srt": OldSRTDecoder,
    "nerf": NeRFDecoder,
}
ANY_SIGN = ("pos_start_octave",)
"""Arguments that may be negative; the other whole numbers are sizes."""


class ModelError(ValueError):
    """A model cannot be built; the message names the key of the configuration and what to do."""


def build_model(
    encoder: str,
    encoder_kwargs: Mapping[str, Any] | None = None,
    decoder: str = "slot_mixer",
    decoder_kwargs: Mapping[str, Any] | None = None,
    use_default_init: bool = False,
    render_kwargs: Mapping[str, Any] | None = None,
    checkpointing: bool = False,
) -> LightField:
    """The untrained model, of the names and arguments that stand under `model` in a configuration.

    use_default_init: linear layers begin as PyTorch's do, not as the paper's.
    render_kwargs: how a volume is sampled (`min_dist`, `max_dist`, `num_coarse_samples`, `num_fine_samples`), which
    matters to the decoder nerf alone.
    checkpointing: see LightField.

    Raises ModelError for names and arguments that do not exist, with the nearest that does, for values that an argument
    cannot have, and for an encoder and a decoder of different width.
    """
    parts = (
        construct("encoder", ENCODERS, encoder, encoder_kwargs or {}),
        construct("decoder", DECODERS, decoder, decoder_kwargs or {}),
    )
    if parts[0].out_features != parts[1].latent_dim:
        raise ModelError(
            f"encoder {encoder!r} makes latents of width {parts[0].out_features}, decoder {decoder!r} reads "
            f"{parts[1].latent_dim}. Set decoder_kwargs: latent_dim"
            + (" or encoder_kwargs: slot_dim" if encoder == "osrt" else ", or choose the decoder 'srt'")
        )
    model = LightField(*parts, render_kwargs=render_kwargs, checkpointing=checkpointing)
    if use_default_init:
        begin_with_default(model)
    return model


def has_slots(arguments: Mapping[str, Any]) -> bool:
    """Whether the model of these arguments of `build_model` takes scenes apart: its decoder says what a slot owns."""
    return DECODERS.get(arguments["decoder"]) in (SlotMixerDecoder, SpatialBroadcastDecoder)


def construct(what: str, known: Mapping[str, type[nn.Module]], name: str, options: Mapping[str, Any]) -> nn.Module:
    """The encoder or decoder (`what`) of that name. Raises ModelError."""
    if name not in known:
        raise ModelError(f"{what}: no {name!r}{nearest(name, known)}. There are {', '.join(known)}")
    arguments = arguments_of(known[name])
    for key, value in options.items():
        if key not in arguments:
            raise ModelError(f"{what}_kwargs: {what} {name!r} has no {key!r}{nearest(key, arguments)}")
        least = None if key in ANY_SIGN else 1 if arguments[key] is int else 0
        if wrong := complaint(value, arguments[key], least):
            raise ModelError(f"{what}_kwargs.{key} {wrong}")
    return known[name](**options)


def arguments_of(kind: type[nn.Module]) -> dict[str, Any]:
    """Its constructor's arguments and their types; OSRT's encoder hands those that it does not name to SRT's."""
    hints, parameters = get_type_hints(kind.__init__), inspect.signature(kind.__init__).parameters.values()
    found = {
        value.name: hints[value.name]
        for value in parameters
        if value.kind is not value.VAR_KEYWORD and value.name in hints
    }
    return arguments_of(SRTEncoder) | found if kind is OSRTEncoder else found

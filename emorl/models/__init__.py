"""EfficientMORL and its Slot Attention baseline, built from the `Net` section of a configuration."""

from typing import Any

from torch import nn

from emorl.models.efficient_morl import EfficientMORL
from emorl.models.local_slot_attention import LocalSlotAttention
from emorl.models.slot_attention import SlotAttention


def model_arguments(
    name: str,
    net: dict[str, Any],
    geco: dict[str, float] | None = None,
    kl_weight: float = 1.0,
    refinement_curriculum: list[tuple[int, int]] | None = None,
) -> dict[str, Any]:
    """Plain constructor arguments of model `name` (of `MODELS`) from a `Net` section.

    `geco` holds `target` in nats per pixel and channel, `alpha`, `step_size`, `acceleration`; EfficientMORL only.
    """
    channels, height, width = net["input_size"]
    if channels != 3:
        raise ValueError(f"Net.input_size={net['input_size']}: the models read three channels, as [3, height, width]")
    arguments: dict[str, Any] = {
        "image_size": (height, width),
        "num_slots": net["K"],
        "slot_size": net["z_size"],
    }
    if name == "LocalSlotAttention":
        return arguments
    arguments["decoder"] = net["image_decoder"]
    if not net.get("small_init", True):  # runs of before this key carry no such argument
        arguments["small_init"] = False
    if name == "SlotAttention":
        return arguments
    if net["bottom_up_prior"] and net["reverse_prior_plusplus"]:
        raise ValueError("Net.bottom_up_prior and Net.reverse_prior_plusplus exclude each other: set one to False")
    if net["bottom_up_prior"]:
        prior = "bottom_up"
    else:
        prior = "reversed++" if net["reverse_prior_plusplus"] else "reversed"
    if geco:
        values = {key: geco[key] for key in ("alpha", "step_size", "acceleration")}
        geco = {"target": geco["target"] * channels * height * width, "warm_start": net["geco_warm_start"], **values}
    return arguments | {
        "num_layers": net["stochastic_layers"],
        "refinement_iters": net["refinement_iters"],
        "log_std": net["log_scale"],
        "likelihood": net["image_likelihood"],
        "prior": prior,
        "dual_gru": net["use_DualGRU"],
        "kl_weight": kl_weight,
        "refinement_curriculum": refinement_curriculum,
        "geco": geco,
    }


MODELS: dict[str, type[nn.Module]] = {
    "EfficientMORL": EfficientMORL,
    "SlotAttention": SlotAttention,
    "LocalSlotAttention": LocalSlotAttention,
}


def build_model(name: str, arguments: dict[str, Any]) -> nn.Module:
    """Model `name` from what `model_arguments` gave."""
    return MODELS[name](**arguments)


def as_trained(described: dict[str, Any], model: nn.Module, step: int) -> dict[str, Any]:
    """`name` and `arguments` of a model after a training step, which evaluates with the refinements of that step.

    `model` is the one in training, whose curriculum says how many that are.
    """
    if not isinstance(model, EfficientMORL):
        return described
    last = {"refinement_iters": model.refinements_in_training(step)}
    return {**described, "arguments": {**described["arguments"], **last}}

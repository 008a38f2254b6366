"""Whether two configurations learn the same, so that one may go on where the other stopped."""

from collections.abc import Mapping
from typing import Any, get_type_hints

from core.training.checkpoint import config_differences

FREE = {
    "project",
    "gpus",
    "num_workers",
    "print_iter",
    "save_interval",
    "save_epoch_end",
    "eval_interval",
    "n_samples",
    "san_check_val_step",
    "val_batch_size",
    "train_batch_size",
    "data_root",
    "slots_root",
    "slot_root",
    "ddp_unused_params",
    "seed",
    "load_mask",
    "load_anno",
    "cache_latents",
}
"""Keys that do not decide what is learnt, or are compared otherwise: they may change when a run is continued."""


def decisive_differences(saved: Mapping[str, Any], wanted: Mapping[str, Any], keys: type) -> list[str]:
    """A line for every value that decides what is learnt and is another in `wanted`.

    A key that one of them does not say has the value that it has in `keys`, the task's, if any. Where weights lie may
    change.
    """
    defaults = {key: getattr(keys, key) for key in get_type_hints(keys) if hasattr(keys, key)}
    return config_differences(*(_decisive(defaults | dict(values)) for values in (saved, wanted)))


def _decisive(values: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in values.items() if not (key in FREE or key.endswith("_ckp_path"))}
    return {key: _decisive(value) if isinstance(value, dict) else value for key, value in kept.items()}

"""Checkpoints as PyTorch Lightning wrote them for the original."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from clevrtex import original
from clevrtex.models.slot_attention import SlotAttention
from clevrtex.original.slota import to_original
from core.training.checkpoint import CheckpointError, save


@pytest.fixture
def model() -> SlotAttention:
    torch.manual_seed(0)
    return SlotAttention((16, 16), num_slots=3, hidden=8, mlp_hidden=16, decoder_initial_size=(1, 1))


def write_lightning(path: Path, model: SlotAttention, monkeypatch: pytest.MonkeyPatch, **more: object) -> Path:
    """A checkpoint with callback classes as keys and numpy's generator state, in modules that the reader lacks."""
    with monkeypatch.context() as patch:
        callback = foreign_class(patch, "pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
        generators = foreign_class(patch, "framework.base_experiment", "CheckPointPNRG")
        content = {
            "epoch": 3,
            "global_step": 12,
            "pytorch-lightning_version": "1.2.9",
            "state_dict": {f"model.{key}": value for key, value in to_original(model.state_dict()).items()},
            "callbacks": {
                callback: {"monitor": "mse", "best_model_score": torch.tensor(1.0)},
                generators: {"python.random": (3, (1, 2), None), "numpy": np.random.RandomState(0).get_state()},
            },
            "hyper_parameters": {"slots": 3, "num_iter": 3},
        }
        torch.save(content | more, path)
    return path


def foreign_class(patch: pytest.MonkeyPatch, module: str, name: str) -> type:
    """A class of a module that exists while `patch` does."""
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        patch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    made = type(name, (), {"__module__": module, "__qualname__": name})
    setattr(sys.modules[module], name, made)
    return made


def test_weights_of_a_lightning_checkpoint(tmp_path: Path, model: SlotAttention, monkeypatch: pytest.MonkeyPatch):
    path = write_lightning(tmp_path / "best.ckpt", model, monkeypatch)
    assert "pytorch_lightning" not in sys.modules
    found = original.read_weights(path, "slota")
    assert found.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(found[name], value)
    assert original.is_original(original.read(path))


def test_of_another_model(tmp_path: Path, model: SlotAttention, monkeypatch: pytest.MonkeyPatch):
    path = write_lightning(tmp_path / "best.ckpt", model, monkeypatch)
    with pytest.raises(CheckpointError, match=r"best\.ckpt: not a checkpoint of the original's monet"):
        original.read_weights(path, "monet")


def test_nothing_else_is_admitted(tmp_path: Path, model: SlotAttention, monkeypatch: pytest.MonkeyPatch):
    path = write_lightning(tmp_path / "best.ckpt", model, monkeypatch, extra=types.SimpleNamespace(a=1))
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        original.read_weights(path, "slota")


def test_a_file_without_weights(tmp_path: Path):
    save(tmp_path / "x.ckpt", {"step": 3})
    with pytest.raises(CheckpointError, match="holds no weights"):
        original.read_weights(tmp_path / "x.ckpt", "slota")

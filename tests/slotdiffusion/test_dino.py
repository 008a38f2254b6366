"""DINO's vision transformers: what they compute, that they stay frozen, and where their weights come from."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.metrics.pretrained import MissingWeightsError
from core.training.checkpoint import CheckpointError
from slotdiffusion.models.dino import DINOEncoder, VisionTransformer, build_dino, load_dino
from slotdiffusion.models.sa import SA

SMALL = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}


def small(image_size: int = 16, resolution: tuple[int, int] = (16, 16), **options: bool) -> DINOEncoder:
    torch.manual_seed(0)
    transformer = VisionTransformer(**SMALL, image_size=image_size, patch_size=4, **options)
    for value in transformer.parameters():
        value.data += 0.3 * torch.randn_like(value)
    return DINOEncoder(transformer, resolution)


def pictures(height: int = 16, width: int = 16) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_it_is_a_transformer_of_patches(qkv_bias: bool) -> None:
    encoder = small(qkv_bias=qkv_bias)
    weights, heads = encoder.dino.state_dict(), SMALL["num_attention_heads"]
    prefix = "embeddings.patch_embeddings.projection"
    patches = F.unfold(pictures(), 4, stride=4).transpose(1, 2) @ weights[f"{prefix}.weight"].flatten(1).T
    tokens = torch.cat((weights["embeddings.cls_token"].expand(2, -1, -1), patches + weights[f"{prefix}.bias"]), dim=1)
    tokens = tokens + weights["embeddings.position_embeddings"]

    def through(tokens: Tensor, name: str) -> Tensor:
        return F.linear(tokens, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def normed(tokens: Tensor, name: str) -> Tensor:
        return F.layer_norm(tokens, tokens.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)

    for number in range(SMALL["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        seen = normed(tokens, f"{layer}.layernorm_before")
        projected = (through(seen, f"{layer}.attention.attention.{name}") for name in ("query", "key", "value"))
        q, k, v = (part.unflatten(-1, (heads, -1)) for part in projected)
        attention = torch.einsum("bihe,bjhe->bhij", q, k).div(q.shape[-1] ** 0.5).softmax(dim=-1)
        found = torch.einsum("bhij,bjhe->bihe", attention, v).flatten(2)
        tokens = tokens + through(found, f"{layer}.attention.output.dense")
        hidden = F.gelu(through(normed(tokens, f"{layer}.layernorm_after"), f"{layer}.intermediate.dense"))
        tokens = tokens + through(hidden, f"{layer}.output.dense")
    expected = normed(tokens, "layernorm")[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(encoder(pictures()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("resolution", [(16, 16), (8, 24), (32, 20)])
def test_sizes_are_those_that_it_says(resolution: tuple[int, int]) -> None:
    encoder = small(resolution=resolution)
    assert encoder.grid == (resolution[0] // 4, resolution[1] // 4)
    assert encoder(pictures(*resolution)).shape == (2, encoder.channels, *encoder.grid)


def test_positions_of_other_sizes_are_interpolated() -> None:
    embeddings = small().dino.embeddings
    assert embeddings.positions(4, 4) is embeddings.position_embeddings
    embeddings.position_embeddings.data[:, 1:] = torch.linspace(0, 3, 4).repeat_interleave(4)[:, None]
    found = embeddings.positions(8, 6)[0, 1:].unflatten(0, (8, 6))
    assert embeddings.positions(8, 6)[:, :1].equal(embeddings.position_embeddings[:, :1])
    torch.testing.assert_close(found[2:6, 0, 0], torch.tensor([0.75, 1.25, 1.75, 2.25]), rtol=0, atol=0.1)
    assert float(found.std(dim=(1, 2)).max()) < 1e-6


@pytest.mark.parametrize(
    ("name", "grid", "channels", "count"),
    [
        ("dino-vits8", (28, 28), 384, 21_670_272),
        ("dino-vits16", (14, 14), 384, 21_665_664),
        ("dino-vitb8", (28, 28), 768, 85_807_872),
        ("dino-vitb16", (14, 14), 768, 85_798_656),
    ],
)
def test_published_sizes(name: str, grid: tuple[int, int], channels: int, count: int) -> None:
    with torch.device("meta"):
        encoder = build_dino(name, (224, 224))
    assert (encoder.grid, encoder.channels) == (grid, channels)
    assert sum(value.numel() for value in encoder.parameters()) == count


def test_it_stays_frozen_under_slots_that_learn() -> None:
    torch.manual_seed(0)
    sizes = {"num_slots": 3, "slot_size": 16, "slot_mlp_size": 16, "enc_out_channels": 16, "dec_resolution": (8, 8)}
    model = SA(resolution=(32, 32), dino="dino-vits16", patch_size=16, dec_channels=(16, 8, 8), **sizes)
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.1)
    model.train().loss({"image": torch.rand(2, 3, 32, 32)}, 0)["loss"].backward()
    optimizer.step()
    assert model.grid == (2, 2)
    assert all(value.grad is None for value in model.encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    assert len(trained) == len(list(model.parameters())) - len(before)
    assert all(value.grad.any() for value in model.encoder_out_layer.parameters())
    assert model.encoder_pos_embedding.dense.weight.grad.any()


def test_half_precision_is_close() -> None:
    encoder = small()
    exact = encoder(pictures())
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder(pictures()).float()
    assert F.cosine_similarity(found.flatten(), exact.flatten(), dim=0) > 0.99


def as_authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names that DINO's authors published them by."""
    result = {}
    for name, value in state.items():
        for ours, theirs in (
            ("embeddings.cls_token", "cls_token"),
            ("embeddings.position_embeddings", "pos_embed"),
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("attention.output.dense", "attn.proj"),
            ("encoder.layer", "blocks"),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("layernorm", "norm"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
        ):
            name = name.replace(ours, theirs)
        result[name] = value
    for name in [name for name in result if "attention.attention.query" in name]:
        parts = [result.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        result[name.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    return result


def as_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "pooler.dense.weight": torch.zeros(12, 12), "pooler.dense.bias": torch.zeros(12)}


def as_part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"encoder.dino.{name}": value for name, value in as_hugging_face(state).items()}


@pytest.mark.parametrize("published", [as_authors, as_hugging_face, as_part])
def test_published_files_are_read(published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, fresh = small(), DINOEncoder(VisionTransformer(**SMALL, image_size=16, patch_size=4), (16, 16))
    torch.save(published(trained.dino.state_dict()), tmp_path / "weights.bin")
    load_dino(fresh, "dino-vits8", tmp_path / "weights.bin")
    assert torch.equal(fresh(pictures()), trained(pictures()))
    assert not any(value.requires_grad for value in fresh.parameters())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "weights.bin").rename(tmp_path / "hub" / "checkpoints" / "dino_deitsmall8_pretrain.pth")
    again = DINOEncoder(VisionTransformer(**SMALL, image_size=16, patch_size=4), (16, 16))
    load_dino(again, "dino-vits8")
    assert torch.equal(again(pictures()), trained(pictures()))


def test_errors_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        MissingWeightsError, match=r"dino-vitb8 needs weights .*\n  dino_vitbase8_pretrain.pth from http"
    ):
        load_dino(small(), "dino-vitb8")
    with pytest.raises(CheckpointError, match=r"none.pth: no such checkpoint"):
        load_dino(small(), "dino-vits8", tmp_path / "none.pth")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other.pth: holds no vision transformer"):
        load_dino(small(), "dino-vits8", tmp_path / "other.pth")
    torch.save(small(image_size=8).dino.state_dict(), tmp_path / "little.pth")
    with pytest.raises(
        CheckpointError, match=r"embeddings.position_embeddings: \[1, 5, 12\] in the file, \[1, 17, 12\]"
    ):
        load_dino(small(), "dino-vits8", tmp_path / "little.pth")
    with pytest.raises(ValueError, match="dino='dino-vitl8' is not one of dino-vits8, "):
        build_dino("dino-vitl8", (224, 224))
    with pytest.raises(ValueError, match=r"resolution=\(16, 18\) does not divide into patches of 4 pixels"):
        small(resolution=(16, 18))
